"""The anatomy of a simulated subject: the template's maps, bent, and the tissues at any place.

The deformation is the exponential of a stationary velocity field by scaling and squaring
(Arsigny et al. 2006, "A log-Euclidean framework for statistics on diffeomorphisms").
"""

import functools
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from brainvq.data.simulation_fields import (
    exponential,
    linear_matrix,
    random_field,
    sample,
    separable,
)
from brainvq.data.template import read_template

COARSE_MM = 4.0  # grid on which deformations are made
_MARGIN_MM = 12  # kept around the template's brain


class BrainMaps(NamedTuple):
    """Maps of the template, cropped to the brain; float32, of 1 mm voxels or of 2 mm ("half")."""

    affine: np.ndarray  # (4, 4) of the 1 mm grid
    center: np.ndarray  # (3,) mm, middle of the brain
    box: np.ndarray  # (3,) mm, extent that holds every simulated head
    csf: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    detail: np.ndarray  # what the template's T1 shows beyond its tissue means, in WM − GM units
    envelope: np.ndarray  # half: smoothed brain mask, 0.5 at its border
    ventricle_mm: np.ndarray  # half: distance to the ventricles, mm
    core: np.ndarray  # half, bool: white matter away from the cortex
    growth: np.ndarray  # (3, 4 mm grid): velocity that widens the ventricles, mm, largest 1


@functools.lru_cache(maxsize=1)
def brain_maps():
    """The `BrainMaps` of the template, made once in a process."""
    own = read_template()
    spans = [np.flatnonzero(own.mask.any(axis=o))[[0, -1]] for o in ((1, 2), (0, 2), (0, 1))]
    lows, highs = np.array(spans).T
    start = lows - _MARGIN_MM
    shape = (highs - start + _MARGIN_MM + 4) // 4 * 4  # whole voxels of 2 and of 4 mm
    t1, gm, wm, mask = (_window(v, start, shape) for v in (own.t1, own.gm, own.wm, own.mask))
    affine = own.affine @ from_matvec(np.eye(3), start)
    csf = np.clip(1 - gm - wm, 0, 1)
    half_mask = _halve(mask)
    ventricles = _ventricles(csf, half_mask)
    fluid, grey, white = (
        np.average(t1[::2, ::2, ::2], weights=(volume**4 * mask)[::2, ::2, ::2])
        for volume in (csf, gm, wm)
    )
    _clear_ring(t1, csf, gm, wm, ventricles, fluid, white)
    model = np.float32(fluid) * csf + np.float32(grey) * gm + np.float32(white) * wm
    detail = np.clip((t1 - model) * (mask / np.float32(white - grey)), -0.8, 0.8)

    filled = ventricles.astype(np.float32)
    potential = ndimage.gaussian_filter(filled, 2.5, truncate=3)[::2, ::2, ::2]
    growth = np.stack(np.gradient(potential, COARSE_MM))
    growth /= np.sqrt((growth**2).sum(axis=0)).max()
    half_wm = _halve(wm)
    core = (half_wm > 0.6) & (ndimage.gaussian_filter(half_wm, 1.25, truncate=3) > 0.62)
    return BrainMaps(
        affine=affine,
        center=apply_affine(affine, (lows + highs) / 2 - start),
        box=(highs - lows) * 1.1 + 30,
        csf=csf,
        gm=gm,
        wm=wm,
        detail=detail,
        envelope=ndimage.gaussian_filter(half_mask, 0.75),
        ventricle_mm=ndimage.distance_transform_edt(~ventricles, sampling=2).astype(np.float32),
        core=core,
        growth=growth,
    )


def _ventricles(csf, half_mask):
    """Lateral and third ventricles, bool on the half grid: deep fluid in parts above 1 mL."""
    deep = ndimage.uniform_filter(half_mask, 15) > 0.98
    parts, _ = ndimage.label((_halve(csf) > 0.5) & deep)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes > 125)[parts]


def _clear_ring(t1, csf, gm, wm, ventricles, fluid, white):
    """Makes the thin grey ring around the ventricles the mixture that it is, in place.

    The segmentation calls the mixture of fluid and white matter grey there: a ring that would shine
    on FLAIR. Grey nuclei are thick, the ring is thin.
    """
    grown = ndimage.binary_dilation(ventricles, iterations=4)
    half_box = ndimage.find_objects(grown.view(np.uint8))[0]
    box = tuple(slice(2 * part.start, 2 * part.stop) for part in half_box)
    lumen = _double(ndimage.binary_dilation(ventricles)[half_box]) & (csf[box] > 0.5)
    near = ndimage.gaussian_filter(lumen.astype(np.float32), 1.5, truncate=3) > 0.01
    thick = ndimage.binary_opening(gm[box] > 0.55, iterations=3)
    ring = near & ~ndimage.binary_dilation(thick, iterations=2)
    share = np.clip((t1[box][ring] - fluid) / (white - fluid), 0, 1)
    gm[box][ring], wm[box][ring], csf[box][ring] = 0, share, 1 - share


def _window(volume, start, shape):
    """Cuts `shape` voxels from `start` on, with zeros where that leaves the volume; float32."""
    result = np.zeros(shape, np.float32)
    part = volume[tuple(slice(max(b, 0), b + n) for b, n in zip(start, shape, strict=True))]
    offsets = [max(-b, 0) for b in start]
    result[tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))] = part
    return result


