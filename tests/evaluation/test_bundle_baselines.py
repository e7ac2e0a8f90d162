"""Codecs of streamlines: cases known by hand, errors that fall with bits, sizes of files."""

import gc
import io

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.streamlines import Tractogram, TrkFile
from nibabel.streamlines.tck import TckFile

from brainvq.evaluation import bundle_baselines
from brainvq.evaluation.bundle_baselines import (
    HalfPrecision,
    PCAKMeans,
    ResidualKMeans,
    TransformCodec,
    _lloyd_max,
    rate_distortion,
    stored_bits,
)


def arcs(n, seed=0, points=16):
    """Streamlines of three tracts that differ in place and bend, float32 `(n, points, 3)`."""
    rng = np.random.default_rng(seed)
    t = np.linspace(-1, 1, points)
    which = rng.integers(0, 3, n)[:, None]
    bend, shift = rng.normal(0, 0.1, (2, n, 1))
    x = 0.5 * t + 0.1 * shift + 0 * which
    y = (0.2 * which + bend) * t**2 + shift
    z = 0.3 * which - 0.3 + 0.05 * bend * t
    return np.stack([x, y, z], axis=-1).astype("float32")


TRAIN, TEST = arcs(600), arcs(80, seed=1)
CODECS = {
    "residual": lambda n: ResidualKMeans(n, 16),
    "product": lambda n: PCAKMeans(n, 16, components=12),
    "transform": lambda n: TransformCodec(4 * n),
    "pieces": lambda n: TransformCodec(4 * n, clusters=4),
}


def error(codec, x=TEST):
    return float(np.mean((codec.reconstruct(x) - x) ** 2))


