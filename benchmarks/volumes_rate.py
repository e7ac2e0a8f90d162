"""Rate and distortion of codes of whole brains: t1w3d beside codecs without a network.

    python benchmarks/volumes_rate.py BIDS PEOPLE.csv --runs RUN...     # every method
    python benchmarks/volumes_rate.py BIDS PEOPLE.csv --only jpeg2000 pca

BIDS is a folder of T1w scans, PEOPLE.csv has columns subject and split, as --data.assignments of
`brainvq train` takes it. Scans are registered as study t1w3d does it (kept in --cache). What learns
does so on the split "train"; measured are all other people. Rows go to OUT.csv, where those of
other methods stay, and OUT.png is drawn of them.

- t1w3d: the runs of `--runs`, as they are trained, and without what is trained: bits as packed
- kmeans: k-means on patches in stages of 256 codes, 16 or 8 voxels a side (hours)
- pca: principal components of whole volumes, as half floats
- jpeg2000: all axial slices as one picture (Pillow); its bits are those of the file
- slices: `--slices`, runs or presets of studies of slices, axial slice by slice
- monai: MONAI's `VQVAE`, a code of 32 for each cube of 8 voxels, trained for `--minutes` of the
  processor; needs the environment of `make bench`
"""

import argparse
import io
import math
import time
from pathlib import Path
from types import SimpleNamespace

import brainvq

# isort: split
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from brainvq import evaluation
from brainvq.evaluation.baselines import PatchKMeans
from brainvq.evaluation.principal_components import PrincipalComponents
from brainvq.studies import parse
from brainvq.tasks import of
from brainvq.tasks.scan_samples import pack

RATES = (6400, 28000, 114000)
PATCHES = ((16, 1), (16, 4), (8, 2))
TILES = (12, 12)
MONAI_CODES, MONAI_BATCH, MONAI_WINDOW = 32, 4, 48


def t1w3d(run):
    """(bits as files have them, name, volumes) of trained runs, and of their transforms alone."""
    for path in run.trained:
        model = brainvq.load(path).model
        codes = model.encode(run.test, batch_size=1)
        bits = np.mean([8 * len(pack(model, each)) for each in codes])
        yield bits, "t1w3d", model.decode(codes, batch_size=1)
        linear = model.decoder.get_layer("linear")
        volumes = [np.asarray(linear(model.bottleneck.codes_to_vectors(c[None]))) for c in codes]
        yield bits, "t1w3d, without refinement", np.concatenate(volumes)[..., :1]


def kmeans(run):
    """The same of k-means on patches."""
    train = run.store.read(run.rows["train"])
    for patch, stages in PATCHES:
        codec = PatchKMeans(patch, 256, stages=stages).fit(train)
        bits = 8 * stages * np.prod(train.shape[1:4]) / patch**3
        yield bits, "patch k-means", codec.reconstruct(run.test)


def pca(run):
    """The same of principal components of whole volumes."""
    components = PrincipalComponents(len(run.rows["train"]) - 1)
    components.fit(run.store.read(run.rows["train"]))
    yield 16 * len(components.deviations), "principal components", components.reconstruct(run.test)


def jpeg2000(run):
    """The same of JPEG 2000, at rates that it reaches."""
    for target in (*RATES, 300_000):
        found = [through_jpeg(volume[..., 0], target) for volume in run.test]
        volumes = np.stack([volume for _, volume in found])[..., None]
        yield np.mean([bits for bits, _ in found]), "JPEG 2000 of slices", volumes


def through_jpeg(volume, bits):
    """A volume `(x, y, z)` through one JPEG 2000 picture of about so many bits."""
    x, y, z = volume.shape
    rows, columns = TILES
    tiles = volume.transpose(2, 0, 1).reshape(rows, columns, x, y).transpose(0, 2, 1, 3)
    picture = np.rint(255 * tiles.reshape(rows * x, columns * y)).astype("uint8")
    file = io.BytesIO()
    ratio = 8 * picture.size / bits
    Image.fromarray(picture).save(
        file, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True
    )
    found = np.asarray(Image.open(file), "float32") / 255
    tiles = found.reshape(rows, x, columns, y).transpose(0, 2, 1, 3).reshape(z, x, y)
    return 8 * len(file.getvalue()), tiles.transpose(1, 2, 0)


def slices(run):
    """The same of studies of slices; bits as packed for the whole volume, of codes equally long."""
    for name in run.of_slices:
        model, restored = brainvq.load(name).model, []
        for volume in run.test[..., 0]:
            # As the study has them: the right of the brain first, its front on top.
            stack = volume.transpose(2, 1, 0)[..., None]
            codes = model.codes(stack)
            restored.append(model.decode(codes)[..., 0].transpose(2, 1, 0)[..., None])
        bits = codes.size * math.log2(model.num_codes)
        yield bits, f"{name}, slice by slice", np.stack(restored)


