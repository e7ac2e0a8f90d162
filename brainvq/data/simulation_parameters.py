"""What a simulated scan is described by: modalities, groups, scanners, and checked parameters."""

import dataclasses
import json

import numpy as np

from brainvq.errors import UserError

MODALITIES = ("T1w", "FLAIR")
GROUPS = ("healthy", "MS", "leuko1", "leuko2", "leuko3")
LABELS = {"background": 0, "csf": 1, "gm": 2, "wm": 3}


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
SPACES = ("scanner", "mni")

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
    "shapes": None,
    "shapes_digest": None,
}


def read_parameters(params, defaults, what):
    """Returns the parameters of something simulated, from a dict or the text of a cohort's path.

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


def checked(params):
    """Returns the parameters of a simulated scan as a dict with every key, or raises UserError."""
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
    for name in ("shapes", "shapes_digest"):
        if not (params[name] is None or isinstance(params[name], str)):
            raise UserError(f"simulated scan: {name} is {params[name]!r}; expected text")
    if params["shapes_digest"] is not None and params["shapes"] is None:
        raise UserError("simulated scan: shapes is missing; expected the folder of lesion masks")
    return params


def generator(params, *stream):
    """The `numpy.random.Generator` of a subject for one purpose, which whole numbers name."""
    return np.random.default_rng([params["seed"], params["number"], *stream])
