"""Lesions of simulated subjects: plaques of multiple sclerosis, and leukoencephalopathy."""

import bisect

import numpy as np

from brainvq.data.lesion_shapes import lesion_shapes, turned, volume
from brainvq.data.simulation_anatomy import COARSE_MM, on_half
from brainvq.data.simulation_fields import random_field, sample
from brainvq.data.simulation_parameters import generator
from brainvq.errors import UserError

# Share of the white matter that is lesion.
_WM_SHARES = {"leuko1": (0.06, 0.14), "leuko2": (0.16, 0.30), "leuko3": (0.33, 0.56)}

# From one visit of a subject to the next: new plaques on average, and growth of what is confluent.
_NEW_PLAQUES = 1.5
_GROWTH = 1.05

# Of lesions of real shape: how many a patient has at most, and the largest new one in mm³.
_MOST = 200
_NEW_SHAPE = 270.0


def lesion_map(template, params):
    """Returns the soft lesion map (template grid, float32 0 to 1), or None for the healthy."""
    group = params["group"]
    if group == "healthy":
        return None
    rng, visit = generator(params, 3), params["visit"]
    if group != "MS":
        return _confluent(template, rng, group, visit)
    if params["shapes"] is not None:
        return _shaped(template, params)
    total = _plaques(template, rng)
    for later in range(1, visit + 1):
        _add_plaques(total, template, generator(params, 3, later))
    return total


def _plaques(template, rng):
    """MS: ellipsoids whose long axis points away from the ventricle wall."""
    count = int(rng.integers(5, 51))
    target = _draw_load(rng)
    places, axes, short, ratios = _draw_plaques(template, rng, count)
    total = np.zeros(template.wm.shape, np.float32)
    # Plaques overlap and end where white matter ends, so their sizes are scaled in a few rounds.
    for _ in range(5):
        short = np.clip(short, 3, 15)
        total[...] = 0
        for place, axis, width, ratio in zip(places, axes, short, ratios, strict=True):
            _add_ellipsoid(total, place, axis, width / 2, min(ratio * width, 30.0) / 2)
        volume = float(np.sum((total > 0.5) & (template.wm > 0.5)))
        if 0.85 < volume / target < 1.15:
            break
        short = short * (target / max(volume, 1.0)) ** (1 / 3)
    return total


def _draw_load(rng):
    """What a patient's lesions fill of the white matter at the first visit, in mm³."""
    return float(np.clip(rng.lognormal(np.log(8), 0.95), 1.7, 36)) * 1000


def _shaped(template, params):
    """MS: lesions of real shape and size, as many as make up the load, where plaques lie."""
    shapes, digest = lesion_shapes(params["shapes"])
    if params["shapes_digest"] not in (None, digest):
        raise UserError(
            f"{params['shapes']}: holds other masks than when the subjects were drawn; expected "
            "the same"
        )
    total = np.zeros(template.wm.shape, np.float32)
    rng = generator(params, 3)
    _add_shapes(total, template, rng, shapes, _MOST, _draw_load(rng))
    for later in range(1, params["visit"] + 1):
        rng = generator(params, 3, later)
        small = [shape for shape in shapes if volume(shape) <= _NEW_SHAPE] or shapes[:1]
        _add_shapes(total, template, rng, small, int(rng.poisson(_NEW_PLAQUES)), np.inf)
    return total


def _add_shapes(total, template, rng, shapes, count, load):
    """Adds shapes, small to large, until no other one fits into the load; the first always does."""
    volumes = [volume(shape) for shape in shapes]
    for place in _draw_plaques(template, rng, count)[0]:
        fitting = bisect.bisect(volumes, load) or int(not total.any())
        if not fitting:
            return
        shape = turned(shapes[rng.integers(fitting)], rng)
        start = place - np.array(shape.shape) // 2
        low, high = np.maximum(start, 0), np.minimum(start + shape.shape, total.shape)
        window = tuple(map(slice, low, high))
        shape = shape[tuple(map(slice, low - start, high - start))]
        white, before = template.wm[window] > 0.5, total[window] > 0.5
        load -= np.count_nonzero(white & (shape > 0.5) & ~before)
        np.maximum(total[window], shape, out=total[window])