@pytest.mark.parametrize("name", CODECS)
class TestEveryCodec:
    def test_shapes(self, name):
        codec = CODECS[name](3).fit(TRAIN)
        assert codec.bits == 12
        codes = codec.encode(TEST)
        assert codes.dtype == "int32"
        assert len(codes) == 80
        assert codes.min() >= 0
        decoded = codec.decode(codes)
        assert decoded.shape == TEST.shape
        assert decoded.dtype == "float32"
        assert codec.encode(TEST[:0]).shape[0] == 0
        assert len({row.tobytes() for row in codes}) > 10

    def test_more_bits_less_error(self, name):
        errors = [error(CODECS[name](n).fit(TRAIN)) for n in (1, 2, 4)]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.1 * np.mean((TEST - TRAIN.mean(axis=0)) ** 2)

    def test_same_seed_same_codes(self, name):
        first, second = (CODECS[name](2).fit(TRAIN).encode(TEST) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_refused(self, name):
        with pytest.raises(ValueError, match=r"must be \(n, points, 3\)"):
            CODECS[name](2).fit(TRAIN[0])
        with pytest.raises(ValueError, match=r"must be \(n, 16, 3\), as in fit"):
            CODECS[name](2).fit(TRAIN).encode(TEST[:, :8])

    def test_streamlines_all_alike(self, name):
        same = TRAIN[:1].repeat(20, axis=0)
        np.testing.assert_allclose(CODECS[name](2).fit(same).reconstruct(same), same, atol=1e-5)


class TestResidual:
    def test_residual_error_falls_with_each_stage(self):
        codec = ResidualKMeans(4, 16).fit(TRAIN)
        codes = codec.encode(TRAIN)
        errors = [np.mean((codec.decode(codes[:, :n]) - TRAIN) ** 2) for n in (1, 2, 3, 4)]
        assert (np.diff(errors) < 0).all()

    def test_codes_are_nearest(self):
        codec = ResidualKMeans(2, 8).fit(TRAIN)
        codes, rest = codec.encode(TEST), TEST.reshape(80, -1)
        for stage, centres in enumerate(codec.centres_):
            apart = np.linalg.norm(rest[:, None] - centres, axis=-1)
            np.testing.assert_array_equal(codes[:, stage], apart.argmin(axis=1))
            rest = rest - centres[codes[:, stage]]

    def test_as_many_centres_as_streamlines(self):
        codec = ResidualKMeans(1, 64).fit(TRAIN[:20])
        assert len(codec.centres_[0]) == 20
        assert error(codec, TRAIN[:20]) < 1e-12

    def test_many_streamlines_in_batches(self, monkeypatch):
        whole = error(ResidualKMeans(2, 16).fit(TRAIN))
        monkeypatch.setattr(bundle_baselines, "LLOYD_LIMIT", 100)
        assert error(ResidualKMeans(2, 16).fit(TRAIN)) < 2 * whole


class TestProduct:
    def test_groups_are_balanced(self):
        codec = PCAKMeans(3, 16, components=12).fit(TRAIN)
        assert codec.groups_.shape == (3, 4)
        assert sorted(codec.groups_.ravel()) == list(range(12))
        np.testing.assert_array_equal(codec.groups_[:, 0], [0, 1, 2])

    def test_refused(self):
        with pytest.raises(ValueError, match="multiple of parts"):
            PCAKMeans(5, components=24)


class TestTransform:
    def test_bits_are_spent(self):
        for clusters, left in ((1, 14), (4, 12)):
            codec = TransformCodec(14, clusters).fit(TRAIN)
            codes = codec.encode(TEST)
            for i, piece in enumerate(codec.pieces_):
                assert piece.allocation.sum() == left
                own = codes[codes[:, 0] == i, 1:]
                assert (own[:, : len(piece.allocation)] < 2**piece.allocation).all()
                assert not own[:, len(piece.allocation) :].any()

    def test_wide_components_get_more(self):
        # Independent coordinates of spreads 8, 2 and 0.5: two bits more for each factor of four.
        x = np.random.default_rng(0).uniform(-1, 1, (4000, 1, 3)) * [8, 2, 0.5]
        codec = TransformCodec(9).fit(x)
        assert codec.pieces_[0].allocation.tolist() == [5, 3, 1]
        assert error(codec, x) == pytest.approx((8 / 32) ** 2 / 3, rel=0.05)

    def test_no_bits_is_the_mean(self):
        codec = TransformCodec(0).fit(TRAIN)
        np.testing.assert_allclose(codec.reconstruct(TEST)[0], TRAIN.mean(axis=0), atol=1e-6)

    def test_levels_by_hand(self):
        values = np.array([0.0, 0.1, 1.0, 1.1, 5.0, 5.2])
        table, left = _lloyd_max(values, 2)
        np.testing.assert_allclose(table, [0.55, 5.1])
        assert left == pytest.approx(np.sum((values - np.repeat(table, [4, 2])) ** 2) / 6)

    def test_levels_of_a_gaussian(self):
        # Max (1960), table I: four levels at ±0.4528 and ±1.510, error 0.1175.
        values = np.random.default_rng(0).normal(size=50_000)
        table, left = _lloyd_max(values, 4)
        np.testing.assert_allclose(table, [-1.510, -0.4528, 0.4528, 1.510], atol=0.03)
        assert left == pytest.approx(0.1175, rel=0.02)

    @settings(deadline=None, max_examples=15)
    @given(st.integers(0, 10**6), st.integers(1, 6))
    def test_more_levels_less_error(self, seed, bits):
        values = np.random.default_rng(seed).standard_t(3, 300)
        assert _lloyd_max(values, 2 ** (bits + 1))[1] < _lloyd_max(values, 2**bits)[1]

    def test_refused(self):
        for bits, clusters in ((36, 3), (2, 8)):
            with pytest.raises(ValueError, match="power of 2"):
                TransformCodec(bits, clusters)


def file_of(kind, n, points):
    """Bytes of a file of n streamlines."""
    tractogram = Tractogram(arcs(n, points=points), affine_to_rasmm=np.eye(4))
    buffer = io.BytesIO()
    kind(tractogram).save(buffer)
    return len(buffer.getvalue())


def test_file_sizes():
    table = stored_bits(50, 20).set_index("format")
    assert table.loc[".trk, float32", "file_bytes"] == file_of(TrkFile, 50, 20)
    # The text of the header has the count in it.
    assert table.loc[".tck, float32", "file_bytes"] == pytest.approx(
        file_of(TckFile, 50, 20), abs=16
    )
    assert stored_bits(10**6).set_index("format").loc[".trx, float16", "bits"] == pytest.approx(
        64 * 3 * 16 + 32, abs=0.01
    )


# trx-python leaves folders of its own to the garbage collector, which complains.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_file_size_of_trx(tmp_path):
    trx = pytest.importorskip("trx.trx_file_memmap")
    tractogram = Tractogram(arcs(50, points=20), affine_to_rasmm=np.eye(4))
    file = trx.TrxFile.from_tractogram(
        tractogram,
        reference=nib.Nifti1Image(np.zeros((2, 2, 2), "uint8"), np.eye(4)),
        dtype_dict={"positions": np.float16, "offsets": np.uint32},
    )
    trx.save(file, str(tmp_path / "a.trx"))
    file.close()
    del file
    gc.collect()
    size = (tmp_path / "a.trx").stat().st_size
    expected = stored_bits(50, 20).set_index("format").loc[".trx, float16", "file_bytes"]
    assert 0 < size - expected < 1000


def test_rates_and_distortions():
    originals, names = TEST.reshape(4, 20, 16, 3), ["MCP", "PYT_L"] * 2
    codecs = {f"{n} stages": ResidualKMeans(n, 16).fit(TRAIN) for n in (1, 3)}
    codecs["float16"] = HalfPrecision().fit(TRAIN)
    table = rate_distortion(codecs, originals, names, [20, 20, 20, 5]).set_index("codec")
    assert table["bits"].tolist() == [4, 12, 16 * 3 * 16]
    assert table["mse"].is_monotonic_decreasing
    assert table["buan"].is_monotonic_increasing
    assert table.loc["float16", "buan"] == 1
    assert 0 < table.loc["float16", "mse"] < 1e-7
