"""Simulated brains on a real template: a cohort for trying everything without any data.

Each subject is the ICBM152 template (symmetric 09a, shipped inside nilearn, nothing is downloaded)
bent by a random diffeomorphism and affine, aged, given lesions where its group has them, and
"scanned": tissue contrast, texture, coil shading, blur and Rician noise, brain-extracted. It is a
stand-in to run software on, never evidence about patients; whatever shows it calls it simulated.

The deformation is the exponential of a stationary velocity field by scaling and squaring
(Arsigny et al. 2006, "A log-Euclidean framework for statistics on diffeomorphisms"), and the chain
from labels to image follows Billot et al. 2023, "SynthSeg".

A scan is named by its parameters alone, as JSON in the cohort's `paths`, so a subject is the same
whether it is made alone or with others, in this process or in another.
"""

import dataclasses
import functools
import json
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage, sparse

from brainvq.data.registration import template_grid
from brainvq.data.steps import BlockMean
from brainvq.errors import UserError

MODALITIES = ("T1w", "FLAIR")
GROUPS = ("healthy", "MS", "leuko1", "leuko2", "leuko3")
LABELS = {"background": 0, "csf": 1, "gm": 2, "wm": 3}

# Mean intensity of CSF, grey and white matter, in units of the scanner's full scale.
_MEANS = {"T1w": (0.19, 0.42, 0.60), "FLAIR": (0.10, 0.56, 0.46)}
# Age in years: mean, deviation, lowest, highest.
_AGES = {
    "healthy": (48, 18, 18, 90),
    "MS": (42, 11, 18, 70),
    "leuko1": (66, 9, 45, 90),
    "leuko2": (70, 9, 45, 90),
    "leuko3": (74, 8, 45, 90),
}
_FEMALE = {"MS": 0.7}  # share of women; one half elsewhere
# Share of the white matter that is lesion.
_WM_SHARES = {"leuko1": (0.06, 0.14), "leuko2": (0.16, 0.30), "leuko3": (0.33, 0.56)}
_LESION_FACTORS = {"T1w": (0.77, 0.87), "FLAIR": (1.36, 1.5)}

# From one visit of a subject to the next: new plaques on average, and growth of what is confluent.
_NEW_PLAQUES = 1.5
_GROWTH = 1.05

_COARSE_MM = 4.0  # grid on which deformations are made
_MARGIN_MM = 12  # kept around the template's brain


@dataclasses.dataclass(frozen=True)
class _Scanner:
    manufacturer: str
    tr: dict  # modality -> s
    te: dict  # modality -> s
    pixel_bandwidth: dict  # modality -> Hz per pixel
    full_scale: float  # stored intensity that stands for 1
    noise: float  # relative to the average scanner
    contrast: float  # of grey against white matter, relative to the average scanner


SITES = {
    "site-A": _Scanner(
        "Vendor A",
        {"T1w": 1.9, "FLAIR": 9.0},
        {"T1w": 0.0026, "FLAIR": 0.092},
        {"T1w": 170.0, "FLAIR": 200.0},
        1400.0,
        0.8,
        1.05,
    ),
    "site-B": _Scanner(
        "Vendor B",
        {"T1w": 2.3, "FLAIR": 5.0},
        {"T1w": 0.0030, "FLAIR": 0.395},
        {"T1w": 240.0, "FLAIR": 780.0},
        600.0,
        1.0,
        1.0,
    ),
    "site-C": _Scanner(
        "Vendor C",
        {"T1w": 0.0098, "FLAIR": 11.0},
        {"T1w": 0.0046, "FLAIR": 0.140},
        {"T1w": 145.0, "FLAIR": 120.0},
        2600.0,
        1.3,
        0.93,
    ),
}
# With the confound, this share of the patients was scanned at the last site (or with the longer
# echo), and the same share of the others was not.
_CONFOUND = 0.9
CONFOUNDS = ("site", "echo")
_LONG_ECHO = 1.25  # times the protocol's echo time
# T2 in s: grey and white matter at 3 T (Stanisz et al. 2005, "T1, T2 relaxation and magnetization
# transfer in tissue at 3T"); lesions between them and fluid.
_T2 = {"gm": 0.099, "wm": 0.069, "lesion": 0.120}
# Trains of echoes with small flip angles weigh T2 like a shorter echo time than is stated; s.
_LONGEST_ECHO = 0.1

