"""Loading and saving scans: everything that can be wrong with a file is found here."""

import contextlib
import logging
import math
import re
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from brainvq.data.errors import ScanError
from brainvq.data.foreground import foreground_mask
from brainvq.data.headers import MOST_VOXELS, millimetres, oriented_affine, quiet, world_of
from brainvq.errors import UserError
from brainvq.files import atomic_path

logger = logging.getLogger("brainvq")

SIMULATED = "simulated:"
MASK = "mask="
_ORIENTED = re.compile(r"axcodes=([A-Z]{3}):(.+)", re.DOTALL)

# Formats of pictures, and the modes of Pillow whose pixels are a single number.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")

# Pictures carry neither a voxel size nor an orientation. They are taken as radiological axial
# pictures (first row anterior, first column the patient's right), lowest slice first, 1 mm apart.
PNG_VOXEL_SIZE = (1.0, 1.0, 1.0)

# A size that is refused before memory is taken for it: a header may claim anything.
MOST_PIXELS = 10**8
_MOST_SIDE = 2**15
# Values that numbers of 32 bits can have between the darkest and the brightest voxel, at least.
_LEAST_LEVELS = 2000
# A compressed file is at least so large a part of its content, by the formats gzip and deflate;
# bzip2 can do better, with content that no scan has.
_MOST_PACKED = 1100
_PACKED = (".gz", ".bz2", ".mgz", ".zst")


def load_scan(paths, axcodes=None):
    """Loads a scan as a three-dimensional image and its affine.

    Args:
        paths: a path or a sequence of paths:
            - one file in any format of nibabel (NIfTI, Analyze pair by either file, MGH);
            - several such files on the same grid: repeated acquisitions, averaged voxel by voxel;
            - pictures (`.png`, `.jpg`, `.tif`, `.bmp`): the slices of a volume, lowest first, all
              grey; or a single one, a volume of one slice, whose colours become grey (ITU-R BT.601
              luma, over black where the picture is transparent);
            - `"simulated:<JSON parameters>"`: see `brainvq.data.simulation`.
            And besides, for any of them, `"mask=<path>"` of a brain mask: voxels where it is 0
            become exactly 0. It may lie on another grid of the same world (nearest voxel).
            A path may start with `"axcodes=LAS:"` (any orientation code): the orientation of a file
            whose header holds none.
        axcodes: the same for all paths, e.g. "LAS": direction in which each array axis grows.
            Used for Analyze files and for NIfTI files with neither sform nor qform; a header that
            does hold an orientation wins. Default for Analyze: "LAS", the convention of the format.

    Returns:
        image: float32 (X, Y, Z), finite, in the units of the file (scaling of the header applied).
        affine: float64 (4, 4), voxel indices → mm (headers in metres or micrometres are converted),
            RAS+ world; the sform where it disagrees with the qform, with a word in the log. For
            Analyze the origin is the centre of the volume. For pictures the array is (columns,
            rows, slices), the orientation is "LPS" and the voxels nominally 1×1×1 mm.

    Raises:
        ScanError: if a file is missing, unreadable or truncated; is complex or RGB, a series (more
            than three axes longer than 1), or smaller than three dimensions; has a voxel size of
            zero or a singular affine; holds infinite values, NaN inside the head or brain (NaN
            outside becomes 0, with a word in the log), or the same value everywhere;
            if several files differ in their grid; if a mask lies elsewhere; if a file holds several
            pictures; or if one of several pictures has colours.
    """
    if isinstance(paths, str | Path):
        paths = (paths,)
    paths = [str(path) for path in paths]
    masks = [path.removeprefix(MASK) for path in paths if path.startswith(MASK)]
    paths = [path for path in paths if not path.startswith(MASK)]
    if not paths:
        raise ScanError("scan without a path: one or more files are expected")
    image, affine = _load(paths, axcodes)
    for mask in masks:
        image = _masked(image, affine, mask)
    return image, affine


def _load(paths, axcodes):
    """`load_scan` without its masks."""
    if paths[0].startswith(SIMULATED):
        from brainvq.data.simulation_scan import simulate

        image, affine = simulate(paths[0].removeprefix(SIMULATED))[:2]
        return image, affine
    if all(path.lower().endswith(PICTURES) for path in paths):
        return _load_pictures(paths)
    image, affine = _load_volume(paths[0], axcodes)
    if len(paths) > 1:
        total = image.astype(np.float64)
        for path in paths[1:]:
            other, other_affine = _load_volume(path, axcodes)
            same = other.shape == image.shape and np.allclose(other_affine, affine, atol=1e-3)
            if not same:
                raise ScanError(
                    f"{path}: grid {_sizes(other.shape)} differs from {paths[0]} "
                    f"({_sizes(image.shape)}) or lies elsewhere; repeats must share one grid"
                )
            total += other
        image = (total / len(paths)).astype(np.float32)
    return image, affine


