"""Scores of lesions on real FLAIR, beside each other: intensity, healthy patches, a U-Net.

    python benchmarks/flair.py DATA
    python benchmarks/flair.py DATA --scan FLAIR.nii.gz --marks MASK.nii.gz

DATA is a BIDS folder of brain-extracted FLAIR with lesion marks, see `flair_training.py`. Scores
that learn do so in four folds: of the people of the other three. With `--scan` they learn of all
people, and are measured on that scan alone. All are measured in the same brain by average
precision, person by person:

- `intensity`: as it is; `z-score`: around the most frequent value, which is white matter's, in
  spreads: the order of a person's voxels is the same, but people share one scale, which counts
  where their voxels are pooled;
- `percentile` and `depth`: the baselines of `brainvq predict RUN anomaly`, without a network;
- `patches`: by how much a pixel is brighter than that of the nearest patches of healthy people
  (mean of five; PatchCore, Roth et al. 2022, on principal components of patches of the slice);
  `patches, place`: of patches that also lie at about the same place in the brain;
- `U-Net`: trained on the marks, what a user with labels would do;
- `painted`: the same network, trained without one real lesion: on healed scans with bright blobs
  painted into white matter, most of them near the ventricles; with `--healthy SIM` on scans of
  that folder, such as one of `brainvq simulate --groups healthy --spacing 2 --out SIM`;
- `U-Net x depth`, `painted x depth`: products with that score.
"""

import argparse
import math
import time
from dataclasses import dataclass

import keras
import numpy as np
from areas import u_net
from flair_training import VOXEL, healed, people_of
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from brainvq import data, studies
from brainvq.app.lesion_masks import mask_on
from brainvq.data.steps import steps_to_config
from brainvq.evaluation.anomaly import (
    brain_area,
    depth_score,
    intensity_score,
    post_process,
    standardised,
)
from brainvq.evaluation.lesion_scores import LesionScores
from brainvq.tasks import of

FOLDS = 4
PATCH, COMPONENTS, MEMORY, NEIGHBOURS = 7, 20, 5000, 5
SIZE = (112, 96)  # a brain in 2 mm, in sides that the network halves
BATCH, WINDOW = 16, 48


@dataclass
class Scan:
    """A scan as axial slices, and what is known of it."""

    x: np.ndarray
    brain: np.ndarray
    marks: np.ndarray
    spacing: np.ndarray


def prepared(path, marks):
    """A scan as variant `flair` takes it, cut to its brain."""
    study = studies.STUDIES["ixi2d"]["flair"]
    scan = data.PreparedScan.read(str(path), steps_to_config(of(study).steps(study)))
    x = np.asarray(scan.slices)[..., 0]
    marked = scan.from_volume(mask_on(scan, marks)) > 0.5
    brain = brain_area(x)
    box = ndimage.find_objects((brain | marked).astype(int))[0]
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)[::-1]
    return Scan(x[box], brain[box], marked[box], spacing)


def coarse(scan):
    """Intensities in spreads around white matter's, and brain, in voxels of 2 mm."""
    z = np.where(scan.brain, np.clip(standardised(scan.x, scan.brain), -8, 8), 0)
    zoom = scan.spacing / VOXEL
    if np.allclose(zoom, 1, atol=0.1):
        return z.astype("float32"), scan.brain
    z = ndimage.zoom(ndimage.gaussian_filter(z, 0.4 / zoom), zoom, order=1)
    return z.astype("float32"), ndimage.zoom(scan.brain.astype("float32"), zoom, order=1) > 0.5


def fine(score, scan):
    """A score in voxels of 2 mm on the grid of its scan."""
    if score.shape != scan.x.shape:
        score = ndimage.zoom(score, np.array(scan.x.shape) / score.shape, order=1)
    return np.where(scan.brain, score, 0)