SPACES = ("scanner", "mni")
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


def simulated_cohort(
    n_subjects,
    modality="T1w",
    spacing=2.0,
    groups=None,
    confound=False,
    seed=0,
    scans=None,
    space="scanner",
):
    """Returns a cohort of simulated subjects; their scans are made when they are loaded.

    Ages are drawn per group (leukoencephalopathy is a disease of the old), women are more frequent
    in MS, and the site is drawn evenly from three scanners, whatever the group, unless `confound`.

    Args:
        n_subjects: number of subjects.
        modality: "T1w" (default) or "FLAIR".
        spacing: voxel size in mm, isotropic, 1 to 8 (default 2); 1, 2, 4 or 8 in MNI space.
        groups: group name (one of `GROUPS`) -> share of the subjects; shares are scaled to sum to 1
            and rounded to whole subjects. Default: all healthy.
        confound: if "site" (or True), nine in ten patients were scanned at one site and nine in ten
            healthy subjects at the other two, so that the scanner can pass for the disease. If
            "echo", nine in ten subjects with MS and one in ten of the others were scanned with an
            echo time a quarter longer, which changes the contrast too.
        seed: integer from 0; a subject depends on it and on its own number only (and on its group
            and site).
        scans: group name -> mean number of scans of a subject, from 1. The number of scans in a
            group is exact; they spread unevenly over its subjects, each of whom has one at least,
            half a year to one and a half years apart and all at one site. Lesions grow from scan to
            scan. Default: one scan each, and no sessions.
        space: "scanner" (default): heads lie as they do in a scanner. "mni": as after an affine
            registration to the template, on a grid of 160×192×160 mm that is the same for all, the
            one of `RegisterToTemplate` with that shape.

    Returns:
        `Cohort` with `simulated=True`, the usual columns, and manufacturer.

    Raises:
        UserError: an argument is out of its range.
    """
    from brainvq.data.cohort import Cohort  # it imports the readers, which import this module

    groups = {"healthy": 1.0} if groups is None else dict(groups)
    _checked({"seed": seed, "modality": modality, "spacing": spacing, "space": space})
    if int(n_subjects) != n_subjects or n_subjects < 1:
        raise UserError(f"simulated cohort: n_subjects is {n_subjects}; expected 1 or more")
    unknown = (set(groups) | set(scans or {})) - set(GROUPS)
    if unknown:
        raise UserError(
            f"simulated cohort: group {sorted(unknown)[0]!r} is not known; expected one of "
            f"{', '.join(GROUPS)}"
        )
    shares = np.array(list(groups.values()), float)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UserError(f"simulated cohort: shares {groups}; expected numbers from 0, not all 0")
    if not all(np.isfinite(mean) and 1 <= mean <= 50 for mean in (scans or {}).values()):
        raise UserError(f"simulated cohort: scans {scans}; expected means from 1 to 50")
    confound = "site" if confound is True else confound
    if confound and (confound not in CONFOUNDS or (confound == "echo" and "MS" not in groups)):
        raise UserError(
            f"simulated cohort: confound is {confound!r}; expected one of {', '.join(CONFOUNDS)} "
            "('echo' with a group MS), or False"
        )
    names = np.repeat(list(groups), _whole_parts(shares, int(n_subjects)))
    np.random.default_rng([seed, 0]).shuffle(names)
    visits = _visits(names, scans or {}, seed)

    rows = []
    for number, group in enumerate(map(str, names)):
        rng = np.random.default_rng([seed, number, 0])
        sex = "F" if rng.random() < _FEMALE.get(group, 0.5) else "M"
        mean, deviation, low, high = _AGES[group]
        age = round(float(_truncated(rng, mean, deviation, low, high)), 1)
        site = _draw_site(rng, group, confound == "site")
        scanner = SITES[site]
        subject = f"sim{number + 1:04d}"
        for visit in range(visits[number]):
            params = {
                "seed": int(seed),
                "number": number,
                "modality": modality,
                "spacing": float(spacing),
                "group": group,
                "age": age,
                "sex": sex,
                "site": site,
            }
            # The values on the console are set per protocol; operators change them a little.
            tr = scanner.tr[modality] * rng.choice([1.0, 1.0, 1.0, 1.05])
            te = scanner.te[modality] * rng.choice([1.0, 1.0, 1.0, 0.97])
            if space != "scanner":
                params["space"] = space
            if visit:
                params["visit"] = visit
            if confound == "echo":
                # One protocol for all visits of a subject.
                chance = np.random.default_rng([seed, number, 1]).random()
                if (chance < _CONFOUND) == (group == "MS"):
                    params["echo"] = _LONG_ECHO
                    te *= _LONG_ECHO
            session = f"{visit + 1}" if scans else ""
            named = f"{subject}_ses-{session}" if scans else subject
            rows.append(
                {
                    "scan_id": f"{named}_{modality}",
                    "subject": subject,
                    "session": session,
                    "group": group,
                    "age": age,
                    "sex": sex,
                    "site": site,
                    "modality": modality,
                    "paths": ("simulated:" + json.dumps(params),),
                    "tr": round(tr, 5),
                    "te": round(te, 5),
                    "pixel_bandwidth": scanner.pixel_bandwidth[modality],
                    "manufacturer": scanner.manufacturer,
                }
            )
            age = round(min(age + rng.uniform(0.5, 1.5), 100.0), 1)
    note = "simulated brains on the ICBM152 template"
    if confound:
        what = "scanner" if confound == "site" else "echo time"
        note += f"; the {what} is confounded with the group on purpose"
    return Cohort("simulated", pd.DataFrame(rows), simulated=True, note=note)


