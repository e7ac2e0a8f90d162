"""Blocks that overlap, for a transform of blocks without edges between them."""

import keras
import numpy as np
from keras import ops

from brainvq.arguments import whole


def fold_matrix(size: int, block: int) -> np.ndarray:
    """Folds what overlaps across every boundary of blocks; an orthogonal matrix.

    Half a block on both sides of a boundary is rotated, each value with its mirror image, by the
    window of Vorbis: a block then holds smooth parts of its neighbours (Coifman and Meyer 1991,
    "Remarques sur l'analyse de Fourier à fenêtre"; the lapped transforms of Malvar 1992).

    Args:
        size: int, a multiple of `block`.
        block: int, side of a block.

    Returns:
        Float32 `(size, size)`.

    Raises:
        ValueError: if the size is not known, or no such multiple.
    """
    if size is None or size % block:
        raise ValueError(f"A size must be a known multiple of {block}. Received: size={size}")
    matrix = np.eye(size, dtype="float32")
    half = block // 2
    angles = np.pi / 4 * (1 + np.sin(np.pi / 2 * (np.arange(half) + 0.5) / half))
    for boundary in range(block, size, block):
        after, before = boundary + np.arange(half), boundary - 1 - np.arange(half)
        matrix[after, after] = matrix[before, before] = np.sin(angles)
        matrix[after, before], matrix[before, after] = np.cos(angles), -np.cos(angles)
    return matrix


@keras.saving.register_keras_serializable(package="brainvq")
class BlockFold(keras.layers.Layer):
    """Makes the blocks of an image overlap: `fold_matrix` along each spatial axis, or the way back.

    Whatever is left out of a transform of folded blocks shows no edges once it is unfolded, and
    lengths stay as they are. There are no weights.

    `call(x)` takes float `(batch, *spatial, channels)`, sizes known and multiples of `block`, and
    returns the same shape.

    Args:
        block: int ≥ 2, side of a block.
        inverse: bool, whether `call` unfolds. Default False.
        **kwargs: `name`, `dtype`.
    """

    def __init__(self, block: int, inverse: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.block = whole("block", block, 2)
        self.inverse = bool(inverse)

    def build(self, input_shape):
        """Checks the sizes; there is nothing to create."""
        for size in input_shape[1:-1]:
            fold_matrix(size, self.block)

    def call(self, x):
        """Folds or unfolds; see the class for shapes."""
        for axis in range(1, len(x.shape) - 1):
            matrix = fold_matrix(x.shape[axis], self.block)
            matrix = ops.convert_to_tensor(matrix.T if self.inverse else matrix, x.dtype)
            x = ops.moveaxis(ops.matmul(matrix, ops.moveaxis(x, axis, -2)), -2, axis)
        return x

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return tuple(input_shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "block": self.block, "inverse": self.inverse}
