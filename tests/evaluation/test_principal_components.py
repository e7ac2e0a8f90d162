import numpy as np
import pytest

from brainvq.evaluation import PrincipalComponents

RNG = np.random.default_rng(0)
GRID = (4, 5, 3, 1)


def volumes(n, rank=3):
    """Volumes in [0, 1] that differ in `rank` directions."""
    directions = RNG.normal(size=(rank, *GRID))
    changes = np.tensordot(RNG.normal(size=(n, rank)), directions, 1)
    return (0.5 + 0.3 * changes / np.abs(changes).max()).astype("float32")


def test_as_many_components_as_directions_lose_nothing():
    x = volumes(20)
    baseline = PrincipalComponents(3).fit(x)
    restored = baseline.reconstruct(x)
    assert restored.dtype == "float32"
    np.testing.assert_allclose(restored, x, atol=1e-5)
    assert np.abs(PrincipalComponents(1).fit(x).reconstruct(x) - x).max() > 0.01


def test_vectors_are_standardised_scores():
    x = volumes(20)
    baseline = PrincipalComponents(3).fit(x)
    z = baseline.encode(x)
    assert z.shape == (20, 3)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(z, rowvar=False), np.eye(3), atol=1e-3)
    singular = np.linalg.svd((x - x.mean(axis=0)).reshape(20, -1), compute_uv=False)
    np.testing.assert_allclose(baseline.deviations, singular[:3] / np.sqrt(19), rtol=1e-4)


def test_a_component_volume_is_the_change_by_one_deviation():
    x = volumes(20)
    baseline = PrincipalComponents(3).fit(x)
    assert baseline.component_volumes.shape == (3, *GRID)
    mean, moved = baseline.decode(np.zeros((1, 3))), baseline.decode(0.1 * np.eye(3))
    np.testing.assert_allclose(moved - mean, 0.1 * baseline.component_volumes, atol=1e-5)


def test_samples_are_volumes_of_normal_vectors():
    baseline = PrincipalComponents(8).fit(volumes(6))  # 5 components of 6 volumes
    drawn = baseline.sample(4, seed=2)
    z = np.random.default_rng(2).standard_normal((4, 5))
    np.testing.assert_array_equal(drawn, baseline.decode(z))
    assert drawn.shape == (4, *GRID)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert not np.array_equal(drawn, baseline.sample(4))
    with pytest.raises(ValueError):
        baseline.encode(np.zeros((1, 2, 2, 2, 1)))