def _visits(names, scans, seed):
    """Number of scans of each subject: exact in every group, some subjects having many."""
    counts = np.ones(len(names), int)
    for group, mean in scans.items():
        members = np.flatnonzero(names == group)
        more = round(float(mean) * len(members)) - len(members)
        if more > 0:
            weights = [np.random.default_rng([seed, n, 2]).exponential() for n in members]
            counts[members] += _whole_parts(np.array(weights), more)
    return counts


def simulate(params):
    """Makes one scan.

    Args:
        params: dict, or the JSON text of one. `seed` and `number` (integers from 0) name the
            subject; `modality`, `spacing` (mm), `group`, `age` (years), `sex` and `site` are as in
            the table of `simulated_cohort`. `visit` (from 0) counts the scans of the subject,
            `space` is "scanner" or "mni", and `echo` (0.5 to 2) multiplies the echo time. What is
            left out takes a default: number 0, T1w, 2 mm, healthy, 40 years, F, site-A, visit 0,
            "scanner", 1. Anatomy, lesions and contrast do not depend on `spacing`, anatomy and
            lesions not on `modality`, `site` or `echo`, and anatomy not on `visit`.

    Returns:
        `SimulatedScan`.

    Raises:
        UserError: a parameter is not known or out of its range.
    """
    params = _checked(params)
    if params["space"] == "mni":
        return _simulate_mni(params)
    spacing, template = params["spacing"], _template()
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
    made = _scan(params, tuple(int(n / spacing) for n in _MNI_SHAPE), affine)
    if blocks == 1:
        return made
    average = BlockMean(blocks)
    image, affine = average(made.image, made.affine)
    tissues = [average(made.labels == label, made.affine)[0] for label in LABELS.values()]
    labels = np.argmax(tissues, axis=0).astype(np.uint8)
    mask = average(made.lesion_mask, made.affine)[0] >= 0.5
    # A block may have more of another tissue than of white matter, and still be lesion by half.
    labels[mask] = LABELS["wm"]
    return SimulatedScan(image, affine, mask, labels)