def _halve(volume):
    """Means over 2×2×2 voxels."""
    x, y, z = volume.shape
    return volume.reshape(x // 2, 2, y // 2, 2, z // 2, 2).mean(axis=(1, 3, 5), dtype=np.float32)


def _double(volume):
    return volume.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)


def on_half(points):
    """Voxels of the 1 mm grid as voxels of the half grid."""
    return (np.asarray(points, np.float32) - np.float32(0.5)) / 2


class Deformation:
    """Takes points of the subject's world to points of the template: affine, then diffeomorphism.

    Attributes:
        displacement: (3, coarse grid) mm, on a grid of 4 mm over the template.
        matrix: (3, 3) linear part of the affine, subject to template.
    """

    def __init__(self, template, params, rng):
        self.template = template
        shape = template.growth.shape[1:]
        world = [COARSE_MM * np.arange(n) for n in shape]
        years = params["age"] - 20
        velocity = np.zeros((3, *shape), np.float32)
        for knots, low, high in ((26.0, 1.3, 2.7), (12.0, 0.6, 1.1)):
            deviation = rng.uniform(low, high)
            for axis in range(3):
                velocity[axis] += random_field(rng, world, knots, deviation)
        # Wall of the ventricles: 4 mm outwards over 60 years, quicker after 60.
        wall = rng.normal(-0.3, 0.6) + 0.04 * years + 0.04 * max(0.0, years - 40)
        velocity += np.float32(np.clip(wall, -1.2, 5.5)) * template.growth
        self.displacement = exponential(velocity, COARSE_MM)

        # The template is larger than most heads (1.88 L; adults have 1.2 to 1.7 L).
        size = 0.97 if params["sex"] == "M" else 0.935
        size *= truncated(rng, 1.0, 0.03, 0.94, 1.06)
        scales = np.clip(size * (1 + 0.015 * rng.standard_normal(3)), 0.9, 1.1)
        angles = np.radians([truncated(rng, 0, 4, -10, 10) for _ in range(3)])
        shears = rng.uniform(-0.012, 0.012, 3)
        self.shift = rng.uniform(-3, 3, 3)
        if params["space"] == "mni":  # what a registration leaves: degrees and millimetres near 1
            scales = 1 + 0.4 * (scales / size - 1)
            angles, shears, self.shift = 0.2 * angles, 0.2 * shears, 0.3 * self.shift
        forward = _rotation(angles) @ np.diag(scales) @ _shear(shears)
        self.matrix = np.linalg.inv(forward)

    def grid(self, shape, affine):
        """Returns the template voxel of every voxel of a grid.

        Args:
            shape: (3,) of the grid.
            affine: (4, 4), diagonal linear part.

        Returns:
            float32 (3, *shape).
        """
        # All is smooth on the scale of 4 mm: composed on such a grid, then interpolated linearly.
        step = COARSE_MM
        spacing = affine[0, 0]
        coarse = [int(np.ceil((n - 1) * spacing / step)) + 1 for n in shape]
        axes = [affine[a, 3] + step * np.arange(coarse[a]) for a in range(3)]
        world = np.stack(np.meshgrid(*axes, indexing="ij"))
        center = self.template.center[:, None, None, None]
        shift = self.shift[:, None, None, None]
        posed = np.einsum("ij,jxyz->ixyz", self.matrix, world - center - shift) + center
        origin = self.template.affine[:3, 3][:, None, None, None]
        voxels = (posed - origin).astype(np.float32)  # template voxels are 1 mm
        nodes = (voxels - np.float32(0.5)) / np.float32(step)
        voxels += [sample(component, nodes) for component in self.displacement]
        matrices = [
            linear_matrix(coarse[a], np.arange(shape[a]) * spacing / step) for a in range(3)
        ]
        return np.stack([separable(component, matrices) for component in voxels])


def tissues(template, points, params, rng):
    """Fractions of CSF, GM and WM at voxels (3, n) of the maps: each (n,) float32, sum 1."""
    fractions = [sample(volume, points) for volume in (template.csf, template.gm, template.wm)]
    # Local variety of cortex thickness and sulcus width, on scales below those of the deformation.
    coarse = [COARSE_MM * np.arange(n) for n in template.growth.shape[1:]]
    local = points / np.float32(COARSE_MM)
    wider = sample(random_field(rng, coarse, 9.0, 0.55), local)
    thinner = sample(random_field(rng, coarse, 9.0, 0.45), local)
    sulci = 0.55 + 1.0 * (params["age"] - 20) / 60 + 0.2 * rng.standard_normal()
    # The template is an average of 152 brains: squaring makes its soft borders as sharp as one.
    csf, gm, wm = (np.square(fraction) for fraction in fractions)
    csf *= np.exp(sulci + wider)
    wm *= np.exp(thinner)
    total = csf + gm + wm
    return csf / total, gm / total, wm / total


def _rotation(angles):
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (0, 2), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _shear(shears):
    matrix = np.eye(3)
    matrix[0, 1], matrix[0, 2], matrix[1, 2] = shears
    return matrix


def truncated(rng, mean, deviation, low, high):
    """Normal number, drawn again while it is out of range."""
    while True:
        value = rng.normal(mean, deviation)
        if low <= value <= high:
            return value
