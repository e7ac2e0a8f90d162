import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainvq.data import layouts
from brainvq.data import store as store_module
from brainvq.data.cohort import Cohort
from brainvq.data.jobs import run_jobs
from brainvq.data.steps import (
    Canonical,
    CropOrPad,
    RegisterToTemplate,
    Resample,
    ScaleIntensity,
    SelectSlices,
    ZScore,
    steps_to_config,
)
from brainvq.data.store import ArrayStore, prepare, store_key
from brainvq.errors import UserError

STEPS = (
    Canonical("LPS"),
    CropOrPad((12, 10), axes=(0, 1)),
    SelectSlices(spacing=2),
    ScaleIntensity(),
)


def write_scan(path, number, shape=(14, 13, 16)):
    """A scan whose foreground grows with its number."""
    rng = np.random.default_rng(number)
    image = np.zeros(shape, np.float32)
    height = 6 + number % 5
    image[3:11, 3:10, 3 : 3 + height] = rng.uniform(10, 100, (8, 7, height))
    nib.save(nib.Nifti1Image(image, np.diag([1, 1, 1, 1.0])), path)


def make_cohort(folder, n=5, **columns):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(n):
        path = folder / f"sub-{number:02d}_T1w.nii"
        if not path.exists():
            write_scan(path, number)
        rows.append(
            {
                "scan_id": f"sub-{number:02d}",
                "subject": f"s{number // 2}",
                "session": str(number % 2),
                "group": "healthy" if number % 3 else "MS",
                "age": float("nan") if number == 1 else 30.0 + number,
                "sex": "F",
                "site": "here",
                "modality": "T1w",
                "paths": (str(path),),
            }
        )
    return Cohort("tiny", pd.DataFrame(rows).assign(**columns))


def contents(folder):
    """The shards of a store, and its index without times, which differ between runs."""
    files = {p.name: p.read_bytes() for p in Path(folder).glob("[!.]*.npy")}
    index = json.loads((Path(folder) / "index.json").read_text())
    for shard in index["shards"]:
        del shard["mtime_ns"]
    return files, json.dumps(index)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    return prepare(cohort, STEPS, tmp_path_factory.mktemp("cache"), workers=1, progress=False)


def test_slices_are_the_pictures_of_the_volume(store, cohort):
    assert store.sample_shape == (10, 12, 1)
    row = 0
    for _, scan in store.scans.iterrows():
        (path,) = cohort.table.set_index("scan_id").at[scan["scan_id"], "paths"]
        loaded = nib.load(path)
        image, affine = loaded.get_fdata(dtype=np.float32), loaded.affine
        for step in STEPS:
            image, affine = step(image, affine)
        np.testing.assert_allclose(scan["affine"], affine)
        assert scan["shape"] == image.shape
        for k in range(image.shape[2]):
            picture = store.read([row])[0, ..., 0]
            np.testing.assert_allclose(picture, image[:, :, k].T, atol=5e-4)
            entry = store.table.iloc[row]
            assert (entry["scan_id"], entry["index"]) == (scan["scan_id"], k)
            assert entry["position_mm"] == pytest.approx((affine @ [0, 0, k, 1])[2])
            row += 1
    assert row == len(store) == len(store.table)


@pytest.mark.thorough
def test_workers_of_a_scheduler_make_the_same_store(cohort, store, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)  # to which the cache counts, on workers too
    with (
        distributed.LocalCluster(2, dashboard_address=None, local_directory=tmp_path) as workers,
        # They begin in another folder.
        distributed.Client(workers) as client,
    ):
        client.run(os.chdir, "/")
        address = workers.scheduler_address
        made = prepare(cohort, STEPS, "cache", scheduler=address, progress=False)
        assert contents(made.path) == contents(store.path)
        with pytest.raises(UserError, match="a worker was killed"):
            list(run_jobs(os._exit, [(3,)], title="dying", progress=False, scheduler=address))
    with pytest.raises(UserError, match="cannot be reached"):
        list(run_jobs(abs, [(3,)], title="asking", progress=False, scheduler=address))


