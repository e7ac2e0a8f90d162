import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.data import ArrayStore, Cohort, open_cohort
from brainvq.data.bundles import (
    BUNDLES,
    balanced_rows,
    prepare_bundles,
    scale_of,
    split_groups,
)
from brainvq.data.readers.bundles import read_groups, read_tractoinferno, read_tracts
from brainvq.data.simulation_bundles import (
    simulate_bundle,
    simulated_bundles,
    write_simulated_bundles,
)
from brainvq.data.steps import Canonical
from brainvq.data.store import prepare
from brainvq.data.streamlines import (
    GroupStreamlines,
    align_directions,
    load_bundle,
    resample,
    ungroup,
)
from brainvq.data.tractograms import load_tractogram, new_tractogram, save_tractogram
from brainvq.errors import UserError

QUICK = {"workers": 1, "progress": False}
SMALL = {"points": 16, "size": 8, **QUICK}


def write_tract(path, n=5, seed=0):
    """A short tract, of the format that the suffix says."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 12)[:, None]
    lines = [
        (rng.normal(0, 3, 3) + [10, -20, 5] + t * [2, 40, 6]).astype(np.float32) for _ in range(n)
    ]
    save_tractogram(new_tractogram(lines), lines, path)
    return lines


def tree(root):
    """TractoInferno's tree: three people, one of whom lacks a bundle, and what else lies there."""
    for split, subject, bundles in (
        ("trainset", "1001", ("MCP", "PYT_L")),
        ("validset", "1002", ("MCP", "PYT_L", "AF_L")),
        ("testset", "1006", ("PYT_L",)),
    ):
        folder = root / "derivatives" / split / f"sub-{subject}"
        for number, bundle in enumerate(bundles):
            write_tract(folder / "tractography" / f"sub-{subject}__{bundle}.trk", 5 + number)
        (folder / "anat").mkdir()
        (folder / "anat" / f"sub-{subject}__T1w.nii.gz").write_bytes(b"")
        (folder / "tractography" / "whole_brain.trk").write_bytes(b"")
        (folder / "tractography" / ".hidden.trk").write_bytes(b"")
        (folder / "tractography" / f"sub-{subject}__MCP.trk.part").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    cohort = simulated_bundles(3, seed=1, bundles=("MCP", "PYT_L", "IFOF_R"), low=5, high=30)
    return prepare_bundles(cohort, tmp_path_factory.mktemp("cache"), **SMALL)


# --- cohorts ---


@pytest.mark.parametrize("below", ["", "derivatives"])
def test_the_tree_of_tractoinferno(published, below):
    cohort = open_cohort("tractoinferno", published / below)
    assert cohort.subjects == ["1001", "1002", "1006"]
    table = cohort.table.set_index("scan_id")
    assert sorted(table.index) == [
        "sub-1001__MCP",
        "sub-1001__PYT_L",
        "sub-1002__MCP",
        "sub-1002__PYT_L",
        "sub-1006__PYT_L",
    ]
    assert table.at["sub-1002__PYT_L", "group"] == "PYT_L"
    assert table.at["sub-1002__PYT_L", "paths"][0].endswith("sub-1002__PYT_L.trk")
    assert set(table["modality"]) == {"tractogram"}
    assert set(table["units"]) == {"mm"}
    assert "4 other .trk files left out" in cohort.note
    assert not cohort.simulated


def test_other_bundles_are_read_when_asked(published):
    assert "AF_L" in set(read_tractoinferno(published, bundles=None).table["group"])
    assert set(read_tractoinferno(published, bundles=["MCP"]).table["group"]) == {"MCP"}


def test_the_published_splits(published):
    table = read_tractoinferno(published, published_splits=True).table
    splits = dict(zip(table["subject"], table["split"], strict=True))
    assert splits == {"1001": "train", "1002": "validation", "1006": "test"}
    one = published / "derivatives" / "testset"
    assert set(read_tractoinferno(one, published_splits=True).table["split"]) == {"test"}


