"""Drawn volumes in three planes, and volumes of tissue, on volumes that are known."""

import numpy as np
import pytest

from brainvq.evaluation import (
    compare_volume_anatomy,
    tissue_table,
    volume_anatomy_table,
    whole_table,
)
from brainvq.evaluation.volume_anatomy import (
    neighbour_slices,
    pair_similarity,
    slices_of,
    tissue_shares,
)

SHAPE = (24, 32, 20)


def ellipsoids(n, seed=0):
    """Brains of white matter in grey, with a ventricle of a width of its own."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(side) - (side - 1) / 2) / side for side in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    made = []
    for size, wide in zip(rng.normal(0.42, 0.01, n), rng.normal(0.08, 0.01, n), strict=True):
        radius = np.sqrt(x**2 + y**2 + z**2)
        volume = np.where(radius < size, 0.5, 0) + np.where(radius < 0.8 * size, 0.3, 0)
        volume[(np.abs(np.abs(x) - 0.08) < wide / 2) & (np.abs(y) < 0.15) & (np.abs(z) < 0.1)] = 0.2
        made.append(volume + 0.01 * rng.standard_normal(SHAPE) * (volume > 0))
    return np.array(made, "float32")


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_slices_are_those_of_the_plane_from_the_first_to_the_last_with_brain(plane, axis):
    volumes = ellipsoids(2)
    images, heights, numbers = slices_of(volumes, plane, count=3)
    rest = [side for place, side in enumerate(SHAPE) if place != axis]
    assert images.shape == (6, *rest[::-1])
    assert heights.tolist() == [0, 0.5, 1] * 2
    assert numbers.tolist() == [0, 0, 0, 1, 1, 1]
    cut = np.moveaxis(volumes[0], axis, 0)
    shown = np.flatnonzero((cut > 0.1).any(axis=(1, 2)))
    np.testing.assert_array_equal(images[0], cut[shown[0]].T)
    np.testing.assert_array_equal(images[2], cut[shown[-1]].T)


def test_shares_of_tissue_are_counts_of_voxels():
    volume = np.zeros((1, 10, 10, 10), "float32")
    volume[0, 1:9, 1:9, 1:9] = 0.8  # 512 voxels of brain
    volume[0, 1, 1:9, 1:9] = 0.5  # 64 of grey matter
    volume[0, 4:6, 4:6, 4:6] = 0.2  # 8 of fluid, deep within
    volume[0, 8, 8, 8] = 0.2  # and one at the surface
    shares, _ = tissue_shares(volume, (0.3, 0.6))
    expected = [0.512, 9 / 512, 64 / 512, (512 - 73) / 512, 8 / 512]
    np.testing.assert_allclose(shares[0], expected)


def test_brains_of_the_same_kind_pass_and_others_do_not():
    real, drawn, other = ellipsoids(6), ellipsoids(5, seed=1), ellipsoids(5, seed=2)
    other[:, :12] *= 0.6  # halves that do not match
    good, bad = (compare_volume_anatomy(x, real, people=range(6), count=9) for x in (drawn, other))
    assert good["drawn"] == 5
    assert good["people"] == 6
    for measured in (good["planes"]["axial"], good["planes"]["coronal"]):
        assert measured["draws"]["mirror"] > 0.98
    for plane in ("axial", "coronal"):
        assert bad["planes"][plane]["draws"]["mirror"] < good["planes"][plane]["draws"]["mirror"]
        assert bad["planes"][plane]["draws"]["c2st"] > good["planes"][plane]["draws"]["c2st"]
    assert good["tissue"]["white"]["in_range"] > bad["tissue"]["white"]["in_range"] == 0
    table = volume_anatomy_table(good)
    assert {"measure", "axial", "axial: real", "coronal", "sagittal"} <= set(table)
    assert (
        table.set_index("measure")
        .loc[table["measure"].str.startswith("left").to_numpy()]["sagittal"]
        .isna()
        .all()
    )
    whole = whole_table(good).set_index("measure")
    assert len(whole) == 4
    assert abs(whole["draws"] - whole["real"]).max() < 0.03
    assert tissue_table(good)["tissue"].tolist() == [
        "brain",
        "fluid",
        "grey",
        "white",
        "ventricles",
    ]


def test_alike_slices_and_alike_volumes_are_known():
    rng = np.random.default_rng(0)
    same = np.repeat(rng.uniform(0.2, 1, (1, 16, 16, 1)), 12, axis=3)  # every axial slice alike
    assert neighbour_slices(same, "axial") == pytest.approx(1)
    assert abs(neighbour_slices(same, "coronal")) < 0.3
    assert np.isnan(neighbour_slices(np.zeros((1, 4, 4, 4)), "axial"))
    people = ellipsoids(3)
    draws, real = pair_similarity(np.repeat(people[:1], 3, axis=0), people, [0, 1, 2])
    assert draws == pytest.approx(1)
    assert real < 0.999
    assert np.isnan(pair_similarity(people[:1], people, [0, 1, 2])).all()