def test_volumes(cohort, tmp_path):
    steps = (CropOrPad((12, 10, 8)), ScaleIntensity())
    store = prepare(cohort, steps, tmp_path, layout="volumes", dtype="float32", workers=1)
    assert store.sample_shape == (12, 10, 8, 1)
    assert len(store) == 5
    (path,) = cohort.table["paths"].iloc[3]
    image = CropOrPad((12, 10, 8))(nib.load(path).get_fdata(dtype=np.float32), np.eye(4))[0]
    number = int(np.flatnonzero(store.table["scan_id"] == cohort.table["scan_id"].iloc[3])[0])
    np.testing.assert_allclose(store.read([number])[0, ..., 0], image / image.max(), rtol=1e-6)
    assert store.table["position_mm"].isna().all()


def test_columns_of_the_cohort_come_along(store, cohort):
    assert list(store.scans["scan_id"]) == sorted(cohort.table["scan_id"])
    assert store.scans["age"].isna().sum() == 1
    np.testing.assert_array_equal(
        store.scans["age"].to_numpy(), cohort.table.sort_values("scan_id")["age"].to_numpy()
    )
    assert set(store.table["group"]) == {"healthy", "MS"}
    assert store.name == "tiny"
    assert store.simulated is False
    assert store.steps == STEPS
    assert store.scans["n_samples"].sum() == len(store)


def test_metadata_follow_the_cohort_without_new_shards(cohort, store):
    before = {p: p.stat().st_mtime_ns for p in store.path.iterdir()}
    again = prepare(cohort, STEPS, store.path.parent, workers=1, progress=False)
    assert {p: p.stat().st_mtime_ns for p in store.path.iterdir()} == before
    pd.testing.assert_frame_equal(again.table, store.table)
    split = Cohort("tiny", cohort.table.assign(split="train"))
    split = prepare(split, STEPS, store.path.parent, workers=1, progress=False)
    assert split.path == store.path
    assert set(split.table["split"]) == {"train"}
    shards = [p for p in before if p.suffix == ".npy"]
    assert all(p.stat().st_mtime_ns == before[p] for p in shards)


@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_read_keeps_order_and_repeats(store, data):
    everything = store.read(np.arange(len(store)))
    indices = data.draw(st.lists(st.integers(0, len(store) - 1), max_size=50))
    samples = store.read(np.array(indices, dtype=np.int64))
    assert samples.dtype == np.float32
    assert samples.shape == (len(indices), *store.sample_shape)
    np.testing.assert_array_equal(samples, everything[indices])


def test_read_takes_slices_and_refuses_what_is_out_of_range(store):
    np.testing.assert_array_equal(store.read(slice(2, 9, 3)), store.read([2, 5, 8]))
    for wrong in ([-1], [len(store)], [[0, 1]], [0.5]):
        with pytest.raises(IndexError):
            store.read(wrong)


