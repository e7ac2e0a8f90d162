"""White-matter bundles as files and as arrays: reading, writing, resampling, directions, groups.

A bundle as a model takes it is float32 `(groups, size, points, 3)`: groups of `size` streamlines of
equally many points, in the order of the file, coordinates x, y, z in RAS+ mm or scaled by a
`BundleScale`.
"""

import dataclasses
import json
import math
import struct
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.streamlines import ArraySequence, TckFile, TrkFile
from nibabel.streamlines import Tractogram as NibabelTractogram
from nibabel.streamlines.header import Field
from nibabel.streamlines.tractogram_file import (
    DataError,
    DataWarning,
    HeaderError,
    HeaderWarning,
)

from brainvq.data.scans import SIMULATED
from brainvq.errors import UserError
from brainvq.files import atomic_path

FORMATS = (".trk", ".tck", ".trx")

# The grid of the ICBM152 template at 1 mm: for tractograms that come from no scan.
MNI_AFFINE = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
MNI_SHAPE = (197, 233, 189)

# What damaged files make the readers of the three formats raise.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    DataError,
    HeaderError,
    HeaderDataError,
)


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Tractogram:
    """The streamlines of a file, and what writing them again needs.

    Attributes:
        streamlines: nibabel `ArraySequence` of float32 `(points, 3)`, RAS+ mm.
        path: path of the file as str; "" for a tractogram that comes from none.
        format: ".trk", ".tck" or ".trx".
        header: header of the file as a dict.
        affine: `(4, 4)`, voxel indices of the reference image to mm; None where it is not known
            (.tck without a reference).
        shape: (x, y, z) voxels of the reference image, or None.
        data_per_streamline: name → array `(n, k)`.
        data_per_point: name → `ArraySequence` of `(points, k)`.
        groups: name → indices of streamlines (.trx only).
    """

    streamlines: ArraySequence = dataclasses.field(repr=False)
    path: str = ""
    format: str = ".trk"
    header: dict = dataclasses.field(default_factory=dict, repr=False)
    affine: np.ndarray | None = None
    shape: tuple | None = None
    data_per_streamline: dict = dataclasses.field(default_factory=dict, repr=False)
    data_per_point: dict = dataclasses.field(default_factory=dict, repr=False)
    groups: dict = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self):
        return len(self.streamlines)


def new_tractogram(streamlines, affine=MNI_AFFINE, shape=MNI_SHAPE):
    """Returns a `Tractogram` of streamlines that come from no file.

    Args:
        streamlines: sequence of `(points, 3)`, RAS+ mm.
        affine: `(4, 4)`, voxel indices of the space they lie in to mm; the ICBM152 template by
            default.
        shape: voxels of that space along each axis.
    """
    found = _sequence(streamlines)
    return Tractogram(found, affine=np.array(affine, float), shape=tuple(shape))


def load_tractogram(path, reference=None):
    """Loads a `.trk`, `.tck` or `.trx` file.

    Streamlines that leave the reference image are kept as they are.

    Args:
        path: path of the file. A `.trk` of version 1, whose header has no affine, is taken to lie
            at the origin.
        reference: image (path or nibabel image) that the streamlines belong to: gives a `.tck`,
            which knows its mm but no voxels, what writing it as `.trk` or `.trx` needs. Files that
            have a space of their own keep it.

    Returns:
        A `Tractogram`.

    Raises:
        UserError: the file is missing, of another format, damaged or truncated, or holds no
            streamlines, or the reference cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: found another suffix; expected one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a tractogram")
    read = {".trk": _load_trk, ".tck": _load_tck, ".trx": _load_trx}[path.suffix.lower()]
    try:
        with np.errstate(all="ignore"):  # damaged headers overflow; coordinates are checked later
            found = read(path)
    except UserError:
        raise
    except _DAMAGE as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: cannot be read as {path.suffix.lower()} ({line}); expected a whole file"
        ) from error
    if len(found) == 0:
        raise UserError(f"{path}: holds no streamlines; expected one at least")
    if reference is not None and found.affine is None:
        affine, shape = _space(reference)
        found = dataclasses.replace(found, affine=affine, shape=shape)
    return found


def save_tractogram(tractogram, streamlines, path):
    """Writes streamlines with the header and the data of a tractogram, atomically.

    Args:
        tractogram: `Tractogram`, as loaded or made by `new_tractogram`.
        streamlines: sequence of `(points, 3)`, RAS+ mm, in the order of the tractogram: one for
            each of its own. Data per point are written only where every streamline has as many
            points as it had.
        path: file to write, usually of the tractogram's own format; another one of `FORMATS`
            converts it.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        UserError: the suffix or the number of streamlines is another, or the format needs a space
            (affine and shape) that the tractogram does not have.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: found another suffix; expected one of {', '.join(FORMATS)}")
    if len(streamlines) != len(tractogram):
        raise UserError(
            f"{path}: found {len(streamlines)} streamlines to write; expected the "
            f"{len(tractogram)} of {tractogram.path or 'the tractogram'}"
        )
    if suffix != ".tck" and tractogram.affine is None:
        raise UserError(
            f"{path}: {tractogram.path} has no voxel space, which {suffix} needs; expected a "
            "reference image"
        )
    streamlines = _sequence(streamlines)
    same = np.array_equal(_lengths(streamlines), _lengths(tractogram.streamlines))
    per_point = dict(tractogram.data_per_point) if same else {}
    with atomic_path(path) as temporary:
        if suffix == ".trx":
            _save_trx(temporary, tractogram, streamlines, per_point)
        else:
            content = NibabelTractogram(
                streamlines,
                data_per_streamline=tractogram.data_per_streamline if suffix == ".trk" else None,
                data_per_point=per_point if suffix == ".trk" else None,
                affine_to_rasmm=np.eye(4),
            )
            kind = TrkFile if suffix == ".trk" else TckFile
            kind(content, header=_header_for(tractogram, suffix)).save(str(temporary))
    return path