def _add_plaques(total, template, rng):
    """The plaques that came since the visit before: few and small."""
    drawn = _draw_plaques(template, rng, int(rng.poisson(_NEW_PLAQUES)))
    for place, axis, width, ratio in zip(*drawn, strict=True):
        width = np.clip(width, 3, 8)
        _add_ellipsoid(total, place, axis, width / 2, ratio * width / 2)


def _draw_plaques(template, rng, count):
    """Where plaques lie: (voxels, long axes, short diameters in mm, ratios of the diameters)."""
    sites = np.argwhere(template.core)  # half grid
    reach = template.ventricle_mm[template.core]
    weights = np.exp(-reach / 7) + 0.01  # most lie at the ventricles, some anywhere
    sites = sites[rng.choice(len(sites), count, p=weights / weights.sum())]
    places = 2 * sites + rng.integers(0, 2, sites.shape)
    short = rng.lognormal(np.log(5), 0.45, count)
    ratios = rng.uniform(1.5, 3, count)
    axes = np.array([_outwards(template.ventricle_mm, site) for site in sites]).reshape(count, 3)
    axes += 0.25 * rng.standard_normal((count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return places, axes, short, ratios


def _add_ellipsoid(total, place, axis, short, long):
    reach = int(np.ceil(long)) + 2
    window = tuple(
        slice(max(p - reach, 0), min(p + reach + 1, n))
        for p, n in zip(place, total.shape, strict=True)
    )
    steps = np.stack(np.meshgrid(*[np.arange(w.start, w.stop) for w in window], indexing="ij"))
    steps = steps - place[:, None, None, None]
    along = np.einsum("i,ixyz->xyz", axis, steps)
    across = np.maximum((steps**2).sum(axis=0) - along**2, 0)
    radius = np.sqrt((along / long) ** 2 + across / short**2)
    # Soft over one millimetre of the short axis; 0.5 at the surface.
    np.maximum(total[window], np.clip(0.5 + (1 - radius) * short, 0, 1), out=total[window])


def _outwards(distance, place):
    """Direction of growing distance at a voxel, over ±3 voxels."""
    x, y, z = place
    gradient = [
        distance[min(x + 3, distance.shape[0] - 1), y, z] - distance[max(x - 3, 0), y, z],
        distance[x, min(y + 3, distance.shape[1] - 1), z] - distance[x, max(y - 3, 0), z],
        distance[x, y, min(z + 3, distance.shape[2] - 1)] - distance[x, y, max(z - 3, 0)],
    ]
    gradient = np.array(gradient, float) + 1e-6
    return gradient / np.linalg.norm(gradient)


def _confluent(template, rng, group, visit=0):
    """Leukoencephalopathy: symmetric, growing outwards from the ventricles, outer rim spared."""
    share = rng.uniform(*_WM_SHARES[group])
    share = min(share * _GROWTH**visit, _WM_SHARES[group][1])
    coarse = [COARSE_MM * np.arange(n) for n in template.growth.shape[1:]]
    waves = random_field(rng, coarse, 14.0, 2.5)
    patches = random_field(rng, coarse, 7.0, 1.2)
    rough = (waves + waves[::-1]) / np.sqrt(2) + (patches + 0.7 * patches[::-1]) / 1.22
    places = np.nonzero(template.wm > 0.05)
    half = on_half(places)
    score = sample(template.ventricle_mm, half)
    score += sample(rough, np.asarray(places, np.float32) / np.float32(COARSE_MM))
    # The rim under the cortex goes last. Brain stem and cerebellum lie far from the ventricles.
    score += 12 * (1 - sample(template.core.astype(np.float32), half))
    white = template.wm[places] > 0.5
    border = np.quantile(score[white], share)
    total = np.zeros(template.wm.shape, np.float32)
    total[places] = np.clip(0.5 + (border - score) / 2, 0, 1)
    return total
