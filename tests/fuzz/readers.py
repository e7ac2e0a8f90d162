"""What the program does with a file of each kind: its own readers, as the commands call them."""

import json
import shutil

import numpy as np
import trx.trx_file_memmap  # noqa: F401  (before the clock runs)

from brainvq import data
from brainvq.data.readers.folders import read_people
from brainvq.errors import UserError
from brainvq.files import read_array, read_json
from brainvq.options import check, from_dict
from brainvq.training.runs import RunFolder
from tests.fuzz import inputs

STEPS = [
    data.Canonical(axcodes="LPS"),
    data.ClipIntensity(upper=99.9, over="foreground"),
    data.ScaleIntensity(method="minmax"),
    data.SelectSlices(plane="axial", spacing=8.0, margin=(5.0, 5.0), count=None),
    data.Resample(spacing=(4.0, 4.0, None)),
    data.CropOrPad(shape=(32, 32, None), center="foreground"),
]
GROUPS = data.GroupStreamlines(16, 4, True, None, 0)
MASKED = {".nii", ".gz"}


def read(kind, path):
    """Reads a file to the end, as the commands do.

    Args:
        kind: a key of `tests.fuzz.inputs.KINDS`.
        path: `pathlib.Path` of the file, alone in its folder but for its partner.

    Raises:
        UserError: the file is not accepted.
    """
    _READERS.get(kind, _scan)(path)


def _scan(path):
    image, _ = data.load_scan((str(path),))
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    scan = data.PreparedScan.read(str(path), data.steps_to_config(STEPS))
    restored = scan.to_volume(scan.slices)
    assert restored.shape == image.shape
    picture = path.suffix not in (".nii", ".gz", ".hdr", ".mgh")
    out = path.with_name("out.nii.gz")
    data.save_nifti(out, restored, scan.original_affine, like=None if picture else path)


def _tract(path):
    found = data.load_tractogram(path)
    data.usable(found.streamlines)
    data.save_tractogram(found, found.streamlines, path.with_name(f"out{path.suffix}"))
    groups, _ = GROUPS((str(path),))
    assert np.isfinite(groups).all()


def _array(path):
    read_array(path, expected="codes")
    data.load_bundle((str(path),))


def _packed(path):
    codes = data.unpack_codes(path.read_bytes(), inputs.ZERO, inputs.MORE, 127, str(path))
    assert codes.shape == inputs.ZERO.shape
    assert np.abs(codes).max() <= 127


def _table(path):
    read_people(path)
    root = path.parent / "ds"
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "sub-01" / "anat" / "sub-01_T1w.nii").touch()
    shutil.copy(path, root / "participants.tsv")
    shutil.copy(path, root / "sub-01" / "sub-01_sessions.tsv")
    data.read_bids(root)


def _cohort(path):
    for call in (read_people, data.Cohort.from_csv):
        _either(call, path)
    _either(lambda file: data.Cohort.from_csv(file).split(assignments=file), path)


def _sidecar(path):
    root = path.parent / "ds"
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "sub-01" / "anat" / "sub-01_T1w.nii").touch()
    for name in ("dataset_description.json", "T1w.json"):
        shutil.copy(path, root / name)
    cohort = data.read_bids(root)
    _either(lambda file: cohort.split((0.4, 0.3, 0.3), assignments=file), path)
    _either(lambda file: data.PreparedScan.from_place(read_json(file)), path)
    _either(lambda file: data.BundleScale.from_config(read_json(file)), path)


def _study(path):
    folder = path.parent / "run"
    folder.mkdir()
    shutil.copy(path, folder / "study.json")
    about = RunFolder.open(folder).study
    _either(lambda _: data.steps_from_config(about.get("steps")), path)
    json.dumps(str(check(from_dict(about.get("study") or {}))))


def _archive(path):
    data.extract(path, path.parent / "unpacked", progress=False)


def _either(call, path):
    try:
        call(path)
    except UserError as error:
        _one_line(error)


def _one_line(error):
    assert "\n" not in str(error), error


_READERS = dict.fromkeys(("trk", "tck", "trx"), _tract)
_READERS |= dict.fromkeys(("zip", "tar", "tgz"), _archive)
_READERS |= {"npy": _array, "tsv": _table, "csv": _cohort, "xls": read_people, "xlsx": read_people}
_READERS |= {"json": _sidecar, "study": _study, "bvq": _packed}
