"""Can the order of a map be learned from data, and what does it cost? Maps of cubes of brains.

    python benchmarks/som_order.py BIDS PEOPLE.csv

The data, people and measured volumes are those of volumes_rate.py. Each cube of 16 voxels becomes a
code of a map of 16 x 16 nodes on a torus, and, in the columns "with 3 more codes", the three codes
of what the map leaves, by k-means. The order of the nodes is found in three ways:

- none: k-means; nodes are placed at random
- placed: the nodes of k-means, placed on the torus so that alike ones are near (latent positions:
  an embedding in four dimensions of the torus, then each node at the nearest free place)
- learned: Kohonen's batch algorithm, whose neighbourhood narrows from 6 nodes to the given one

Written are the topographic error (nearest and second nearest node are no neighbours), the mean
correlation of neighbours, nodes used and foreground SSIM of unseen people.
"""

import argparse
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_argmin
from volumes_rate import cohort

from brainvq import evaluation
from brainvq.evaluation.baselines import PatchKMeans
from brainvq.evaluation.som import neighbour_correlation, topology_measures

SIDE, PATCH, COMPONENTS, STAGES = 16, 16, 128, 3
WIDTHS = (0.3, 0.5, 0.7, 1.0, 2.0)
ROUNDS, WIDEST = 60, 6.0
SAMPLED = 12  # of so many training patches one is looked at for the codes of what is left


def torus():
    """Squared distances between nodes, `(K, K)`, and the table of their 4 neighbours, `(K, 4)`."""
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    apart = [abs(each[:, None] - each) for each in (rows, columns)]
    squares = sum(np.minimum(each, SIDE - each) ** 2 for each in apart)
    return squares, np.array([np.flatnonzero(row == 1) for row in squares])


def kmeans(vectors):
    """256 centres without an order."""
    fitted = MiniBatchKMeans(SIDE**2, batch_size=4096, n_init=1, random_state=0).fit(vectors)
    return fitted.cluster_centers_


def placed(centres):
    """Centres in the order of a torus: each at a place like its angles in four components."""
    found = PCA(4, random_state=0).fit_transform(centres)
    angles = [np.arctan2(found[:, b], found[:, a]) for a, b in ((0, 1), (2, 3))]
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    cost = 0
    for angle, line in zip(angles, (rows, columns), strict=True):
        # Ranks, so that places are taken evenly.
        rank = np.argsort(np.argsort(angle)) / len(angle)
        apart = abs(rank[:, None] - line / SIDE)
        cost = cost + np.minimum(apart, 1 - apart) ** 2
    nodes, places = linear_sum_assignment(cost)
    ordered = np.empty_like(centres)
    ordered[places] = centres[nodes]
    return ordered


def learned(vectors, squares, width):
    """Kohonen's batch algorithm: nodes are means of what falls near them on the map."""
    start = PCA(2, random_state=0).fit(vectors)
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    waves = np.stack([np.sin(2 * np.pi * line / SIDE) for line in (rows, columns)], axis=1)
    nodes = start.mean_ + waves * np.sqrt(start.explained_variance_) @ start.components_
    for now in np.geomspace(WIDEST, width, ROUNDS):
        nearest = pairwise_distances_argmin(vectors, nodes)
        sums = np.zeros_like(nodes)
        np.add.at(sums, nearest, vectors)
        near = np.exp(-squares / (2 * now**2))
        total = near @ np.bincount(nearest, minlength=len(nodes))
        reached = total > 1e-9  # an empty one, far from all others, stays
        nodes[reached] = (near @ sums)[reached] / total[reached, None]
    return nodes


def main():
    """Measures all of them, a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids")
    parser.add_argument("people")
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--widths", type=float, nargs="*", default=WIDTHS)
    options = parser.parse_args()
    store, rows, test = cohort(options)
    cut = PatchKMeans(PATCH, SIDE**2)
    train = cut._patches(store.read(rows["train"]))
    brain = train[train.mean(axis=1) > 0.02]
    space = PCA(COMPONENTS, random_state=0).fit(brain[:: max(1, len(brain) // 20_000)])
    vectors = space.transform(brain)
    unseen = cut._patches(test)
    inside = unseen.mean(axis=1) > 0.02
    seen = space.transform(unseen[inside])
    squares, neighbours = torus()
    centres = kmeans(vectors)
    maps = {"none": centres, "placed": placed(centres)}
    maps |= {f"learned, to {width:g}": learned(vectors, squares, width) for width in options.widths}
    for name, nodes in maps.items():
        order = topology_measures(seen, nodes, neighbours)
        r = neighbour_correlation(space.inverse_transform(nodes), neighbours)
        # Patches without brain have a code of their own.
        whole = np.vstack([space.inverse_transform(nodes), np.zeros((1, PATCH**3))])
        row = {"order": name, "error": order["topographic_error"], "r": r["mean"]}
        row |= {"r of all pairs": r["all_pairs"], "used": order["nodes_used"]}
        left, found = train, 0
        for stage in range(1 + STAGES):
            if stage:
                whole = MiniBatchKMeans(SIDE**2, batch_size=4096, n_init=1, random_state=0)
                whole = whole.fit(left[::SAMPLED]).cluster_centers_
            whole = whole.astype("float32")
            left = left - whole[pairwise_distances_argmin(left, whole)]
            found = found + whole[pairwise_distances_argmin(unseen - found, whole)]
            if stage in (0, STAGES):
                restored = assembled(found, test.shape)
                measured = evaluation.per_subject(test, restored, range(len(test)), ndim=3)
                name = "SSIM" if not stage else f"SSIM with {STAGES} more codes"
                row[name] = measured["ssim_foreground"].mean()
        print(pd.Series(row).to_dict(), flush=True)


def assembled(patches, shape):
    """Patches `(m, 4096)` as volumes of a shape."""
    codec = SimpleNamespace(centres_=[patches.astype("float32")], stages=1, patch=PATCH)
    grid = [size // PATCH for size in shape[1:-1]]
    codes = np.arange(len(patches)).reshape(shape[0], *grid)
    return np.clip(PatchKMeans.decode(codec, codes), 0, 1)


if __name__ == "__main__":
    main()