def _scan(params, shape, affine):
    """A scan on a grid of any place with axes along the world's."""
    spacing, modality = float(affine[0, 0]), params["modality"]
    template = _template()
    anatomy = _rng(params, 1)
    to_template = _Deformation(template, params, anatomy)
    lesions = _lesions(template, params)
    points = to_template.grid(shape, affine)  # (3, x, y, z), template voxels

    # Extractions differ in how tightly they follow the brain: 0.5 is the template's own border.
    level = anatomy.uniform(0.4, 0.6)
    envelope = _sample(template.envelope, _on_half(points))
    inside = envelope > level
    points = points[:, inside]  # (3, n)
    csf, gm, wm = _tissues(template, points, params, anatomy, to_template)
    lesion = np.zeros(points.shape[1], np.float32)
    if lesions is not None:
        lesion = _sample(lesions, points) * np.clip(2 * wm, 0, 1)
    detail = _sample(template.detail, points)

    visit = [params["visit"]] if params["visit"] else []
    scanning = _rng(params, 2, MODALITIES.index(modality), *visit)
    scanner = SITES[params["site"]]
    values = _contrast(csf, gm, wm, detail, lesion, params, scanning)
    image = np.zeros(shape, np.float32)
    image[inside] = values
    world = [affine[a, 3] + spacing * np.arange(shape[a]) for a in range(3)]
    white = float(np.percentile(values, 90))
    image *= 1 + _field(scanning, world, 7.0, 0.022)
    image *= np.exp(_field(scanning, world, 65.0, scanning.uniform(0.02, 0.13)))
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


class _Template(NamedTuple):
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
def _template():
    from nilearn import datasets  # slow to import, and only the simulation needs it here

    images = [
        datasets.load_mni152_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    ]
    mask = np.asarray(images[3].dataobj) > 0
    spans = [np.flatnonzero(mask.any(axis=o))[[0, -1]] for o in ((1, 2), (0, 2), (0, 1))]
    lows, highs = np.array(spans).T
    start = lows - _MARGIN_MM
    shape = (highs - start + _MARGIN_MM + 4) // 4 * 4  # whole voxels of 2 and of 4 mm
    t1, gm, wm, mask = (_window(np.asarray(i.dataobj), start, shape) for i in images)
    affine = images[0].affine @ nib.affines.from_matvec(np.eye(3), start)
    center = nib.affines.apply_affine(affine, (lows + highs) / 2 - start)
    csf = np.clip(1 - gm - wm, 0, 1)

    # Lateral and third ventricles: fluid deep inside, in parts larger than 1 mL.
    half_mask = _halve(mask)
    deep = ndimage.uniform_filter(half_mask, 15) > 0.98
    parts, _ = ndimage.label((_halve(csf) > 0.5) & deep)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    ventricles = (sizes > 125)[parts]

    # The segmentation calls the mixture of fluid and white matter around the ventricles grey: a
    # ring that would shine on FLAIR. Grey nuclei are thick, the ring is thin.
    fluid, grey, white = (
        np.average(t1[::2, ::2, ::2], weights=(volume**4 * mask)[::2, ::2, ::2])
        for volume in (csf, gm, wm)
    )
    grown = ndimage.binary_dilation(ventricles, iterations=4)
    half_box = ndimage.find_objects(grown.view(np.uint8))[0]
    box = tuple(slice(2 * part.start, 2 * part.stop) for part in half_box)
    lumen = _double(ndimage.binary_dilation(ventricles)[half_box]) & (csf[box] > 0.5)
    near = ndimage.gaussian_filter(lumen.astype(np.float32), 1.5, truncate=3) > 0.01
    thick = ndimage.binary_opening(gm[box] > 0.55, iterations=3)
    ring = near & ~ndimage.binary_dilation(thick, iterations=2)
    share = np.clip((t1[box][ring] - fluid) / (white - fluid), 0, 1)
    gm[box][ring], wm[box][ring], csf[box][ring] = 0, share, 1 - share

    model = np.float32(fluid) * csf + np.float32(grey) * gm + np.float32(white) * wm
    detail = np.clip((t1 - model) * (mask / np.float32(white - grey)), -0.8, 0.8)

    filled = ventricles.astype(np.float32)
    potential = ndimage.gaussian_filter(filled, 2.5, truncate=3)[::2, ::2, ::2]
    growth = np.stack(np.gradient(potential, _COARSE_MM))
    growth /= np.sqrt((growth**2).sum(axis=0)).max()
    half_wm = _halve(wm)
    core = (half_wm > 0.6) & (ndimage.gaussian_filter(half_wm, 1.25, truncate=3) > 0.62)
    return _Template(
        affine=affine,
        center=center,
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


def _window(volume, start, shape):
    """Cuts `shape` voxels from `start` on, with zeros where that leaves the volume; float32."""
    result = np.zeros(shape, np.float32)
    source = [slice(max(b, 0), b + n) for b, n in zip(start, shape, strict=True)]
    part = volume[tuple(source)]
    offsets = [max(-b, 0) for b in start]
    result[tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))] = part
    return result


