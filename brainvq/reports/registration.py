"""Figure of how well a cohort lies on the template: the mean image, and the scans that do not."""

import numpy as np

from brainvq.reports.planes import three_planes

_MOST = 3  # outliers shown; the table has them all


def registration_planes(
    template, mean, mask, affine, path, *, count, outliers=None, title="", simulated=False
):
    """The template, the mean of the registered scans, and outliers, in three planes.

    Each row has its own brightness, ending at the 99.9th percentile of its brain; the outline is
    that of the template's brain.

    Args:
        template: `(x, y, z)`.
        mean: `(x, y, z)`, the mean image, see `brainvq.evaluation.RegistrationQuality`.
        mask: bool `(x, y, z)`, the template's brain.
        affine: `(4, 4)`, voxel index to mm of the template's space.
        path: the PNG to write; None returns the Figure.
        count: number of scans in the mean.
        outliers: dict of scan → `(x, y, z)`, the worst first; at most three are shown.
        title: figure title. Default: "Registration to the template".
        simulated: True when the brains are simulated; the title then says so.

    Returns:
        `pathlib.Path` of the PNG, or the Figure.

    Raises:
        ValueError: the shapes differ.
    """
    mask = np.asarray(mask, bool)
    rows = {"template": template, f"mean of {count} scans": mean}
    rows |= {f"outlier: {scan}": v for scan, v in list((outliers or {}).items())[:_MOST]}
    shown = {}
    for name, volume in rows.items():
        volume = np.asarray(volume, np.float32)
        if volume.shape != mask.shape:
            raise ValueError(
                f"all volumes must be of the mask's shape, {mask.shape}. "
                f"Received: {name!r} {volume.shape}"
            )
        top = float(np.percentile(volume[mask], 99.9))
        shown[name] = volume / top if top > 0 else volume
    return three_planes(
        shown,
        affine,
        path,
        contour=mask,
        contour_label="outline: brain of the template",
        title=title or "Registration to the template",
        simulated=simulated,
        intensity=(0.0, 1.0),
    )
