"""Smooth random fields, deformations that fold nowhere, and interpolation on grids.

The products with sparse matrices give the same bits in every process; those of dense ones add up in
an order that depends on the number of threads.
"""

import functools

import numpy as np
from scipy import ndimage, sparse


def exponential(velocity, spacing, squarings=6):
    """Integrates a stationary velocity field over unit time by scaling and squaring.

    Args:
        velocity: (3, x, y, z) mm, float32, on a grid of `spacing` mm.
        spacing: mm.
        squarings: the field is divided by 2**squarings first.

    Returns:
        Displacement (3, x, y, z) in mm of the diffeomorphism x -> x + displacement(x).
    """
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in velocity.shape[1:]], indexing="ij"))
    grid = grid.astype(np.float32)
    displacement = velocity / np.float32(2**squarings)
    for _ in range(squarings):
        points = grid + displacement / np.float32(spacing)
        displacement = displacement + np.stack([sample(d, points) for d in displacement])
    return displacement


def random_field(rng, world, knots_mm, deviation):
    """Smooth random field: a cubic B-spline with independent normal coefficients.

    Args:
        rng: `numpy.random.Generator`.
        world: three arrays of equally spaced coordinates in mm.
        knots_mm: distance of the knots.
        deviation: standard deviation of the field.

    Returns:
        float32 of shape (len of each of `world`).
    """
    matrices = [_spline_matrix(len(x), float(x[1] - x[0]) / knots_mm) for x in world]
    coefficients = rng.standard_normal([m.shape[1] for m in matrices]).astype(np.float32)
    # Mean of the squared weights of a cubic B-spline is 151/315 per axis.
    return separable(coefficients * np.float32(deviation * (315 / 151) ** 1.5), matrices)


@functools.lru_cache(maxsize=64)
def _spline_matrix(n, step):
    """Weights (n, knots) of the cubic B-spline at positions step·i from a fixed start."""
    positions = step * np.arange(n) + 1.37  # off the first knot, so that no axis starts on one
    knots = int(np.ceil(positions[-1])) + 3
    distance = np.abs(positions[:, None] - np.arange(knots))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return sparse.csr_array(np.where(distance < 1, near, far).astype(np.float32))


def linear_matrix(n, positions):
    """Weights (len(positions), n) of linear interpolation, held at the ends."""
    positions = np.clip(positions, 0, n - 1)
    below = np.minimum(positions.astype(int), n - 2)
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), n), np.float32)
    weights[rows, below] = 1 - (positions - below)
    weights[rows, below + 1] = positions - below
    return sparse.csr_array(weights)


def separable(volume, matrices):
    """Multiplies one sparse matrix (new, old) into each of the three axes."""
    for matrix in matrices:  # each turn moves the axis just done to the end
        rest = volume.shape[1:]
        flat = matrix @ volume.reshape(len(volume), -1)
        volume = np.moveaxis(flat.reshape(-1, *rest), 0, -1)
    return volume


def sample(volume, points):
    """Linear interpolation of `volume` at voxel positions (3, ...); edges go on outside."""
    return ndimage.map_coordinates(volume, points, order=1, mode="nearest", output=np.float32)