def _halve(volume):
    """Means over 2×2×2 voxels."""
    x, y, z = volume.shape
    return volume.reshape(x // 2, 2, y // 2, 2, z // 2, 2).mean(axis=(1, 3, 5), dtype=np.float32)


def _double(volume):
    return volume.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)


def _on_half(points):
    """Voxels of the 1 mm grid as voxels of the half grid."""
    return (np.asarray(points, np.float32) - np.float32(0.5)) / 2


class _Deformation:
    """Takes points of the subject's world to points of the template: affine, then diffeomorphism.

    Attributes:
        displacement: (3, coarse grid) mm, on a grid of 4 mm over the template.
        matrix: (3, 3) linear part of the affine, subject to template.
    """

    def __init__(self, template, params, rng):
        self.template = template
        shape = template.growth.shape[1:]
        world = [_COARSE_MM * np.arange(n) for n in shape]
        years = params["age"] - 20
        velocity = np.zeros((3, *shape), np.float32)
        for knots, low, high in ((26.0, 1.3, 2.7), (12.0, 0.6, 1.1)):
            deviation = rng.uniform(low, high)
            for axis in range(3):
                velocity[axis] += _field(rng, world, knots, deviation)
        # Wall of the ventricles: 4 mm outwards over 60 years, quicker after 60.
        wall = rng.normal(-0.3, 0.6) + 0.04 * years + 0.04 * max(0.0, years - 40)
        velocity += np.float32(np.clip(wall, -1.2, 5.5)) * template.growth
        self.displacement = _exponential(velocity, _COARSE_MM)

        # The template is larger than most heads (1.88 L; adults have 1.2 to 1.7 L).
        size = 0.97 if params["sex"] == "M" else 0.935
        size *= _truncated(rng, 1.0, 0.03, 0.94, 1.06)
        scales = np.clip(size * (1 + 0.015 * rng.standard_normal(3)), 0.9, 1.1)
        angles = np.radians([_truncated(rng, 0, 4, -10, 10) for _ in range(3)])
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
        step = _COARSE_MM
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
        voxels += [_sample(component, nodes) for component in self.displacement]
        matrices = [
            _linear_matrix(coarse[a], np.arange(shape[a]) * spacing / step) for a in range(3)
        ]
        return np.stack([_separable(component, matrices) for component in voxels])


