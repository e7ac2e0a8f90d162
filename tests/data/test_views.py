"""Stores seen in another way: in units, and as arrays."""

import numpy as np
import pytest

from brainvq.data import ArrayStore, StoredVolumes, UnitStore, scale_of, simulated_bundles
from brainvq.data.bundles import prepare_bundles


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    cohort = simulated_bundles(1, bundles=("PYT_L", "MCP"), low=20, high=40)
    folder = tmp_path_factory.mktemp("store")
    return prepare_bundles(cohort, folder, points=8, size=8, workers=1, progress=False)


def test_a_store_in_units_is_the_store_in_another_scale(store):
    scale = scale_of(store)
    units = UnitStore(store, scale)
    assert isinstance(units, ArrayStore)
    assert (len(units), units.path, units.layout) == (len(store), store.path, "bundles")
    assert units.table is store.table
    assert units.indices(["sim0001"]).tolist() == list(range(len(store)))
    samples = units.read(slice(None))
    assert samples.dtype == np.float32
    assert np.abs(samples).max() == pytest.approx(1)
    np.testing.assert_array_equal(samples, scale.to_unit(store.read(slice(None))))
    assert units.read([]).shape == (0, 8, 8, 3)


def test_stored_samples_are_read_as_from_an_array(store):
    rows = np.array([3, 0, 2])
    volumes, samples = StoredVolumes(store, rows), store.read(rows)
    assert len(volumes) == 3
    assert volumes.shape == samples.shape
    np.testing.assert_array_equal(volumes[:2], samples[:2])
    np.testing.assert_array_equal(volumes[[2, 2]], samples[[2, 2]])
    np.testing.assert_array_equal(volumes[1], samples[1])
