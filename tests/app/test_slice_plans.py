"""Plans of brains for the prior over slices: in training, for one scan, and for new brains."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainvq.models import PixelCNN
from brainvq.models.plan import GaussianPlan
from brainvq.studies import STUDIES
from brainvq.tasks.slices import plans

PEOPLE, SLICES, SIZE = 12, 14, 30


def brains(people, seed=0):
    """Ellipsoids with ventricles of a width of their own: `(people * SLICES, SIZE, SIZE, 1)`."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) / SIZE
    images = []
    for wide, dark in rng.normal((0.4, 0.085), (0.02, 0.02), (people, 2)):
        for z in np.linspace(-1, 1, SLICES):
            radius = wide * np.sqrt(max(1.1 - z**2, 0))
            image = 0.7 * (np.hypot(x, y) < radius)
            image[(np.abs(np.abs(x) - 0.1) < dark / 2) & (np.abs(y) < 0.15) & (abs(z) < 0.4)] = 0.2
            images.append(image)
    return np.array(images, "float32")[..., None]


class Run:
    """What is asked of a `LoadedRun`: two scans of the first person, one of each other."""

    def __init__(self, folder, people=PEOPLE, train=10):
        scans = np.repeat([f"s{i}" for i in range(people)], SLICES)
        subjects = np.where(scans == "s1", "s0", scans)
        index = np.tile(np.arange(SLICES), people)
        table = pd.DataFrame({"scan_id": scans, "subject": subjects, "index": index})
        table["position_mm"] = 9.0 * index
        self.images = brains(people)
        self.store = SimpleNamespace(
            table=table,
            read=lambda rows: self.images[rows],
            sample_shape=(SIZE, SIZE, 1),
            scans=pd.DataFrame({"affine": [np.diag([2.0, 3.0, 9.0, 1.0])]}),
        )
        # Stride 4: the 30 pixels are padded to 8 cells of 4.
        self.model = SimpleNamespace(code_shape=lambda shape: (8, 8), stride=(4, 4))
        numbers = np.arange(people * SLICES)
        self.rows = {"train": numbers[: train * SLICES], "test": numbers[train * SLICES :]}
        study = STUDIES["oasis2d"]["best"]
        self.study = dataclasses.replace(study, prior=dataclasses.replace(study.prior, plan_rank=6))
        self.prior, self.folder = None, folder

    def file(self, *parts):
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_plan_is_a_coarse_picture_of_the_slice(run):
    given = plans.plans(run, "train")
    assert given.shape == (10 * SLICES, 16, 16, 4)
    assert given.dtype == "float16"
    low = plans.padded(run.images, (4, 4)).reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    error = np.abs(np.asarray(given[..., 1], "float32") - low[: len(given)]).mean()
    assert error < 0.25 * low.std()
    np.testing.assert_allclose(given[:SLICES, 0, 0, 3], np.linspace(0, 1, SLICES), atol=1e-3)


def test_training_scans_are_planned_by_other_people(run):
    before = np.array(plans.plans(run, "train"))
    other = Run(run.folder / "other")
    # The first person's scans, both of them, are of an unheard-of brightness.
    other.images[: 2 * SLICES] *= 1.4
    after = plans.plans(other, "train")
    whole = plans.fit_plan(other)
    stack = plans._Stacks(other)("s0")[None]
    own = whole.context(np.repeat(whole.project(stack), SLICES, axis=0), np.linspace(0, 1, SLICES))
    bright = plans.padded(other.images[:SLICES], (4, 4)).reshape(-1, 16, 2, 16, 2).mean((2, 4))
    mistake = [np.abs(part[..., 1] - bright).mean() for part in (after[:SLICES], own)]
    assert mistake[0] > 2 * mistake[1]
    assert (
        np.abs(after[5 * SLICES :] - before[5 * SLICES :]).max() > 0
    )  # theirs know the brightness


def test_bits_of_plans_are_shared_by_the_slices(run):
    plans.plans(run, "test")
    table = pd.read_csv(run.file("codes", "plans-test.csv"))
    assert table["scan_id"].tolist() == ["s10", "s11"]
    assert plans.plan_bits(run, "test") == pytest.approx(table["bits"].sum() / (2 * SLICES))
    assert 1 < table["bits"].min() < table["bits"].max() < 200


def test_one_person_alone_has_a_plan_too(tmp_path):
    run = Run(tmp_path, people=2, train=2)  # two scans of one person
    run.rows["test"] = run.rows["train"][SLICES:]
    assert np.isfinite(plans.plans(run, "train")).all()
    assert plans.fit_plan(run).rank == 3


def make_prior(run, **options):
    plan = plans.fit_plan(run)
    return PixelCNN((8, 8), 16, filters=4, num_blocks=1, plan=plan, **options)


def test_a_scan_is_given_the_plan_of_its_own_brain(run):
    prior = make_prior(run)
    slices = run.images[:SLICES]
    black = np.zeros((2, SIZE, SIZE, 1), "float32")
    scan = np.concatenate([black, slices, black])  # a whole scan, with black slices around
    given = plans.conditions_of_scan(prior, scan, (4, 4))
    assert set(given) == {"plan"}
    wanted = prior.plan.context(
        np.repeat(prior.plan.project(plans._Stacks(run)("s0")[None]), SLICES, axis=0),
        np.linspace(0, 1, SLICES),
    )
    np.testing.assert_allclose(given["plan"][2:-2], wanted, atol=1e-4)
    assert plans.conditions_of_scan(None, scan, (4, 4)) == {}
    nothing = plans.conditions_of_scan(prior, np.zeros_like(scan), (4, 4))
    assert np.isfinite(nothing["plan"]).all()


def test_new_brains_are_spread_over_heights_or_at_one(run):
    prior = make_prior(run, num_classes=4)
    given = plans.drawn_conditions(prior, 9, seed=3)
    np.testing.assert_allclose(given["plan"][:, 0, 0, 3], np.linspace(0, 1, 9), atol=1e-6)
    np.testing.assert_array_equal(given["labels"], np.arange(9) * 4 // 9)
    at = plans.drawn_conditions(prior, 9, level=1.0, seed=3)
    np.testing.assert_array_equal(at["labels"], 3)
    np.testing.assert_array_equal(at["plan"][..., 3], 1.0)
    again = plans.drawn_conditions(prior, 9, seed=3)
    np.testing.assert_array_equal(again["plan"], given["plan"])
    other = plans.drawn_conditions(prior, 9)
    assert np.abs(other["plan"] - given["plan"]).max() > 0.01
    assert isinstance(prior.plan, GaussianPlan)


def test_slices_of_one_brain_become_a_volume_in_millimetres(run):
    prior = make_prior(run)
    given = plans.drawn_conditions(prior, 7, seed=0, brains=1)["plan"]
    whole = prior.plan(prior.plan.draw(1, (0, 1)))[0]
    np.testing.assert_allclose(given[[0, -1], ..., 1], np.asarray(whole)[[0, -1]], atol=1e-5)
    slices = np.zeros((7, 32, 32, 1), "float32")
    slices[6, 3, 5] = 1  # high up, in front, on the right of the person
    volume, affine = plans.drawn_volume(slices, prior.plan)
    assert volume.shape == (32, 32, 7)
    np.testing.assert_allclose(np.diag(affine), [-2, -3, 13 * 9 / 6, 1])
    where = affine @ [*np.argwhere(volume == 1)[0], 1]
    np.testing.assert_allclose(where[:3], [10.5 * 2, 12.5 * 3, 3 * 13 * 9 / 6])
