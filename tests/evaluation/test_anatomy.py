"""Drawn slices: real ones pass, shuffled halves, blurred brains, noise, copies do not."""

import numpy as np
import pytest
from scipy import ndimage

from brainvq.data.simulation_scan import simulate
from brainvq.evaluation import anatomy
from brainvq.evaluation.anatomy import MEASURES, anatomy_table, compare_anatomy, lineup

PEOPLE, DRAWN, TRAINED, LEVELS = 12, 4, 3, 14


def person(number):
    """Axial slices of a simulated brain, 3 mm, rows from anterior to posterior."""
    image = simulate({"seed": 5, "number": number, "spacing": 3.0}).image
    slices = np.transpose(image[::-1, ::-1], (2, 1, 0))
    filled = np.flatnonzero(slices.any((1, 2)))
    heights = np.linspace(0.16, 0.89, LEVELS)
    rows = np.round(filled[0] + heights * (filled[-1] - filled[0])).astype(int)
    return slices[rows] / np.percentile(image[image > 0], 99)


@pytest.fixture(scope="module")
def cohort():
    """Slices `(n, rows, columns)` in [0, 1], heights and people; unlike the grid in size."""
    count = PEOPLE + DRAWN + TRAINED
    slices = np.clip(np.concatenate([person(number) for number in range(count)]), 0, 1)
    heights = np.tile(np.linspace(0.16, 0.89, LEVELS), count)
    return slices, heights, np.repeat(np.arange(count), LEVELS)


@pytest.fixture(scope="module")
def measure(cohort):
    """Measures slices of other people, changed by a function, against those of twelve."""
    slices, heights, people = cohort
    real = people < PEOPLE
    drawn = (people >= PEOPLE) & (people < PEOPLE + DRAWN)

    def run(change=lambda x: x, train=None):
        known = {"heights": heights[real], "people": people[real], "train": train}
        return compare_anatomy(
            change(slices[drawn]), slices[real], draw_heights=heights[drawn], **known
        )

    return run


@pytest.fixture(scope="module")
def usual(cohort, measure):
    """Measures of slices as they are."""
    slices, _, people = cohort
    return measure(train=slices[people >= PEOPLE + DRAWN])


def test_real_brains_pass_and_shuffled_halves_fail(usual):
    found = usual
    assert found["left_out"] == {}
    assert (found["people"], found["slices"], found["drawn"]) == (
        PEOPLE,
        PEOPLE * LEVELS,
        DRAWN * LEVELS,
    )
    for column in ("draws", "control"):
        real = found[column]
        assert list(real) == list(MEASURES)
        assert real["near_in_range"] > 0.75
        assert real["mirror_in_range"] > 0.7
        assert real["mirror_w1"] < 1
        assert real["ventricles"] > 0.8
        assert real["c2st"] < 0.78
        assert real["precision"] > 0.7
    # Simulated brains are warped from one symmetric template: their halves match better than ours.
    control, shuffled = found["control"], found["shuffled_halves"]
    assert shuffled["mirror"] < control["mirror"] - 0.03
    assert shuffled["mirror_w1"] > control["mirror_w1"]
    assert control["recall"] > 0.6
    assert shuffled["near"] < control["near"]
    assert shuffled["c2st"] > control["c2st"] + 0.1
    assert shuffled["precision"] < control["precision"] - 0.1
    table = anatomy_table(found)
    assert list(table.columns) == ["measure", "draws", "real against real", "shuffled halves"]
    assert len(table) == len(MEASURES)


def test_blurred_brains_fail_where_detail_is_looked_at(measure):
    blurred = measure(lambda x: ndimage.gaussian_filter(x, (0, 2, 2)))["draws"]
    assert blurred["c2st"] > 0.95
    assert blurred["ventricles"] < 0.5


def test_noise_fails_everywhere(measure):
    rng = np.random.default_rng(0)
    noise = measure(lambda x: rng.random(x.shape) * (x > 0))["draws"]
    assert noise["near_in_range"] == 0
    assert noise["precision"] == 0
    assert noise["c2st"] > 0.99


def test_one_brain_over_and_over_is_near_but_not_diverse(measure, usual, cohort):
    one = measure(lambda x: np.tile(x[:LEVELS], (DRAWN, 1, 1)))["draws"]
    assert one["recall"] < usual["draws"]["recall"] / 2 < usual["control"]["recall"] / 2


def test_moved_and_scaled_copies_of_training_are_found(measure, usual, cohort):
    slices, _, people = cohort
    train = slices[people >= PEOPLE]

    def moved(drawn):
        scaled = np.stack([ndimage.zoom(image, 1.05, order=1) for image in drawn])
        return np.roll(scaled[:, 1 : 1 + slices.shape[1], : slices.shape[2]], 2, axis=1)

    assert measure(moved, train=train)["draws"]["copies"] > 0.9
    assert usual["draws"]["copies"] < 0.3
    assert "copies" in measure()["left_out"]


