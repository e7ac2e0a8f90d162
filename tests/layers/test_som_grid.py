"""Neighbour tables checked by hand, and by rules that hold for every size."""

import numpy as np
import pytest

from brainvq.layers import SOMGrid

SIZES = [(1, 1), (1, 5), (2, 2), (2, 3), (3, 2), (3, 3), (4, 7), (16, 16)]


def sets(grid):
    return [set(row[row >= 0].tolist()) for row in grid.neighbours]


def test_a_rectangle_by_hand():
    #  0 1 2
    #  3 4 5
    grid = SOMGrid(2, 3)
    expected = [
        [-1, 3, -1, 1],
        [-1, 4, 0, 2],
        [-1, 5, 1, -1],
        [0, -1, -1, 4],
        [1, -1, 3, 5],
        [2, -1, 4, -1],
    ]
    np.testing.assert_array_equal(grid.neighbours, expected)
    assert grid.neighbours.dtype == np.int32
    np.testing.assert_array_equal(
        grid.coordinates, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    )


def test_a_toroid_by_hand():
    #  0  1  2  3
    #  4  5  6  7
    #  8  9 10 11
    grid = SOMGrid(3, 4, "toroid")
    assert grid.neighbours[0].tolist() == [8, 4, 3, 1]
    assert grid.neighbours[7].tolist() == [3, 11, 6, 4]
    assert grid.neighbours[5].tolist() == [1, 9, 4, 6]
    assert grid.neighbours[11].tolist() == [7, 3, 10, 8]


def test_narrow_toroids_count_a_neighbour_once():
    # Above and below are one node in two rows; left and right differ in three columns.
    assert sets(SOMGrid(2, 3, "toroid"))[0] == {3, 1, 2}
    assert sets(SOMGrid(2, 2, "toroid")) == [{1, 2}, {0, 3}, {0, 3}, {1, 2}]
    # In one row, above is the node itself.
    assert sets(SOMGrid(1, 5, "toroid"))[0] == {4, 1}
    assert sets(SOMGrid(1, 1, "toroid")) == [set()]


@pytest.mark.parametrize("topology", ["rectangular", "toroid"])
@pytest.mark.parametrize("size", SIZES)
def test_neighbours_are_the_nodes_one_step_away(size, topology):
    grid = SOMGrid(*size, topology)
    assert grid.num_nodes == size[0] * size[1]
    steps, straight = grid.distances(), grid.distances("euclidean")
    for node, neighbours in enumerate(sets(grid)):
        assert neighbours == set(np.flatnonzero(steps[node] == 1).tolist())
        listed = grid.neighbours[node][grid.neighbours[node] >= 0]
        assert len(listed) == len(neighbours)
    np.testing.assert_array_equal(grid.adjacency, steps == 1)
    np.testing.assert_array_equal(steps, steps.T)
    assert (straight <= steps + 1e-6).all()
    assert (straight >= steps / np.sqrt(2) - 1e-5).all()


@pytest.mark.parametrize(("topology", "corner"), [("rectangular", 5.0), ("toroid", 2.0)])
def test_distances_to_the_opposite_corner(topology, corner):
    grid = SOMGrid(3, 4, topology)
    assert grid.distances()[0, 11] == corner
    straight = np.sqrt(2**2 + 3**2) if topology == "rectangular" else np.sqrt(2)
    assert grid.distances("euclidean")[0, 11] == pytest.approx(straight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "Received: height=0"),
        ((3, 2.5), "Received: width=2.5"),
        ((3, 3, "hexagonal"), "Received: topology=hexagonal"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SOMGrid(*arguments)
    with pytest.raises(ValueError, match="Received: metric=chess"):
        SOMGrid(2, 2).distances("chess")