def monai(run):
    """The same of MONAI's VQ-VAE with moving averages, as its tutorials train it."""
    import torch
    from monai.networks.nets import VQVAE

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = VQVAE(
        3,
        1,
        1,
        channels=(32, 64, 128),
        num_res_channels=(32, 64, 128),
        num_res_layers=2,
        downsample_parameters=((2, 4, 1, 1),) * 3,
        upsample_parameters=((2, 4, 1, 1, 0),) * 3,
        num_embeddings=MONAI_CODES,
        embedding_dim=32,
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    began, steps, losses = time.process_time(), 0, []
    while time.process_time() - began < 60 * run.minutes:
        rows = rng.choice(run.rows["train"], MONAI_BATCH, replace=False)
        windows = [window(run.store.read([row])[0, ..., 0], rng) for row in rows]
        images = torch.from_numpy(np.stack(windows)[:, None])
        model.train()
        optimizer.zero_grad(set_to_none=True)
        restored, loss = model(images)
        error = torch.nn.functional.l1_loss(restored, images)
        (error + loss).backward()
        optimizer.step()
        steps, losses = steps + 1, [*losses[-49:], error.item()]
    print(f"MONAI: {steps} steps, mean absolute error {np.mean(losses):.4f}", flush=True)
    model.eval()
    with torch.no_grad():
        restored = [
            model(torch.from_numpy(np.moveaxis(volume, -1, 0)[None].copy()))[0].numpy()[0, 0]
            for volume in run.test
        ]
    bits = math.log2(MONAI_CODES) * np.prod(run.test.shape[1:4]) / 8**3
    yield bits, f"MONAI VQVAE, {run.minutes:g} minutes of training", np.stack(restored)[..., None]


def window(volume, rng):
    """A part of a volume at random, `MONAI_WINDOW` voxels a side, of which some show brain."""
    while True:
        start = [rng.integers(0, side - MONAI_WINDOW + 1) for side in volume.shape]
        part = volume[tuple(slice(a, a + MONAI_WINDOW) for a in start)]
        if (part > 0.05).mean() > 0.1:
            return np.ascontiguousarray(part, "float32")


METHODS = {each.__name__: each for each in (t1w3d, kmeans, pca, jpeg2000, slices, monai)}


def measures(images, restored):
    """Means over people: SSIM (3D), of the foreground, PSNR there, and sharpness."""
    restored = np.clip(restored, 0, 1)
    table = evaluation.per_subject(images, restored, range(len(images)), ndim=3)
    sharp = []
    for image, found in zip(images[..., 0], restored[..., 0], strict=True):
        inside = evaluation.foreground(image[None], ndim=3)[0]
        slopes = (
            np.linalg.norm(np.gradient(each), axis=0)[inside].mean() for each in (found, image)
        )
        sharp.append(np.divide(*slopes))
    row = {name: table[name].mean() for name in ("ssim", "ssim_foreground", "psnr_foreground")}
    return row | {"sd_foreground": table["ssim_foreground"].std(), "sharpness": np.mean(sharp)}


def draw(table, path):
    """Foreground SSIM against bits, a line for each method."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, rows in table.sort_values("bits").groupby("method"):
        axes.plot(rows["bits"] / 1000, rows["ssim_foreground"], marker="o", label=name)
    axes.set(xscale="log", xlabel="kbit for a brain", ylabel="SSIM (3D) of the foreground")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def cohort(options):
    """The prepared volumes, sample numbers of each split, and volumes of unseen people."""
    words = ["t1w3d", "--data.source", "bids", "--data.root", options.bids]
    words += ["--data.assignments", options.people, "--data.cache", options.cache]
    study = parse(words, "volumes_rate.py", "")
    task = of(study)
    scans = task.cohort(study)
    store = task.arrays(study, scans)
    rows = task.split_rows(study, scans, store)
    return store, rows, store.read(np.concatenate([rows["validation"], rows["test"]]))


def main():
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids")
    parser.add_argument("people")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--slices", nargs="*", default=["ixi2d"])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--out", type=Path, default=Path("volumes_rate"))
    options = parser.parse_args()
    store, rows, test = cohort(options)
    run = SimpleNamespace(store=store, rows=rows, test=test)
    run.trained, run.of_slices, run.minutes = options.runs, options.slices, options.minutes
    file = options.out.with_suffix(".csv")
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["method", "bits"])
    for name in options.only:
        for bits, method, volumes in METHODS[name](run):
            row = {"method": method, "bits": round(float(bits)), **measures(test, volumes)}
            print(pd.Series(row).to_string(), flush=True)
            same = (table["method"] == method) & (table["bits"] == row["bits"])
            table = pd.DataFrame([*table[~same].to_dict("records"), row])
            table.to_csv(file, index=False, float_format="%.5g")
    draw(table, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
