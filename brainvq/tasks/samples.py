"""Samples that know the way back: a file becomes what a model takes, and what comes out of the
model goes back to where the file came from.

`predict` reconstructs, encodes and decodes all kinds of samples by one loop each. A kind has a
subclass of `Sample` for a file, and one of `Samples` for what all its files have in common; a
`Task` has its `Samples` as `samples`.
"""

import keras
import numpy as np

from brainvq.errors import UserError
from brainvq.files import write_array

# Slices of one brain are drawn with one noise: then neighbours are as alike as in real brains.
COHERENCE = 1.0


class Sample:
    """A file as a model takes it, and the way back.

    A subclass has at least these; a sample that is known by its codes alone has the way back only
    where a `.json` file beside them tells it.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        path: `pathlib.Path` of the file.
        name: str, what the names of its results begin with.

    Attributes:
        subject: str, whose the file is; None where it does not matter.
    """

    subject = None

    def __init__(self, trained, path, name):
        self.trained, self.path, self.name = trained, path, name

    # --- reconstruct ----------------------------------------------------------------------------

    def reconstruct(self, batch_size):
        """The sample through the model: what `restore` and `measures` take."""
        raise NotImplementedError

    def restore(self, restored):
        """What `reconstruct` gave, brought to where the file came from: what `save` takes."""
        raise NotImplementedError

    def measures(self, restored, whole):
        """How alike the sample and what `reconstruct` gave are: list of dict, rows of a table."""
        raise NotImplementedError

    def save(self, whole, folder):
        """Writes what `restore` gave into `folder`."""
        raise NotImplementedError

    def picture(self, restored, whole, rows, path):
        """Draws the sample and its reconstruction."""
        raise NotImplementedError

    def summary(self, row):
        """A row of `measures` in words."""
        raise NotImplementedError

    # --- encode and decode ----------------------------------------------------------------------

    def encode(self, batch_size):
        """The codes of the sample, or its vectors where the model has no codes: an array."""
        raise NotImplementedError

    def save_latents(self, latents, folder):
        """Writes what `encode` gave, and what decoding needs to know beside it."""
        raise NotImplementedError

    def row(self, latents):
        """What `encode` gave as a row of the table of `Samples.finish_encode`: dict."""
        raise NotImplementedError

    def describe(self, latents):
        """What `encode` gave in words."""
        raise NotImplementedError

    def decode(self, latents, batch_size):
        """What the model makes of codes or vectors: what `save_decoded` takes."""
        raise NotImplementedError

    def save_decoded(self, decoded, folder):
        """Writes and draws what `decode` gave; returns what was written and where, in words."""
        raise NotImplementedError


class Samples:
    """What samples of a kind have in common.

    Attributes:
        verbs: dict of name to function of (`Trained`, options, log): the verbs of `predict` that
            this kind does in its own way.
        unit_range: whether samples lie in [0, 1] where they are not z-scored.
        needs_prior: whether new samples need a prior over codes.
        chosen_by: what new samples can be chosen by: names of arguments of `Trained.sample`.
        arrange: what a loaded model does with samples of several forms, see `Autoencoder.arrange`;
            None for nothing.
    """

    verbs = {}
    unit_range = True
    needs_prior = True
    chosen_by = ()
    arrange = None

    def in_template_space(self, study):
        """Whether samples lie on a grid around the ICBM152 template."""
        del study
        return False

    def draw(self, trained, n, level=None, bundle=None, stack=False, age=None, sex=None, **options):
        """Draws codes from the prior, or vectors where a study has no codes.

        Args:
            trained: `brainvq.tasks.trained.Trained`.
            n: int, how many.
            level: see `Trained.sample`.
            bundle: see `Trained.sample`.
            stack: see `Trained.sample`.
            age: see `Trained.sample`.
            sex: see `Trained.sample`.
            **options: those of `PixelCNN.sample`; by default temperature, top_k and top_p are those
                of the study, and coherence is 1 for a stack.

        Returns:
            int32 `(n, *grid)`, as the model decodes them.

        Raises:
            UserError: there is no prior, or it does not know what is wanted.
        """
        trained.require_prior()
        trained.require_decoding()
        usual = trained.study.sampling.arguments | ({"coherence": COHERENCE} if stack else {})
        options = usual | options
        wanted = {"level": level, "bundle": bundle, "stack": stack, "age": age, "sex": sex}
        self.refuse(trained, wanted)
        given = self.conditions(trained, n, options.get("seed"), **wanted)
        return trained.study.prior.draw(trained.prior, trained.model, n, **given, **options)

    def conditions(self, trained, n, seed, **wanted):
        """What the prior is given to draw `n` samples: dict of arguments of its `sample`."""
        return {}

    def refuse(self, trained, wanted):
        """Raises `UserError` where something is wanted that these samples do not have."""
        for name, value in wanted.items():
            if name not in self.chosen_by and value not in (None, False):
                raise UserError(
                    f"{name}: found {value}; expected none, because the samples of {trained.path} "
                    f"are {trained.study.kind}"
                )

    def read(self, trained, options, log):
        """Yields the `Sample` of each file of `options.files`; bad ones are reported and counted.

        Args:
            trained: `brainvq.tasks.trained.Trained`.
            options: options of a verb, see `brainvq.options.verbs`.
            log: `logging.Logger`.
        """
        raise NotImplementedError

    def similarity(self, trained):
        """How the measures of `similarity.tsv` are made, in words."""
        raise NotImplementedError

    def require_codes(self, trained, verb):
        """Raises `UserError` where the model has nothing to encode to."""

    def start_decode(self, trained, log):
        """Raises `UserError` where the model cannot decode what `encode` gives."""

    def read_latents(self, path, name, trained):
        """Codes or vectors of a file that `encode` wrote.

        Args:
            path: `pathlib.Path` of a `.npy` file.
            name: what the names of the results begin with.
            trained: `brainvq.tasks.trained.Trained`.

        Returns:
            (array as the model decodes it, `Sample` with the way back).

        Raises:
            UserError: the file is missing, or is not of this model.
        """
        raise NotImplementedError

    def finish_encode(self, trained, rows, folder, log):
        """Writes the table of `Sample.row`s and what belongs to all of them, and says so."""
        raise NotImplementedError


def sizes(shape):
    """Sizes as they are written: 9x11x9."""
    return "x".join(map(str, shape))


def codebook_of(quantizer):
    """A codebook as a float32 array `(codes, dim)`, after an axis of stages if there are."""
    return np.asarray(keras.ops.convert_to_numpy(quantizer.codebook), "float32")


def save_codebook(quantizer, folder):
    """Writes a codebook beside codes."""
    write_array(folder / "codebook" / "codebook.npy", codebook_of(quantizer))


def require_finite(array, path):
    """Raises `UserError` where numbers of a file are not finite."""
    if not np.isfinite(array).all():
        raise UserError(f"{path}: found numbers that are not finite; expected latents")
