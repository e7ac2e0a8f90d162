"""Maps and orders on grids against lattices whose best order is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainvq.evaluation.som import neighbour_correlation, topology_measures
from brainvq.layers.som_grid import SOMGrid
from brainvq.training.som_init import kohonen_map, order_on_grid

SHAPES = [(7, 7), (4, 9), (9, 4)]


def edge_sum(codebook, grid):
    """Sum over neighbouring nodes of the squared distance, by an explicit loop."""
    pairs = [(i, j) for i in range(grid.num_nodes) for j in grid.neighbours[i] if j > i]
    return sum(float(np.sum((codebook[i] - codebook[j]) ** 2)) for i, j in pairs)


def lattice(grid):
    """The grid itself in 2D, or a toroid's in 4D, with neighbours 1 apart along the circles."""
    places = grid.coordinates.astype("float64")
    if grid.topology == "rectangular":
        return places
    sizes = np.array([grid.height, grid.width])
    angles, radii = 2 * np.pi * places / sizes, sizes / (2 * np.pi)
    return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def on_torus(n, rng):
    """Vectors `(n, 4)`, uniform on a torus of two circles of radius 1."""
    angles = rng.uniform(0, 2 * np.pi, (n, 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype("float32")


class TestOrder:
    @pytest.mark.parametrize("topology", ["rectangular", "toroid"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_shuffled_lattice_is_put_in_order(self, shape, topology):
        grid = SOMGrid(*shape, topology)
        places = lattice(grid)
        for seed in range(2):
            shuffled = places[np.random.default_rng(seed).permutation(len(places))]
            order = order_on_grid(shuffled, grid, seed=seed)
            assert sorted(order) == list(range(len(places)))
            assert edge_sum(shuffled[order], grid) <= 1.01 * edge_sum(places, grid)

    def test_no_swap_of_two_nodes_makes_it_better(self):
        grid = SOMGrid(3, 4, "toroid")
        centres = np.random.default_rng(0).normal(size=(12, 5))
        codebook = centres[order_on_grid(centres, grid)]
        least = edge_sum(codebook, grid)
        for i in range(12):
            for j in range(i):
                swapped = np.arange(12)
                swapped[[i, j]] = j, i
                assert edge_sum(codebook[swapped], grid) >= least - 1e-6

    @settings(max_examples=15, deadline=None)
    @given(
        st.sampled_from([(1, 2), (1, 6), (2, 2), (2, 5), (4, 3)]),
        st.sampled_from(["rectangular", "toroid"]),
        st.integers(1, 6),
        st.integers(0, 10_000),
    )
    def test_any_centres_give_a_permutation_no_worse_than_before(self, shape, topology, dim, seed):
        grid = SOMGrid(*shape, topology)
        rng = np.random.default_rng(seed)
        # Few values, so that centres coincide.
        centres = rng.integers(-2, 3, (grid.num_nodes, dim)) * 10.0 ** rng.integers(-3, 4)
        order = order_on_grid(centres, grid, starts=2, seed=seed)
        assert sorted(order) == list(range(grid.num_nodes))
        before = edge_sum(centres, grid)
        assert edge_sum(centres[order], grid) <= before * (1 + 1e-9)
        np.testing.assert_array_equal(order, order_on_grid(centres, grid, starts=2, seed=seed))

    def test_far_from_zero_the_order_is_the_same(self):
        grid = SOMGrid(5, 6)
        centres = np.random.default_rng(1).normal(size=(30, 2))
        far = edge_sum(centres[order_on_grid(centres + 1e6, grid)], grid)
        assert far == pytest.approx(edge_sum(centres[order_on_grid(centres, grid)], grid))

    def test_another_number_of_centres_is_refused(self):
        with pytest.raises(ValueError, match=r"must be \(6, dim\).*Received: shape \(5, 2\)"):
            order_on_grid(np.zeros((5, 2)), SOMGrid(2, 3))


class TestMap:
    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    def test_a_rectangle_lies_flat_on_a_square(self, offset):
        vectors = np.random.default_rng(0).uniform(-1, 1, (4000, 2)).astype("float32") + offset
        grid = SOMGrid(8, 8)
        for seed in range(2):
            codebook = kohonen_map(vectors, grid, final_radius=0.5, seed=seed)
            measures = topology_measures(vectors, codebook, grid.neighbours)
            assert measures["topographic_error"] < 0.03
            assert measures["nodes_used"] == 64
            # A square of side 2 cut into 64 squares: 0.3826 times their side, at best.
            assert measures["quantization_error"] < 1.15 * 0.3826 / 4
        assert codebook.dtype == np.float32
        assert codebook.shape == (64, 2)

    @pytest.mark.parametrize(("shape", "error"), [((10, 10), 0.05), ((8, 12), 0.05)])
    def test_a_toroid_lies_round_a_torus(self, shape, error):
        vectors = on_torus(5000, np.random.default_rng(1))
        grid = SOMGrid(*shape, "toroid")
        for seed in range(2):
            codebook = kohonen_map(vectors, grid, final_radius=0.5, seed=seed)
            measures = topology_measures(vectors, codebook, grid.neighbours)
            assert measures["topographic_error"] < error
            assert measures["nodes_used"] == grid.num_nodes

    def test_a_rectangle_cannot_but_a_toroid_can(self):
        vectors = on_torus(3000, np.random.default_rng(2))
        errors = {}
        for topology in ("rectangular", "toroid"):
            grid = SOMGrid(9, 9, topology)
            codebook = kohonen_map(vectors, grid, final_radius=0.5)
            measures = topology_measures(vectors, codebook, grid.neighbours)
            errors[topology] = measures["topographic_error"]
        assert errors["toroid"] < 0.5 * errors["rectangular"]

    def test_a_narrow_radius_lies_closer_and_a_wide_one_is_smoother(self):
        rng = np.random.default_rng(3)
        latent = rng.uniform(-1, 1, (3000, 5))
        mixed = np.tanh(2 * latent @ rng.normal(size=(5, 40))) @ rng.normal(size=(40, 16))
        vectors = np.maximum(mixed, 0)
        grid = SOMGrid(8, 8)
        rows = []
        for radius in (0.3, 0.7, 1.5):
            codebook = kohonen_map(vectors, grid, final_radius=radius, starts=2)
            measures = topology_measures(vectors, codebook, grid.neighbours)
            alike = neighbour_correlation(codebook, grid.neighbours)["mean"]
            rows.append((measures["quantization_error"], -measures["topographic_error"], alike))
        assert np.all(np.diff(rows, axis=0) > 0)

    def test_one_iteration_is_the_formula(self):
        rng = np.random.default_rng(4)
        vectors, grid = rng.normal(size=(50, 3)), SOMGrid(3, 4)
        # After the first step at radius 1 from the start, one more at the same radius.
        first = kohonen_map(vectors, grid, iterations=1, first_radius=1, final_radius=1, starts=1)
        second = kohonen_map(vectors, grid, iterations=2, first_radius=1, final_radius=1, starts=1)
        winners = np.argmin(np.linalg.norm(vectors[:, None] - first, axis=-1), axis=1)
        kernel = np.exp(-(grid.distances("euclidean")[winners] ** 2) / 2)  # (vectors, nodes)
        expected = kernel.T @ vectors / kernel.sum(axis=0)[:, None]
        np.testing.assert_allclose(second, expected, atol=1e-5)

    def test_the_last_steps_see_all_vectors(self, monkeypatch):
        monkeypatch.setattr("brainvq.training.som_init._PER_NODE", 3)
        vectors = np.random.default_rng(5).uniform(-1, 1, (4000, 2))
        grid = SOMGrid(6, 6)
        codebook = kohonen_map(vectors, grid, final_radius=0.5)
        again = kohonen_map(vectors, grid, final_radius=0.5)
        np.testing.assert_array_equal(codebook, again)
        measures = topology_measures(vectors, codebook, grid.neighbours)
        assert measures["topographic_error"] < 0.05
        assert measures["quantization_error"] < 1.15 * 0.3826 / 3

    @pytest.mark.parametrize("topology", ["rectangular", "toroid"])
    @pytest.mark.parametrize("vectors", [np.ones((1, 3)), np.zeros((20, 1)), np.eye(4)])
    def test_few_or_equal_vectors_give_finite_nodes_among_them(self, vectors, topology):
        for radius in (0.05, 1.0):
            codebook = kohonen_map(vectors, SOMGrid(1, 40, topology), final_radius=radius, starts=4)
            assert codebook.shape == (40, vectors.shape[1])
            assert np.all(np.isfinite(codebook))
            if len(np.unique(vectors, axis=0)) == 1:
                np.testing.assert_allclose(codebook, vectors[:1].repeat(40, axis=0))

    @pytest.mark.parametrize(
        ("vectors", "options", "message"),
        [
            (np.zeros((0, 2)), {}, "must be"),
            (np.zeros(3), {}, "must be"),
            (np.full((3, 2), np.nan), {}, "must be finite"),
            (np.zeros((3, 2)), {"final_radius": 0}, "`final_radius` must be above 0"),
            (np.zeros((3, 2)), {"final_radius": 2, "first_radius": 1}, "at most `first_radius`"),
            (np.zeros((3, 2)), {"iterations": 0}, "must be at least 1"),
            (np.zeros((3, 2)), {"starts": 0}, "must be at least 1"),
        ],
    )
    def test_arguments_out_of_range_are_named(self, vectors, options, message):
        with pytest.raises(ValueError, match=message):
            kohonen_map(vectors, SOMGrid(2, 2), **options)
