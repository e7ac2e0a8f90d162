"""Which files of a BIDS folder are taken: entities as people write them, spaces, .bidsignore."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainvq.data.selection import (
    Ignored,
    entities_from,
    entities_of,
    has_entities,
    in_one_space,
)
from brainvq.errors import UserError

LABELS = st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True)


@given(wanted=st.dictionaries(st.sampled_from(["ses", "run", "space", "acq", "desc"]), LABELS))
def test_entities_are_read_as_they_are_written(wanted):
    text = ",".join(f"{key}={label}" for key, label in wanted.items())
    assert entities_from(text) == wanted
    name = "_".join(["sub-01", *(f"{key}-{label}" for key, label in wanted.items()), "T1w.nii"])
    assert entities_of(name) == {"sub": "01"} | wanted
    assert has_entities(name, wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("session=1 run=run-2", {"ses": "1", "run": "2"}),
        ("acq-x_run-1", {"acq": "x", "run": "1"}),
        ("space=, res=2", {"space": "", "res": "2"}),
    ],
)
def test_other_ways_to_write_entities(text, wanted):
    assert entities_from(text) == wanted


@pytest.mark.parametrize("text", ["first", "run", "=1", "run=1,run=2", "a=b=c", "run=1_x"])
def test_what_is_no_entity(text):
    with pytest.raises(UserError, match="^--data.entities: found .*expected names and labels"):
        entities_from(text, "--data.entities")


def test_numbers_compare_as_numbers_and_a_blank_label_is_none():
    assert has_entities("sub-01_run-01_T1w.nii", {"run": 1, "sub": "1"})
    assert has_entities("sub-01_T1w.nii", {"space": ""})
    assert not has_entities("sub-01_space-x_T1w.nii", {"space": ""})
    assert not has_entities("sub-01_T1w.nii", {"run": "1"})


def kept(*names):
    return [path.name for path in in_one_space([Path("ds", name) for name in names])]


def test_one_space_of_several():
    native, mni, fine = (
        "sub-1_T1w.nii",
        "sub-1_space-M_desc-x_T1w.nii",
        "sub-1_space-M_res-1_T1w.nii",
    )
    assert kept(native, mni, fine) == [native]
    assert kept(mni, fine, "sub-2_space-M_res-1_T1w.nii") == [fine, "sub-2_space-M_res-1_T1w.nii"]
    others = [
        "sub-1_run-2_space-M_T1w.nii",
        "sub-1_space-M_FLAIR.nii",
        "sub-1_ses-2_space-M_T1w.nii",
    ]
    assert kept(native, *others) == [native, *others]
    assert kept("x_space-M.nii", "x.nii") == ["x_space-M.nii", "x.nii"]


IGNORE = """
# a remark
*.html
logs/
/extra_data
sub-0[23]/
!sub-03/keep*
**/figures/*.nii
deep/**/end.nii
a/*/c.nii
sub-1?_T1w.nii
"""


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("page.html", True),
        ("sub-01/page.html", True),
        ("sub-01/logs/x.nii", True),
        ("logs", False),
        ("extra_data/x.nii", True),
        ("sub-01/extra_data/x.nii", False),
        ("sub-02/anat/x.nii", True),
        ("sub-04/anat/x.nii", False),
        ("sub-03/x.nii", True),
        ("sub-03/keep.nii", False),
        ("a/b/figures/x.nii", True),
        ("figures/x.nii", True),
        ("figures/more/x.nii", False),
        ("deep/end.nii", True),
        ("deep/a/b/end.nii", True),
        ("a/b/c.nii", True),
        ("a/b/b/c.nii", False),
        ("x/sub-11_T1w.nii", True),
        ("x/sub-111_T1w.nii", False),
    ],
)
def test_patterns_of_bidsignore(tmp_path, name, out):
    (tmp_path / ".bidsignore").write_text(IGNORE)
    assert Ignored(tmp_path)(tmp_path / name) is out
    # A folder in the data set knows it too.
    (tmp_path / "dataset_description.json").write_text("{}")
    folder = (tmp_path / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    assert Ignored(folder)(tmp_path / name) is out


@given(pattern=st.text("*/!?[]-^ab\\.# ", max_size=12), name=st.text("ab/.", min_size=1))
def test_any_pattern_is_one(tmp_path_factory, pattern, name):
    folder = tmp_path_factory.getbasetemp()
    (folder / ".bidsignore").write_text(pattern)
    assert Ignored(folder)(folder / name) in (True, False)
