import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.training.stream import BatchStream


def values(stream):
    return np.concatenate([stream[number][0] for number in range(len(stream))])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.integers(0, 3))
def test_an_epoch_takes_each_sample_once_at_most(count, batch_size, shuffle, epoch):
    data = np.arange(100, 100 + count)
    stream = BatchStream(data, np.arange(count), batch_size, shuffle=shuffle, seed=1)
    stream.epoch = epoch
    drawn = values(stream)
    assert len(set(drawn.tolist())) == len(drawn)
    left_out = count % min(batch_size, count) if shuffle else 0
    assert len(drawn) == count - left_out
    if not shuffle:
        np.testing.assert_array_equal(drawn, data)


def test_order_depends_on_seed_and_epoch_alone():
    data = np.arange(64)
    first = BatchStream(data, data, 8, shuffle=True, seed=5)
    second = BatchStream(data, data, 8, shuffle=True, seed=5)
    second.epoch = 2
    ahead = values(second)
    for epoch in (0, 1, 2):
        first.epoch = epoch
        last = values(first)
    np.testing.assert_array_equal(last, ahead)
    first.epoch = 1
    assert not np.array_equal(values(first), ahead)
    other = BatchStream(data, data, 8, shuffle=True, seed=6)
    other.epoch = 2
    assert not np.array_equal(values(other), ahead)


def test_augmentation_is_the_same_when_a_batch_is_read_again():
    data = np.zeros((16, 2))
    stream = BatchStream(
        data, np.arange(16), 4, shuffle=True, augment=lambda x, rng: x + rng.normal(size=x.shape)
    )
    np.testing.assert_array_equal(stream[1][0], stream[1][0])
    assert not np.array_equal(stream[1][0], stream[2][0])


def test_labels_travel_with_their_samples():
    stream = BatchStream(
        np.arange(20), np.arange(5, 15), 4, shuffle=True, conditions={"labels": np.arange(10) * 10}
    )
    for number in range(len(stream)):
        (inputs,) = stream[number]
        np.testing.assert_array_equal(inputs["labels"], (inputs["codes"] - 5) * 10)


def test_reads_only_what_it_is_given():
    asked = []

    def read(rows):
        asked.extend(rows.tolist())
        return rows

    values(BatchStream(read, [3, 9, 11], 2, shuffle=False))
    assert asked == [3, 9, 11]


def test_no_samples():
    with pytest.raises(ValueError, match="Received: indices"):
        BatchStream(np.arange(3), [], 2)