def test_published_splits_that_the_path_does_not_tell(tmp_path):
    write_tract(tmp_path / "sub-1__MCP.trk")
    assert len(read_tractoinferno(tmp_path)) == 1
    with pytest.raises(UserError, match=r"sub-1__MCP\.trk: lies in none of trainset, validset"):
        read_tractoinferno(tmp_path, published_splits=True)


def test_people_are_split_whatever_bundles_they_have(published):
    cohort = read_tractoinferno(published).split((0.34, 0.33, 0.33), stratify=None)
    assert cohort.table.groupby("subject")["split"].nunique().eq(1).all()
    assert set(cohort.table["split"]) == {"train", "validation", "test"}


def test_the_table_comes_back_from_csv(published, tmp_path):
    cohort = read_tractoinferno(published)
    cohort.to_csv(tmp_path / "cohort.csv")
    again = Cohort.from_csv(tmp_path / "cohort.csv", name=cohort.name)
    pd.testing.assert_frame_equal(again.table, cohort.table)


def test_any_folder_of_tracts(tmp_path):
    for name in (
        "anna__PYT_L.trk",
        "anna__pyt_r.tck",
        "sub-7/tracts/MCP.trx",
        "sub-7/sub-7_ILF_L.trk",
        "sub-8__MCP.trk",
        "anna__mine.trk",
        "loose.trk",
    ):
        write_tract(tmp_path / name)
    cohort = open_cohort("tracts", tmp_path)
    pairs = set(zip(cohort.table["subject"], cohort.table["group"], strict=True))
    assert pairs == {
        ("anna", "PYT_L"),
        ("anna", "PYT_R"),
        ("anna", "mine"),
        ("7", "MCP"),
        ("7", "ILF_L"),
        ("8", "MCP"),
    }
    assert "1 files that name no subject and bundle left out, e.g. loose.trk" in cohort.note
    some = read_tracts(tmp_path, bundles=BUNDLES)
    assert len(some) == 5
    assert "1 files of other bundles left out, e.g. anna__mine.trk" in some.note


@pytest.mark.parametrize(
    ("name", "subject", "session", "bundle"),
    [
        ("sub-01_ses-2__MCP.trk", "01", "2", "MCP"),
        ("anna_ses-2__PYT_L.trk", "anna", "2", "PYT_L"),
        ("sub-01__ses-2__PYT_L.tck", "01", "2", "PYT_L"),
        ("sub-01/ses-2/TOM_trackings/ILF_left.tck", "01", "2", "ILF_L"),
        ("sub-01/ses-2/dwi/sub-01_ses-2_desc-IFOFR_tractography.trk", "01", "2", "IFOF_R"),
        ("sub-01/ses-2/sub-01_ses-2_space-T1w_bundle-FPTL_tractogram.trx", "01", "2", "FPT_L"),
        (
            "sub-01_ses-2/sub-01_ses-2_dwi_desc-prob-afq-POPT_R_tractography.trk",
            "01",
            "2",
            "POPT_R",
        ),
        ("sub-01_acq-64_dwi_space-RASMM_desc-MCP_tractography.trk", "01", "", "MCP"),
        ("sub-01/sub-01_ses-2_CC_Fr_1_tractography.trk", "01", "2", "CC_Fr_1"),
        ("sub-01/sub-01_ses-2_algo-prob_desc-mine_tractography.trk", "01", "2", "mine"),
        ("sub-01/T_POSTC_left.trk", "01", "", "T_POSTC_left"),
        ("sub-01/MCP_cleaned.trk", "01", "", "MCP_cleaned"),
    ],
)
def test_names_of_longitudinal_tracts_and_of_bids(tmp_path, name, subject, session, bundle):
    write_tract(tmp_path / name)
    (row,) = read_tracts(tmp_path).table.to_dict("records")
    assert (row["subject"], row["session"], row["group"]) == (subject, session, bundle)


