"""Compiled inference over arrays of any length."""

import numpy as np
from keras import ops


def apply_in_batches(compiled, array: np.ndarray, batch_size: int, purpose: str) -> np.ndarray:
    """Applies a compiled function to an array batch by batch.

    The last batch is filled up to a power of two with copies of its last row, and cut again:
    arrays of any length then share a few compiled programs.

    Args:
        compiled: function `(batch, ...)` → tensor `(batch, ...)`.
        array: NumPy array `(n, ...)` with n ≥ 1.
        batch_size: int ≥ 1, rows per step.
        purpose: str, the verb of the error message.

    Returns:
        NumPy array `(n, ...)`.

    Raises:
        ValueError: if the array is empty.
    """
    parts = []
    for start in range(0, max(len(array), 1), batch_size):
        batch = array[start : start + batch_size]
        if len(batch) == 0:
            raise ValueError(f"Nothing to {purpose}. Received: an array of shape {array.shape}")
        full = min(batch_size, 1 << (len(batch) - 1).bit_length())
        filled = np.concatenate([batch, np.repeat(batch[-1:], full - len(batch), axis=0)])
        parts.append(ops.convert_to_numpy(compiled(filled))[: len(batch)])
    return np.concatenate(parts)