@pytest.mark.parametrize(
    ("count", "missing"),
    [(1, {"near", "c2st", "precision", "control"}), (3, {"precision", "control"}), (4, set())],
)
def test_few_people(cohort, count, missing):
    slices, heights, people = cohort
    few = people < count
    slices = np.repeat(slices, 3, axis=0)  # as many as it takes at mid level
    heights, people, few = (np.repeat(part, 3) for part in (heights, people, few))
    found = compare_anatomy(
        slices[~few][:, :-1, :-2, None], slices[few], heights=heights[few], people=people[few],
        draw_heights=heights[~few],
    )  # fmt: skip
    assert missing <= set(found["left_out"])
    assert ("control" in found) == (count >= 4)
    for column in ("draws", "control"):
        assert all(np.isfinite(value) for value in found.get(column, {}).values())
    assert found["draws"]["mirror"] > 0.5
    assert len(anatomy_table(found)) == len(MEASURES)


def test_hardly_any_draws_and_empty_ones_are_left_out(cohort):
    slices, heights, people = (part[: 6 * LEVELS] for part in cohort)
    known = {"heights": heights, "people": people}
    few = compare_anatomy(slices[:3], slices, **known)
    assert few["draws"] == {}
    assert "it needs 8" in few["left_out"]["mirror"]
    black = compare_anatomy(np.zeros((60, 31, 17)), slices, **known)
    assert "too small" in black["left_out"]["dark"]
    assert black["draws"]["near_in_range"] == 0
    assert black["draws"]["precision"] == 0


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="5 slices, 4 heights"):
        compare_anatomy(np.zeros((3, 8, 8)), np.zeros((5, 8, 8)), heights=[0] * 4, people=[0] * 5)


def test_known_shapes():
    """A disc with two dark discs of known area, whose halves are each other's mirror image."""
    y, x = np.mgrid[:128, :128]

    def disc(row, column, radius):
        return (y - row) ** 2 + (x - column) ** 2 <= radius**2

    image = disc(64, 60, 40) * 0.8
    image[disc(64, 50, 6) | disc(64, 70, 6)] = 0.2
    lopsided = disc(64, 60, 40) * 0.8
    lopsided[disc(64, 50, 6)] = 0.2
    shares = anatomy.dark_share(np.float32([image, lopsided, np.zeros((128, 128))]))
    assert shares[0] == pytest.approx(2 * 36 / 1600, rel=0.1)
    assert shares[1] == pytest.approx(36 / 1600, rel=0.1)
    assert np.isnan(shares[2])
    alike = anatomy.mirror_correlation(np.float32([image, lopsided]))
    assert alike[0] == pytest.approx(1, abs=1e-6)
    assert alike[1] < 0.95
    moved = np.roll(image, (9, -7), (0, 1))
    both = anatomy.inner_brain(np.float32([image, moved]))
    assert both[0] @ both[1] == pytest.approx(1, abs=1e-4)


def test_halves_are_joined_at_the_middle():
    """Two people of one grey each: left and right of the centre column are of different people."""
    images = np.zeros((4, 128, 128), "float32")
    images[:2, 30:91, 40:81] = 0.4
    images[2:, 36:97, 44:85] = 0.8
    slices = anatomy.Slices(images, np.array([0.4, 0.6, 0.4, 0.6]), np.array(["a", "a", "b", "b"]))
    halves = anatomy.shuffled_halves(slices).images
    assert np.array_equal(halves[0][:, :61], images[0][:, :61])
    assert np.all(halves[0][30:91, 61:81] == np.float32(0.8))
    assert np.all(halves[0][:, 81:] == 0)
    assert np.all(halves[2][36:97, 44:65] == np.float32(0.8))
    assert np.all(halves[2][36:97, 65:85] == np.float32(0.4))


def test_a_lineup_has_as_many_of_both_over_all_heights(cohort):
    slices, heights, people = cohort
    draws = slices[:40] * 0.5
    known = {"heights": heights, "people": people, "count": 10}
    pictures, drawn = lineup(draws, slices[..., None], **known, seed=3)
    assert pictures.shape == (20, *slices.shape[1:])
    assert drawn.sum() == 10
    assert 0 < drawn[:10].sum() < 10
    assert len(np.unique(pictures.reshape(20, -1), axis=0)) == 20
    for picture, was_drawn in zip(pictures, drawn, strict=True):
        source = draws if was_drawn else slices
        assert (source == picture).all((1, 2)).any()
    again = lineup(draws, slices, **known, seed=3)
    assert np.array_equal(again[1], drawn)
    assert len(lineup(draws[:2], slices, **known)[0]) == 4