def test_visits_runs_and_spaces_of_tracts(tmp_path):
    for session in "12":
        for run in "12":
            for space in ("", "space-MNI152_"):
                name = f"sub-01_ses-{session}_run-{run}_{space}desc-MCP_tractography.trk"
                write_tract(tmp_path / name)
    cohort = read_tracts(tmp_path)
    assert not any("space-" in paths[0] for paths in cohort.table["paths"])
    assert "4 files, of which there is one in another space, left out" in cohort.note
    table = read_tracts(tmp_path, entities="space=MNI152").table
    assert list(table["scan_id"]) == [
        f"sub-01_ses-{session}__MCP_run-{run}" for session in "12" for run in "12"
    ]
    (tmp_path / ".bidsignore").write_text("*run-2*\n")
    some = open_cohort("tracts", tmp_path, entities="space=")
    assert list(some.table["session"]) == ["1", "2"]
    assert "2 files without space= left out" in some.note
    with pytest.raises(UserError, match="no bundle found with run=7"):
        read_tracts(tmp_path, entities="run=7")
    assert read_tracts(tmp_path, bundles=["mcp"], entities="space=").table["group"][0] == "mcp"


def test_a_bundle_that_is_there_twice(tmp_path):
    write_tract(tmp_path / "a__MCP.trk")
    write_tract(tmp_path / "a__MCP.tck")
    with pytest.raises(UserError, match="subject a is there 2 times"):
        read_tracts(tmp_path)


@pytest.mark.parametrize("source", ["tractoinferno", "tracts", "groups"])
def test_folders_without_bundles(tmp_path, source):
    with pytest.raises(UserError, match="no such folder"):
        open_cohort(source, tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="no bundle found; expected .*notes.txt"):
        open_cohort(source, tmp_path)
    write_tract(tmp_path / "loose.trk")
    with pytest.raises(UserError, match=r"1 files left out, e\.g\. loose\.trk"):
        read_tracts(tmp_path)