def test_threads_read_at_once_and_nothing_stays_open(store):
    expected = store.read(np.arange(len(store)))
    orders = [np.random.default_rng(i).integers(0, len(store), 30) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for indices, samples in zip(orders, pool.map(store.read, orders), strict=True):
            np.testing.assert_array_equal(samples, expected[indices])
    if Path("/proc/self/fd").exists():
        files = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
        assert not [file for file in files if str(store.path) in file]


def test_shards_that_go_while_they_are_read(store, tmp_path):
    copy = ArrayStore.open(shutil.copytree(store.path, tmp_path / "copy"))
    shard = copy.path / "sub-01.npy"
    first, *_, last = np.flatnonzero(copy.table["scan_id"] == "sub-01")
    os.truncate(shard, shard.stat().st_size - 2)
    np.testing.assert_array_equal(copy.read([first]), store.read([first]))
    with pytest.raises(UserError, match=r"sub-01\.npy: ends early"):
        copy.read([first, last])
    shard.unlink()
    with pytest.raises(UserError, match=r"sub-01\.npy: missing or not readable"):
        copy.read([first])


def test_indices_of_subjects(store):
    indices = store.indices({"s1"})
    assert set(store.table["subject"].iloc[indices]) == {"s1"}
    assert len(indices) == (store.table["subject"] == "s1").sum() > 0
    assert len(store.indices([])) == 0
    with pytest.raises(UserError, match="no samples of 1 subjects \\(ghost\\)"):
        store.indices(["s0", "ghost"])


def test_affine_of_a_scan(store):
    np.testing.assert_array_equal(store.affine("sub-02"), store.scans["affine"].iloc[2])
    with pytest.raises(UserError, match="no scan 'ghost'"):
        store.affine("ghost")


def test_a_store_travels_to_another_process_and_folder(store, tmp_path):
    store.read([0])
    expected = store.read(slice(None))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(slice(None)), expected)
    moved = ArrayStore.open(
        shutil.copytree(store.path, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    )
    np.testing.assert_array_equal(moved.read(slice(None)), expected)


def test_processes_give_the_same_bytes(cohort, store, tmp_path):
    parallel = prepare(cohort, STEPS, tmp_path, workers=2, progress=False)
    assert contents(parallel.path)[0] == contents(store.path)[0]


def test_the_key_changes_with_what_it_should(cohort, tmp_path):
    config = [{"name": "ZScore", "over": "all"}]
    key = store_key(cohort.table, config, "slices", "float16")
    shuffled = cohort.table.sample(frac=1, random_state=1)
    assert store_key(shuffled, config, "slices", "float16") == key
    assert store_key(cohort.table.assign(age=1.0), config, "slices", "float16") == key
    others = [
        store_key(cohort.table, [{"name": "ZScore", "over": "foreground"}], "slices", "float16"),
        store_key(cohort.table, config * 2, "slices", "float16"),
        store_key(cohort.table, config, "volumes", "float16"),
        store_key(cohort.table, config, "slices", "float32"),
        store_key(cohort.table.iloc[1:], config, "slices", "float16"),
    ]
    own = make_cohort(tmp_path, 2)
    path = Path(own.table["paths"].iloc[0][0])
    others.append(store_key(own.table, config, "slices", "float16"))
    os.utime(path, ns=(1, 1))
    others.append(store_key(own.table, config, "slices", "float16"))
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(1, 1))
    others.append(store_key(own.table, config, "slices", "float16"))
    path.unlink()
    others.append(store_key(own.table, config, "slices", "float16"))
    assert len({key, *others}) == len(others) + 1


