"""Stores seen in another way: in other units, or as an array."""

import numpy as np

from brainvq.data.store import ArrayStore


class UnitStore(ArrayStore):
    """A store of bundles whose samples are read in [-1, 1]; all else is as in the store.

    Args:
        store: `ArrayStore` of layout "bundles".
        scale: `BundleScale`.
    """

    def __init__(self, store, scale):
        vars(self).update(vars(store))
        self.scale = scale

    def read(self, indices):
        """Samples `(n, streamlines, points, 3)`, float32; see `ArrayStore.read`."""
        return self.scale.to_unit(super().read(indices))


class StoredVolumes:
    """Samples of a store as an array that reads what is asked for, when it is asked for.

    Args:
        store: `ArrayStore`.
        rows: int array `(n,)`, numbers of the samples.

    Attributes:
        shape: `(n, *sample_shape)`.
    """

    def __init__(self, store, rows):
        self.store, self.rows = store, rows
        self.shape = (len(rows), *store.sample_shape)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, places):
        """Samples float32 `(m, *sample_shape)`; one sample without the first axis for an int."""
        rows = self.rows[places]
        samples = self.store.read(np.atleast_1d(rows))
        return samples if np.ndim(rows) else samples[0]