def placed(slices):
    """Slices in the middle of `SIZE`."""
    spare = [side - n for side, n in zip(SIZE, slices.shape[1:], strict=True)]
    if min(spare) < 0:
        raise SystemExit(f"found a brain of {slices.shape[1:]} voxels; expected {SIZE} at most")
    return np.pad(slices, [(0, 0), *((n // 2, n - n // 2) for n in spare)])


# Patches of healthy people.


def patches(z, brain):
    """Patches `(n, side²)` around the voxels of the brain, and their places `(n, 3)` in it."""
    half = PATCH // 2
    around = np.pad(z, ((0, 0), (half, half), (half, half)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (PATCH, PATCH), (1, 2))
    place = np.argwhere(brain).astype("float32")
    place = (place - place.min(0)) / np.ptp(place, axis=0)
    place[:, 2] = np.abs(place[:, 2] - 0.5) * 2  # left is as right
    return windows[brain].reshape(-1, PATCH**2), place


class Patches:
    """What healthy people's patches look like.

    Args:
        scans: list of `coarse` scans.
        place: how much a place counts: a brain's length in units of patches. 0: not at all.
    """

    def __init__(self, scans, place, seed=0):
        self.place, rng = place, np.random.default_rng(seed)
        found = [patches(*scan) for scan in scans]
        many = np.concatenate([pair[0] for pair in found])
        places = np.concatenate([pair[1] for pair in found])
        chosen = rng.choice(len(many), MEMORY, replace=False)
        self.pca = PCA(COMPONENTS, random_state=seed).fit(many[chosen])
        self.middle = many[chosen, PATCH**2 // 2]
        self.neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute")
        self.neighbours.fit(self._features(many[chosen], places[chosen]))

    def _features(self, some, places):
        return np.hstack([self.pca.transform(some), self.place * places]).astype("float32")

    def score(self, z, brain):
        """By how much each voxel exceeds that of its nearest patches."""
        some, places = patches(z, brain)
        nearest = self.neighbours.kneighbors(self._features(some, places), return_distance=False)
        score = np.zeros(z.shape, "float32")
        score[brain] = np.maximum(z[brain] - self.middle[nearest].mean(axis=1), 0)
        return score


# A U-Net that is trained on marks.


class Batches(keras.utils.PyDataset):
    """Windows of slices, half of them around a mark, under random mirror, gain and offset."""

    def __init__(self, slices, marks, steps, seed=0):
        super().__init__()
        self.steps, self.rng = steps, np.random.default_rng(seed)
        edge = ((0, 0), (WINDOW // 2,) * 2, (WINDOW // 2,) * 2)
        self.slices, self.marks = np.pad(slices, edge), np.pad(marks, edge)
        self.centres = np.argwhere(slices != 0), np.argwhere(marks)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        rng, x, marks = self.rng, [], []
        for number in range(BATCH):
            centres = self.centres[number % 2]
            n, row, column = centres[rng.integers(len(centres))]
            window = (n, slice(row, row + WINDOW), slice(column, column + WINDOW))
            turn = tuple(slice(None, None, step) for step in rng.choice([-1, 1], 2))
            x.append(self.slices[window][turn])
            marks.append(self.marks[window][turn])
        x, marks = np.stack(x), np.stack(marks)
        gain, offset = np.exp(rng.normal(0, 0.15, (BATCH, 1, 1))), rng.normal(0, 0.2, (BATCH, 1, 1))
        x = np.where(x != 0, gain * x + offset + rng.normal(0, 0.1, x.shape), 0)
        return x[..., None].astype("float32"), marks[..., None].astype("float32")


def painted(z, brain, rng):
    """A `coarse` scan without lesions, with some painted into it: z and their marks."""
    smooth, depth = ndimage.gaussian_filter(z, 1), VOXEL * ndimage.distance_transform_edt(brain)
    fluid = ndimage.binary_opening(brain & (smooth < -2.5) & (depth > 15))
    white = brain & (depth > 6) & (np.abs(smooth) < 0.8)
    near = white & (VOXEL * ndimage.distance_transform_edt(~fluid) < 8)
    sites = [np.argwhere(white), np.argwhere(near if near.sum() > 50 else white)]
    out, marks = z.copy(), np.zeros(z.shape, bool)
    for _ in range(rng.integers(5, 40)):
        place = rng.choice(sites[int(rng.random() < 0.6)])
        low, high = np.maximum(place - 12, 0), np.minimum(place + 13, z.shape)
        window = tuple(map(slice, low, high))
        steps = np.stack(np.meshgrid(*map(np.arange, low - place, high - place), indexing="ij"), -1)
        radii = np.exp(rng.normal(np.log(2), 0.6, 3)).clip(0.7, 8)  # voxels
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        radius = np.linalg.norm(steps @ axes / radii, axis=-1)
        radius += 1.5 * ndimage.gaussian_filter(rng.normal(size=radius.shape), 1.5)  # rough
        soft = brain[window] * (smooth[window] > -1.5) / (1 + np.exp(5 * (radius - 1)))
        bright = z[window] + rng.uniform(0.8, 3.5) * soft
        out[window] = np.maximum(out[window], bright)
        marks[window] |= soft > 0.5
    return out, marks


def dice_and_entropy(true, logits):
    """1 − Dice of the batch, plus the cross-entropy."""
    found = keras.ops.sigmoid(logits)
    both, either = keras.ops.sum(true * found), keras.ops.sum(true) + keras.ops.sum(found)
    entropy = keras.losses.binary_crossentropy(true, logits, from_logits=True)
    return 1 - (2 * both + 1) / (either + 1) + keras.ops.mean(entropy)


def segmenter(scans, steps, seed=0):
    """A U-Net trained on slices of `coarse` scans and their marks, pairs."""
    keras.utils.set_random_seed(seed)
    slices = np.concatenate([placed(z) for z, _ in scans])
    marks = np.concatenate([placed(marks) for _, marks in scans])
    network = u_net((None, None), (8, 16, 32, 64), classes=1)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    network.compile(keras.optimizers.AdamW(rate), dice_and_entropy)
    network.fit(Batches(slices, marks, steps, seed), verbose=0)
    return network


def marked_by(network, z):
    """The network's probability of a lesion, mean over both sides."""
    slices = placed(z)[..., None]
    found = network.predict(slices, verbose=0)
    found = (found + network.predict(slices[:, :, ::-1], verbose=0)[:, :, ::-1]) / 2
    rows, columns = ((side - n) // 2 for side, n in zip(SIZE, z.shape[1:], strict=True))
    found = found[:, rows : rows + z.shape[1], columns : columns + z.shape[2], 0]
    return 1 / (1 + np.exp(-found.astype("float64")))


def plain_scores(scan):
    """The scores that learn nothing."""
    x, brain = scan.x, scan.brain
    return {
        "intensity": x,
        # Above 0 as `LesionScores` asks.
        "z-score": np.where(brain, np.maximum(standardised(x, brain) + 20, 0), 0),
        "percentile": post_process(intensity_score(x, brain), brain, median=3, erode=3),
        "depth": depth_score(x, brain, scan.spacing),
    }


class Learned:
    """The scores that learn, of people.

    Args:
        scans: list of `Scan`.
        healthy: list of the same `Scan`s, healed.
        steps: of the U-Net.
        others: list of `coarse` scans of healthy people that are painted in their place.
    """

    def __init__(self, scans, healthy, steps, others=()):
        whole = [coarse(scan) for scan in healthy]
        self.memories = {
            "patches": Patches(whole, 0.0),
            "patches, place": Patches(whole, 20.0),
        }
        rng, others = np.random.default_rng(0), list(others) or whole
        several = math.ceil(36 / len(others)) * others
        self.networks = {
            "U-Net": segmenter([(coarse(scan)[0], scan.marks) for scan in scans], steps),
            "painted": segmenter([painted(*scan, rng) for scan in several], steps),
        }

    def scores(self, scan):
        """The scores of a scan: dict of name to array."""
        z, brain = coarse(scan)
        scores = {name: memory.score(z, brain) for name, memory in self.memories.items()}
        scores |= {name: marked_by(network, z) for name, network in self.networks.items()}
        scores = {name: fine(score, scan) for name, score in scores.items()}
        depth = depth_score(scan.x, scan.brain, scan.spacing)
        return scores | {f"{name} x depth": scores[name] * depth for name in self.networks}


def show(lesions):
    """Prints average precisions: of each person, their mean, and beside two baselines."""
    table, summary = lesions.table(), lesions.summary()
    each = table.pivot(index="subject", columns="method", values="average_precision")
    each.insert(0, "lesion voxels", table.groupby("subject")["prevalence"].first())
    print(each[["lesion voxels", *lesions.methods]].to_string(float_format="{:.3f}".format))
    measures = ("average_precision", "average_precision_sd", "pooled_average_precision", "dice")
    print(summary[["method", "n", *measures]].to_string(index=False, float_format="{:.3f}".format))
    if len(each) < 2:
        return
    for baseline in ("percentile", "depth"):
        gains = lesions.against(baseline).filter(
            regex="method|better|average_precision(_low|_high|$)"
        )
        print(f"average precision beyond that of {baseline}; better: in how many of {len(each)}")
        print(gains.to_string(index=False, float_format="{:+.3f}".format))


def main():
    """Measures the scores and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="BIDS folder of FLAIR with lesion marks")
    parser.add_argument("--scan", help="FLAIR of somebody else, brain-extracted")
    parser.add_argument("--marks", help="its lesion marks")
    parser.add_argument("--healthy", help="BIDS folder of other people, without lesions")
    parser.add_argument("--steps", type=int, default=400, help="training steps of the U-Net")
    parser.add_argument("--out", help="table to write, .csv: every measure of every person")
    options = parser.parse_args()

    rng, scans, healthy = np.random.default_rng(0), {}, {}
    for name, (path, marks, _) in people_of(options.data).items():
        scans[name] = scan = prepared(path, marks)
        whole = np.moveaxis(
            healed(*(np.moveaxis(a, 0, 2) for a in (scan.x, scan.marks)), rng), 2, 0
        )
        healthy[name] = Scan(whole, scan.brain, scan.marks, scan.spacing)
    others = people_of(options.healthy).values() if options.healthy else ()
    others = [coarse(prepared(path, marks)) for path, marks, _ in others]
    names, lesions = list(scans), LesionScores()
    folds = [names[fold::FOLDS] for fold in range(FOLDS)]
    tests = scans
    if options.scan:
        folds, tests = [["scan"]], {"scan": prepared(options.scan, options.marks)}
    for fold in folds:
        start, rest = time.perf_counter(), [name for name in names if name not in fold]
        learned = Learned(
            [scans[n] for n in rest], [healthy[n] for n in rest], options.steps, others
        )
        for name in fold:
            scan = tests[name]
            scores = plain_scores(scan) | learned.scores(scan)
            lesions.add(name, scores, scan.marks, scan.brain)
        print(f"{' '.join(fold)}: {time.perf_counter() - start:.0f} s", flush=True)
    if options.out:
        lesions.table().to_csv(options.out, index=False)
    show(lesions)


if __name__ == "__main__":
    main()
