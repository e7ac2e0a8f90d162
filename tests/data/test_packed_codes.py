import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.data import pack_codes, unpack_codes
from brainvq.data.packed_codes import HEADER
from brainvq.errors import UserError

SHARES = st.sampled_from([16, 300, 30000, 65000, 65520])


@st.composite
def coded(draw):
    zero = draw(st.lists(st.one_of(SHARES, st.just(65536)), max_size=80))
    more = [draw(SHARES) for _ in zero]
    values = [0 if at == 65536 else draw(st.integers(-9, 9)) for at in zero]
    return np.array(values, int), np.array(zero, int), np.array(more, int)


@settings(max_examples=60, deadline=None)
@given(coded())
def test_what_is_packed_comes_back(case):
    values, zero, more = case
    content = pack_codes(values, zero, more)
    np.testing.assert_array_equal(unpack_codes(content, zero, more, 9), values)


def drawn(n=20000):
    rng = np.random.default_rng(0)
    zero, more = rng.integers(20000, 65520, n), rng.integers(2000, 40000, n)
    value = (rng.random(n) > zero / 65536) * (rng.geometric(1 - more / 65536))
    return value * rng.choice([-1, 1], n), zero, more


def test_a_file_is_as_large_as_the_codes_are_improbable():
    value, zero, more = drawn()
    at, on = zero / 65536, more / 65536
    size = np.abs(value)
    larger = 1 - np.log2(1 - at) - np.log2(1 - on) - (size - 1) * np.log2(on)
    bits = np.where(size == 0, -np.log2(at), larger).sum()
    content = pack_codes(value, zero, more)
    assert bits < 8 * (len(content) - HEADER) + 8
    assert 8 * len(content) < 1.0002 * bits + 80


def test_spoilt_files_and_those_of_other_models_are_refused():
    value, zero, more = drawn(2000)
    content = pack_codes(value, zero, more)
    with pytest.raises(UserError, match="x.bvq: found no packed codes"):
        unpack_codes(b"PK" + content, zero, more, 99, "x.bvq")
    with pytest.raises(UserError, match="expected those of this one"):
        unpack_codes(content, zero[::-1], more, 99)
    with pytest.raises(UserError, match="bytes; expected as many|is spoilt"):
        unpack_codes(content + b"trailing", zero, more, 99)
    with pytest.raises(ValueError, match="must hold 0"):
        pack_codes(np.ones(2), np.array([65536, 9]), np.array([9, 9]))
