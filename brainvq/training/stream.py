"""Batches streamed from arrays on disk: memory does not grow with the cohort."""

import keras
import numpy as np


class BatchStream(keras.utils.PyDataset):
    """Batches of samples in an order that depends on the seed and the epoch alone.

    A killed run that goes on at epoch e sees the batches that the undisturbed run would have seen:
    order and augmentation are drawn from (seed, epoch, batch), not from a state that runs on.
    Works as the input of `fit`, `predict` and `evaluate` on TensorFlow and JAX.

    Args:
        read: function of an integer array of sample numbers that returns a float32 array
            `(len, *sample_shape)`, such as `ArrayStore.read`, or an array that is indexed.
        indices: sequence of int, the samples to use.
        batch_size: int, samples in a batch.
        shuffle: bool. If True the order is new in each epoch and the last, smaller batch is left
            out (its samples come in other epochs), so that every step has one shape.
        seed: int, seed of the order and the augmentation.
        augment: function `(batch, rng) -> batch`, or None.
        conditions: dict of arrays with a row for each sample in `indices`, such as `labels`: what
            a prior is given beside codes. With them a batch is `{"codes": batch, **conditions}`.
    """

    def __init__(
        self, read, indices, batch_size, *, shuffle=False, seed=0, augment=None, conditions=None
    ):
        super().__init__()
        self.read = read if callable(read) else lambda rows: np.asarray(read[rows])
        self.indices = np.asarray(indices, dtype=np.int64)
        if len(self.indices) == 0:
            raise ValueError("A stream needs at least one sample. Received: indices=[]")
        self.batch_size = min(batch_size, len(self.indices))
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
        self.conditions = conditions or {}
        self.epoch = 0
        self._order = (None, None)

    def __len__(self):
        full, rest = divmod(len(self.indices), self.batch_size)
        return full if self.shuffle else full + bool(rest)

    def rows(self, batch):
        """Places in `indices` of the samples of a batch, for the epoch that is set."""
        return self._places()[batch * self.batch_size : (batch + 1) * self.batch_size]

    def __getitem__(self, batch):
        rows = self.rows(batch)
        # Sorted reads touch each file on disk once; the order inside a batch means nothing.
        rows = np.sort(rows) if self.shuffle else rows
        samples = self.read(self.indices[rows])
        if self.augment is not None:
            samples = self.augment(samples, np.random.default_rng((self.seed, self.epoch, batch)))
        return batch_of(samples, self.conditions_at(rows))

    def conditions_at(self, rows):
        """The conditions of some samples, by their places in `indices`: dict of arrays."""
        return {name: array[rows] for name, array in self.conditions.items()}

    def _places(self):
        epoch, order = self._order
        if epoch != self.epoch:
            order = np.arange(len(self.indices))
            if self.shuffle:
                order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
            self._order = (self.epoch, order)
        return order


def batch_of(samples, conditions):
    """Samples as `fit` takes them, with their conditions where there are some."""
    return ({"codes": samples, **conditions} if conditions else samples,)
