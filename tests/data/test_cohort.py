import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.data import Cohort
from brainvq.data.cohort import COLUMNS, SPLITS, safe_id
from brainvq.errors import UserError


def table(subjects=10, visits=1, groups=("a", "b")):
    return pd.DataFrame(
        [
            {
                "scan_id": f"s{subject:03d}_{visit}",
                "subject": f"s{subject:03d}",
                "session": str(visit),
                "group": groups[subject % len(groups)],
                "age": 20.0 + subject,
                "sex": "MF"[subject % 2],
                "paths": (f"/data/s{subject:03d}_{visit}.nii",),
            }
            for subject in range(subjects)
            for visit in range(visits)
        ]
    )


def test_missing_columns_are_filled_in_and_come_first():
    cohort = Cohort("c", table(2).assign(extra=[1, 2]).drop(columns=["age", "sex"]))
    assert tuple(cohort.table.columns) == (*COLUMNS, "extra")
    assert cohort.table["age"].isna().all()
    assert (cohort.table["sex"] == "").all()
    assert cohort.table["tr"].dtype == float
    assert len(cohort) == 2


def test_a_cohort_leaves_the_table_of_the_caller_alone():
    rows = table(2)
    before = rows.copy()
    Cohort("c", rows).split((0.5, 0.5, 0))
    pd.testing.assert_frame_equal(rows, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:0], "no scans"),
        (lambda t: t.drop(columns="subject"), "no column 'subject'"),
        (lambda t: t.assign(scan_id="same"), "scan_id must be unique, repeated: same"),
        (lambda t: t.assign(scan_id=[f"a/{i}" for i in range(len(t))]), "file name.*a/0"),
        (lambda t: t.assign(session="1", subject="s1"), "subject s1, session 1 is there 4 times"),
        (lambda t: t.assign(age="old"), "'age' must be numbers"),
        (lambda t: t.assign(sex="male"), "sex must be 'M', 'F' or ''"),
        (lambda t: t.assign(subject=["s1", None, "s2", "s3"]), "'subject' is blank"),
        (lambda t: t.assign(paths=[(), "a", "b", "c"]), "no path for s000_0"),
        (lambda t: t.assign(split="training"), "found training"),
        (
            lambda t: t.assign(subject="s1", split=["train", "train", "test", "test"],
                               session=list("abcd")),
            "s1 in more than one split",
        ),
    ],
)  # fmt: skip
def test_a_table_that_is_no_cohort_is_refused(change, message):
    with pytest.raises(UserError, match=message) as caught:
        Cohort("c", change(table(4)))
    assert "\n" not in str(caught.value)


def test_runs_of_a_visit_are_no_duplicates():
    rows = table(1).loc[[0, 0]].assign(scan_id=["x1", "x2"])
    with pytest.raises(UserError, match="subject s000, session 0 is there 2 times"):
        Cohort("c", rows)
    assert len(Cohort("c", rows.assign(run=["1", "2"]))) == 2


@settings(max_examples=30, deadline=None)
@given(
    subjects=st.integers(3, 80),
    visits=st.integers(1, 3),
    shares=st.tuples(*[st.integers(0, 8)] * 3).filter(lambda s: sum(s) > 0),
    seed=st.integers(0, 10),
    classes=st.integers(1, 4),
)
def test_split_is_by_subject_exact_in_size_and_stratified(subjects, visits, shares, seed, classes):
    fractions = tuple(share / sum(shares) for share in shares)
    cohort = Cohort("c", table(subjects, visits, "abcd"[:classes]))
    split = cohort.split(fractions, seed)

    per_subject = split.table.groupby("subject")["split"].agg(["nunique", "first"])
    assert (per_subject["nunique"] == 1).all()
    assert sorted(per_subject.index) == cohort.subjects
    counts = [(per_subject["first"] == name).sum() for name in SPLITS]
    for count, fraction in zip(counts, fractions, strict=True):
        assert (count == 0) == (fraction == 0)
        assert abs(count - fraction * subjects) <= 2

    # Within each group the shares are those of the whole, to about one subject.
    group = split.table.drop_duplicates("subject").set_index("subject")["group"]
    for name in group.unique():
        members = per_subject["first"][group == name]
        for split_name, count in zip(SPLITS, counts, strict=True):
            expected = count / subjects * len(members)
            assert abs((members == split_name).sum() - expected) <= 2

    shuffled = Cohort("c", cohort.table.sample(frac=1, random_state=seed)).split(fractions, seed)
    first = split.table.set_index("scan_id")["split"].sort_index()
    pd.testing.assert_series_equal(first, shuffled.table.set_index("scan_id")["split"].sort_index())


