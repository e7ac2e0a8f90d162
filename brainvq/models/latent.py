"""What `encode` of a model gives and `decode` takes, and the base class of the models that do."""

import dataclasses

import keras
import numpy as np

from brainvq.backend import compile_function, traced_settings
from brainvq.layers.shapes import TracedShapes
from brainvq.models.batches import apply_in_batches
from brainvq.models.exports import Exports


@dataclasses.dataclass(frozen=True)
class Codes:
    """Integers in 0 … num_codes − 1, on a grid: `(n, *grid)`, or `(n, *grid, num_quantizers)`.

    The last axis is there where the `depth` of the model is not None.

    Attributes:
        num_codes: number of codes K of the codebook, or of each stage's.
        num_quantizers: codes per grid cell; 1 without a `ResidualQuantizer`.
    """

    num_codes: int
    num_quantizers: int = 1


@dataclasses.dataclass(frozen=True)
class Vector:
    """Float32 vectors: one for a whole sample, `(n, size)`, or one per cell, `(n, *grid, size)`.

    Attributes:
        size: numbers in a vector.
    """

    size: int


class LatentModel(TracedShapes, Exports, keras.Model):
    """Base class of `Autoencoder` and `IntroVAE`: what can be asked of either.

    A model has `reconstruct(x)`, `encode(x)` and `decode(z)` of NumPy arrays, and `latent`, which
    says what `encode` gives and `decode` takes. What follows is declared here for the model that
    does not have it, so that no caller needs to know which of the two it holds.
    """

    num_codes = None
    """Number of codes K of the codebook, or of each stage's; None where there is none."""

    depth = None
    """Codes per grid cell on a last axis of the codes; None where there is no such axis."""

    has_skips = False
    """Whether the decoder also reads the encoder's finer levels."""

    continuous_weight = None
    """Weight of the reconstruction from vectors before they are quantised; None for none."""

    decodes_codes = False
    """Whether images are made from codes alone."""

    is_adversarial = False
    """Whether the encoder is trained as a critic of the decoder."""

    # Names of the constructor's arguments that are layers.
    _parts = ("encoder", "decoder")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._compiled_functions = {}
        self._traced_settings = None

    @property
    def latent(self) -> Codes | Vector:
        """What `encode` gives and `decode` takes."""
        raise NotImplementedError

    def bits_per_sample(self, sample_shape: tuple[int, ...]) -> float | None:
        """Bits that the codes of a sample take without a prior.

        Args:
            sample_shape: `(*spatial, channels)` of one sample.

        Returns:
            The number of codes times log2(K); None where reconstructions are not made of codes.
        """
        del sample_shape

    def decode_drawn(self, z, batch_size=32, seed=None):
        """Decodes what was drawn; `seed` is that of the draw, for models that draw more."""
        del seed
        return self.decode(z, batch_size)

    def _serialized_parts(self):
        """The layers among the constructor's arguments, for `get_config`."""
        return {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self._parts
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model and its parts from `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in cls._parts
        }
        return cls(**{**config, **parts})

    def make_test_function(self, force=False):
        """Makes the function of `evaluate`, anew where a layer's setting has changed."""
        self._forget_old_settings()
        return super().make_test_function(force)

    def make_predict_function(self, force=False):
        """Makes the function of `predict`, anew where a layer's setting has changed."""
        self._forget_old_settings()
        return super().make_predict_function(force)

    def _forget_old_settings(self):
        """Forgets compiled functions of inference that hold a setting of a layer that is no more.

        Training needs none: what `traced_settings` names matters to inference alone.
        """
        settings = traced_settings([self])
        if settings != self._traced_settings:
            self.test_function = self.predict_function = None
        self._traced_settings = settings

    def _batched(self, name, function, array: np.ndarray, batch_size):
        """Applies a function to an array batch by batch; compiled once under its name."""
        if name not in self._compiled_functions:
            self._compiled_functions[name] = compile_function(function, owner=self)
        return apply_in_batches(self._compiled_functions[name], array, batch_size, name)