def load_bundle(paths, points=64):
    """Loads the streamlines of one row of a cohort of bundles, all with equally many points.

    Args:
        paths: path, or tuple of one path: a `.trk`, `.tck` or `.trx` file; a `.npy` file of groups
            `(n, streamlines, 3, points)` in [-1, 1], as TractoInferno's derived data set has them;
            or "simulated:" and parameters.
        points: int, points of each streamline.

    Returns:
        float32 `(n, points, 3)`, RAS+ mm; in the units of the file for `.npy`.

    Raises:
        UserError: the file cannot be read, is empty, or a streamline cannot be resampled.
    """
    path = str(paths if isinstance(paths, str | Path) else paths[0])
    if path.startswith(SIMULATED):
        from brainvq.data.simulation_bundles import simulate_bundle

        streamlines = simulate_bundle(path.removeprefix(SIMULATED))
        return resample(streamlines, points, source="simulated bundle")
    if path.lower().endswith(".npy"):
        return _load_groups(Path(path), points)
    return resample(load_tractogram(path).streamlines, points, source=path)


def resample(streamlines, points=64, source="streamlines"):
    """Gives every streamline the same number of points, at equal distances along it.

    Args:
        streamlines: sequence of `(points, 3)`, or array `(n, points, 3)`.
        points: int from 2, points of each in the result (linear interpolation by arc length; the
            ends stay).
        source: name of the file, for messages.

    Returns:
        float32 `(n, points, 3)`, in the same order.

    Raises:
        UserError: there are none, or one has fewer than two points, no length, or coordinates that
            are not finite.
    """
    if points < 2:
        raise UserError(f"points: found {points}; expected 2 or more points of a streamline")
    streamlines = _sequence(streamlines)
    _check_usable(streamlines, source)
    from dipy.tracking.streamline import set_number_of_points  # a second to import

    found = set_number_of_points(streamlines, nb_points=points)
    return found.get_data().reshape(-1, points, 3).astype(np.float32)


def align_directions(streamlines):
    """Turns streamlines around so that all of a bundle run the same way.

    Which end of a streamline comes first is an accident of tracking. A curve is nearer to a
    reference than its reverse is if their odd parts, (c(t) - c(1 - t)) / 2, have a positive
    product. The signs that agree best are those of the odd parts along their leading direction;
    they are then refined against the mean until none changes, which needs no first guess. The
    bundle as a whole begins at the lower coordinate (left, posterior or inferior) of the axis along
    which the ends of its mean lie farthest apart, so that the same bundle of two people agrees.

    Args:
        streamlines: float `(n, points, 3)`.

    Returns:
        aligned: the same array type and shape, a copy.
        flipped: bool `(n,)`, the ones that were turned around: `restore_directions` undoes it.
    """
    streamlines = np.asarray(streamlines)
    half = streamlines.shape[1] // 2
    turned = streamlines[:, ::-1].astype(np.float64)
    odd = (streamlines - turned)[:, :half] / 2  # (n, points // 2, 3); the other half is its mirror
    flat = odd.reshape(len(odd), -1)
    # Every curve counts the same for the direction: one long stray must not decide it.
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)
    leading = np.linalg.eigh(unit.T @ unit)[1][:, -1]
    signs = np.where(unit @ leading < 0, -1.0, 1.0)
    for _ in range(20):
        mean = (signs[:, None] * unit).mean(axis=0)
        new = np.where(unit @ mean < 0, -1.0, 1.0)
        if np.array_equal(new, signs):
            break
        signs = new
    # Minus half of the way from the first point of the mean to its last.
    start = (signs[:, None] * odd[:, 0]).mean(axis=0) if half else np.zeros(3)
    if start[np.argmax(np.abs(start))] > 0:
        signs = -signs
    flipped = signs < 0
    return restore_directions(streamlines, flipped), flipped


