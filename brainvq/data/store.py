"""The array store: a cohort after preprocessing, as `.npy` shards that training reads at random.

A store is a folder named by the hash of everything its content depends on: the steps and their
settings, the layout, the number type, and each scan's files with their sizes and modification
times. It holds, per scan, `<scan_id>.npy` (samples first) and `<scan_id>.json` (shape, size,
checksum, affine), and for all of them `index.json`, which is written last: a folder without it is
an unfinished store. Every file is put in place by an atomic rename, so that a process killed at any
moment leaves finished shards, which the next `prepare` takes up, and two processes that prepare the
same store at once end with the same files.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import traceback
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from brainvq.data.jobs import disk_errors, remove_stale, run_jobs
from brainvq.data.layouts import LAYOUTS
from brainvq.data.looks import Look, contrast_words, usual_looks
from brainvq.data.remarks import collected, summary
from brainvq.data.scans import scan_files
from brainvq.data.skull import stripper
from brainvq.data.steps import steps_from_config, steps_to_config
from brainvq.errors import UserError
from brainvq.files import DISK_FULL, atomic_path, write_json
from brainvq.progress import say

FORMAT = 1
DTYPES = ("float16", "float32")

# Columns of a scan that are repeated for each of its samples.
_SAMPLE_COLUMNS = ("scan_id", "subject", "session", "group", "age", "sex", "site", "split")


class ArrayStore:
    """Samples of a prepared cohort, read from disk as they are asked for.

    Open one with `ArrayStore.open(path)` or make one with `prepare`.

    Attributes:
        path: folder of the store.
        key: hash that names the content.
        name: name of the cohort.
        simulated: whether the cohort is simulated.
        layout: "slices", "volumes" or "bundles".
        dtype: number type on disk.
        steps: tuple of the steps the scans went through.
        table: `pandas.DataFrame`, a row per sample, in the order of `read`: scan_id, subject,
            session, group, age, sex, site (and split where the cohort is split), index (of the
            sample within its scan) and position_mm (of a slice's centre along the world axis
            nearest to the slice axis: R, A or S; NaN for the others). For bundles also count, the
            number of real streamlines in the group.
        scans: `pandas.DataFrame`, a row per scan: every column of the cohort but the paths, and
            n_samples, shape (of the processed volume; of bundles: streamlines, points, 3) and
            affine (its 4×4 matrix, index to mm; the identity for bundles).
        failures: `pandas.DataFrame` of scan_id and message: scans that could not be prepared.
        remarks: dict of scan_id to list of str: what was seen of scans that are used all the same.
        looks: dict of scan_id to `brainvq.data.looks.Look`; without the scans that were not looked
            at, such as simulated ones, pictures, and those of a store of an earlier version.
        sample_shape: shape of one sample: (rows, columns, 1), (x, y, z, 1) or
            (streamlines, points, 3).
    """

    def __init__(self, path, index):
        self.path = Path(path)
        self.key = index["key"]
        self.name = index["cohort"]
        self.simulated = index["simulated"]
        self.layout = index["layout"]
        self.dtype = index["dtype"]
        self.steps = steps_from_config(index["steps"], LAYOUTS[self.layout].steps)
        self.sample_shape = tuple(index["sample_shape"])
        self.failures = pd.DataFrame(index["failures"], columns=["scan_id", "message"])
        self.scans = pd.DataFrame(index["scans"])
        self._shards = index["shards"]
        for column, read in (("affine", np.array), ("shape", tuple)):
            self.scans[column] = [read(shard[column]) for shard in self._shards]
        shards = dict(zip(self.scans["scan_id"], self._shards, strict=True))
        self.looks = {scan: Look(**s["look"]) for scan, s in shards.items() if s.get("look")}
        self.remarks = self._remarks(shards)
        counts = np.array([shard["n_samples"] for shard in self._shards])
        self.scans["n_samples"] = counts
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.table = _sample_table(self.scans, counts, self.layout, self.sample_shape)

    @classmethod
    def open(cls, path):
        """Opens a finished store and checks that its shards are there and unchanged.

        A shard whose size or modification time is not the recorded one is read through once and
        compared by its checksum.

        Args:
            path: folder of the store.

        Returns:
            `ArrayStore`.

        Raises:
            UserError: no finished store there, or a shard is missing or was changed.
        """
        path = Path(path)
        try:
            index = json.loads((path / "index.json").read_text(encoding="utf-8"))
            version = index["format"]
        except FileNotFoundError:
            raise UserError(
                f"{path}: no index.json; expected a finished array store (prepare it again to "
                "finish it)"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path / 'index.json'}: not readable ({error}); expected the index of an array "
                "store (remove the folder and prepare it again)"
            ) from None
        if version != FORMAT:
            raise UserError(
                f"{path}: array store of format {version}; expected format {FORMAT} (remove the "
                "folder and prepare it again)"
            )
        for shard in index["shards"]:
            file = path / shard["file"]
            problem = _shard_problem(file, shard)
            if problem is not None:
                raise UserError(f"{file}: {problem} (remove this file and prepare the store again)")
        return cls(path, index)

    def __len__(self):
        return int(self._starts[-1])

    def __repr__(self):
        simulated = "simulated, " if self.simulated else ""
        return (
            f"ArrayStore({self.name!r}, {simulated}{len(self)} {self.layout} of "
            f"{self.sample_shape} from {len(self.scans)} scans, {str(self.path)!r})"
        )

    def read(self, indices):
        """Reads samples in the order asked for; the same one may be asked for several times.

        Args:
            indices: integers from 0 to `len(store) - 1` (an int array of any length, or a slice).

        Returns:
            float32 (n, *sample_shape).

        Raises:
            IndexError: an index is out of range.
            UserError: a shard was removed or cut since the store was opened.
        """
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        indices = np.asarray(indices)
        if indices.size == 0:
            return np.empty((0, *self.sample_shape), np.float32)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise IndexError(f"indices must be one axis of integers. Received: {indices!r}")
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(
                f"index {indices.min()} to {indices.max()}; expected 0 to {len(self) - 1}"
            )
        out = np.empty((len(indices), *self.sample_shape), np.float32)
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        shards = np.searchsorted(self._starts, ordered, side="right") - 1
        edges = np.flatnonzero(np.diff(shards)) + 1
        for rows, part in zip(np.split(order, edges), np.split(ordered, edges), strict=True):
            number = int(np.searchsorted(self._starts, part[0], side="right")) - 1
            self._read_shard(number, part - self._starts[number], rows, out)
        return out

    def indices(self, subjects):
        """Returns the indices (int64, ascending) of all samples of these subjects.

        Args:
            subjects: subject labels.

        Raises:
            UserError: a subject has no sample here.
        """
        subjects = set(subjects)
        missing = subjects - set(self.table["subject"])
        if missing:
            shown = ", ".join(sorted(map(str, missing))[:5])
            raise UserError(
                f"{self.path}: no samples of {len(missing)} subjects ({shown}); expected subjects "
                "of this store"
            )
        return np.flatnonzero(self.table["subject"].isin(subjects).to_numpy())

    def affine(self, scan_id):
        """Returns the affine (4×4 float64, voxel index of the processed volume to mm) of a scan."""
        rows = self.scans.index[self.scans["scan_id"] == scan_id]
        if len(rows) == 0:
            raise UserError(f"{self.path}: no scan {scan_id!r}; expected one of `store.scans`")
        return self.scans.at[rows[0], "affine"]

    def _remarks(self, shards):
        """The remarks on each scan, and on its contrast beside that of the others."""
        usual = {} if self.simulated else usual_looks(list(self.looks.values()))
        odd = contrast_words(self.looks, usual, "most scans here")
        found = {s: [*shard.get("remarks", ()), *odd.get(s, ())] for s, shard in shards.items()}
        return {scan: texts for scan, texts in found.items() if texts}

    def _read_shard(self, number, local, rows, out):
        """Reads the samples `local` (ascending) of a shard into the places `rows` of `out`."""
        shard = self._shards[number]
        file = self.path / shard["file"]
        # Plain reads rather than a memory map: each sample is one request to the disk, and pages
        # that were read belong to the operating system, not to this process. Nothing stays open,
        # so that any number of threads may read.
        try:
            with open(file, "rb", buffering=0) as handle:
                for start, end in _runs(local):
                    samples = np.empty(
                        (local[end - 1] + 1 - local[start], *self.sample_shape), self.dtype
                    )
                    view = memoryview(samples).cast("B")
                    sample_bytes = len(view) // len(samples)
                    handle.seek(shard["offset"] + int(local[start]) * sample_bytes)
                    while len(view):
                        count = handle.readinto(view)
                        if not count:
                            raise UserError(
                                f"{file}: ends early; expected a shard of the store (remove this "
                                "file and prepare the store again)"
                            )
                        view = view[count:]
                    # Casts while it copies; a sample that is asked for twice lies there once.
                    out[rows[start:end]] = samples[local[start:end] - local[start]]
        except OSError as error:
            raise UserError(
                f"{file}: missing or not readable ({error.strerror}); expected a shard of the store"
            ) from None


def prepare(
    cohort,
    steps,
    cache,
    *,
    layout="slices",
    dtype="float16",
    workers=None,
    scheduler=None,
    progress=True,
):
    """Runs the steps over every scan of a cohort and keeps the result as an array store.

    What is finished is never made again: a second call with the same scans, steps and settings
    opens the store, and a call after a kill goes on with the scans that are missing. A scan that
    cannot be read or does not fit a step is reported in one line, left out, counted at the end, and
    tried again by the next call.

    Args:
        cohort: `Cohort`.
        steps: sequence of steps (`brainvq.data.steps`) that give all scans the same shape; for
            bundles one `GroupStreamlines`.
        cache: folder for stores; this one goes into a sub-folder named by its hash.
        layout: "slices": each sample is `image[:, :, k].T`, shape (rows, columns, 1).
            "volumes": each sample is a whole image, shape (x, y, z, 1).
            "bundles": each sample is a group of streamlines, shape (streamlines, points, 3); see
            `prepare_bundles`.
        dtype: number type on disk, "float16" (default) or "float32".
        workers: processes to use; 1 works in this process. Default: one per processor core, fewer
            where that leaves less than eight scans for each.
        scheduler: address of a Dask scheduler, such as "tcp://host:8786", whose workers do it in
            their place, on one machine or many that share the disk. Needs the package distributed.
        progress: whether to draw a progress bar.

    Returns:
        `ArrayStore`.

    Raises:
        UserError: wrong settings, no scan could be prepared, shapes differ, or the disk is full.
        RuntimeError: an unexpected failure, naming the scan.
    """
    steps = tuple(steps)
    _check_settings(steps, layout, dtype, workers)
    table = cohort.table.sort_values("scan_id", kind="stable").reset_index(drop=True)
    if len(table) == 0:
        raise UserError(f"cohort {cohort.name!r} has no scans; expected at least one")
    _check_ids(table["scan_id"])
    config = steps_to_config(steps)
    folder = Path(cache) / store_key(table, config, layout, dtype)
    with disk_errors(folder, "the array store"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        jobs = [
            (folder, row.scan_id, tuple(row.paths), config, layout, dtype)
            for row in table.itertuples()
            if _finished_shard(folder, row.scan_id, dtype) is None
        ]
        failures = _run(jobs, workers=workers, scheduler=scheduler, progress=progress)
    index = _index(cohort, table, failures, folder, layout=layout, dtype=dtype, steps=config)
    with disk_errors(folder, "the array store"):
        _write_if_changed(folder / "index.json", index)
    store = ArrayStore(folder, index)
    for line in summary(store.remarks):
        say(line)
    return store


def _check_settings(steps, layout, dtype, workers):
    if layout not in LAYOUTS:
        raise UserError(f"prepare: layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if not LAYOUTS[layout].takes(steps):
        raise UserError(
            f"prepare: layout is {layout!r}, but the steps are "
            f"{', '.join(type(step).__name__ for step in steps) or 'none'}; expected layout "
            "'bundles' with GroupStreamlines alone, other layouts with steps for images"
        )
    if dtype not in DTYPES:
        raise UserError(f"prepare: dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if workers is not None and workers < 1:
        raise UserError(f"prepare: workers is {workers}; expected a whole number from 1")


def _index(cohort, table, failures, folder, **settings):
    """The content of `index.json`, when every scan of `table` is prepared or in `failures`."""
    if len(failures) == len(table):
        first = failures[table["scan_id"].iloc[0]]
        raise UserError(
            f"cohort {cohort.name!r}: none of {len(table)} scans could be prepared; the first "
            f"says: {first}"
        )
    if failures:
        print(f"{len(failures)} of {len(table)} scans left out, {len(table) - len(failures)} used")
    table = table[~table["scan_id"].isin(failures)]
    shards = [_finished_shard(folder, scan, settings["dtype"]) for scan in table["scan_id"]]
    missing = [s for s, shard in zip(table["scan_id"], shards, strict=True) if shard is None]
    if missing:
        raise UserError(
            f"{folder}: shard {missing[0]}.npy disappeared while the store was prepared; expected "
            "nothing else to write there"
        )
    _check_shapes(shards)
    index = {
        "format": FORMAT,
        "key": folder.name,
        "cohort": cohort.name,
        "simulated": bool(cohort.simulated),
        **settings,
        "sample_shape": shards[0]["sample_shape"],
        "scans": table.drop(columns="paths").to_dict("records"),
        "failures": [{"scan_id": s, "message": failures[s]} for s in sorted(failures)],
        "shards": shards,
    }
    return json.loads(json.dumps(index, default=_plain))


def store_key(table, steps_config, layout, dtype):
    """Returns the hash (16 hex digits) that names a store.

    Args:
        table: cohort table; of it, scan_id and paths count, in any order of rows, with the size and
            the modification time of each file.
        steps_config: what `steps_to_config` returns; where heads are registered, the way in which
            skulls are taken off here counts too.
        layout: "slices", "volumes" or "bundles".
        dtype: number type on disk.
    """
    scans = sorted(
        (str(row.scan_id), [_fingerprint(path) for path in row.paths]) for row in table.itertuples()
    )
    content = [FORMAT, steps_config, layout, dtype, scans]
    if any(step["name"] == "RegisterToTemplate" for step in steps_config):
        content.append(stripper())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(path):
    """Returns [path, then size and modification time of each file behind it]."""
    files = scan_files(path)
    content = [path] if not files else [str(path), *(os.path.abspath(file) for file in files[:1])]
    for file in files:
        try:
            status = os.stat(file)
            content += [status.st_size, status.st_mtime_ns]
        except OSError:
            content += [None, None]  # loading it will say what is wrong
    return content


def _run(jobs, **options):
    """Calls `_prepare_scan` for each of `jobs`; returns the failures, scan_id -> message."""
    failures = {}
    results = run_jobs(_prepare_scan, jobs, title="preparing scans", **options)
    with contextlib.closing(results):
        for scan_id, message, error in results:
            if isinstance(error, OSError):
                raise error
            if error is not None:
                raise RuntimeError(f"scan {scan_id}: {message}") from error
            if message:
                failures[scan_id] = message
                say(f"left out {scan_id}: {message}")
    return failures


def _prepare_scan(folder, scan_id, paths, config, layout, dtype):
    """Makes one shard and raises nothing; returns (scan_id, problem or "", what ends it or None).

    What ends everything is an `OSError` of a full disk, or the cause of an unexpected failure.
    """
    kind = LAYOUTS[layout]
    try:
        with collected() as remarks:
            steps = steps_from_config(config, kind.steps)
            samples, shape, affine, look = kind.samples(paths, steps)
        if not np.isfinite(samples).all():
            raise UserError("the steps gave values that are not finite; expected finite numbers")
        peak = float(np.abs(samples).max())
        if peak > float(np.finfo(dtype).max):
            raise UserError(
                f"values up to {peak:g} do not fit {dtype}; expected scaled intensities (add "
                "ScaleIntensity or ZScore) or dtype float32"
            )
        about = {"shape": shape, "affine": affine, "remarks": remarks}
        about["look"] = look and dataclasses.asdict(look)
        _write_shard(folder, scan_id, samples.astype(dtype), about)
    except UserError as error:
        return scan_id, str(error), None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return scan_id, "", OSError(error.errno, error.strerror)
        # The exception itself may not travel between processes; its traceback as text does.
        cause = RuntimeError(traceback.format_exc())
        return scan_id, f"{type(error).__name__}: {error}", cause
    return scan_id, "", None


def _write_shard(folder, scan_id, samples, about):
    file = folder / f"{scan_id}.npy"
    with atomic_path(file) as temporary:
        np.save(temporary, np.ascontiguousarray(samples))
        checksum = _checksum(temporary)
        status = temporary.stat()
    write_json(
        folder / f"{scan_id}.json",
        {
            "file": file.name,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "crc32": checksum,
            "offset": status.st_size - samples.nbytes,
            "n_samples": samples.shape[0],
            "sample_shape": samples.shape[1:],
            **about,
        },
    )


def _finished_shard(folder, scan_id, dtype):
    """Returns the description of a shard that is whole, or None."""
    file = folder / f"{scan_id}.npy"
    try:
        shard = json.loads((folder / f"{scan_id}.json").read_text(encoding="utf-8"))
        if _shard_problem(file, shard) is not None:
            return None
        with open(file, "rb") as handle:
            version = np.lib.format.read_magic(handle)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, fortran, stored_dtype = read(handle)
        expected = (shard["n_samples"], *shard["sample_shape"])
        if shape != expected or fortran or stored_dtype != np.dtype(dtype):
            return None
        return shard
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _shard_problem(file, shard):
    """Returns what is wrong with a shard file, or None. Reads it only if its time has changed."""
    try:
        status = file.stat()
        if status.st_size != shard["size"]:
            return f"{status.st_size} bytes; expected {shard['size']}"
        if status.st_mtime_ns != shard["mtime_ns"]:
            checksum = _checksum(file)
            if checksum != shard["crc32"]:
                return f"its content was changed (checksum {checksum}); expected {shard['crc32']}"
    except OSError as error:
        return f"missing or not readable ({error.strerror}); expected a shard of the store"
    return None


def _checksum(file):
    value = 0
    with open(file, "rb") as handle:
        while block := handle.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _check_ids(scan_ids):
    for scan_id in scan_ids[scan_ids.duplicated()]:
        raise UserError(f"scan_id {scan_id!r} occurs more than once; expected each one once")
    for scan_id in scan_ids:
        if not scan_id or scan_id.startswith(".") or Path(scan_id).name != scan_id:
            raise UserError(f"scan_id {scan_id!r}; expected a name that a file can have")
        if scan_id == "index":
            raise UserError("scan_id 'index' is the name of the store's own index; rename the scan")


def _check_shapes(shards):
    first = shards[0]
    for shard in shards:
        if shard["sample_shape"] != first["sample_shape"]:
            shapes = ["×".join(map(str, s["sample_shape"][:-1])) for s in (first, shard)]
            raise UserError(
                f"the steps give samples of {shapes[0]} for {first['file'][:-4]} but of "
                f"{shapes[1]} for {shard['file'][:-4]}; expected one shape (add CropOrPad)"
            )


def _write_if_changed(file, index):
    """Leaves the file alone where it says the same, so that reopening does not touch the store."""
    with contextlib.suppress(OSError, ValueError):
        if json.dumps(json.loads(file.read_text(encoding="utf-8"))) == json.dumps(index):
            return
    write_json(file, index)


def _plain(value):
    """A value of the cohort table as JSON knows it."""
    if value is pd.NA or value is pd.NaT:
        return None
    return value.item() if isinstance(value, np.generic) else str(value)


def _runs(ascending):
    """Yields (start, end) of the stretches of numbers without a gap; equal ones have none."""
    edges = np.flatnonzero(np.diff(ascending) > 1) + 1
    return zip([0, *edges], [*edges, len(ascending)], strict=True)


def _sample_table(scans, counts, layout, sample_shape):
    repeats = np.repeat(np.arange(len(scans)), counts)
    columns = [c for c in _SAMPLE_COLUMNS if c in scans.columns]
    table = scans[columns].iloc[repeats].reset_index(drop=True)
    table["index"] = np.arange(len(repeats)) - np.repeat(np.cumsum(counts) - counts, counts)
    index = table["index"].to_numpy()
    return table.assign(**LAYOUTS[layout].columns(scans, repeats, index, sample_shape))
