"""Quantisers side by side on slices of real scans, at 10 bits for each cell.

    python benchmarks/quantizers.py BIDS            # 17 models, half a minute each on a core
    python benchmarks/quantizers.py BIDS --only SimVQ LFQ --seeds 0 1 2

The program prepares the slices as it does for a study; people are split into training and test.
Every model has the same convolutions from 96 x 96 pixels to 12 x 12 cells and back, the same steps
and seeds, and is trained on the mean squared error; only the bottleneck differs. Printed are SSIM
of test people (mean and standard deviation between them, whole image and foreground), the share of
codes that test slices use, the entropy of the codes in bits for each cell (10 at most), and seconds
of processor time.
"""

import argparse
import time

import brainvq

# isort: split
import keras
import numpy as np
import pandas as pd

from brainvq.evaluation import similarity
from brainvq.layers import (
    EMAVectorQuantizer,
    FiniteScalarQuantizer,
    GroupedQuantizer,
    Identity,
    LookupFreeQuantizer,
    MultiHeadQuantizer,
    ProjectedQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)
from brainvq.studies import parse
from brainvq.tasks import of
from brainvq.training.codebook_init import kmeans_initialize

DATA = ["--data.size", "96", "--data.spacing", "2", "--data.slices", "12"]
DATA += ["--data.fractions", "0.75", "0.05", "0.2"]
SIZE, DIM, CELL = 96, 16, 8
RESTARTS = {"initialization": "data", "revival_threshold": 0.03}


def vq(num_codes=1024, **options):
    """A codebook by gradient that starts from data, with revival."""
    return VectorQuantizer(num_codes, **{**RESTARTS, **options})


def ema(num_codes=1024):
    """A codebook by moving averages; as short an average as the studies take."""
    return EMAVectorQuantizer(num_codes, decay=0.9)


ROWS = {
    "none (not quantised)": Identity,
    "VQ, random start": lambda: VectorQuantizer(1024),
    "VQ, data start and revival": vq,
    "the same, entropy loss": lambda: vq(entropy_weight=0.1),
    "the same, orthogonality loss": lambda: vq(orthogonality_weight=10.0),
    "the same, drawn codes": lambda: vq(stochastic=True, temperature=0.1),
    "the same among 4 channels": lambda: ProjectedQuantizer(vq(), 4),
    "EMA": ema,
    "SimVQ": lambda: SimVQ(1024),
    "SimVQ, k-means start": lambda: SimVQ(1024),
    "LFQ": lambda: ProjectedQuantizer(LookupFreeQuantizer(10, joint_bits=10), 10),
    "BSQ": lambda: ProjectedQuantizer(LookupFreeQuantizer(10, True, joint_bits=10), 10),
    "FSQ 8 8 4 4": lambda: ProjectedQuantizer(FiniteScalarQuantizer((8, 8, 4, 4)), 4),
    "2 groups, EMA": lambda: GroupedQuantizer([ema(32), ema(32)]),
    "2 heads of one codebook, EMA": lambda: MultiHeadQuantizer(ema(32), 2),
    "2 stages, EMA": lambda: ResidualQuantizer([ema(32), ema(32)]),
    "2 stages of one codebook, EMA": lambda: ResidualQuantizer([ema(32)], repeats=2),
}


def slices(root, cache):
    """Slices `(n, 96, 96, 1)` and people `(n,)` of each split, as the program prepares them."""
    words = ["oasis2d", "--data.source", "bids", "--data.root", root, "--data.cache", cache, *DATA]
    study = parse(words, "quantizers.py", "")
    task = of(study)
    scans = task.cohort(study)
    store = task.arrays(study, scans)
    people = store.table["subject"].to_numpy()
    rows = task.split_rows(study, scans, store)
    return {name: (store.read(own), people[own]) for name, own in rows.items()}


def trained(name, images, seed, epochs):
    """An autoencoder with the bottleneck of a row, trained on images."""
    keras.utils.set_random_seed(seed)
    filters, grid = (8, 16, 32), SIZE // CELL
    encoder = brainvq.conv_encoder((SIZE, SIZE, 1), filters, 32, DIM)
    decoder = brainvq.conv_decoder((grid, grid, DIM), filters, 32)
    model = brainvq.Autoencoder(encoder, ROWS[name](), decoder)
    if "k-means" in name:
        model.build((None, SIZE, SIZE, 1))
        kmeans_initialize(model, [images[:64]])
    steps = epochs * -(-len(images) // 16)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)))
    model.fit(images, epochs=epochs, batch_size=16, verbose=0)
    return model


def measures(model, images, people):
    """The row of a model: dict of column to number."""
    decoded = np.clip(model.reconstruct(images), 0, 1)
    row = {}
    for name, mask in (("whole", None), ("foreground", similarity.foreground(images))):
        each = pd.Series(similarity.ssim(images, decoded, mask=mask)).groupby(people).mean()
        row |= {name: each.mean(), f"{name} sd": each.std()}
    if model.num_codes is None:
        return row | {"used": np.nan, "bits": np.nan}
    codes = model.codes(images).reshape(-1, model.depth or 1)
    counts = [np.bincount(column, minlength=model.num_codes) for column in codes.T]
    shares = [count[count > 0] / count.sum() for count in counts]
    bits = sum(-(share * np.log2(share)).sum() for share in shares)
    return row | {"used": np.mean([(count > 0).mean() for count in counts]), "bits": bits}


def main():
    """Trains and measures every model, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="BIDS folder with T1w scans")
    parser.add_argument("--cache", default="cache", help="where prepared slices are kept")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    data = slices(options.root, options.cache)
    (images, trained_on), (unseen, people) = data["train"], data["test"]
    print(
        f"{len(images)} slices of {len(set(trained_on))} people to train, {len(unseen)} of "
        f"{len(set(people))} to test; {options.epochs} epochs, seeds {options.seeds}\n\n"
        "| | SSIM | in the foreground | codes used | bits | s |\n|---|---:|---:|---:|---:|---:|"
    )
    for name in options.only:
        start, rows = time.process_time(), []
        for seed in options.seeds:
            model = trained(name, images, seed, options.epochs)
            rows.append(measures(model, unseen, people))
        row = pd.DataFrame(rows).mean()
        coded = "" if np.isnan(row["bits"]) else f"{row['used']:.0%} | {row['bits']:.1f}"
        seconds = (time.process_time() - start) / len(options.seeds)
        print(
            f"| {name} | {row['whole']:.3f} ± {row['whole sd']:.3f} "
            f"| {row['foreground']:.3f} ± {row['foreground sd']:.3f} "
            f"| {coded or ' | '} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