def _tissues(template, points, params, rng, deformation):
    """Returns fractions of CSF, GM and WM, each (n,) float32, summing to 1."""
    fractions = [_sample(volume, points) for volume in (template.csf, template.gm, template.wm)]
    # Local variety of cortex thickness and sulcus width, on scales below those of the deformation.
    coarse = [_COARSE_MM * np.arange(n) for n in template.growth.shape[1:]]
    local = points / np.float32(_COARSE_MM)
    wider = _sample(_field(rng, coarse, 9.0, 0.55), local)
    thinner = _sample(_field(rng, coarse, 9.0, 0.45), local)
    sulci = 0.55 + 1.0 * (params["age"] - 20) / 60 + 0.2 * rng.standard_normal()
    # The template is an average of 152 brains: squaring makes its soft borders as sharp as one.
    csf, gm, wm = (np.square(fraction) for fraction in fractions)
    csf *= np.exp(sulci + wider)
    wm *= np.exp(thinner)
    total = csf + gm + wm
    return csf / total, gm / total, wm / total


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


def _lesions(template, params):
    """Returns the soft lesion map (template grid, float32 0 to 1), or None for the healthy."""
    group = params["group"]
    if group == "healthy":
        return None
    rng, visit = _rng(params, 3), params["visit"]
    if group != "MS":
        return _confluent(template, rng, group, visit)
    total = _plaques(template, rng)
    for later in range(1, visit + 1):
        _add_plaques(total, template, _rng(params, 3, later))
    return total


def _plaques(template, rng):
    """MS: ellipsoids whose long axis points away from the ventricle wall."""
    count = int(rng.integers(5, 51))
    target = float(np.clip(rng.lognormal(np.log(8), 0.95), 1.7, 36)) * 1000  # mm³
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
    coarse = [_COARSE_MM * np.arange(n) for n in template.growth.shape[1:]]
    waves = _field(rng, coarse, 14.0, 2.5)
    patches = _field(rng, coarse, 7.0, 1.2)
    rough = (waves + waves[::-1]) / np.sqrt(2) + (patches + 0.7 * patches[::-1]) / 1.22
    places = np.nonzero(template.wm > 0.05)
    half = _on_half(places)
    score = _sample(template.ventricle_mm, half)
    score += _sample(rough, np.asarray(places, np.float32) / np.float32(_COARSE_MM))
    # The rim under the cortex goes last. Brain stem and cerebellum lie far from the ventricles.
    score += 12 * (1 - _sample(template.core.astype(np.float32), half))
    white = template.wm[places] > 0.5
    border = np.quantile(score[white], share)
    total = np.zeros(template.wm.shape, np.float32)
    total[places] = np.clip(0.5 + (border - score) / 2, 0, 1)
    return total


def _exponential(velocity, spacing, squarings=6):
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
        displacement = displacement + np.stack([_sample(d, points) for d in displacement])
    return displacement


def _field(rng, world, knots_mm, deviation):
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
    return _separable(coefficients * np.float32(deviation * (315 / 151) ** 1.5), matrices)


@functools.lru_cache(maxsize=64)
def _spline_matrix(n, step):
    """Weights (n, knots) of the cubic B-spline at positions step·i from a fixed start."""
    positions = step * np.arange(n) + 1.37  # off the first knot, so that no axis starts on one
    knots = int(np.ceil(positions[-1])) + 3
    distance = np.abs(positions[:, None] - np.arange(knots))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return sparse.csr_array(np.where(distance < 1, near, far).astype(np.float32))


def _linear_matrix(n, positions):
    """Weights (len(positions), n) of linear interpolation, held at the ends."""
    positions = np.clip(positions, 0, n - 1)
    below = np.minimum(positions.astype(int), n - 2)
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), n), np.float32)
    weights[rows, below] = 1 - (positions - below)
    weights[rows, below + 1] = positions - below
    return sparse.csr_array(weights)


