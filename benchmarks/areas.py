"""Areas of ventricles, deep grey matter, cortex and white matter in draws, beside unseen people.

    python benchmarks/areas.py LABELS oasis2d --scans BIDS --people 51-56

Draws have no labels, so that a small U-Net is trained to tell tissues apart on labelled scans of
other people: LABELS is a BIDS data set of brain-extracted T1w scans with MUSE region numbers at
`derivatives/*/sub-*/anat/*_dseg.nii.gz`. It sees each slice as it is and as the model reconstructs
it, under random shifts of contrast and shape, and is only used here. Its Dice on people that it was
not trained on is printed, and then the areas of every tissue by height, as shares of the brain's
area in the slice: of people whom the model never saw (their reconstructions, which are what a
perfect prior could draw), of draws at evenly spread heights, and the share of the draws inside the
real 1 to 99 % range.
"""

import argparse
import glob
import math
from pathlib import Path

import keras
import nibabel
import numpy as np
import pandas as pd
from keras import layers
from scipy import ndimage

import brainvq
from brainvq.data.prepared import PreparedScan
from brainvq.tasks.slices.steps import heights_of_slices

TISSUES = ("outer fluid", "ventricles", "deep grey", "cortex", "white matter")
VENTRICLES = (4, 11, 49, 50, 51, 52)
DEEP = (*range(55, 61), 36, 37, 57, 58, 23, 30, 31, 32, 47, 48)
WHITE = (35, 40, 41, 61, 62, 69, *range(81, 96))
BANDS = np.linspace(0, 1, 6)


def tissue_of(regions):
    """Tissue of each MUSE region number: 0 outside, then the order of `TISSUES`."""
    regions = np.asarray(regions).round().astype(int)
    tissue = np.where(regions > 0, 4, 0)
    for number, members in ((1, (1,)), (2, VENTRICLES), (3, DEEP), (5, WHITE)):
        tissue[np.isin(regions, members)] = number
    return tissue.astype("int8")


def read(trained, path):
    """A scan as the model takes it, with the heights of its slices; black ones left out."""
    scan = PreparedScan.read(path, trained.steps)
    heights = heights_of_slices(scan.slices)
    kept = (heights >= 0) & (heights <= 1)
    return scan, kept, heights[kept]


def halved(slices):
    """Slices `(n, rows, cols, 1)` of half the size: tissues need no finer pixels than 3 mm."""
    n, rows, cols, _ = slices.shape
    return slices.reshape(n, rows // 2, 2, cols // 2, 2, 1).mean(axis=(2, 4))


def labelled(trained, root):
    """Slices `(n, rows, cols, 1)`, their tissues `(n, rows, cols)` and people of a data set."""
    slices, tissues, people = [], [], []
    for path in sorted(glob.glob(f"{root}/sub-*/anat/*_T1w.nii*")):
        subject = Path(path).name.split("_")[0]
        marked = glob.glob(f"{root}/derivatives/*/{subject}/anat/*_dseg.nii*")[0]
        scan, kept, _ = read(trained, path)
        regions = scan.from_volume(nibabel.load(marked).get_fdata())
        slices.append(scan.slices[kept])
        tissues.append(tissue_of(regions[kept]))
        people += [subject] * kept.sum()
    slices, tissues = np.concatenate(slices), np.concatenate(tissues)
    # What most of four pixels are.
    shares = [halved((tissues == n)[..., None].astype("float32")) for n in range(6)]
    return slices, np.argmax(shares, axis=0)[..., 0].astype("int8"), np.array(people)


def unseen(trained, root, people):
    """Reconstructed slices, their heights and people of scans that the model never saw."""
    slices, heights, names = [], [], []
    for person in people:
        (path,) = glob.glob(f"{root}/sub-*{person:02d}/anat/*_T1w.nii*")
        scan, kept, height = read(trained, path)
        slices.append(np.clip(trained.model.reconstruct(scan.slices[kept]), 0, 1))
        heights.append(height)
        names += [person] * kept.sum()
    return np.concatenate(slices), np.concatenate(heights), np.array(names)


def u_net(size, filters=(16, 32, 64, 96), classes=6):
    """Logits of classes for slices `(*size, 1)`, in four levels."""
    features = inputs = keras.Input((*size, 1))
    skips = []

    def twice(features, width):
        for _ in range(2):
            features = layers.Conv2D(width, 3, padding="same", use_bias=False)(features)
            features = layers.Activation("relu")(layers.BatchNormalization()(features))
        return features

    for width in filters[:-1]:
        skips.append(twice(features, width))
        features = layers.MaxPooling2D()(skips[-1])
    features = twice(features, filters[-1])
    for width, skip in zip(filters[-2::-1], skips[::-1], strict=True):
        features = layers.Concatenate()([layers.UpSampling2D()(features), skip])
        features = twice(features, width)
    return keras.Model(inputs, layers.Conv2D(classes, 1)(features))


class Batches(keras.utils.PyDataset):
    """Slices under random contrast, turn, scale and mirror; tissues turned alike."""

    def __init__(self, slices, tissues, batch_size=16, seed=0):
        super().__init__()
        self.slices, self.tissues, self.batch_size = slices, tissues, batch_size
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return len(self.slices) // self.batch_size

    def __getitem__(self, index):
        rows = self.rng.integers(len(self.slices), size=self.batch_size)
        pairs = [self.moved(self.slices[row, ..., 0], self.tissues[row]) for row in rows]
        images, tissues = map(np.stack, zip(*pairs, strict=True))
        return images[..., None].astype("float32"), tissues.astype("int32")

    def moved(self, image, tissue):
        """One slice and its tissues, changed at random."""
        rng = self.rng
        angle, scale = rng.normal(0, 0.1), np.exp(rng.normal(0, 0.08, 2))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = turn / scale
        if rng.random() < 0.5:
            matrix[:, 1] *= -1
        centre = (np.array(image.shape) - 1) / 2
        offset = centre - matrix @ centre + rng.normal(0, 3, 2)
        image = ndimage.affine_transform(image, matrix, offset, order=1)
        tissue = ndimage.affine_transform(tissue, matrix, offset, order=0)
        image = np.clip(image, 0, 1) ** np.exp(rng.normal(0, 0.25))
        image = ndimage.gaussian_filter(image, abs(rng.normal(0, 0.5)))
        gain = np.exp(rng.normal(0, 0.1))
        return np.clip(gain * image + rng.normal(0, 0.02, image.shape) * (image > 0), 0, 1), tissue


def weighted_loss(tissues):
    """Cross-entropy that weighs a tissue by the root of how rare it is."""
    rare = np.bincount(tissues.ravel(), minlength=6) ** -0.5
    weights = keras.ops.convert_to_tensor((rare / rare.mean()).astype("float32"))

    def loss(true, logits):
        true = keras.ops.cast(true, "int32")
        each = keras.losses.sparse_categorical_crossentropy(true, logits, from_logits=True)
        return keras.ops.mean(keras.ops.take(weights, true) * each)

    return loss


def dice(found, tissues):
    """Dice of each tissue over all slices given."""
    return {
        name: 2 * ((found == number) & (tissues == number)).sum()
        / max(1, (found == number).sum() + (tissues == number).sum())
        for number, name in enumerate(TISSUES, 1)
    }  # fmt: skip


def segmented(network, slices):
    """Tissues int8 `(n, rows, cols)` of slices; what is black is outside."""
    logits = network.predict(slices, batch_size=32, verbose=0)
    return np.where(slices[..., 0] > 0.04, logits.argmax(-1), 0).astype("int8")


def trained_network(trained, root, epochs):
    """A segmenter, and its Dice on the people that it was not trained on, as a table."""
    slices, tissues, people = labelled(trained, root)
    reconstructed = halved(np.clip(trained.model.reconstruct(slices), 0, 1))
    slices = halved(slices)
    held = np.isin(people, np.unique(people)[::4])
    both = np.concatenate([slices[~held], reconstructed[~held]])
    network = u_net(slices.shape[1:3])
    batches = Batches(both, np.concatenate([tissues[~held]] * 2))
    steps = epochs * len(batches)
    network.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        # Deep grey matter is 2 % of the pixels, what is outside 70 %.
        weighted_loss(tissues[~held]),
    )
    network.fit(batches, epochs=epochs, verbose=2)
    table = pd.DataFrame(
        {
            name: dice(segmented(network, images[held]), tissues[held])
            for name, images in (("scans", slices), ("reconstructions", reconstructed))
        }
    )
    return network, table