def restore_directions(streamlines, flipped):
    """Turns the streamlines of a mask around: the inverse of `align_directions`.

    Args:
        streamlines: `(n, points, 3)`.
        flipped: bool `(n,)`.

    Returns:
        A copy.
    """
    return np.where(np.asarray(flipped)[:, None, None], streamlines[:, ::-1], streamlines)


def group(streamlines, size=64):
    """Puts streamlines into groups of `size`, in their order.

    Args:
        streamlines: array `(n, points, 3)`, n from 1.
        size: int, streamlines of a group.

    Returns:
        groups: `(g, size, points, 3)`; streamline i is row i % size of group i // size. The last
            group is filled up by repeating its streamlines from its first.
        counts: int64 `(g,)`, how many rows of each are real.

    Raises:
        UserError: there are no streamlines, or size is below 1.
    """
    streamlines = np.asarray(streamlines)
    if size < 1:
        raise UserError(f"group: size is {size}; expected 1 or more streamlines of a group")
    n = len(streamlines)
    if n == 0:
        raise UserError("group: found no streamlines; expected one at least")
    counts = np.full(-(-n // size), size)
    counts[-1] = n - size * (len(counts) - 1)
    last = size * (len(counts) - 1) + np.arange(size) % counts[-1]
    rows = np.concatenate([np.arange(size * (len(counts) - 1)), last])
    return streamlines[rows].reshape(len(counts), size, *streamlines.shape[1:]), counts


def ungroup(groups, counts):
    """The real streamlines of groups, in order: the inverse of `group`.

    Args:
        groups: `(g, size, points, 3)`.
        counts: int `(g,)`.

    Returns:
        Array `(sum of counts, points, 3)`.
    """
    groups = np.asarray(groups)
    real = np.arange(groups.shape[1]) < np.asarray(counts)[:, None]  # (g, size)
    return groups[real]


@dataclasses.dataclass(frozen=True)
class GroupStreamlines:
    """The one step that prepares bundles: directions aligned, streamlines grouped.

    Args:
        points: points of a streamline.
        size: streamlines of a group.
        align: give the streamlines of a bundle one direction.
        most: groups to keep of each bundle at most, drawn at random and left in their order; None
            for all.
        seed: which groups are drawn.
    """

    points: int = 64
    size: int = 64
    align: bool = True
    most: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name, least in (("points", 2), ("size", 1), ("most", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name == "most":
                continue
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"GroupStreamlines: {name} is {value!r}; expected a whole number from {least}"
                )

    def __call__(self, paths):
        """Loads a bundle and groups it.

        Args:
            paths: as `load_bundle` takes them.

        Returns:
            float32 `(g, size, points, 3)` and the number of real streamlines in it.
        """
        streamlines = load_bundle(paths, self.points)
        if self.align:
            streamlines, _ = align_directions(streamlines)
        groups, counts = group(streamlines, self.size)
        if self.most is not None and len(groups) > self.most:
            rng = np.random.default_rng([self.seed, len(groups)])
            kept = np.sort(rng.choice(len(groups), self.most, replace=False))
            groups, counts = groups[kept], counts[kept]
        return groups, int(counts.sum())


@dataclasses.dataclass(frozen=True)
class BundleScale:
    """One scale for all three axes, from mm to about [-1, 1] and back.

    Args:
        center: (x, y, z) that becomes 0, in mm.
        half: mm that become 1, above 0.
    """

    center: tuple = (0.0, 0.0, 0.0)
    half: float = 1.0

    def __post_init__(self):
        center = tuple(float(value) for value in self.center)
        half = float(self.half)
        if len(center) != 3 or not all(map(math.isfinite, (*center, half))) or half <= 0:
            raise UserError(
                f"bundle scale: found center {self.center}, half {self.half}; expected three "
                "numbers, and one above 0"
            )
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "half", half)

    def to_unit(self, mm):
        """Coordinates `(..., 3)` in mm as float32 in units of the scale."""
        return ((np.asarray(mm, np.float64) - self.center) / self.half).astype(np.float32)

    def to_mm(self, unit):
        """Coordinates `(..., 3)` in units of the scale as float32 in mm."""
        return (np.asarray(unit, np.float64) * self.half + self.center).astype(np.float32)

    @classmethod
    def from_points(cls, low, high):
        """The scale that takes a box to [-1, 1] along its longest side, its middle to 0.

        Args:
            low: (x, y, z), the lowest coordinates in mm.
            high: (x, y, z), the highest.

        Raises:
            UserError: they are not finite, or the same.
        """
        low, high = np.asarray(low, float), np.asarray(high, float)
        return cls(tuple((low + high) / 2), float(np.max(high - low) / 2))

    def to_config(self):
        """The scale as a JSON-ready dict."""
        return {"center": list(self.center), "half": self.half}

    @classmethod
    def from_config(cls, config):
        """The counterpart of `to_config`.

        Raises:
            UserError: something is missing in it.
        """
        try:
            return cls(tuple(config["center"]), config["half"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"bundle scale: found {config!r}; expected center (three numbers) and half"
            ) from None


def _sequence(streamlines):
    """Streamlines as an `ArraySequence` of float32 that shares nothing with what was given."""
    if isinstance(streamlines, ArraySequence):
        data, lengths = streamlines.get_data(), _lengths(streamlines)
    else:
        parts = [np.asarray(part) for part in streamlines]
        lengths = np.array([len(part) for part in parts], int)
        data = np.concatenate(parts) if parts else np.zeros((0, 3))
    # Built from its parts: appending them one by one drops streamlines without points.
    found = ArraySequence()
    found._data = np.array(data, np.float32).reshape(-1, 3)
    found._lengths = lengths
    found._offsets = np.cumsum(lengths) - lengths
    return found


def _lengths(sequence):
    return np.array([len(part) for part in sequence], int)


def _check_usable(streamlines, source):
    """UserError unless every streamline can be resampled."""
    if len(streamlines) == 0:
        raise UserError(f"{source}: holds no streamlines; expected one at least")
    lengths, data = streamlines._lengths, streamlines._data
    number = np.repeat(np.arange(len(lengths)), lengths)  # which streamline a point belongs to
    unfinite = np.bincount(number, ~np.isfinite(data).all(axis=1), len(lengths)) > 0
    inside = number[1:] == number[:-1]
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.linalg.norm(np.diff(data, axis=0), axis=1)
    extent = np.bincount(number[1:][inside], steps[inside], len(lengths))
    for wrong, what in (
        (lengths < 2, "fewer than two points"),
        (unfinite, "coordinates that are not finite"),
        (extent == 0, "no length (all points are the same)"),
    ):
        if wrong.any():
            raise UserError(
                f"{source}: {int(wrong.sum())} of {len(lengths)} streamlines with {what}, the "
                f"first is number {int(np.argmax(wrong))} (from 0); expected curves of two "
                "different points at least"
            )


def _load_groups(path, points):
    try:
        groups = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected groups of streamlines") from None
    except (OSError, ValueError, EOFError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as .npy ({line}); expected a whole file") from None
    expected = f"expected float (n, streamlines, 3, {points})"
    if not np.issubdtype(getattr(groups, "dtype", object), np.floating):
        raise UserError(f"{path}: found no floating-point numbers; {expected}")
    if groups.ndim != 4 or groups.shape[2:] != (3, points) or 0 in groups.shape:
        raise UserError(f"{path}: found shape {groups.shape}; {expected}")
    streamlines = groups.transpose(0, 1, 3, 2).reshape(-1, points, 3).astype(np.float32)
    _check_usable(_sequence(streamlines), path)
    largest = float(np.abs(streamlines).max())
    if largest > 1.0001:
        raise UserError(f"{path}: found values up to {largest:g}; expected coordinates in [-1, 1]")
    return streamlines


def _load_trk(path):
    found, stated = _load_with_nibabel(TrkFile, path, Field.NB_STREAMLINES)
    if stated and stated != len(found.streamlines):
        raise UserError(
            f"{path}: found {len(found.streamlines)} streamlines; expected the {stated} of its "
            "header (the file is truncated)"
        )
    header = dict(found.header)
    return Tractogram(
        _sequence(found.streamlines),
        str(path),
        ".trk",
        header,
        np.array(header[Field.VOXEL_TO_RASMM], float),
        tuple(int(size) for size in header[Field.DIMENSIONS]),
        {name: np.array(v) for name, v in found.tractogram.data_per_streamline.items()},
        dict(found.tractogram.data_per_point.items()),
    )


def _load_tck(path):
    found, stated = _load_with_nibabel(TckFile, path, "count")
    if stated and stated != len(found.streamlines):
        raise UserError(
            f"{path}: found {len(found.streamlines)} streamlines; expected the {stated} of its "
            "header (the file is truncated)"
        )
    return Tractogram(_sequence(found.streamlines), str(path), ".tck", dict(found.header))


def _load_with_nibabel(kind, path, count):
    """The file, and the number of streamlines that its header states (0: it does not know)."""
    with warnings.catch_warnings():
        # What it says of headers without an affine or an order stands in `load_tractogram`.
        warnings.simplefilter("ignore", HeaderWarning)
        warnings.simplefilter("ignore", DataWarning)
        # Reading all of it replaces the stated count by what was found.
        stated = int(kind.load(str(path), lazy_load=True).header.get(count) or 0)
        return kind.load(str(path)), stated


def _load_trx(path):
    import trx.trx_file_memmap as trx  # rare, and most of a second to import

    # Unpacked here: then every member is checked, and nothing stays behind if one is damaged.
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(path) as archive,
    ):
        archive.extractall(folder)
        found = trx.load(folder)
        stated = (found.header["NB_STREAMLINES"], found.header["NB_VERTICES"])
        streamlines = _sequence(found.streamlines)
        if stated != (len(streamlines), len(streamlines._data)):
            raise UserError(
                f"{path}: found {len(streamlines)} streamlines of {len(streamlines._data)} points; "
                f"expected the {stated[0]} of {stated[1]} of its header"
            )
        points = found.data_per_vertex.items()
        return Tractogram(
            streamlines,
            str(path),
            ".trx",
            {name: np.array(value) for name, value in found.header.items()},
            np.array(found.header["VOXEL_TO_RASMM"], float),
            tuple(int(size) for size in found.header["DIMENSIONS"]),
            {name: np.array(value) for name, value in found.data_per_streamline.items()},
            {name: ArraySequence(map(np.array, value)) for name, value in points},
            {name: np.array(value) for name, value in found.groups.items()},
        )


def _save_trx(path, tractogram, streamlines, per_point):
    """Writes the members of the archive: the format is a zip of raw little-endian arrays."""
    offsets = np.append(streamlines._offsets, len(streamlines._data))
    header = {
        "DIMENSIONS": [int(size) for size in tractogram.shape],
        "VOXEL_TO_RASMM": np.asarray(tractogram.affine, float).tolist(),
        "NB_VERTICES": len(streamlines._data),
        "NB_STREAMLINES": len(streamlines),
    }
    arrays = {"positions": streamlines._data, "offsets": offsets.astype(np.uint64)}
    arrays |= {f"dpv/{name}": value.get_data() for name, value in per_point.items()}
    arrays |= {f"dps/{name}": value for name, value in tractogram.data_per_streamline.items()}
    arrays |= {f"groups/{name}": value for name, value in tractogram.groups.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("header.json", json.dumps(header))
        for name, array in arrays.items():
            array = np.asarray(array)
            columns = f".{array.shape[1]}" if array.ndim == 2 and array.shape[1] > 1 else ""
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            archive.writestr(f"{name}{columns}.{array.dtype.name}", content.tobytes())


def _header_for(tractogram, suffix):
    """The header that nibabel writes: the file's own, or one made of the space alone."""
    if suffix == tractogram.format and tractogram.header:
        return tractogram.header
    if suffix == ".tck":
        return None
    affine = np.asarray(tractogram.affine, np.float32)
    return {
        Field.VOXEL_TO_RASMM: affine,
        Field.VOXEL_SIZES: nib.affines.voxel_sizes(affine),
        Field.DIMENSIONS: np.array(tractogram.shape, np.int16),
        Field.VOXEL_ORDER: "".join(nib.aff2axcodes(affine)),
    }


def _space(reference):
    """(affine, shape) of an image."""
    try:
        image = nib.load(reference) if isinstance(reference, str | Path) else reference
        return np.array(image.affine, float), tuple(image.shape[:3])
    except (OSError, ValueError, AttributeError, nib.filebasedimages.ImageFileError) as error:
        raise UserError(
            f"{reference}: cannot be read as a reference image ({error}); expected NIfTI"
        ) from error
