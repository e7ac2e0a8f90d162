"""Preprocessing steps: small frozen settings, each a function of (image, affine).

An image is a float32 array of three axes and its affine the 4×4 float64 matrix that takes a voxel
index to millimetres in the world (RAS+: right, anterior, superior). Steps that move voxels return
the affine that keeps every voxel centre where it was in the world, so that whatever is made from
the result can be put back onto the scan. A stack of slices is a volume too: (x, y, n slices), whose
third axis is the slice axis.
"""

import dataclasses

import numpy as np

from brainvq.data.errors import ScanError
from brainvq.data.geometry import (
    BlockMean,
    Canonical,
    CropOrPad,
    FitInside,
    Resample,
    SelectSlices,
)
from brainvq.data.intensity import ClipIntensity, ScaleIntensity, ZScore
from brainvq.data.registration import RegisterToTemplate
from brainvq.errors import UserError
from brainvq.typed import check_types

STEPS = {
    step.__name__: step
    for step in (
        Canonical,
        Resample,
        FitInside,
        CropOrPad,
        SelectSlices,
        BlockMean,
        RegisterToTemplate,
        ClipIntensity,
        ScaleIntensity,
        ZScore,
    )
}


def apply_steps(steps, image, affine):
    """Runs the steps one after the other.

    Args:
        steps: sequence of steps.
        image: (x, y, z), any real dtype.
        affine: 4×4, voxel index to mm.

    Returns:
        (image float32 C-contiguous of three axes, affine float64 4×4).

    Raises:
        ScanError: the scan does not fit a step (empty foreground, constant intensity, too small).
    """
    image = np.asarray(image, dtype=np.float32)
    affine = np.asarray(affine, dtype=np.float64)
    if image.ndim != 3 or 0 in image.shape:
        raise ScanError(f"image of shape {image.shape}; expected three axes, none of them empty")
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ScanError("the affine is not a 4×4 matrix of finite numbers")
    for step in steps:
        image, affine = step(image, affine)
        image = np.asarray(image, dtype=np.float32)
    return np.ascontiguousarray(image), affine


def steps_to_config(steps):
    """Returns the steps as a JSON-ready list of dicts: `name` and the step's settings."""
    return [
        {"name": type(step).__name__}
        | {k: list(v) if isinstance(v, tuple) else v for k, v in vars(step).items()}
        for step in steps
    ]


def steps_from_config(config, known=None):
    """Rebuilds the steps that `steps_to_config` wrote.

    Args:
        config: list of dicts, each with `name` and settings; missing settings take the default.
        known: name → class of the steps that there may be; the steps of images (`STEPS`) if None.

    Returns:
        Tuple of steps.

    Raises:
        UserError: a name or a setting is not known, or a value is out of range.
    """
    classes = STEPS if known is None else known
    steps = []
    if not isinstance(config, list | tuple):
        raise UserError(f"steps: found {config!r}; expected a list of them")
    for entry in config:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise UserError(f"step {entry!r} is none; expected its name and settings")
        settings = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "name"
        }
        step = classes.get(entry.get("name"))
        if step is None:
            raise UserError(
                f"step {entry.get('name')!r} is not known; expected one of {', '.join(classes)}"
            )
        fields = {field.name for field in dataclasses.fields(step)}
        for setting in settings.keys() - fields:
            raise UserError(
                f"step {entry['name']}: setting {setting!r} is not known; expected one of "
                f"{', '.join(sorted(fields))}"
            )
        try:
            steps.append(step(**settings))
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"step {entry['name']}: {error}; expected its settings") from None
        check_types(steps[-1], f"step {entry['name']}")
    return tuple(steps)
