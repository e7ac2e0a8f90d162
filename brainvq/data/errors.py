"""The exception that stands for one scan that cannot be used."""

from brainvq.errors import UserError


class ScanError(UserError):
    """One scan that cannot be used; a cohort goes on without it."""
