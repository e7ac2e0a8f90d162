"""A page to walk through volumes: scan, reconstruction and error under one cross.

The planes are drawn by brainsprite (Evans et al.), which nilearn brings along: all slices of a
volume are tiles of one picture, so that a page holds everything and opens offline.
"""

import base64
import io
import json
import math
from importlib import resources
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

from brainvq.files import write_text
from brainvq.reports.html import environment
from brainvq.reports.planes import (
    as_float32,
    foreground_of,
    grey_scale,
    highest,
    reconstruction_planes,
)

LONGEST = 160  # voxels along the longest side: three volumes then take about 3 MB
MARGIN = 6  # mm around the foreground
QUALITY = 80  # of the JPEG


def reconstruction_viewer(original, reconstruction, affine, path, *, title, simulated=False):
    """Writes a page with a volume, its reconstruction and the error, to click and drag through.

    A report that shows a picture `NAME.png` shows the page `NAME.html` beside it below the picture.

    Args:
        original: `(x, y, z)`.
        reconstruction: `(x, y, z)`, on the same grid and in the same units.
        affine: `(4, 4)`, voxel index → mm in RAS+ world coordinates.
        path: the HTML file to write. It needs nothing from elsewhere.
        title: str, of the page.
        simulated: whether the brain is simulated; the title then says so.

    Returns:
        `pathlib.Path` of the file.
    """
    original, reconstruction = as_float32(original), as_float32(reconstruction)
    error = np.abs(reconstruction - original)
    scale = grey_scale([original])
    volumes, at = _on_grid([original, reconstruction, error], affine)
    scales = [scale, scale, (0.0, highest([volumes[2]], 0.998))]
    names = ("original", "reconstruction", "|error|")
    maps = ("gray", "gray", "inferno")
    page = (
        environment()
        .get_template("viewer.html.j2")
        .render(
            title=f"{title} (simulated)" if simulated else title,
            script=_brainsprite(),
            panels=[
                {"name": name, "sprite": _sprite(volume, limits, colours)}
                for name, volume, limits, colours in zip(names, volumes, scales, maps, strict=True)
            ],
            size=json.dumps(dict(zip("XYZ", volumes[0].shape, strict=True))),
            affine=json.dumps(at.tolist()),
        )
    )
    write_text(path, page)
    return Path(path)


def walkable_planes(original, reconstruction, affine, path, *, title, simulated=False):
    """`reconstruction_planes` with `reconstruction_viewer` beside it: the path of the picture."""
    options = {"title": title, "simulated": simulated}
    page = Path(path).with_suffix(".html")
    reconstruction_viewer(original, reconstruction, affine, page, **options)
    return reconstruction_planes(original, reconstruction, affine, path, **options)


def _brainsprite():
    """The program that draws, from nilearn."""
    return resources.files("nilearn").joinpath("_assets/js/brainsprite.min.js").read_text("utf-8")


def _on_grid(volumes, affine):
    """Volumes cut to their foreground, axes from right to left, in voxels of equal sides.

    Args:
        volumes: list of `(x, y, z)` on one grid; the first two have the background.
        affine: `(4, 4)`, voxel index → mm.

    Returns:
        The volumes float32, and the affine of brainsprite's indices, which count from 1.
    """
    # The first sagittal slice is the rightmost: radiological pictures.
    order = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt("LAS")
    )
    shape = volumes[0].shape
    affine = affine @ nib.orientations.inv_ornt_aff(order, shape)
    volumes = [nib.apply_orientation(volume, order) for volume in volumes]
    spacing = nib.affines.voxel_sizes(affine)
    inside = foreground_of(volumes[0]) | foreground_of(volumes[1])
    if not inside.any():
        inside[...] = True
    (box,) = ndimage.find_objects(inside.astype("int8"))
    margins = np.ceil(MARGIN / spacing).astype(int)
    low = np.maximum([part.start for part in box] - margins, 0)
    high = np.minimum([part.stop for part in box] + margins, inside.shape)
    box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    side = max(spacing.min(), ((high - low) * spacing).max() / LONGEST)
    steps = spacing / side
    volumes = [ndimage.zoom(volume[box], steps, order=1, grid_mode=False) for volume in volumes]
    scaled = (np.array(volumes[0].shape) - 1) / np.maximum(high - low - 1, 1)
    at = affine @ nib.affines.from_matvec(np.diag(1 / scaled), low - 1 / scaled)
    return [as_float32(volume) for volume in volumes], at


def _sprite(volume, limits, colours):
    """Sagittal slices as tiles of one JPEG, superior up and anterior to the right: a data URL."""
    low, high = limits
    across = math.ceil(math.sqrt(len(volume)))
    down = math.ceil(len(volume) / across)
    _, width, height = volume.shape
    unit = np.clip((np.nan_to_num(volume) - low) / max(high - low, 1e-12), 0, 1)
    tiles = np.zeros((down * across, height, width), "float32")
    tiles[: len(volume)] = unit.swapaxes(1, 2)[:, ::-1]
    mosaic = tiles.reshape(down, across, height, width).swapaxes(1, 2)
    mosaic = mosaic.reshape(down * height, across * width)
    if colours != "gray":
        pixels = matplotlib.colormaps[colours](mosaic, bytes=True)[..., :3]
    else:
        pixels = np.round(255 * mosaic).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