def areas(tissues):
    """Share of each tissue in the brain of each slice: float `(n, 5)`."""
    counts = np.stack([(tissues == n).sum((1, 2)) for n in range(1, len(TISSUES) + 1)], axis=1)
    return counts / np.maximum(1, counts.sum(axis=1, keepdims=True))


def compare(real, heights, drawn, drawn_heights):
    """Areas by height, real and drawn, as a table."""
    rows = []
    for number, name in enumerate(TISSUES):
        for low, high in zip(BANDS[:-1], BANDS[1:], strict=True):
            a = real[(heights >= low) & (heights <= high), number]
            b = drawn[(drawn_heights >= low) & (drawn_heights <= high), number]
            least, most = np.quantile(a, [0.01, 0.99])
            rows.append(
                {
                    "tissue": name,
                    "heights": f"{low:.1f}-{high:.1f}",
                    "real": f"{a.mean():.3f} ± {a.std():.3f}",
                    "drawn": f"{b.mean():.3f} ± {b.std():.3f}",
                    "inside": ((b >= least) & (b <= most)).mean(),
                }
            )
    return pd.DataFrame(rows)


def main():
    """Train the segmenter, and print its Dice and the areas."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labels", help="BIDS folder of labelled scans")
    parser.add_argument("run", help="a run, or the name of weights that are shipped")
    parser.add_argument("--scans", required=True, help="BIDS folder of people never seen")
    parser.add_argument("--people", default="51-56", help="their numbers, as FIRST-LAST")
    parser.add_argument("--count", type=int, default=400, help="number of draws")
    parser.add_argument("--epochs", type=int, default=24, help="passes of the segmenter")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    trained = brainvq.load(options.run)
    network, table = trained_network(trained, options.labels, options.epochs)
    print("Dice of people that the segmenter was not trained on")
    print(table.to_string(float_format="{:.2f}".format))
    first, last = map(int, options.people.split("-"))
    slices, heights, people = unseen(trained, options.scans, range(first, last + 1))
    real = areas(segmented(network, halved(slices)))
    draws, _ = trained.sample(options.count, seed=1)
    drawn = areas(segmented(network, halved(np.asarray(draws))))
    at = np.linspace(0, 1, options.count)
    print(f"\nDraws of {options.run}, {options.count}, beside people {options.people}")
    tables = {"draws": compare(real, heights, drawn, at)}
    half = np.isin(people, np.unique(people)[::2])
    other = compare(real[half], heights[half], real[~half], heights[~half])
    tables["control: one half of the people as if it were drawn, beside the other"] = other
    for name, table in tables.items():
        print(f"{name}; inside, mean over tissues and heights: {table['inside'].mean():.2f}")
        print(table.to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