def test_the_way_in_which_skulls_are_taken_off_counts(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    registered = steps_to_config([RegisterToTemplate()])

    def keys():
        return [
            store_key(cohort.table, config, "volumes", "float16")
            for config in (registered, steps_to_config([ZScore()]))
        ]

    without = keys()
    (tmp_path / "mri_synthstrip").write_text("#!/bin/sh\n")
    (tmp_path / "mri_synthstrip").chmod(0o755)
    with_one = keys()
    assert with_one[0] != without[0]
    assert with_one[1] == without[1]


def test_both_halves_of_an_analyze_pair_count(tmp_path):
    nib.save(nib.Nifti1Pair(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "a.img")
    table = pd.DataFrame([{"scan_id": "a", "paths": (str(tmp_path / "a.hdr"),)}])
    key = store_key(table, [], "slices", "float16")
    os.utime(tmp_path / "a.img", ns=(5, 5))
    assert store_key(table, [], "slices", "float16") != key


def test_bad_scans_are_reported_and_left_out(tmp_path, capsys):
    cohort = make_cohort(tmp_path / "scans", 4)
    (tmp_path / "scans" / "sub-01_T1w.nii").write_bytes(b"not an image")
    write_empty = np.zeros((14, 13, 16), np.float32)
    write_empty[0, 0, 0] = -1  # varies, but nothing is above the background
    nib.save(nib.Nifti1Image(write_empty, np.eye(4)), tmp_path / "scans" / "sub-02_T1w.nii")
    steps = (SelectSlices(margin=(2, 1)), CropOrPad((12, 10), axes=(0, 1)))
    store = prepare(cohort, steps, tmp_path / "cache", workers=1)
    out = capsys.readouterr().out
    assert "sub-01" in out
    assert "2 of 4 scans left out, 2 used" in out
    assert list(store.failures["scan_id"]) == ["sub-01", "sub-02"]
    assert "sub-01_T1w.nii" in store.failures["message"].iloc[0]
    assert list(store.scans["scan_id"]) == ["sub-00", "sub-03"]
    assert len(ArrayStore.open(store.path).failures) == 2
    # Mended scans change the key, so nothing is left out for ever.
    write_scan(tmp_path / "scans" / "sub-01_T1w.nii", 1)
    assert len(prepare(cohort, steps, tmp_path / "cache", workers=1, progress=False).scans) == 3


def test_all_scans_bad(tmp_path):
    cohort = make_cohort(tmp_path / "scans", 2)
    for (path,) in cohort.table["paths"]:
        Path(path).write_bytes(b"no")
    with pytest.raises(UserError, match="none of 2 scans could be prepared; the first says: .*00"):
        prepare(cohort, STEPS, tmp_path / "cache", workers=1, progress=False)
    assert not list((tmp_path / "cache").rglob("index.json"))


def test_an_unexpected_failure_names_the_scan(cohort, tmp_path, monkeypatch):
    def broken(paths):
        raise KeyError("surprise")

    monkeypatch.setattr(layouts, "load_scan", broken)
    with pytest.raises(RuntimeError, match="scan sub-00: KeyError: 'surprise'"):
        prepare(cohort, STEPS, tmp_path, workers=1, progress=False)


def test_a_full_disk_leaves_finished_shards_only(cohort, store, tmp_path, monkeypatch):
    save, calls = np.save, []

    def full(path, samples):
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, samples)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
    (folder,) = tmp_path.iterdir()
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["sub-00.json", "sub-00.npy", "sub-01.json", "sub-01.npy"]
    monkeypatch.undo()
    resumed = prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
    assert contents(resumed.path)[0] == contents(store.path)[0]


def test_damaged_shards_are_named_by_open_and_rebuilt_by_prepare(cohort, tmp_path):
    store = prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
    whole = contents(store.path)
    shard = store.path / "sub-03.npy"
    original = shard.read_bytes()
    changed = bytearray(original)
    changed[-5] ^= 1
    for damaged, message in (
        (original[:-10], "bytes; expected"),
        (bytes(changed), "content was changed"),
        (None, "missing or not readable"),
    ):
        shard.unlink()
        if damaged is not None:
            shard.write_bytes(damaged)
        with pytest.raises(UserError, match=f"sub-03.npy: .*{message}"):
            ArrayStore.open(store.path)
        again = prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
        assert contents(again.path) == whole
        assert len(ArrayStore.open(store.path)) == len(store)
    (store.path / "sub-01.json").unlink()  # killed between the two files of a shard
    prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
    assert contents(store.path) == whole


def test_open_refuses_what_is_no_store(store, tmp_path):
    with pytest.raises(UserError, match="no index.json"):
        ArrayStore.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match="index.json: not readable"):
        ArrayStore.open(tmp_path)
    index = json.loads((store.path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | {"format": 99}))
    with pytest.raises(UserError, match="format 99; expected format 1"):
        ArrayStore.open(tmp_path)


