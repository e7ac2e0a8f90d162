"""From the parameters of a simulated scan to its image.

The chain from labels to image follows Billot et al. 2023, "SynthSeg": tissue contrast, texture,
coil shading, blur and Rician noise, brain-extracted.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from brainvq.data.geometry import BlockMean
from brainvq.data.simulation_anatomy import Deformation, brain_maps, on_half, tissues
from brainvq.data.simulation_fields import random_field, sample
from brainvq.data.simulation_lesions import lesion_map
from brainvq.data.simulation_parameters import LABELS, MODALITIES, SITES, checked, generator
from brainvq.data.template import template_grid

# Mean intensity of CSF, grey and white matter, in units of the scanner's full scale.
_MEANS = {"T1w": (0.19, 0.42, 0.60), "FLAIR": (0.10, 0.56, 0.46)}
_LESION_FACTORS = {"T1w": (0.77, 0.87), "FLAIR": (1.36, 1.5)}

# T2 in s: grey and white matter at 3 T (Stanisz et al. 2005, "T1, T2 relaxation and magnetization
# transfer in tissue at 3T"); lesions between them and fluid.
_T2 = {"gm": 0.099, "wm": 0.069, "lesion": 0.120}

# Trains of echoes with small flip angles weigh T2 like a shorter echo time than is stated; s.
_LONGEST_ECHO = 0.1

# Voxels of 1 mm of the grid in MNI space: whole voxels of 2, 4 and 8 mm, and the whole template.
_MNI_SHAPE = (160, 192, 160)
_MNI_FINEST = 2.0  # coarser scans in MNI space are means over voxels of this size or less, mm


class SimulatedScan(NamedTuple):
    """One simulated scan.

    Attributes:
        image: float32 (x, y, z), arbitrary scanner units, exactly 0 outside the brain.
        affine: float64 (4, 4), voxel index to mm, RAS+.
        lesion_mask: bool (x, y, z); all False for healthy subjects.
        labels: uint8 (x, y, z), 0 background, 1 CSF, 2 grey, 3 white matter (lesions lie in white
            matter).
    """

    image: np.ndarray
    affine: np.ndarray
    lesion_mask: np.ndarray
    labels: np.ndarray


def simulate(params):
    """Makes one scan.

    Args:
        params: dict, or the JSON text of one. `seed` and `number` (integers from 0) name the
            subject; `modality`, `spacing` (mm), `group`, `age` (years), `sex` and `site` are as in
            the table of `simulated_cohort`. `visit` (from 0) counts the scans of the subject,
            `space` is "scanner" or "mni", and `echo` (0.5 to 2) multiplies the echo time.
            `shapes` is a folder of masks whose lesions patients with MS have, see
            `brainvq.data.lesion_shapes`, and `shapes_digest` names what it has to hold. What is
            left out takes a default: number 0, T1w, 2 mm, healthy, 40 years, F, site-A, visit 0,
            "scanner", 1. Anatomy, lesions and contrast do not depend on `spacing`, anatomy and
            lesions not on `modality`, `site` or `echo`, and anatomy not on `visit`.

    Returns:
        `SimulatedScan`.

    Raises:
        UserError: a parameter is not known or out of its range.
    """
    params = checked(params)
    if params["space"] == "mni":
        return _simulate_mni(params)
    spacing, template = params["spacing"], brain_maps()
    shape = tuple(int(np.ceil(extent / spacing)) for extent in template.box)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = template.center - spacing * (np.array(shape) - 1) / 2
    return _scan(params, shape, affine)


def _simulate_mni(params):
    """A scan in MNI space: made of small voxels, which are then averaged as real ones are."""
    blocks = 1
    while params["spacing"] / blocks > _MNI_FINEST:
        blocks *= 2
    spacing = params["spacing"] / blocks
    _, millimetres = template_grid(_MNI_SHAPE)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = millimetres[:3, 3] + (spacing - 1) / 2
    fine = _scan(params, tuple(int(n / spacing) for n in _MNI_SHAPE), affine)
    if blocks == 1:
        return fine
    average = BlockMean(blocks)
    image, affine = average(fine.image, fine.affine)
    shares = [average(fine.labels == label, fine.affine)[0] for label in LABELS.values()]
    labels = np.argmax(shares, axis=0).astype(np.uint8)
    mask = average(fine.lesion_mask, fine.affine)[0] >= 0.5
    # A block may have more of another tissue than of white matter, and still be lesion by half.
    labels[mask] = LABELS["wm"]
    return SimulatedScan(image, affine, mask, labels)


def _scan(params, shape, affine):
    """A scan on a grid of any place with axes along the world's."""
    spacing, modality = float(affine[0, 0]), params["modality"]
    template = brain_maps()
    anatomy = generator(params, 1)
    to_template = Deformation(template, params, anatomy)
    lesions = lesion_map(template, params)
    points = to_template.grid(shape, affine)  # (3, x, y, z), template voxels

    # Extractions differ in how tightly they follow the brain: 0.5 is the template's own border.
    level = anatomy.uniform(0.4, 0.6)
    envelope = sample(template.envelope, on_half(points))
    inside = envelope > level
    points = points[:, inside]  # (3, n)
    csf, gm, wm = tissues(template, points, params, anatomy)
    lesion = np.zeros(points.shape[1], np.float32)
    if lesions is not None:
        lesion = sample(lesions, points) * np.clip(2 * wm, 0, 1)
    detail = sample(template.detail, points)

    visit = [params["visit"]] if params["visit"] else []
    scanning = generator(params, 2, MODALITIES.index(modality), *visit)
    scanner = SITES[params["site"]]
    values = _contrast(csf, gm, wm, detail, lesion, params, scanning)
    image = np.zeros(shape, np.float32)
    image[inside] = values
    world = [affine[a, 3] + spacing * np.arange(shape[a]) for a in range(3)]
    white = float(np.percentile(values, 90))
    image *= 1 + random_field(scanning, world, 7.0, 0.022)
    image *= np.exp(random_field(scanning, world, 65.0, scanning.uniform(0.02, 0.13)))
    # Optics of the scan, and the width of a voxel beyond the 1 mm of the template's.
    blur = np.hypot(scanning.uniform(0.25, 0.7), 0.42 * np.sqrt(spacing**2 - 1))
    image = ndimage.gaussian_filter(image, blur / spacing, truncate=3)
    # Voxels of 2 mm average the noise of eight of 1 mm; scanners spend part of that on speed.
    sigma = white * min(0.05, scanner.noise * scanning.uniform(0.0125, 0.03) / np.sqrt(spacing))
    noise = scanning.standard_normal((2, int(inside.sum())), dtype=np.float32) * np.float32(sigma)
    values = np.hypot(image[inside] + noise[0], noise[1])
    # The last fraction of a millimetre fades out, as interpolated masks do.
    values *= np.clip((envelope[inside] - level) / 0.06 + 0.25, 0, 1)
    image[...] = 0
    image[inside] = values * np.float32(scanner.full_scale * scanning.uniform(0.8, 1.25))

    labels = np.zeros(shape, np.uint8)
    labels[inside] = 1 + np.argmax([csf, gm, wm], axis=0)
    mask = np.zeros(shape, bool)
    mask[inside] = (lesion > 0.5) & (labels[inside] == LABELS["wm"])
    return SimulatedScan(image, affine, mask, labels)