def is_empty(path):
    """Whether a file is an image of zeros, which `load_scan` takes for a fault."""
    try:
        return not np.asanyarray(nib.load(path).dataobj).any()
    except Exception:  # of the parsers of a dozen formats
        return False


def scan_files(paths):
    """Returns the files behind the paths of a scan, which need not exist.

    Args:
        paths: a path or a sequence of them, as `load_scan` takes it.

    Returns:
        Tuple of `pathlib.Path`: both files of an Analyze or NIfTI pair, masks too; none for a
        simulated scan.
    """
    if isinstance(paths, str | Path):
        paths = (paths,)
    files = []
    for path in paths:
        if str(path).startswith(SIMULATED):
            continue
        file = Path(_split_axcodes(str(path).removeprefix(MASK))[0])
        files.append(file)
        partner = {".img": ".hdr", ".hdr": ".img"}.get(file.suffix.lower())
        if partner:
            files.append(file.with_suffix(partner))
    return tuple(files)


def save_nifti(path, image, affine, like=None, mni=False):
    """Writes an image as NIfTI-1, atomically.

    Args:
        path: file to write, `.nii` or `.nii.gz`; missing folders are made.
        image: (X, Y, Z) or (X, Y, Z, n). Floats are stored as float32, bool as uint8, integers in
            their own type (64-bit ones as int32).
        affine: (4, 4), voxel indices → mm.
        like: file whose place in space is kept where it is NIfTI: forms and codes of the coordinate
            system. Nothing else is, since descriptions, names and extensions of a header may say
            who was scanned. None for a header in scanner coordinates.
        mni: whether `affine` leads to MNI space, which a fresh header then says. Default False.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        UserError: if the suffix is another.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise UserError(f"{path}: images are written as .nii or .nii.gz, found another suffix")
    image = np.asarray(image)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    elif np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32)
    elif image.dtype.itemsize > 4:
        image = image.astype(np.int32)
    affine = np.asarray(affine, np.float64)
    header, codes = None, (4, 4) if mni else (1, 1)
    # Of damaged headers it is known by now what is wrong.
    with quiet():
        if like is not None and not str(like).lower().endswith(PICTURES):
            source = nib.load(_split_axcodes(str(like))[0]).header
            if isinstance(source, nib.Nifti1Header):
                header, codes = _place_of(source, affine)
        # To the last digit, whichever of the two forms the scan uses.
        place = affine if header is None else None
        result = nib.Nifti1Image(image, place, header, dtype=image.dtype)
        if header is None:
            result.set_sform(affine, code=codes[0])
            # A qform has no shear, so it is only the nearest rotation where the affine is sheared.
            result.set_qform(affine, code=codes[1], strip_shears=True)
        result.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(result, temporary)
    return path


# Fields of a NIfTI header that say where an image lies.
_PLACE = ("pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_PLACE += ("srow_x", "srow_y", "srow_z")


def _place_of(source, affine):
    """A header with the place of another, None where that is not `affine`; codes of both forms."""
    stated = [int(source[name]) for name in ("sform_code", "qform_code")]
    codes = tuple(code if 1 <= code <= 5 else 1 for code in stated)
    known = millimetres(source) == 1 and all(0 <= code <= 5 for code in stated)
    if not known or not np.allclose(source.get_best_affine(), affine, rtol=0, atol=1e-5):
        return None, codes
    header = nib.Nifti1Header()
    for name in (*_PLACE, "sform_code", "qform_code"):
        header[name] = source[name]
    header["pixdim"][4:] = 1
    return header, codes


def to_original_grid(image, affine, original_shape, original_affine, order=1):
    """Puts a processed volume back on the grid of the scan that it came from.

    A grid that differs only by flips, permutations and whole-voxel shifts is restored exactly,
    without interpolation; any other is resampled.

    Args:
        image: (X, Y, Z) array on the processed grid.
        affine: (4, 4) of `image`.
        original_shape: (3,) shape wanted.
        original_affine: (4, 4) wanted; oblique and flipped ones are fine.
        order: degree of the spline: 0 for labels and masks, 1 for images.

    Returns:
        Array of `original_shape`, float32 (the dtype of `image` for `order=0`); voxels outside the
        processed volume are 0.
    """
    image = np.asarray(image)
    kind = image.dtype if order == 0 else np.float32
    original_shape = tuple(int(size) for size in original_shape)
    # Index in the original grid → index in the processed one.
    mapping = np.linalg.inv(affine) @ np.asarray(original_affine, np.float64)
    rounded = np.rint(mapping)
    if np.allclose(mapping, rounded, atol=1e-4):
        mapping = rounded
        linear = np.abs(rounded[:3, :3])
        if (linear.sum(0) == 1).all() and (linear.sum(1) == 1).all():
            return _reindex(image, mapping, original_shape).astype(kind)
    source = image if order == 0 else image.astype(np.float32)
    return ndimage.affine_transform(
        source,
        mapping[:3, :3],
        mapping[:3, 3],
        output_shape=original_shape,
        output=kind,
        order=order,
        mode="constant",
        cval=0.0,
    )


def _reindex(image, mapping, shape):
    """Whole-voxel version of `affine_transform`: flips, permutation, crop and pad with 0."""
    result = np.zeros(shape, image.dtype)
    # Each original axis moves along one axis of the image, forwards or backwards.
    axes = np.abs(mapping[:3, :3]).argmax(axis=0)
    indices, inside = [None] * 3, []
    for axis, source in enumerate(axes):
        places = mapping[source, axis] * np.arange(shape[axis]) + mapping[source, 3]
        valid = (places >= 0) & (places < image.shape[source])
        inside.append(np.flatnonzero(valid))
        indices[source] = places[valid].astype(int)
    # After np.ix_ the axes are those of the image; bring them into the order of the original.
    result[np.ix_(*inside)] = image[np.ix_(*indices)].transpose(axes)
    return result


def _load_volume(path, axcodes):
    file, own = _split_axcodes(path)
    file, axcodes = Path(file), own or axcodes
    if not file.exists():
        raise ScanError(f"{file}: no such file; an image is expected")
    if file.is_dir():
        raise ScanError(f"{file}: is a folder; an image file is expected")
    for part in scan_files(str(file)):
        if not part.exists():
            raise ScanError(f"{file}: {part.name} is missing; the pair .hdr and .img is expected")
        if part.stat().st_size == 0:
            raise ScanError(f"{part}: is an empty file (0 bytes); an image is expected")
    try:
        with quiet():
            loaded = _opened(file)
    except Exception as error:  # the parsers of a dozen formats, given any bytes
        raise ScanError(f"{file}: cannot be read as an image: {_line(error)}") from error
    if not isinstance(loaded, nib.spatialimages.SpatialImage):
        raise ScanError(f"{file}: is {type(loaded).__name__}; an image volume is expected")

    kind = loaded.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iufb":
        name = "RGB" if kind.fields is not None else str(kind)
        raise ScanError(f"{file}: voxels are {name}; real numbers are expected")
    shape = loaded.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        kind = "a series" if len(shape) > 3 else "not a volume"
        raise ScanError(f"{file}: {_sizes(shape)} is {kind}; three dimensions are expected")
    if min(shape) < 1:
        raise ScanError(f"{file}: {_sizes(shape)} holds no voxels; three dimensions are expected")
    with quiet():
        affine = world_of(file, loaded, shape, axcodes)

    _check_size(file, loaded, shape)
    try:
        with quiet():
            image = np.asanyarray(loaded.dataobj).reshape(shape).astype(np.float32)
    except MemoryError:
        raise
    except Exception as error:  # of gzip, mmap, a header that lies about the size, …
        raise ScanError(f"{file}: is truncated or damaged: {_line(error)}") from error
    image = _without_nan(file, image)
    _check_values(file, image)
    return image, affine


def _opened(file):
    """The image of a file, by nibabel, which knows endings in small letters or capitals alone."""
    try:
        return nib.load(file)
    except FileNotFoundError:
        holder = nib.FileHolder(str(file))
        for kind in (nib.Nifti1Image, nib.Nifti2Image, nib.MGHImage):
            with contextlib.suppress(nib.spatialimages.HeaderDataError, ValueError):
                return kind.from_file_map({"image": holder})
        raise


def _check_size(file, loaded, shape):
    """Refuses a size that the file cannot hold, or that no head has."""
    voxels = math.prod(int(size) for size in shape)
    if voxels > MOST_VOXELS:
        raise ScanError(
            f"{file}: {_sizes(shape)} voxels by its header; {MOST_VOXELS:,} at most are expected"
        )
    holder = loaded.file_map.get("image")
    if holder is None or holder.filename is None:
        return
    start = int(getattr(loaded.dataobj, "offset", 0))
    claimed = start + voxels * loaded.get_data_dtype().itemsize
    packed = str(holder.filename).lower().endswith(_PACKED)
    present = Path(holder.filename).stat().st_size
    if start < 0 or claimed > present * (_MOST_PACKED if packed else 1):
        raise ScanError(
            f"{file}: is truncated or damaged: {_sizes(shape)} voxels by its header are {claimed} "
            f"bytes, but the file has {present}"
        )


def _masked(image, affine, path):
    mask, mask_affine = _load_volume(path, None)
    inside = (mask > 0).astype(np.uint8)
    inside = to_original_grid(inside, mask_affine, image.shape, affine, order=0) > 0
    if not inside.any():
        raise ScanError(
            f"{path}: the mask has no voxel in common with the scan; expected one of the same head"
        )
    return np.where(inside, image, 0).astype(np.float32)


def _load_pictures(paths):
    slices = []
    for path in paths:
        pixels = _load_picture(Path(path), colour=len(paths) == 1)
        if slices and pixels.shape != slices[0].shape:
            raise ScanError(
                f"{path}: {pixels.shape[0]}×{pixels.shape[1]} pixels, but {paths[0]} has "
                f"{slices[0].shape[0]}×{slices[0].shape[1]}; slices of one scan must agree"
            )
        slices.append(pixels)
    image = np.stack(slices, axis=-1).astype(np.float32).transpose(1, 0, 2)  # (x, y, slices)
    image = np.ascontiguousarray(image)
    _check_values(Path(paths[0]), image)
    return image, oriented_affine(image.shape, PNG_VOXEL_SIZE, "LPS")


def _load_picture(file, colour):
    """Returns the pixels (rows, columns) of a picture; colours become grey, or are refused."""
    if not file.is_file():
        raise ScanError(f"{file}: no such file; a picture is expected")
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(file.suffix.lower(), file.suffix[1:].upper())
    try:
        # What is wrong with it shows in its pixels.
        with warnings.catch_warnings(action="ignore"), Image.open(file) as picture:
            if math.prod(picture.size) > MOST_PIXELS or max(picture.size) > _MOST_SIDE:
                raise ScanError(
                    f"{file}: {_sizes(picture.size)} pixels by its header; {MOST_PIXELS:,} at most "
                    f"are expected, {_MOST_SIDE:,} on a side"
                )
            mode, count = picture.mode, getattr(picture, "n_frames", 1)
            # A camera held upright writes lying pixels and a note to turn them.
            picture = ImageOps.exif_transpose(picture)
            if mode in _GREY_MODES:
                pixels = np.asarray(picture)
            else:
                # Where nothing is drawn is background, black.
                picture = picture.convert("RGBA")
                black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
                colours = np.asarray(Image.alpha_composite(black, picture).convert("RGB"))
                if not colour and np.ptp(colours.astype(np.int16), axis=-1).any():
                    raise ScanError(f"{file}: is a {mode} picture; a grey one is expected")
                pixels = np.asarray(Image.fromarray(colours).convert("L"))
    except (ScanError, MemoryError):
        raise
    except Exception as error:  # the parsers of several formats, given any bytes
        raise ScanError(f"{file}: cannot be read as {kind}: {_line(error)}") from error
    if count > 1:
        raise ScanError(f"{file}: holds {count} pictures; one is expected")
    return pixels


def _without_nan(file, image):
    """The image with NaN outside the head or brain as 0, which a word tells; NaN inside stays."""
    lost = np.isnan(image)
    if not lost.any() or np.isinf(image).any() or lost.all():
        return image
    filled = np.where(lost, 0, image)
    try:
        foreground = foreground_mask(filled) & ~lost
    except ScanError:
        foreground = ~lost & (filled != 0)
    if (ndimage.binary_fill_holes(foreground) & lost).any() or _cut_through(foreground, lost):
        return image
    logger.warning(
        "%s: %d of %d voxels, outside the brain, are NaN; taken as 0", file, lost.sum(), lost.size
    )
    return filled


def _cut_through(foreground, lost):
    """Whether planes of NaN lie between parts of the foreground: a slab of it that is lost."""
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        profile, holes = foreground.sum(axis=others), lost.any(axis=others)
        before = np.maximum.accumulate(profile)
        after = np.maximum.accumulate(profile[::-1])[::-1]
        if (holes & (profile < 0.2 * np.minimum(before, after))).any():
            return True
    return False


def _check_values(file, image):
    finite = np.isfinite(image)
    if not finite.all():
        raise ScanError(
            f"{file}: {image.size - int(finite.sum())} of {image.size} voxels are NaN or infinite; "
            "finite values are expected (NaN outside the brain is taken as 0)"
        )
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise ScanError(f"{file}: every voxel is {low:g}; an image with contrast is expected")
    if high - low < _LEAST_LEVELS * float(np.spacing(np.abs(image).max())):
        raise ScanError(
            f"{file}: its voxels, {low:g} to {high:g}, differ by less than their precision can "
            "tell; an image with contrast is expected"
        )


def _split_axcodes(path):
    match = _ORIENTED.fullmatch(path)
    return (match[2], match[1]) if match else (path, None)


def _sizes(shape):
    return "×".join(str(size) for size in shape)


def _line(error):
    """One line of an error message, which readers tend to break into several."""
    return " ".join(str(error).split()) or type(error).__name__
