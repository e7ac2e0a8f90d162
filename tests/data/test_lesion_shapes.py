import json

import numpy as np
import pytest
from scipy import ndimage

from brainvq.cli import main
from brainvq.data import save_nifti
from brainvq.data.lesion_shapes import lesion_shapes, turned, volume
from brainvq.data.simulation import simulate, simulated_cohort
from brainvq.errors import UserError


def ball(radius, spacing, shape=(30, 30, 30), centre=(15, 15, 15)):
    at = np.stack(np.indices(shape), -1) - centre
    return (np.linalg.norm(at * spacing, axis=-1) <= radius).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A person with a ball and a slab, another one without lesions, and one voxel that is noise."""
    mask = ball(5, 1)
    mask[2:4, 2:22, 2:8] = 1
    mask[28, 28, 28] = 1
    save_nifti(tmp_path / "masks" / "sub-01_mask.nii.gz", mask, np.eye(4))
    save_nifti(tmp_path / "masks" / "sub-02_mask.nii.gz", np.zeros_like(mask), np.eye(4))
    return tmp_path / "masks"


def test_shapes_are_the_pieces_of_the_masks(folder):
    shapes, digest = lesion_shapes(str(folder))
    assert [volume(shape) for shape in shapes] == [2 * 20 * 6, ball(5, 1).sum()]
    assert all(shape.min() >= 0 and shape.max() <= 1 for shape in shapes)
    assert len(digest) == 16


@pytest.mark.parametrize("spacing", [(1, 1, 3), (2, 2, 2), (0.7, 0.9, 1.3)])
def test_shapes_have_their_size_in_millimetres(tmp_path, spacing):
    mask = ball(9, np.array(spacing))
    save_nifti(tmp_path / "mask.nii", 255 * mask, np.diag([-spacing[0], *spacing[1:], 1.0]))
    ((shape,), _) = lesion_shapes(str(tmp_path))
    assert volume(shape) == pytest.approx(mask.sum() * np.prod(spacing), rel=0.1)
    sides = np.ptp(np.argwhere(shape > 0.5), axis=0) + 1
    assert np.abs(sides - np.ptp(np.argwhere(mask), axis=0) * spacing - spacing).max() <= 1.5


def test_turned_shapes_are_the_same_but_for_their_place():
    shape = np.arange(24, dtype="float32").reshape(2, 3, 4)
    rng, found = np.random.default_rng(0), set()
    for _ in range(600):
        other = turned(shape, rng)
        assert sorted(other.shape) == [2, 3, 4]
        assert sorted(other.ravel()) == sorted(shape.ravel())
        found.add((other.shape, other.tobytes()))
    assert len(found) == 48


def test_patients_have_these_lesions_and_others_none(folder):
    cohort = simulated_cohort(
        2, "FLAIR", 3.0, {"healthy": 1, "MS": 1}, lesion_shapes=folder, scans={"MS": 2}
    )
    params = {
        row["group"]: json.loads(row["paths"][0].removeprefix("simulated:"))
        for row in cohort.table.to_dict("records")
    }
    assert "shapes" not in params["healthy"]
    scan = simulate(params["MS"])
    plain = simulate({k: v for k, v in params["MS"].items() if not k.startswith("shapes")})
    np.testing.assert_array_equal(scan.labels > 0, plain.labels > 0)
    numbered, count = ndimage.label(scan.lesion_mask)
    assert count > 3
    assert (scan.lesion_mask != plain.lesion_mask).any()
    earlier = simulate(params["MS"] | {"visit": 0})
    np.testing.assert_array_equal(scan.lesion_mask & earlier.lesion_mask, earlier.lesion_mask)
    # The slab of 2 by 6 by 20 mm.
    sides = np.array(
        [[3.0 * (s.stop - s.start) for s in box] for box in ndimage.find_objects(numbered)]
    )
    assert (sides.max(axis=1) >= 14).any()


def test_the_command_writes_them_without_the_place_of_the_masks(folder, tmp_path):
    out = tmp_path / "out"
    given = ["simulate", "--out", str(out), "--subjects", "1", "--spacing", "8", "--groups", "MS"]
    given += ["--workers", "1", "--lesion-shapes", str(folder)]
    for _ in range(2):  # the second time all is there
        main(given)
    (sidecar,) = out.glob("sub-*/anat/*.json")
    written = json.loads(sidecar.read_text())["SimulationParameters"]
    assert written["shapes_digest"] == lesion_shapes(str(folder))[1]
    assert str(folder) not in sidecar.read_text()
    with pytest.raises(UserError, match="shapes is missing"):
        simulate(written)
    with pytest.raises(UserError, match="other masks than when"):
        simulate(written | {"shapes": str(folder), "shapes_digest": "0" * 16})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (np.arange(27.0).reshape(3, 3, 3), "27 values from 0 to 26; expected a mask"),
        (1 + np.eye(3, dtype="uint8")[None].repeat(3, 0), "2 values from 1 to 2; expected a mask"),
        (np.pad(np.ones((2, 1, 1), "uint8"), 3), "no lesion of 15 mm³ or more in 1 masks"),
        (np.zeros((3, 3, 3), "uint8"), "no lesion of 15 mm³"),
        (None, "holds no .nii"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, content, match):
    if content is not None:
        save_nifti(tmp_path / "a.nii", content, np.eye(4))
    with pytest.raises(UserError, match=match):
        simulated_cohort(1, groups={"MS": 1}, lesion_shapes=tmp_path)


def test_shapes_are_refused_where_nobody_has_them(folder, tmp_path):
    with pytest.raises(UserError, match="expected MS among them"):
        simulated_cohort(1, groups={"leuko1": 1}, lesion_shapes=folder)
    with pytest.raises(UserError, match="nowhere"):
        simulated_cohort(1, groups={"MS": 1}, lesion_shapes=tmp_path / "nowhere")
