"""Tractograms as files: reading and writing `.trk`, `.tck` and `.trx`."""

import dataclasses
import io
import json
import logging
import os
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

from brainvq.data.archives import check_unpacked
from brainvq.errors import UserError
from brainvq.files import atomic_path

logger = logging.getLogger("brainvq")

FORMATS = (".trk", ".tck", ".trx")

# The grid of the ICBM152 template at 1 mm: for tractograms that come from no scan.
MNI_AFFINE = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
MNI_SHAPE = (197, 233, 189)

# What the formats cannot hold.
_EXTRAS = {
    ".trx": (),
    ".trk": ("groups",),
    ".tck": ("groups", "data_per_streamline", "data_per_point"),
}

_AT_ONCE = 1 << 20  # bytes, read without a look at the size of the file

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
        data_per_group: name of a group → name → array `(k,)` (.trx only).
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
    data_per_group: dict = dataclasses.field(default_factory=dict, repr=False)

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
    parts = sequence(streamlines)
    return Tractogram(parts, affine=np.array(affine, float), shape=tuple(shape))


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
            tractogram = read(path)
    except UserError:
        raise
    except _DAMAGE as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: cannot be read as {path.suffix.lower()} ({line}); expected a whole file"
        ) from error
    if len(tractogram) == 0:
        raise UserError(f"{path}: holds no streamlines; expected one at least")
    if reference is not None and tractogram.affine is None:
        affine, shape = _space(reference)
        tractogram = dataclasses.replace(tractogram, affine=affine, shape=shape)
    return tractogram


def save_tractogram(tractogram, streamlines, path):
    """Writes streamlines with the space and the data of a tractogram, atomically.

    Free text of its header is left out, since it may say who was scanned.

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
    streamlines = sequence(streamlines)
    same = np.array_equal(_lengths(streamlines), _lengths(tractogram.streamlines))
    per_point = dict(tractogram.data_per_point) if same else {}
    lost = [name for name in _EXTRAS[suffix] if getattr(tractogram, name)]
    if lost:
        names = ", ".join(name.replace("_", " ") for name in lost)
        logger.warning("%s: %s of %s left out; %s has none", path, names, tractogram.path, suffix)
    with atomic_path(path) as temporary, np.errstate(all="ignore"):
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


def sequence(streamlines):
    """Streamlines `(points, 3)` as an `ArraySequence` of float32 that shares nothing with them."""
    if isinstance(streamlines, ArraySequence):
        data, lengths = streamlines.get_data(), _lengths(streamlines)
    else:
        parts = [np.asarray(part) for part in streamlines]
        lengths = np.array([len(part) for part in parts], int)
        data = np.concatenate(parts) if parts else np.zeros((0, 3))
    # Built from its parts: appending them one by one drops streamlines without points.
    copied = ArraySequence()
    copied._data = np.array(data, np.float32).reshape(-1, 3)
    copied._lengths = lengths
    copied._offsets = np.cumsum(lengths) - lengths
    return copied


def _lengths(sequence):
    return np.array([len(part) for part in sequence], int)


def _load_trk(path):
    file = _load_with_nibabel(TrkFile, path, Field.NB_STREAMLINES)
    header = dict(file.header)
    return Tractogram(
        sequence(file.streamlines),
        str(path),
        ".trk",
        header,
        np.array(header[Field.VOXEL_TO_RASMM], float),
        tuple(int(size) for size in header[Field.DIMENSIONS]),
        {name: np.array(v) for name, v in file.tractogram.data_per_streamline.items()},
        dict(file.tractogram.data_per_point.items()),
    )


def _load_tck(path):
    file = _load_with_nibabel(TckFile, path, "count")
    return Tractogram(sequence(file.streamlines), str(path), ".tck", dict(file.header))


def _load_with_nibabel(kind, path, count):
    """The file, with as many streamlines as its header states under `count` (0: not known)."""
    with warnings.catch_warnings():
        # What it says of headers without an affine or an order stands in `load_tractogram`.
        warnings.simplefilter("ignore", HeaderWarning)
        warnings.simplefilter("ignore", DataWarning)
        # Reading all of it replaces the stated count by the number read.
        with _Bounded(io.FileIO(path)) as opened:
            stated = int(kind.load(opened, lazy_load=True).header.get(count) or 0)
            opened.seek(0)
            file = kind.load(opened)
    if stated and stated != len(file.streamlines):
        raise UserError(
            f"{path}: found {len(file.streamlines)} streamlines; expected the {stated} of its "
            "header (the file is truncated)"
        )
    return file


class _Bounded(io.BufferedReader):
    """A file that never makes room for more than it holds, however much is asked for."""

    def read(self, size=-1):
        """As of any file."""
        left = os.fstat(self.fileno()).st_size - self.tell() if size > _AT_ONCE else size
        return super().read(min(size, max(left, 0)))


def _load_trx(path):
    import trx.trx_file_memmap as trx  # rare, and most of a second to import

    # Unpacked here: then every member is checked, and nothing stays behind if one is damaged.
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(path) as archive,
    ):
        check_unpacked(path, sum(member.file_size for member in archive.infolist()))
        archive.extractall(folder)
        file = trx.load(folder)
        stated = (file.header["NB_STREAMLINES"], file.header["NB_VERTICES"])
        lengths = np.asarray(file.streamlines._lengths, float)
        if (lengths < 0).any() or lengths.sum() > len(file.streamlines._data):
            raise ValueError("the streamlines have more points than there are")
        streamlines = sequence(file.streamlines)
        if stated != (len(streamlines), len(streamlines._data)):
            raise UserError(
                f"{path}: found {len(streamlines)} streamlines of {len(streamlines._data)} points; "
                f"expected the {stated[0]} of {stated[1]} of its header"
            )
        points = file.data_per_vertex.items()
        return Tractogram(
            streamlines,
            str(path),
            ".trx",
            {name: np.array(value) for name, value in file.header.items()},
            np.array(file.header["VOXEL_TO_RASMM"], float),
            tuple(int(size) for size in file.header["DIMENSIONS"]),
            {name: np.array(value) for name, value in file.data_per_streamline.items()},
            {name: ArraySequence(map(np.array, value)) for name, value in points},
            {name: np.array(value) for name, value in file.groups.items()},
            {
                group: {name: np.array(value) for name, value in values.items()}
                for group, values in file.data_per_group.items()
            },
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
    for group, values in tractogram.data_per_group.items():
        arrays |= {f"dpg/{group}/{name}": np.ravel(value)[None] for name, value in values.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("header.json", json.dumps(header))
        for name, array in arrays.items():
            array = np.asarray(array)
            columns = f".{array.shape[1]}" if array.ndim == 2 and array.shape[1] > 1 else ""
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            archive.writestr(f"{name}{columns}.{array.dtype.name}", content.tobytes())


def _header_for(tractogram, suffix):
    """The header that nibabel writes: the file's own, or one made of the space alone.

    Free text, such as the reserved part of a .trk and the history of commands in a .tck, is left
    out.
    """
    if suffix == ".tck":
        return None
    if suffix == tractogram.format and tractogram.header:
        return {name: value for name, value in tractogram.header.items() if name != "reserved"}
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
