"""A simulated cohort as a BIDS folder, for programs that read files: images, masks and labels."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq.data.cohort import safe_id
from brainvq.data.jobs import disk_errors, run_jobs
from brainvq.data.readers.bids import SIMULATED_KEY, is_simulated
from brainvq.data.readers.folders import entries, read_people
from brainvq.data.scans import SIMULATED, load_scan, save_nifti
from brainvq.data.simulation import LABELS, simulate
from brainvq.errors import UserError
from brainvq.files import DISK_FULL, is_temporary, read_json, write_json, write_text

_BIDS = "1.10.0"
_TITLE = "Simulated brains on the ICBM152 template"
_COLUMNS = ("participant_id", "age", "sex", "group", "site")
_DERIVATIVES = {
    "lesions": "Lesion masks of the simulated brains (1 = lesion; empty for healthy subjects)",
    "tissues": "Tissue labels of the simulated brains (see dseg.tsv)",
}
_README = """\
Simulated brains, made by brainvq on the ICBM152 template (symmetric 09a). They are for trying
software and are evidence about no patient. The parameters of each image stand in its sidecar.

Images are float32 in arbitrary scanner units, 0 outside the brain. derivatives/lesions holds a
lesion mask for every subject (empty for the healthy), derivatives/tissues the tissue labels.
"""


def write_simulated_bids(cohort, folder, *, workers=None, progress=True):
    """Writes a simulated cohort as a BIDS data set.

    Made are `dataset_description.json` (it says that the data are simulated, and `read_bids` then
    says so too), `participants.tsv` (participant_id, age, sex, group, site), and per subject
    `sub-*/anat/sub-*_T1w.nii.gz` (or `_FLAIR`) with a sidecar JSON (RepetitionTime, EchoTime,
    PixelBandwidth, Manufacturer and the parameters of the simulation),
    `derivatives/lesions/sub-*/anat/sub-*_label-lesion_mask.nii.gz` (uint8, 0 or 1) and
    `derivatives/tissues/sub-*/anat/sub-*_desc-tissue_dseg.nii.gz` (uint8, 0 to 3). Subjects with
    sessions have `ses-*` folders between, and the ages of the visits in `sub-*_sessions.tsv`.

    Images are stored as float32, bit for bit what `load_scan` gives for the cohort itself. A
    subject's sidecar is written last, so that a call after a kill goes on with the subjects that
    are missing; a second modality, or more subjects, may be added to a folder.

    Args:
        cohort: what `simulated_cohort` returns, or a part of it.
        folder: new or empty folder, or one that this function began.
        workers: processes to use; 1 works in this process. Default: one per processor core, fewer
            where that leaves less than eight subjects for each.
        progress: whether to draw a progress bar.

    Returns:
        `pathlib.Path` of the folder, as `open_cohort("bids", folder)` takes it.

    Raises:
        UserError: if the cohort is not simulated, if the folder holds other data, or the same
            subjects with other parameters, or if the disk is full.
    """
    folder = Path(folder)
    scans = [_Scan(folder, row) for row in cohort.table.to_dict("records")]
    with disk_errors(folder, "the simulated data set"):
        _check_folder(folder)
        missing = [scan for scan in scans if not scan.complete()]
        _write_descriptions(folder)
        jobs = [(scan.row, folder) for scan in missing]
        results = run_jobs(
            _write_scan, jobs, workers=workers, title="simulating scans", progress=progress
        )
        with contextlib.closing(results):
            for error in results:
                if error is not None:
                    raise error
        _write_participants(folder, cohort)
    return folder


def tissue_labels(paths):
    """The tissues of a simulated scan, on its own grid.

    Args:
        paths: paths of the scan, as a cohort has them: a simulated one, or the image of a folder
            that `write_simulated_bids` made.

    Returns:
        labels: uint8 (x, y, z), see `brainvq.data.simulation.LABELS`.
        affine: float64 (4, 4), voxel index to mm, RAS+.

    Raises:
        UserError: there are no labels of this scan.
    """
    path = str(paths[0])
    if path.startswith(SIMULATED):
        scan = simulate(path.removeprefix(SIMULATED))
        return scan.labels, scan.affine
    image = Path(path)
    name = image.name.rpartition("_")[0]  # without the modality
    root = image.parents[3 if "_ses-" in name else 2]
    folder = image.parent.relative_to(root)
    place = root / "derivatives" / "tissues" / folder
    file, earlier = (place / f"{name}_{kind}-tissue_dseg.nii.gz" for kind in ("desc", "label"))
    file = earlier if earlier.exists() and not file.exists() else file
    if not file.exists():
        raise UserError(f"{path}: is no simulated scan with labels; expected {file} for it")
    labels, affine = load_scan(file)
    return labels.astype(np.uint8), affine


class _Scan:
    """Where the files of one scan go, and the parameters that it is made with."""

    def __init__(self, folder, row):
        path = row["paths"][0]
        if len(row["paths"]) != 1 or not path.startswith(SIMULATED):
            raise UserError(
                f"scan {row['scan_id']}: {path} is no simulated scan; expected a cohort of "
                "simulated_cohort"
            )
        if not row["subject"].isalnum():
            raise UserError(
                f"subject {row['subject']!r}: BIDS labels are letters and digits only; rename it"
            )
        self.row, self.name = row, f"sub-{row['subject']}"
        self.params = json.loads(path.removeprefix(SIMULATED))
        anat = Path(self.name)
        if row["session"]:
            anat, self.name = anat / f"ses-{row['session']}", f"{self.name}_ses-{row['session']}"
        anat = anat / "anat"
        self.image = folder / anat / f"{self.name}_{safe_id(row['modality'])}.nii.gz"
        self.sidecar = self.image.with_name(self.image.name.replace(".nii.gz", ".json"))
        derivatives = folder / "derivatives"
        self.mask = derivatives / "lesions" / anat / f"{self.name}_label-lesion_mask.nii.gz"
        self.labels = derivatives / "tissues" / anat / f"{self.name}_desc-tissue_dseg.nii.gz"

    def complete(self):
        """Whether all files are there; UserError if the subject is there with other parameters."""
        for file in self.sidecar.parent.glob(f"{self.name}_*.json"):
            params = read_json(file).get("SimulationParameters")
            # A subject may have images of two modalities; the rest is one person on one grid.
            if not isinstance(params, dict) or _person(params) != _person(_handed_on(self.params)):
                raise UserError(
                    f"{file}: {self.name} was simulated with other parameters; expected the same "
                    "cohort, or a new folder"
                )
        files = (self.sidecar, self.image, self.mask, self.labels)
        return all(file.exists() for file in files)


def _handed_on(params):
    """Parameters without the folder of lesion masks; their digest stays."""
    return {key: value for key, value in params.items() if key != "shapes"}


def _person(params):
    return {key: value for key, value in params.items() if key != "modality"}


def _write_scan(row, folder):
    """Makes and writes one scan; returns None, or the exception of a full disk."""
    scan = _Scan(folder, row)
    image, affine, lesion_mask, labels = simulate(scan.params)
    try:
        save_nifti(scan.image, image, affine)
        save_nifti(scan.mask, lesion_mask.astype(np.uint8), affine)
        save_nifti(scan.labels, labels, affine)
        content = {
            "Modality": "MR",
            "Manufacturer": row.get("manufacturer", ""),
            "RepetitionTime": row["tr"],
            "EchoTime": row["te"],
            "PixelBandwidth": row["pixel_bandwidth"],
            "SimulationParameters": _handed_on(scan.params),
        }
        write_json(scan.sidecar, content)
    except OSError as error:
        if error.errno in DISK_FULL:  # in a form that travels between processes
            return OSError(error.errno, error.strerror)
        raise
    return None


def _check_folder(folder):
    if folder.is_file():
        raise UserError(f"{folder}: is a file; a folder for the simulated data set is expected")
    if (
        folder.is_dir()
        and not is_simulated(folder)
        and not all(map(is_temporary, folder.iterdir()))
    ):
        raise UserError(
            f"{folder}: holds other data ({entries(folder)}); expected a new or empty folder, or a "
            "simulated data set to go on with"
        )


def _write_descriptions(folder):
    """First of all, so that an unfinished folder is known for what it is."""
    programs = [{"Name": "brainvq", "Description": "simulation of brains on a template"}]
    general = {"BIDSVersion": _BIDS, SIMULATED_KEY: True, "GeneratedBy": programs}
    write_json(
        folder / "dataset_description.json", {"Name": _TITLE, "DatasetType": "raw", **general}
    )
    write_text(folder / "README", _README)
    for name, title in _DERIVATIVES.items():
        content = {"Name": title, "DatasetType": "derivative", **general}
        write_json(folder / "derivatives" / name / "dataset_description.json", content)
    lines = ["index\tname", *(f"{value}\t{name}" for name, value in LABELS.items())]
    write_text(folder / "derivatives" / "tissues" / "dseg.tsv", "\n".join(lines) + "\n")


def _write_participants(folder, cohort):
    """Adds the people of the cohort to `participants.tsv`, each once."""
    path = folder / "participants.tsv"
    people = {}
    if path.exists():
        for _, row in read_people(path).iterrows():
            people[row["participant_id"]] = {name: row.get(name) or "n/a" for name in _COLUMNS}
    visits = {}
    for row in reversed(cohort.table.to_dict("records")):  # of several visits the first is kept
        name = f"sub-{row['subject']}"
        values = {key: row[key] for key in ("age", "sex", "group", "site")}
        people[name] = {"participant_id": name, **values}
        if row["session"]:
            visit = {"session_id": f"ses-{row['session']}", "age": row["age"]}
            visits.setdefault(name, []).insert(0, visit)
    for name, rows in visits.items():
        table = pd.DataFrame(rows)
        text = table.to_csv(index=False, sep="\t", na_rep="n/a")
        write_text(folder / name / f"{name}_sessions.tsv", text)
    table = pd.DataFrame([people[name] for name in sorted(people)], columns=_COLUMNS)
    write_text(path, table.to_csv(index=False, sep="\t", na_rep="n/a"))
    write_json(
        folder / "participants.json",
        {
            "age": {"Description": "age", "Units": "year"},
            "sex": {"Description": "sex", "Levels": {"F": "female", "M": "male"}},
            "group": {"Description": "simulated disease"},
            "site": {"Description": "simulated scanner"},
        },
    )
