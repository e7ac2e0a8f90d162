"""Code usage and the neighbour model against sources whose entropy is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.evaluation.codes import (
    CodeCounter,
    NeighbourModel,
    code_locations,
    code_usage,
    codes_per_map,
    marginal_bits,
)


def markov_maps(n, grid, transition, seed):
    """Maps whose rows are independent runs of one Markov chain, started from code 0."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(transition, axis=1)
    codes = np.zeros((n, *grid), "int64")
    for j in range(1, grid[-1]):
        draws = rng.random(codes.shape[:-1])
        codes[..., j] = (draws[..., None] > cumulative[codes[..., j - 1]]).sum(-1)
    return codes


def row_entropy(transition):
    return -np.sum(transition * np.log2(transition), axis=1)


class TestUsage:
    def test_by_hand(self):
        usage = code_usage(np.array([[0, 0], [1, 3]]), 4)
        assert usage["counts"].tolist() == [2, 1, 0, 1]
        assert usage["used"] == 3
        assert usage["fraction"] == 0.75
        assert usage["entropy_bits"] == pytest.approx(1.5)
        assert usage["perplexity"] == pytest.approx(2**1.5)
        assert usage["total"] == 4

    def test_uniform_and_single(self):
        assert code_usage(np.arange(16), 16)["perplexity"] == pytest.approx(16)
        assert code_usage(np.zeros(9, int), 16)["entropy_bits"] == 0

    def test_stream_equals_one_batch(self):
        codes = np.random.default_rng(0).integers(0, 50, (10, 4, 4))
        counter = CodeCounter(50)
        for batch in np.array_split(codes, 3):
            counter.add(batch)
        whole = code_usage(codes, 50)
        np.testing.assert_array_equal(counter.counts, whole["counts"])
        assert counter.usage()["perplexity"] == whole["perplexity"]

    def test_nothing_counted(self):
        usage = CodeCounter(4).usage()
        assert (usage["used"], usage["total"]) == (0, 0)
        assert np.isnan(usage["perplexity"])

    @pytest.mark.parametrize("codes", [[4], [-1], [0.5]])
    def test_bad_codes(self, codes):
        with pytest.raises(ValueError, match="codes must be"):
            code_usage(np.array(codes), 4)


class TestPlaces:
    def test_locations_by_hand(self):
        codes = np.array([[[0, 1], [2, 2]], [[0, 0], [2, 1]], [[0, 1], [2, 0]]], "int16")
        locations = code_locations(codes, 4)
        expected = [
            [[3, 1], [0, 1]],
            [[0, 2], [0, 1]],
            [[0, 0], [3, 1]],
            [[0, 0], [0, 0]],
        ]
        np.testing.assert_array_equal(locations, expected)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 2**31), st.sampled_from([(5,), (3, 4), (2, 3, 4)]))
    def test_locations_are_counts_by_code_and_by_place(self, seed, grid):
        codes = np.random.default_rng(seed).integers(0, 6, (7, *grid))
        locations = code_locations(codes, 8)
        np.testing.assert_array_equal(locations.sum(axis=0), np.full(grid, 7))
        counts = code_usage(codes, 8)["counts"]
        np.testing.assert_array_equal(locations.reshape(8, -1).sum(axis=1), counts)

    def test_codes_per_map(self):
        codes = np.array([[[0, 1], [1, 1]], [[3, 3], [3, 3]], [[4, 3], [2, 0]]])
        np.testing.assert_array_equal(codes_per_map(codes), [2, 1, 4])

    def test_bad_codes(self):
        with pytest.raises(ValueError, match=r"codes must be in \[0, 3\)"):
            code_locations(np.array([[1, 3]]), 3)


class TestMarginal:
    def test_by_hand(self):
        # Counts 2 and 0 with one added to each: p = 3/4, 1/4.
        bits = marginal_bits(np.array([0, 0]), np.array([0, 1]), 2)
        assert bits == pytest.approx((np.log2(4 / 3) + 2) / 2)

    def test_approaches_the_entropy(self):
        p = np.array([0.5, 0.25, 0.125, 0.125])
        train, test = (np.random.default_rng(s).choice(4, 200_000, p=p) for s in (0, 1))
        assert marginal_bits(train, test, 4) == pytest.approx(1.75, abs=0.01)