def _separable(volume, matrices):
    """Multiplies one sparse matrix (new, old) into each axis.

    Products of dense matrices add up in an order that depends on the number of threads; these give
    the same bits in every process.
    """
    for matrix in matrices:  # each turn moves the axis just done to the end
        rest = volume.shape[1:]
        flat = matrix @ volume.reshape(len(volume), -1)
        volume = np.moveaxis(flat.reshape(-1, *rest), 0, -1)
    return volume


def _sample(volume, points):
    """Linear interpolation of `volume` at voxel positions (3, ...); edges go on outside."""
    return ndimage.map_coordinates(volume, points, order=1, mode="nearest", output=np.float32)


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


def _truncated(rng, mean, deviation, low, high):
    """Normal number, drawn again while it is out of range."""
    while True:
        value = rng.normal(mean, deviation)
        if low <= value <= high:
            return value


def _whole_parts(shares, total):
    """Splits `total` into whole numbers in proportion to `shares` (largest remainders)."""
    exact = shares / shares.sum() * total
    parts = np.floor(exact).astype(int)
    missing = total - parts.sum()
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    return parts


def _draw_site(rng, group, confound):
    sites = list(SITES)
    chance, which = rng.random(), rng.random()
    if not confound:
        return sites[int(which * len(sites))]
    patient = group != "healthy"
    at_last = (chance < _CONFOUND) == patient
    return sites[-1] if at_last else sites[int(which * (len(sites) - 1))]


def _rng(params, *stream):
    return np.random.default_rng([params["seed"], params["number"], *stream])


_DEFAULTS = {
    "seed": 0,
    "number": 0,
    "modality": "T1w",
    "spacing": 2.0,
    "group": "healthy",
    "age": 40.0,
    "sex": "F",
    "site": "site-A",
    "visit": 0,
    "space": "scanner",
    "echo": 1.0,
}


def read_parameters(params, defaults, what):
    """The parameters of something simulated, from a dict or the text of a cohort's path.

    Args:
        params: dict, or JSON text with or without "simulated:" in front.
        defaults: dict with every parameter that there is.
        what: what is simulated, for errors.

    Returns:
        dict with every key of `defaults`.

    Raises:
        UserError: the text is no JSON object, or a parameter is not known.
    """
    if isinstance(params, str):
        text = params.removeprefix("simulated:")
        try:
            params = json.loads(text)
        except ValueError:
            params = None
        if not isinstance(params, dict):
            raise UserError(f"{what}: parameters {text!r}; expected a JSON object")
    unknown = set(params) - set(defaults)
    if unknown:
        raise UserError(
            f"{what}: parameter {sorted(unknown)[0]!r} is not known; expected {', '.join(defaults)}"
        )
    return defaults | dict(params)


def _checked(params):
    """Returns the parameters as a dict with every key, or raises UserError."""
    params = read_parameters(params, _DEFAULTS, "simulated scan")
    choices = {
        "modality": MODALITIES,
        "group": GROUPS,
        "sex": ("F", "M"),
        "site": tuple(SITES),
        "space": SPACES,
    }
    for name, allowed in choices.items():
        if params[name] not in allowed:
            raise UserError(
                f"simulated scan: {name} is {params[name]!r}; expected one of {', '.join(allowed)}"
            )
    for name, low, high in (("spacing", 1, 8), ("age", 0, 120), ("echo", 0.5, 2)):
        value = params[name]
        if not (isinstance(value, int | float) and low <= value <= high):
            raise UserError(f"simulated scan: {name} is {value!r}; expected {low} to {high}")
    if params["space"] == "mni" and params["spacing"] not in (1, 2, 4, 8):
        raise UserError(
            f"simulated scan: spacing is {params['spacing']!r}; expected 1, 2, 4 or 8 in MNI space"
        )
    for name in ("seed", "number", "visit"):
        if not (isinstance(params[name], int) and params[name] >= 0):
            raise UserError(
                f"simulated scan: {name} is {params[name]!r}; expected a whole number from 0"
            )
    return params
