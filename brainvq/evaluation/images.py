"""Shapes of images and volumes, and arrays that are read a part at a time."""

import numpy as np

from brainvq.errors import UserError

CHUNK = 16  # volumes in memory at once


def as_images(x, ndim, name):
    """A batch without its channel axis.

    Args:
        x: `(n, *grid)` or `(n, *grid, 1)`.
        ndim: 2 or 3, axes of the grid.
        name: of the argument, for the message.

    Returns:
        A view `(n, *grid)`.

    Raises:
        ValueError: `x` is not shaped as described.
    """
    x = np.asarray(x)
    if ndim not in (2, 3):
        raise ValueError(f"ndim must be 2 or 3. Received: ndim={ndim}")
    if x.ndim == ndim + 2 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim != ndim + 1:
        raise ValueError(
            f"{name} must be a batch of {ndim}D images, (n, *grid) or (n, *grid, 1). "
            f"Received: shape {x.shape}"
        )
    return x


def grid_of(x, ndim, least):
    """The grid of volumes, from their shape alone: nothing is read.

    Args:
        x: `(n, *grid)` or `(n, *grid, 1)`.
        ndim: 2 or 3, axes of the grid.
        least: int, the smallest side allowed.

    Returns:
        tuple of `ndim` ints.

    Raises:
        ValueError: `x` is not shaped as described.
    """
    shape = np.shape(x)
    if len(shape) == ndim + 2 and shape[-1] == 1:
        shape = shape[:-1]
    if ndim not in (2, 3) or len(shape) != ndim + 1 or min(shape[1:]) < least:
        raise ValueError(
            f"volumes must be (n, *grid) or (n, *grid, 1) with {ndim} axes of {least} or more. "
            f"Received: shape {np.shape(x)}"
        )
    return tuple(shape[1:])


def take(x, index, ndim):
    """The volumes at `index`, int `(m,)`, of an array or memory map: `(m, *grid)`."""
    return as_images(np.asarray(x[index]), ndim, "volumes")


def chunks(x, ndim, size=CHUNK):
    """Yields the volumes of an array or memory map in turn: `(≤ size, *grid)`, 16 by default."""
    for start in range(0, len(x), size):
        yield take(x, slice(start, start + size), ndim)


def check_data_range(data_range):
    """Raises `UserError` where the data range is not a positive number."""
    if not (np.isfinite(data_range) and data_range > 0):
        raise UserError(f"data range: found {data_range}, expected a positive number")