class TestNeighbourModel:
    def test_markov_chain_reaches_its_entropy_rate(self):
        transition = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
        train = markov_maps(600, (6, 12), transition, 0)
        test = markov_maps(600, (6, 12), transition, 1)
        model = NeighbourModel().fit(train, 3)
        bits = model.bits(test)
        # The first column is always 0, the others cost the entropy of the row they come from.
        exact = row_entropy(transition)[test[..., :-1]].mean()
        assert bits[..., 1:].mean() == pytest.approx(exact, abs=0.02)
        assert bits[..., 0].mean() < 0.1
        assert model.weights["left"] > 0.9
        assert model.bits_per_code(test) == pytest.approx(bits.mean())
        assert model.bits_per_code(test) < marginal_bits(train, test, 3) - 0.2

    @pytest.mark.parametrize(("axis", "name"), [(-1, "left"), (-2, "upper"), (-3, "before")])
    def test_finds_the_axis_of_a_3d_chain(self, axis, name):
        transition = np.full((5, 5), 0.05) + 0.75 * np.eye(5)
        maps = np.moveaxis(markov_maps(300, (4, 4, 6), transition, 2), -1, axis)
        model = NeighbourModel().fit(maps, 5)
        assert set(model.weights) == {"left", "upper", "before", "position", "marginal"}
        assert max(model.weights, key=model.weights.get) == name

    def test_position_alone(self):
        rng = np.random.default_rng(3)
        p = rng.dirichlet(np.full(4, 0.3), size=(5, 5))
        draw = lambda n: (rng.random((n, 5, 5, 1)) > p.cumsum(-1)).sum(-1).clip(0, 3)  # noqa: E731
        model = NeighbourModel().fit(draw(1500), 4)
        exact = -np.sum(p * np.log2(np.maximum(p, 1e-300)), axis=-1).mean()
        assert model.bits_per_code(draw(1500)) == pytest.approx(exact, abs=0.03)
        assert model.weights["position"] > 0.9

    def test_codes_without_structure_cost_their_marginal(self):
        rng = np.random.default_rng(4)
        codes = rng.integers(0, 8, (400, 6, 6))
        model = NeighbourModel().fit(codes[:200], 8)
        assert model.bits_per_code(codes[200:]) == pytest.approx(3, abs=0.02)

    @pytest.mark.parametrize("grid", [(5,), (4, 3), (3, 2, 4)])
    def test_distributions_are_normalised_and_agree_with_bits(self, grid):
        rng = np.random.default_rng(5)
        codes = rng.integers(0, 6, (12, *grid)) // 2
        model = NeighbourModel().fit(codes, 6)  # codes 3 to 5 are never seen
        p = model.distributions(codes)
        assert p.shape == (12, *grid, 6)
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-9)
        assert p.min() > 0
        taken = np.take_along_axis(p, codes[..., None], -1)[..., 0]
        np.testing.assert_allclose(model.bits(codes), -np.log2(taken), atol=1e-9)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**31))
    def test_only_earlier_codes_are_looked_at(self, seed):
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 4, (6, 3, 4))
        model = NeighbourModel().fit(codes, 4)
        place = int(rng.integers(12))
        changed = codes.copy().reshape(6, 12)
        changed[:, place:] = rng.integers(0, 4, (6, 12 - place))
        before, after = (
            model.distributions(c.reshape(6, 3, 4)).reshape(6, 12, 4)[:, : place + 1]
            for c in (codes, changed)
        )
        np.testing.assert_array_equal(before, after)

    def test_a_tiny_map_set_sums_to_one_over_all_maps(self):
        model = NeighbourModel().fit(np.array([[[0, 1], [1, 1]], [[0, 0], [1, 0]]]), 2)
        every = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(16, 2, 2)
        joint = 2.0 ** -model.bits(every).sum(axis=(1, 2))
        assert joint.sum() == pytest.approx(1)

    def test_groups_are_held_out_whole(self):
        # Each subject repeats one map of its own. Held out by map, the position and neighbour
        # tables look perfect; held out by subject, they are worth nothing.
        rng = np.random.default_rng(6)
        subjects = rng.integers(0, 16, (12, 4, 4))
        groups = np.repeat(np.arange(12), 10)
        codes = subjects[groups]
        unseen = rng.integers(0, 16, (200, 4, 4))
        by_map = NeighbourModel().fit(codes, 16).bits_per_code(unseen)
        by_subject = NeighbourModel().fit(codes, 16, groups=groups).bits_per_code(unseen)
        assert by_subject < 4.3
        assert by_map > by_subject + 0.5

    def test_one_group_falls_back_to_maps(self):
        codes = np.random.default_rng(7).integers(0, 3, (8, 3, 3))
        alone = NeighbourModel().fit(codes, 3, groups=["a"] * 8)
        assert alone.weights == NeighbourModel().fit(codes, 3).weights

    def test_same_seed_same_model(self):
        codes = np.random.default_rng(8).integers(0, 5, (40, 4, 4))
        one, two = (NeighbourModel(seed=3).fit(codes, 5) for _ in range(2))
        assert one.weights == two.weights
        assert one.strengths == two.strengths
        assert sum(one.weights.values()) == pytest.approx(1)

    def test_bad_input(self):
        codes = np.zeros((4, 3, 3), int)
        with pytest.raises(ValueError, match="call fit first"):
            NeighbourModel().bits(codes)
        with pytest.raises(ValueError, match="n at least 2"):
            NeighbourModel().fit(codes[:1], 2)
        with pytest.raises(ValueError, match="n at least 2"):
            NeighbourModel().fit(np.zeros(5, int), 2)
        with pytest.raises(ValueError, match="in \\[0, 2\\)"):
            NeighbourModel().fit(codes + 2, 2)
        with pytest.raises(ValueError, match="one group per map"):
            NeighbourModel().fit(codes, 2, groups=["a"])
        with pytest.raises(ValueError, match="as in fit"):
            NeighbourModel().fit(codes, 2).bits(np.zeros((1, 3, 4), int))
        with pytest.raises(ValueError, match="held_out"):
            NeighbourModel(held_out=1.0)
