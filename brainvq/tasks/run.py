"""A run with its cohort, arrays, model and prior, each read when it is first asked for."""

import dataclasses
import functools
import logging
from pathlib import Path

import numpy as np

from brainvq.data import ArrayStore, Cohort
from brainvq.data.looks import usual_looks
from brainvq.data.scans import scan_files
from brainvq.errors import UserError
from brainvq.files import read_json, write_json
from brainvq.options import Study, from_dict
from brainvq.tasks import base
from brainvq.training.pretrained import load_model
from brainvq.training.runs import RunFolder
from brainvq.training.stream import BatchStream
from brainvq.training.tracking import Tracker

logger = logging.getLogger("brainvq")


@dataclasses.dataclass
class LoadedRun:
    """A run's folder and study, and what lies in it.

    Attributes:
        folder: `brainvq.training.runs.RunFolder`.
        study: `brainvq.options.Study`.
        task: `Task` of its kind of sample.
        scans: `brainvq.data.Cohort` with the split that the run began with.
        store: `ArrayStore` of the samples, as the network reads them.
        rows: dict of split to int array, sample numbers.
        model: the trained autoencoder.
        prior: the trained prior over its codes, or None.
        codes: dict of split to int array of codes `(n, *grid)`, or None where there are none.
        tracker: where measures are sent to while training, see `brainvq.training.tracking`.
    """

    folder: RunFolder
    study: Study
    tracker: Tracker = dataclasses.field(default_factory=Tracker)

    @classmethod
    def open(cls, path):
        """Opens the run in a folder; see `RunFolder.open`."""
        folder = RunFolder.open(path)
        return cls(folder, from_dict(folder.study.get("study") or {}))

    @property
    def name(self):
        """Name of the folder."""
        return self.folder.name

    @property
    def path(self):
        """The folder."""
        return self.folder.path

    @property
    def simulated(self):
        """Whether all scans are simulated."""
        return self.scans.simulated

    def file(self, *parts):
        """Path of a file of the run."""
        return self.folder.file(*parts)

    def has(self, *parts):
        """Whether a file of the run exists."""
        return self.folder.has(*parts)

    def metrics(self):
        """Content of `metrics.json`, empty before there is one."""
        return self.folder.metrics()

    @functools.cached_property
    def task(self):
        """The task of the study's kind of sample."""
        return base.of(self.study)

    @functools.cached_property
    def scans(self):
        """The cohort with the split that the run began with; drawn anew if a kill came first."""
        if not self.has("cohort.csv"):
            keep_cohort(self.task.cohort(self.study), self.folder)
        about = read_json(self.file("cohort.json"))
        return Cohort.from_csv(self.file("cohort.csv"), **about)

    @functools.cached_property
    def arrays(self):
        """The prepared samples as they are kept; they serve where the scans are gone."""
        note = self.file("store.json")
        if note.exists() and not self._scans_are_there():
            store = ArrayStore.open(read_json(note)["path"])
            logger.info("%s: scans are gone; %s holds them prepared", self.path, store.path)
            return store
        store = self.task.arrays(self.study, self.scans)
        if not note.exists():
            self._keep_looks(store)
            write_json(note, {"path": str(store.path.resolve())})
        return store

    def _keep_looks(self, store):
        """Writes what the training scans look like into `looks.json`, where that is known."""
        table = self.scans.table
        train = table["scan_id"][table["split"] == "train"] if "split" in table else ()
        usual = usual_looks([store.looks[scan] for scan in train if scan in store.looks])
        if usual and not self.simulated:
            write_json(self.file("looks.json"), usual)

    def _scans_are_there(self):
        return all(
            file.exists()
            for paths in self.scans.table["paths"]
            for path in paths
            for file in scan_files(path)
        )

    def with_root(self, root):
        """The run, with its data in another folder, to which they were moved.

        Args:
            root: the folder that is now in the place of `study.data.root`.

        Raises:
            UserError: the data of the run are no files, or are not in `root` either.
        """
        before = self.study.data.root
        if before is None:
            raise UserError(
                f"--data.root: found beside --resume of {self.path}, whose data are simulated; "
                "expected --resume RUN alone"
            )
        scans = self.scans
        places = {str(before): str(root), str(Path(before).absolute()): str(Path(root).absolute())}
        table = scans.table.assign(
            paths=[tuple(_moved(path, places) for path in paths) for paths in scans.table["paths"]]
        )
        for file in (file for paths in table["paths"] for file in scan_files(paths)):
            if not file.exists():
                raise UserError(
                    f"--data.root: found no {file}; expected the folder that {before} is now"
                )
        keep_cohort(dataclasses.replace(scans, table=table), self.folder)
        about = self.folder.study
        about["study"]["data"]["root"] = str(root)
        write_json(self.file("study.json"), about)
        return LoadedRun.open(self.path)

    @functools.cached_property
    def rows(self):
        """Sample numbers of each split."""
        return self.task.split_rows(self.study, self.scans, self.arrays)

    @functools.cached_property
    def store(self):
        """The samples as the network reads them."""
        return self.task.in_units(self, self.arrays)

    @functools.cached_property
    def model(self):
        """The trained autoencoder."""
        return load_model(self.folder.require("model.keras", "it has not finished training"))

    @functools.cached_property
    def prior(self):
        """The trained prior; None where there is none."""
        return load_model(self.file("prior.keras")) if self.has("prior.keras") else None

    @functools.cached_property
    def codes(self):
        """Codes of each split: those on file, or encoded now; None where the model has none."""
        if not self.model.num_codes:
            return None
        return {split: self._codes(split) for split in self.rows}

    def _codes(self, split):
        file = self.file("codes", f"{split}.npy")
        if file.exists():
            return np.load(file, mmap_mode="r")
        stream = self.stream(split)
        return np.concatenate([self.model.codes(*stream[number]) for number in range(len(stream))])

    def stream(self, split, batch_size=None):
        """The samples of a split in batches: a `BatchStream`."""
        return BatchStream(self.store.read, self.rows[split], batch_size or self.task.batch_size)

    def subjects(self, split):
        """The subject of each sample of a split."""
        return self.store.table["subject"].to_numpy()[self.rows[split]]

    def some(self, split, count):
        """Sample numbers of a split, evenly spread, at most `count`."""
        return base.spread(self.rows[split], count)


def _moved(path, places):
    """A path as `load_scan` takes it, below another folder."""
    for before, after in places.items():
        head, place, rest = path.partition(before.rstrip("/") + "/")
        if place and head in ("", "mask=") or head.endswith(":"):
            return f"{head}{after.rstrip('/')}/{rest}" if place else path
    return path


def keep_cohort(scans, folder):
    """Writes the cohort and its split into the folder of a run."""
    about = {"name": scans.name, "note": scans.note, "simulated": scans.simulated}
    write_json(folder.file("cohort.json"), about)
    scans.to_csv(folder.file("cohort.csv"))  # last: where it is, all is there
