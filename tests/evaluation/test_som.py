"""Measures of a map against NumPy, scikit-learn and maps known by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from brainvq.evaluation.som import (
    TissueOverlap,
    TopologyCounter,
    neighbour_correlation,
    topology_measures,
)

RNG = np.random.default_rng(0)
CHAIN = np.array([[-1, 1], [0, 2], [1, 3], [2, -1]])  # 0 – 1 – 2 – 3


def rectangle(height, width):
    """The table of 4 neighbours, node by node."""
    table = np.full((height * width, 4), -1)
    for row in range(height):
        for column in range(width):
            for side, (down, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
                r, c = row + down, column + right
                if 0 <= r < height and 0 <= c < width:
                    table[row * width + column, side] = r * width + c
    return table


class TestCorrelation:
    def test_by_hand(self):
        # r of (0, 1), (1, 2), (2, 3) is 1, −1 and 0.
        codebook = np.array([[0, 1, 2], [5, 6, 7], [2, 1, 0], [1, -2, 1]], float)
        correlation = neighbour_correlation(codebook, CHAIN)
        assert correlation["mean"] == pytest.approx(0, abs=1e-12)
        assert correlation["median"] == pytest.approx(0, abs=1e-12)
        assert correlation["min"] == pytest.approx(-1)
        assert correlation["share_above"] == pytest.approx(1 / 3)
        assert correlation["pairs"] == 3
        assert correlation["all_pairs"] == pytest.approx((1 - 1 + 0 - 1 + 0 + 0) / 6)

    def test_equals_numpy_on_a_grid_that_is_no_square(self):
        codebook = RNG.normal(size=(12, 5)) + 3
        table = rectangle(3, 4)
        r = np.corrcoef(codebook)
        pairs = [(i, j) for i in range(12) for j in table[i] if j > i]
        expected = [r[i, j] for i, j in pairs]
        correlation = neighbour_correlation(codebook, table)
        assert correlation["pairs"] == len(pairs) == 17
        assert correlation["mean"] == pytest.approx(np.mean(expected))
        assert correlation["min"] == pytest.approx(np.min(expected))
        assert correlation["all_pairs"] == pytest.approx(r[np.triu_indices(12, 1)].mean())

    def test_a_smooth_map_beats_the_same_nodes_shuffled(self):
        rows, columns = np.divmod(np.arange(48), 8)
        phase = np.linspace(0, np.pi, 20)
        codebook = np.sin(rows[:, None] / 6 * phase + columns[:, None] / 8)
        smooth = neighbour_correlation(codebook, rectangle(6, 8))
        shuffled = neighbour_correlation(codebook[RNG.permutation(48)], rectangle(6, 8))
        assert smooth["mean"] > shuffled["mean"] + 0.1
        assert smooth["all_pairs"] == pytest.approx(shuffled["all_pairs"])

    def test_nodes_without_variance_are_left_out(self):
        codebook = np.array([[0, 1, 2], [5, 6, 7], [0.1, 0.1, 0.1], [1, 2, 4]], float)
        correlation = neighbour_correlation(codebook, CHAIN)
        assert correlation["pairs"] == 1
        assert correlation["mean"] == pytest.approx(1)
        assert np.isnan(neighbour_correlation(np.ones((4, 3)), CHAIN)["mean"])


class TestTopology:
    def test_by_hand(self):
        codebook = np.array([[0.0], [1.0], [2.0], [3.0]])
        straight = topology_measures(np.array([[0.25], [2.75], [1.6]]), codebook, CHAIN)
        assert straight["topographic_error"] == 0
        assert straight["quantization_error"] == pytest.approx((0.25 + 0.25 + 0.4) / 3)
        assert straight["quantization_mse"] == pytest.approx((2 * 0.25**2 + 0.4**2) / 3)
        # Nodes 1 and 2 changed places: 0 and 2 touch now, and are no neighbours.
        folded = TopologyCounter(codebook[[0, 2, 1, 3]], CHAIN).add([[0.25], [1.6], [2.75], [0.4]])
        assert folded.measures()["topographic_error"] == 0.75
        assert folded.counts.tolist() == [2, 1, 0, 1]
        assert folded.measures()["nodes_used"] == 3

    def test_equals_scikit_learn(self):
        codebook, vectors = RNG.normal(size=(20, 6)), RNG.normal(size=(3, 7, 6, 6))
        table = rectangle(4, 5)
        search = NearestNeighbors(n_neighbors=2).fit(codebook)
        distances, nodes = search.kneighbors(vectors.reshape(-1, 6))
        errors = [second not in table[first] for first, second in nodes]
        measures = topology_measures(vectors, codebook, table)
        assert measures["topographic_error"] == pytest.approx(np.mean(errors))
        assert measures["quantization_error"] == pytest.approx(distances[:, 0].mean())
        assert measures["quantization_mse"] == pytest.approx(np.mean(distances[:, 0] ** 2) / 6)
        assert measures["vectors"] == 126

    def test_a_stream_equals_one_batch(self, monkeypatch):
        codebook, vectors = RNG.normal(size=(9, 4)), RNG.normal(size=(50, 4)).astype("float32")
        whole = topology_measures(vectors, codebook, rectangle(3, 3))
        monkeypatch.setattr("brainvq.evaluation.som._BLOCK", 7)
        counter = TopologyCounter(codebook, rectangle(3, 3))
        for batch in np.array_split(vectors, 4):
            counter.add(batch)
        assert counter.measures() == pytest.approx(whole)

    def test_equal_nodes_are_taken_in_order(self):
        # All nodes in one place: the first two are the nearest, and they are neighbours.
        measures = TopologyCounter(np.zeros((4, 2)), CHAIN).add(np.ones((5, 2)))
        assert measures.counts[0] + measures.counts[1:].sum() == 5
        assert measures.measures()["quantization_error"] == pytest.approx(np.sqrt(2))

    def test_nothing_counted(self):
        measures = TopologyCounter(np.eye(4), CHAIN).measures()
        assert np.isnan(measures["topographic_error"])
        assert measures["vectors"] == 0

    @pytest.mark.parametrize(
        ("vectors", "codebook", "table", "message"),
        [
            (np.ones((3, 2)), np.eye(4), CHAIN, r"vectors must be \(..., 4\)"),
            (np.full((3, 4), np.nan), np.eye(4), CHAIN, "must be finite"),
            (np.ones((3, 4)), np.eye(4), CHAIN[:3], r"Received: \(4, 4\) and \(3, 2\)"),
            (np.ones((3, 4)), np.eye(4), CHAIN + 1, "from -1 to 3"),
            (np.ones((3, 4)), np.eye(4), CHAIN + 0.5, "dtype float64"),
            (np.ones((3, 4)), np.eye(4)[:1], CHAIN[:1] * 0, "2 or more nodes"),
        ],
    )
    def test_bad_input(self, vectors, codebook, table, message):
        with pytest.raises(ValueError, match=message):
            topology_measures(vectors, codebook, table)


class TestTissue:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
    def test_equals_scikit_learn(self, seed, num_codes, num_labels):
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, num_codes, (2, 3, 4))
        labels = rng.integers(0, num_labels, (2, 3, 4))
        overlap = TissueOverlap(num_codes, num_labels).add(codes, labels).measures()
        bits = mutual_info_score(codes.ravel(), labels.ravel()) / np.log(2)
        assert overlap["bits"] == pytest.approx(bits, abs=1e-9)
        if np.ptp(codes) or np.ptp(labels):
            expected = normalized_mutual_info_score(codes.ravel(), labels.ravel())
            assert overlap["nmi"] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(overlap["nmi"])

    def test_codes_cover_blocks_of_voxels(self):
        codes = RNG.integers(0, 5, (2, 2, 3, 2))
        labels = RNG.integers(0, 3, (2, 4, 9, 2))
        voxels = np.kron(codes, np.ones((1, 2, 3, 1), int))
        overlap = TissueOverlap(5, 3)
        for i in range(2):
            overlap.add(codes[i : i + 1], labels[i : i + 1])
        expected = normalized_mutual_info_score(voxels.ravel(), labels.ravel())
        assert overlap.measures()["nmi"] == pytest.approx(expected)
        assert overlap.table.sum() == labels.size

    def test_without_background(self):
        # Codes know grey from white, and nothing of the rest.
        labels = np.array([[0, 0, 0, 0, 1, 1, 2, 2]])
        codes = np.array([[0, 1, 0, 1, 0, 0, 1, 1]])
        overlap = TissueOverlap(2, 3).add(codes, labels).measures(background=False)
        assert overlap["voxels"] == 4
        assert overlap["nmi"] == pytest.approx(1)
        assert overlap["explained"] == pytest.approx(1)
        assert overlap["bits"] == pytest.approx(1)
        assert TissueOverlap(2, 3).add(codes, labels).measures()["nmi"] < 0.5
        empty = TissueOverlap(2, 3).add(codes, labels * 0).measures(background=False)
        assert empty["voxels"] == 0

    @pytest.mark.parametrize(
        ("codes", "labels", "message"),
        [
            (np.zeros((1, 2), int), np.zeros((1, 3), int), "multiples"),
            (np.zeros((1, 2), int), np.zeros((2, 2), int), "multiples"),
            (np.zeros((1, 2)), np.zeros((1, 2), int), "codes must be integers"),
            (np.full((1, 2), 4), np.zeros((1, 2), int), r"codes must be in \[0, 4\)"),
            (np.zeros((1, 2), int), np.full((1, 2), -1), r"labels must be in \[0, 3\)"),
        ],
    )
    def test_bad_input(self, codes, labels, message):
        with pytest.raises(ValueError, match=message):
            TissueOverlap(4, 3).add(codes, labels)