def write_groups(folder, n=4, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    t = np.linspace(-0.5, 0.5, 16)[:, None]
    for number, bundle in enumerate(("MCP", "PYT_L", "other")):
        rng = np.random.default_rng([seed, number])
        lines = (t * [0.2, 1, 0.1] + rng.normal(0, 0.05, (n + number, 8, 1, 3))).astype(np.float32)
        np.save(folder / f"{bundle}.npy", lines.transpose(0, 1, 3, 2))


def test_published_groups(tmp_path):
    write_groups(tmp_path / "one person")
    cohort = open_cohort("groups", tmp_path / "one person")
    assert list(cohort.table["scan_id"]) == ["sub-one-person__MCP", "sub-one-person__PYT_L"]
    assert "split by groups" in cohort.note
    assert "1 other .npy files left out" in cohort.note
    store = prepare_bundles(cohort, tmp_path / "cache", align=False, **SMALL)
    assert len(store) == 4 + 5
    assert (store.table["count"] == 8).all()
    stored = np.load(tmp_path / "one person" / "MCP.npy").transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(store.read(slice(0, 4)), stored)
    assert scale_of(store).to_config() == {"center": [0, 0, 0], "half": 1}
    write_groups(tmp_path / "all" / "sub-1")
    write_groups(tmp_path / "all" / "sub-2")
    two = read_groups(tmp_path / "all")
    assert two.subjects == ["1", "2"]
    assert "split by groups" not in two.note


# --- the store ---


def test_samples_are_the_streamlines_of_the_files(published, tmp_path):
    cohort = read_tractoinferno(published)
    store = prepare_bundles(cohort, tmp_path, **{**SMALL, "size": 4})
    assert (store.layout, store.dtype, store.sample_shape) == ("bundles", "float32", (4, 16, 3))
    assert store.steps == (GroupStreamlines(16, 4),)
    for scan in cohort.table.itertuples():
        rows = np.flatnonzero(store.table["scan_id"] == scan.scan_id)
        table = store.table.iloc[rows]
        assert list(table["index"]) == list(range(len(rows)))
        assert set(table["group"]) == {scan.group}
        assert set(table["subject"]) == {scan.subject}
        lines = ungroup(store.read(rows), table["count"])
        expected = resample(load_tractogram(scan.paths[0]).streamlines, 16)
        np.testing.assert_array_equal(lines, align_directions(expected)[0])
    reopened = ArrayStore.open(store.path)
    pd.testing.assert_frame_equal(reopened.table, store.table)
    pickle.loads(pickle.dumps(reopened)).read([0])


def test_preparing_goes_on_where_it_stopped(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "tree")
    store = prepare_bundles(read_tractoinferno(root), tmp_path / "cache", **SMALL)
    times = {path: path.stat().st_mtime_ns for path in store.path.iterdir()}
    again = prepare_bundles(read_tractoinferno(root), tmp_path / "cache", **SMALL)
    assert {path: path.stat().st_mtime_ns for path in again.path.iterdir()} == times
    (store.path / "sub-1001__MCP.npy").unlink()
    again = prepare_bundles(read_tractoinferno(root), tmp_path / "cache", **SMALL)
    assert again.path == store.path
    np.testing.assert_array_equal(again.read(slice(None)), store.read(slice(None)))
    changed = [path for path in times if path.stat().st_mtime_ns != times[path]]
    assert {path.stem for path in changed} == {"sub-1001__MCP", "index"}
    for other in ({"points": 12}, {"size": 3}, {"align": False}, {"per_bundle": 1, "seed": 2}):
        settings_ = SMALL | other
        assert prepare_bundles(read_tractoinferno(root), tmp_path / "c", **settings_).key != (
            store.key
        )


def test_bad_files_are_left_out_and_counted(published, tmp_path, capsys):
    root = shutil.copytree(published, tmp_path / "tree")
    folder = root / "derivatives" / "trainset" / "sub-1001" / "tractography"
    whole = (folder / "sub-1001__MCP.trk").read_bytes()
    (folder / "sub-1001__MCP.trk").write_bytes(whole[:-50])
    lines = [np.zeros((1, 3), np.float32), np.ones((3, 3), np.float32)]
    save_tractogram(new_tractogram(lines), lines, folder / "sub-1001__PYT_L.trk")
    store = prepare_bundles(read_tractoinferno(root), tmp_path / "cache", **SMALL)
    assert list(store.failures["scan_id"]) == ["sub-1001__MCP", "sub-1001__PYT_L"]
    assert "1 of 2 streamlines with fewer than two points" in store.failures["message"][1]
    assert "2 of 5 scans left out" in capsys.readouterr().out
    assert "1001" not in set(store.table["subject"])


def test_bundles_to_prepare(published, tmp_path):
    cohort = read_tractoinferno(published, bundles=None)
    store = prepare_bundles(cohort, tmp_path, bundles=["AF_L"], **SMALL)
    assert set(store.table["group"]) == {"AF_L"}
    assert "AF_L" in set(prepare_bundles(cohort, tmp_path, bundles=None, **SMALL).table["group"])
    assert "AF_L" not in set(prepare_bundles(cohort, tmp_path, **SMALL).table["group"])
    with pytest.raises(UserError, match="none of its 6 scans has group"):
        prepare_bundles(cohort, tmp_path, bundles=["CC_Fr_1"], **SMALL)


def test_layout_and_steps_belong_together(published, tmp_path):
    cohort = read_tractoinferno(published)
    for steps, layout in (
        ((Canonical(),), "bundles"),
        ((), "bundles"),
        ((GroupStreamlines(),), "slices"),
        ((GroupStreamlines(), Canonical()), "bundles"),
    ):
        with pytest.raises(UserError, match="layout is"):
            prepare(cohort, steps, tmp_path, layout=layout, **QUICK)


def test_processes_give_the_same_bytes(simulated, tmp_path):
    cohort = simulated_bundles(3, seed=1, bundles=("MCP", "PYT_L", "IFOF_R"), low=5, high=30)
    options = SMALL | {"workers": 2}
    other = prepare_bundles(cohort, tmp_path, **options)
    assert other.key == simulated.key
    np.testing.assert_array_equal(other.read(slice(None)), simulated.read(slice(None)))


def test_the_scale_of_a_store(simulated):
    scale = scale_of(simulated)
    unit = scale.to_unit(simulated.read(slice(None)))
    assert np.abs(unit).max() == pytest.approx(1, abs=1e-6)
    some = scale_of(simulated, [0, 1])
    assert some.half < scale.half
    assert np.abs(some.to_unit(simulated.read([0, 1]))).max() == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match="found no samples to scale by"):
        scale_of(simulated, [])