def test_seeds_give_different_splits():
    cohort = Cohort("c", table(40))
    splits = {tuple(cohort.split(seed=seed).table["split"]) for seed in range(5)}
    assert len(splits) == 5


def test_a_subject_with_several_groups_counts_once():
    rows = table(12, visits=2).assign(group=["a", "b"] * 12)
    split = Cohort("c", rows).split((0.5, 0.25, 0.25))
    assert split.table.groupby("subject")["split"].nunique().max() == 1


@pytest.mark.parametrize(
    ("subjects", "kwargs", "message"),
    [
        (2, {}, "2 subject.s. cannot fill 3 splits"),
        (9, {"fractions": (0.5, 0.6, 0.1)}, "sum to 1"),
        (9, {"fractions": (1.5, -0.5, 0)}, "sum to 1"),
        (9, {"fractions": (0.5, 0.5)}, "expected three shares"),
        (9, {"fractions": (float("nan"), 0.5, 0.5)}, "expected three shares"),
        (9, {"stratify": "colour"}, "cannot stratify by 'colour'"),
        (3, {"assignments": {"s000": "train"}}, "no split for s001, s002"),
        (1, {"assignments": {"s000": "training"}}, "found training"),
        (1, {"assignments": "nowhere.csv"}, "nowhere.csv: cannot be read as split assignments"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(subjects, kwargs, message):
    with pytest.raises(UserError, match=message):
        Cohort("c", table(subjects)).split(**kwargs)


def test_two_subjects_fill_two_splits():
    split = Cohort("c", table(2)).split((0.9, 0, 0.1))
    assert sorted(split.table["split"]) == ["test", "train"]


@pytest.mark.parametrize("kind", ["mapping", "json", "csv"])
def test_assignments_odd_and_even(kind, tmp_path):
    cohort = Cohort("c", table(6, visits=2))
    placed = {f"s{i:03d}": "train" if i % 2 else "test" for i in range(8)}  # two too many
    given_as = placed
    if kind == "json":
        given_as = tmp_path / "split.json"
        given_as.write_text(json.dumps(placed))
    elif kind == "csv":
        given_as = tmp_path / "split.csv"
        pd.Series(placed, name="split").rename_axis("subject").to_csv(given_as)
    split = cohort.split(assignments=given_as)
    assert split.select(split="train").subjects == ["s001", "s003", "s005"]
    assert split.select(split="test").subjects == ["s000", "s002", "s004"]


def test_assignment_files_with_mistakes(tmp_path):
    cohort = Cohort("c", table(2))
    path = tmp_path / "split.csv"
    path.write_text("subject,fold\ns000,train\n")
    with pytest.raises(UserError, match="no column 'split'"):
        cohort.split(assignments=path)
    path.write_text("subject,split\ns000,train\ns000,test\ns001,test\n")
    with pytest.raises(UserError, match="s000 more than once"):
        cohort.split(assignments=path)
    path = tmp_path / "split.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match="found a list"):
        cohort.split(assignments=path)


def test_select():
    cohort = Cohort("c", table(10, visits=2), simulated=True, note="made")
    chosen = cohort.select(group="a", session=["1"], age=lambda years: years > 25)
    assert chosen.subjects == ["s006", "s008"]
    assert (chosen.simulated, chosen.note) == (True, "made")
    assert list(chosen.table.index) == [0, 1]
    with pytest.raises(UserError, match="no column 'grop'"):
        cohort.select(grop="a")
    with pytest.raises(UserError, match="none of its 20 scans has group='z'"):
        cohort.select(group="z")


def test_describe_counts_scans_subjects_and_sexes():
    cohort = Cohort("set", table(10, visits=2), simulated=True, note="two left out")
    lines = cohort.describe().splitlines()
    assert lines[0] == "cohort set (simulated)"
    cells = [cell.strip() for cell in lines[2].split("  ") if cell]
    assert cells == ["all", "20", "10", "20-29, mean 24.5", "5 F, 5 M, 0 ?"]
    assert lines[3].split()[:3] == ["a", "10", "5"]
    assert lines[-1] == "note: two left out"
    labels = [line.split("  ")[0] for line in cohort.split((0.6, 0.2, 0.2)).describe().splitlines()]
    assert labels[3:9:2] == ["train / a", "validation / a", "test / a"]


def test_unknown_ages_are_described_as_unknown():
    assert "?" in Cohort("c", table(2).assign(age=np.nan)).describe().splitlines()[2]


def test_csv_round_trip(tmp_path):
    rows = table(4, visits=2).assign(run="01", tr=[2.3, np.nan] * 4)
    rows["paths"] = [("a,b.nii", 'c"d.nii')] * 4 + [('simulated:{"seed": 1}',)] * 4
    rows["paths"] = [
        tuple(p if ":" in p else str(tmp_path / p) for p in row) for row in rows["paths"]
    ]
    cohort = Cohort("mine", rows).split((0.5, 0.25, 0.25))
    cohort.to_csv(tmp_path / "mine.csv")
    again = Cohort.from_csv(tmp_path / "mine.csv")
    assert again.name == "mine"
    pd.testing.assert_frame_equal(again.table, cohort.table)


def test_csv_by_hand_with_relative_paths(tmp_path):
    (tmp_path / "hand.csv").write_text("scan_id,subject,paths\n001,007,scans/a.nii\n")
    row = Cohort.from_csv(tmp_path / "hand.csv").table.iloc[0]
    assert (row["scan_id"], row["subject"]) == ("001", "007")
    assert row["paths"] == (str(tmp_path / "scans" / "a.nii"),)


def test_csv_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        Cohort.from_csv(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("scan_id,subject,paths\n1,2,[oops\n")
    with pytest.raises(UserError, match="neither a path nor a JSON list"):
        Cohort.from_csv(tmp_path / "bad.csv")


@settings(deadline=None)
@given(st.text(min_size=1))
def test_safe_ids_are_file_names(text):
    scan_id = safe_id(text)
    assert Cohort("c", [{"scan_id": scan_id, "subject": "s", "paths": ("a",)}]).table["scan_id"][0]


# --- joining ---


def joinable(name, subjects, **options):
    columns = {key: options.pop(key) for key in ("extra", "maker", "split") if key in options}
    rows = [
        {"scan_id": f"{subject}_T1w", "subject": subject, "paths": (f"/{subject}.nii",), **columns}
        for subject in subjects
    ]
    return Cohort(name, pd.DataFrame(rows), **options)


def test_joining_a_real_and_a_simulated_cohort():
    real = joinable("scans", ["01", "02"], extra=4, note="one left out")
    simulated = joinable("simulated", ["sim1"], split="train", maker="A", simulated=True)
    both = real.joined(simulated)
    assert both.name == "scans+simulated"
    assert not both.simulated
    assert both.note == "2 real scans of scans (one left out); 1 simulated scans of simulated"
    assert list(both.table["subject"]) == ["01", "02", "sim1"]
    np.testing.assert_array_equal(both.table["extra"], [4, 4, np.nan])
    assert list(both.table["maker"]) == ["", "", "A"]
    assert "split" not in both.table
    assert both.split((0.5, 0.0, 0.5)).table["split"].notna().all()
    assert simulated.joined(joinable("more", ["sim2"], simulated=True), name="all").simulated
    assert simulated.joined(real, name="all").name == "all"


def test_joining_keeps_a_split_that_both_have():
    first, second = joinable("a", "xy", split="train"), joinable("b", "z", split="test")
    assert list(first.joined(second).table["split"]) == ["train", "train", "test"]


def test_joining_refuses_a_subject_of_both():
    with pytest.raises(UserError, match="cohorts a and b: subjects y in both"):
        joinable("a", "xy").joined(joinable("b", "yz"))
    second = joinable("b", "z")
    second.table["scan_id"] = "x_T1w"
    with pytest.raises(UserError, match="scan ids x_T1w in both"):
        joinable("a", "xy").joined(second)