def _contrast(csf, gm, wm, detail, lesion, params, rng):
    """Returns intensities (n,) float32 in units of full scale, before coil, blur and noise."""
    modality, scanner = params["modality"], SITES[params["site"]]
    means = np.array(_MEANS[modality]) * (1 + np.array([0.1, 0.03, 0.03]) * rng.standard_normal(3))
    # The scanner changes how far grey lies from white.
    means[1] = means[2] + (means[1] - means[2]) * scanner.contrast
    later = min(scanner.te[modality], _LONGEST_ECHO) * (params["echo"] - 1)  # s
    means[1:] *= np.exp(-later / np.array([_T2["gm"], _T2["wm"]]))
    values = csf * means[0] + gm * means[1] + wm * means[2]
    # Nuclei, brain stem and tracts differ from the mean of their tissue: as the template shows on
    # T1; on FLAIR the order of grey and white is the other way round.
    values += detail * (1 - csf) * (means[2] - means[1]) * (1.0 if modality == "T1w" else 0.5)
    if lesion.any():
        factor = rng.uniform(*_LESION_FACTORS[modality])
        factor *= np.exp(-later / _T2["lesion"] + later / _T2["wm"])
        values += lesion * (means[2] * factor - values)
    return np.maximum(values, 0.02).astype(np.float32)