# --- rows ---


def table_of(counts):
    groups = [name for name, count in counts.items() for _ in range(count)]
    return pd.DataFrame({"group": groups})


counts_of_bundles = st.dictionaries(
    st.sampled_from(BUNDLES), st.integers(1, 40), min_size=1, max_size=12
)


@given(counts=counts_of_bundles, seed=st.integers(0, 9), repeat=st.booleans(), data=st.data())
def test_bundles_are_drawn_equally_often(counts, seed, repeat, data):
    table = table_of(counts)
    rows = balanced_rows(table, seed=seed, repeat=repeat)
    least = max(counts.values()) if repeat else min(counts.values())
    assert table["group"].iloc[rows].value_counts().to_dict() == dict.fromkeys(counts, least)
    times = np.bincount(rows, minlength=len(table))
    for name in counts:
        of_bundle = times[(table["group"] == name).to_numpy()]
        assert of_bundle.max() - of_bundle.min() <= 1
    order = data.draw(st.permutations(range(len(table))))
    np.testing.assert_array_equal(balanced_rows(table, order, seed, repeat=repeat), rows)


def test_rows_to_draw_from():
    table = table_of({"MCP": 10, "PYT_L": 4, "ILF_L": 7})
    rows = balanced_rows(table, np.arange(12), seed=0)  # of PYT_L only two
    assert (rows < 12).all()
    assert table["group"].iloc[rows].value_counts().to_dict() == {"MCP": 2, "PYT_L": 2}
    assert len(balanced_rows(table, per_bundle=3)) == 9
    assert len(balanced_rows(table, per_bundle=30, repeat=True)) == 90
    assert not np.array_equal(balanced_rows(table, seed=0), balanced_rows(table, seed=1))
    with pytest.raises(UserError, match="bundle PYT_L has 4 samples; expected 5"):
        balanced_rows(table, per_bundle=5)
    with pytest.raises(UserError, match="per_bundle: found 0"):
        balanced_rows(table, per_bundle=0)
    with pytest.raises(UserError, match="found no samples"):
        balanced_rows(table, [])


@settings(deadline=None)
@given(
    counts=counts_of_bundles,
    seed=st.integers(0, 9),
    fractions=st.sampled_from(
        [(0.8, 0.1, 0.1), (0.9, 0, 0.1), (0.4, 0.3, 0.3), (0.1, 0.1, 0.8), (1, 0, 0), (0.5, 0.5, 0)]
    ),
)
def test_samples_of_one_person_are_split(counts, seed, fractions):
    table = table_of(counts)
    parts = split_groups(table, fractions, seed)
    assert list(parts) == ["train", "validation", "test"]
    together = np.concatenate(list(parts.values()))
    np.testing.assert_array_equal(np.sort(together), np.arange(len(table)))
    for name, count in counts.items():
        sizes = [int((table["group"].iloc[rows] == name).sum()) for rows in parts.values()]
        assert sizes[0] >= 1
        assert sizes[2] >= (count >= 2 and fractions[2] > 0)
        assert sizes[1] >= (count >= 3 and fractions[1] > 0)
        if fractions[2] > 0:
            assert sizes[1] == 0 or count >= 3
        for share, n in zip(fractions, sizes, strict=True):
            assert share > 0 or n == 0
            assert abs(n - share * count) < 2
    for split, rows in split_groups(table, fractions, seed).items():
        np.testing.assert_array_equal(rows, parts[split])


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.5, -0.5, 0), (np.nan, 0, 1)])
def test_fractions_that_are_no_shares(fractions):
    with pytest.raises(UserError, match="expected three shares"):
        split_groups(table_of({"MCP": 5}), fractions)


