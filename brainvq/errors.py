"""The one exception that stands for a mistake in what the user gave, not in our code."""


class UserError(ValueError):
    """A mistake that the user can mend: a file, an option, a folder.

    The message is one line that names the file or option, says what was found and what is
    expected. The command-line programs print that line alone and exit with status 2; a traceback
    is kept for defects of brainvq itself.
    """

    def __str__(self):
        """The message in one line, whatever the names and texts in it hold."""
        return " ".join(super().__str__().splitlines())
