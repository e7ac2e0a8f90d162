"""A colour for each node of a self-organising map, by its place on it."""

import numpy as np
from skimage.color import lab2rgb

TOPOLOGIES = ("rectangular", "toroid")
# A ring in CIELAB, as far apart as sRGB allows without grey: of a toroidal 16 × 16 map no two
# nodes are nearer than ΔE 4.9, and no colour is clipped. (Lightness, a, b) of its middle, its radii
# in a and b, the radius of its tube; and how much its green side is lighter.
_RING = {"middle": (68.8, 0.3, 4.8), "radii": (29.1, 31.6), "tube": 12.7, "tilt": 13.7}
_LIGHT_ANGLE = 2.78
# Green, orange, cyan and magenta at the corners of a rectangle, grey in its middle.
_CORNERS = np.array(
    [[[79.7, -75.5, 74.3], [66.1, 39.9, 68.5]], [[78.2, -27.4, -31.4], [55.8, 86.5, -37.9]]]
)


def grid_colours(height, width, topology):
    """A colour for each node of a map: near nodes look alike, far ones different.

    A toroid becomes a ring-shaped surface in the space of colours (CIELAB), the longer side of the
    map running round the ring, so that no seam shows where opposite borders meet: an angle of hue
    alone would be lost where the other angle runs through grey. A rectangle blends four corners.

    Args:
        height: int ≥ 1, rows.
        width: int ≥ 1, columns.
        topology: "rectangular" or "toroid".

    Returns:
        float64 `(height · width, 3)`, red, green and blue in [0, 1]; row by row.

    Raises:
        ValueError: a size is below 1 or the topology is another.
    """
    if min(height, width) < 1 or topology not in TOPOLOGIES:
        raise ValueError(
            f"a map has 1 or more rows and columns and a topology out of {TOPOLOGIES}. "
            f"Received: {height}, {width}, {topology!r}"
        )
    rows, columns = np.divmod(np.arange(height * width), width)
    if topology == "rectangular":
        y, x = rows / max(height - 1, 1), columns / max(width - 1, 1)
        down, right = np.stack([1 - y, y]), np.stack([1 - x, x])
        lab = np.einsum("in,jn,ijc->nc", down, right, _CORNERS)
    else:
        row, column = 2 * np.pi * rows / height, 2 * np.pi * columns / width
        along, across = (column, row) if width >= height else (row, column)
        (light, a, b), (radius_a, radius_b) = _RING["middle"], _RING["radii"]
        out, up = _RING["tube"] * np.cos(across), _RING["tube"] * np.sin(across)
        lab = np.stack(
            [
                light + up + _RING["tilt"] * np.cos(along - _LIGHT_ANGLE),
                a + (radius_a + out) * np.cos(along),
                b + (radius_b + out) * np.sin(along),
            ],
            axis=1,
        )
    return lab2rgb(lab)