# --- simulation ---


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_bundle_can_be_simulated(bundle):
    streamlines = simulate_bundle({"bundle": bundle, "low": 20, "high": 40})
    assert 20 <= len(streamlines) <= 40
    assert streamlines.get_data().dtype == np.float32
    lengths = [len(line) for line in streamlines]
    assert 40 <= min(lengths) < max(lengths) <= 200
    assert (np.abs(streamlines.get_data()) < 120).all()
    lines = resample(streamlines, 32)
    aligned, flipped = align_directions(lines)
    assert 0 < flipped.sum() < len(lines)
    steps = np.linalg.norm(np.diff(aligned, axis=1), axis=2)
    assert 50 < steps.sum(axis=1).mean() < 200  # mm
    turns = np.diff(aligned, 2, axis=1)
    assert (np.linalg.norm(turns, axis=2) < 0.5 * steps[:, 1:]).mean() > 0.99  # smooth
    side = aligned.mean(axis=(0, 1))[0]
    if bundle.endswith(("_L", "_R")):
        assert (side > 5) == bundle.endswith("_R")
    else:
        assert aligned[:, 0, 0].max() < 0 < aligned[:, -1, 0].min()


def test_the_same_bundle_of_two_people_runs_the_same_way(simulated):
    samples = simulated.read(slice(None))
    for bundle in ("MCP", "PYT_L", "IFOF_R"):
        rows = (simulated.table["group"] == bundle).to_numpy()
        way = samples[rows][:, :, -1] - samples[rows][:, :, 0]  # (g, streamlines, 3)
        axis = np.abs(way.mean(axis=(0, 1))).argmax()
        assert (way[..., axis] > 0).all()


def test_simulated_bundles_are_the_same_anywhere(tmp_path):
    cohort = open_cohort("simulated-bundles", n_subjects=2, seed=3, bundles=["MCP"], low=5, high=9)
    assert cohort.simulated
    paths = list(cohort.table["paths"])
    one, again, other = (load_bundle(paths[i], 16) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[:5], other[:5])
    assert not np.array_equal(
        one[:5], load_bundle(simulated_bundles(1, 4, ["MCP"], 5, 9).table["paths"][0], 16)[:5]
    )
    root = write_simulated_bundles(tmp_path / "out", 2, 3, ["MCP"], 5, 9, **QUICK)
    written = open_cohort("tractoinferno", root)
    assert written.simulated
    assert read_tracts(root / "sub-sim0001" / "tractography").simulated
    assert list(written.table["scan_id"]) == list(cohort.table["scan_id"])
    assert written.subjects == cohort.subjects
    for before, after in zip(paths, written.table["paths"], strict=True):
        np.testing.assert_allclose(load_bundle(after, 16), load_bundle(before, 16), atol=1e-3)


def test_writing_goes_on_and_refuses_other_folders(tmp_path):
    root = write_simulated_bundles(tmp_path / "out", 1, 0, ["MCP", "PYT_L"], 5, 9, **QUICK)
    [first, second] = sorted(root.rglob("*.trk"))
    time = first.stat().st_mtime_ns
    content = second.read_bytes()
    second.unlink()
    write_simulated_bundles(root, 1, 0, ["MCP", "PYT_L"], 5, 9, **QUICK)
    assert first.stat().st_mtime_ns == time
    assert second.read_bytes() == content
    with pytest.raises(UserError, match="simulated with other parameters"):
        write_simulated_bundles(root, 1, 1, ["MCP"], 5, 9, **QUICK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="holds other data"):
        write_simulated_bundles(tmp_path / "mine", 1, **QUICK)
    with pytest.raises(UserError, match="is a file"):
        write_simulated_bundles(tmp_path / "mine" / "thesis.txt", 1, **QUICK)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("[]", "expected a JSON object"),
        ("{", "expected a JSON object"),
        (json.dumps({"speed": 1}), "parameter 'speed' is not known"),
        ({"bundle": "AF_L"}, "bundle is 'AF_L'"),
        ({"seed": -1}, "seed is -1"),
        ({"low": 0}, "low is 0"),
        ({"low": 9, "high": 5}, "low is 9, above high, 5"),
    ],
)
def test_wrong_parameters(params, message):
    with pytest.raises(UserError, match=message):
        simulate_bundle(params)


def test_wrong_cohorts():
    for count in (0, 1.5, -1):
        with pytest.raises(UserError, match="n_subjects is"):
            simulated_bundles(count)
    with pytest.raises(UserError, match="bundle is 'AF'"):
        simulated_bundles(1, bundles=["AF"])