def test_shapes_that_differ_and_numbers_that_do_not_fit(tmp_path):
    cohort = make_cohort(tmp_path / "scans", 2)
    write_scan(tmp_path / "scans" / "sub-01_T1w.nii", 1, (15, 13, 16))
    with pytest.raises(UserError, match="13×14 for sub-00 but of 13×15 for sub-01"):
        prepare(cohort, (ScaleIntensity(),), tmp_path / "a", workers=1, progress=False)
    nib.save(
        nib.Nifti1Image(np.float32([[[1, 1e6]]]), np.eye(4)), tmp_path / "scans/sub-00_T1w.nii"
    )
    with pytest.raises(UserError, match="values up to 1e\\+06 do not fit float16"):
        prepare(cohort.select(scan_id="sub-00"), (), tmp_path / "b", workers=1, progress=False)


@pytest.mark.parametrize(
    "option",
    [{"layout": "bundles"}, {"layout": "tiles"}, {"dtype": "int8"}, {"workers": 0}],
    ids=str,
)
def test_wrong_options(cohort, tmp_path, option):
    with pytest.raises(UserError, match=next(iter(option))):
        prepare(cohort, STEPS, tmp_path, **option)


def test_a_cache_that_is_a_file(cohort, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cannot write there"):
        prepare(cohort, STEPS, tmp_path / "cache", workers=1, progress=False)


def test_names_that_leave_the_folder(cohort, tmp_path):
    class Table:
        name, simulated = "bad", False
        table = cohort.table.assign(scan_id=[f"../{i}" for i in range(5)])

    with pytest.raises(UserError, match="expected a name that a file can have"):
        prepare(Table, STEPS, tmp_path, workers=1, progress=False)


def test_old_temporary_files_go_and_young_ones_stay(cohort, tmp_path):
    store = prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
    old, young = store.path / ".sub-00-aaaa.npy", store.path / ".sub-00-bbbb.npy"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    prepare(cohort, STEPS, tmp_path, workers=1, progress=False)
    assert young.exists()
    assert not old.exists()


CHILD = """
import sys
from tests_store_helper import make_cohort, SLOW
from brainvq.data.store import prepare
prepare(make_cohort(sys.argv[1], 30), SLOW, sys.argv[2], workers=1, progress=False)
print("done")
"""
SLOW = (Canonical("LPS"), Resample(0.35), SelectSlices(spacing=1), CropOrPad((36, 36), axes=(0, 1)))


def start_child(tmp_path, cache):
    helper = tmp_path / "tests_store_helper.py"
    if not helper.exists():
        helper.write_text(Path(__file__).read_text())
    root = Path(store_module.__file__).parents[2]
    paths = os.pathsep.join([str(tmp_path), str(root)])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "scans"), str(cache)], env=environment
    )


def test_killed_at_any_moment_then_resumed(tmp_path):
    cohort = make_cohort(tmp_path / "scans", 30)
    undisturbed = prepare(cohort, SLOW, tmp_path / "whole", workers=1, progress=False)
    cache = tmp_path / "killed"
    rng = np.random.default_rng(0)
    interrupted = 0
    for _ in range(2):
        child = start_child(tmp_path, cache)
        finished = set(cache.rglob("sub-*.npy"))
        while child.poll() is None and set(cache.rglob("sub-*.npy")) == finished:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        child.wait()
        interrupted += not list(cache.rglob("index.json"))
    assert interrupted >= 1
    times = {p: p.stat().st_mtime_ns for p in cache.rglob("sub-*.json")}
    resumed = prepare(cohort, SLOW, cache, workers=1, progress=False)
    assert len(times) >= 1
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert contents(resumed.path) == contents(undisturbed.path)


def test_two_processes_at_once(tmp_path):
    cohort = make_cohort(tmp_path / "scans", 30)
    children = [start_child(tmp_path, tmp_path / "both") for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    undisturbed = prepare(cohort, SLOW, tmp_path / "whole", workers=1, progress=False)
    (folder,) = (tmp_path / "both").iterdir()
    assert contents(folder) == contents(undisturbed.path)
    assert len(ArrayStore.open(folder)) == len(undisturbed)
    assert not list(folder.glob(".*"))
