"""FLAIR scans without one real lesion, to train variant `flair` on: four folders and their splits.

    python benchmarks/flair_training.py DATA OUT
    brainvq train ixi2d --variant flair --data.source bids --data.root OUT/healed \
        --data.assignments OUT/healed.csv --data.size 128 --data.slices 60 --train.window 64 \
        --train.epochs 100 --train.max-steps 450 --prior.epochs 100 --prior.max-steps 70 \
        --name healed
    brainvq predict runs/healed anomaly DATA/sub-04 ... --masks DATA/derivatives/wmh --step 1

DATA is a BIDS folder of brain-extracted FLAIR of about 2 mm, with lesion marks on their grid at
`derivatives/*/sub-*/anat/*_mask.nii*` and MUSE region numbers of the same people at
`derivatives/*/sub-*/anat/*_dseg.nii*`. Every fourth person is left out, to be measured. The
folders hold, of the others:

- `healed`: their scans, without what is marked, what is as bright as deep in the brain (machines
  miss lesions) and what touches these: there is the tissue around instead;
- `labels`: scans made from their regions, two of each person, with contrasts, thickness of slices,
  coil shading and noise drawn at random (as Billot et al. 2023, "SynthSeg");
- `simulated`: two healthy people of `brainvq simulate` for each of them;
- `mixed`: the first, and half of the others.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
from areas import tissue_of
from scipy import ndimage

from brainvq import data
from brainvq.app.anomaly import USUAL_THRESHOLD
from brainvq.evaluation.anomaly import brain_area, depth_score

KINDS = ("healed", "labels", "simulated")
VOXEL = 2.0  # mm


def people_of(root):
    """Of each person the scan, its lesion marks and its regions: dict of name to three paths."""
    root, found = Path(root), {}
    for scan in sorted(root.glob("sub-*/anat/*_FLAIR.nii*")):
        name = scan.name.split("_")[0]
        marks = sorted(root.glob(f"derivatives/*/{name}/anat/*_mask.nii*"))
        regions = sorted(root.glob(f"derivatives/*/{name}/anat/*_dseg.nii*"))
        found[name] = (scan, marks[0], regions[0] if regions else None)
    return found


def read(path):
    """A volume as float32, and its affine."""
    image = nibabel.load(path)
    return image.get_fdata(dtype="float32"), image.affine


def mean_around(x, known, width):
    """Mean of the known voxels around each, under a Gaussian of `width` voxels."""
    share = ndimage.gaussian_filter(known.astype("float32"), width)
    return ndimage.gaussian_filter(np.where(known, x, 0), width) / np.maximum(share, 1e-3)


def healed(x, marks, rng):
    """A scan whose marked voxels, and their neighbours, look like the white matter around.

    What is as dark as fluid or as bright as a lesion is no part of the mean around.
    """
    slices = np.moveaxis(x, 2, 0)
    bright = depth_score(slices, brain_area(slices), (VOXEL,) * 3) >= USUAL_THRESHOLD
    marks = ndimage.binary_dilation(marks | np.moveaxis(bright, 0, 2)) & (x > 0)
    rest = (x > 0) & ~marks
    counts, edges = np.histogram(x[rest][x[rest] > np.percentile(x[rest], 5)], 100)
    usual = edges[ndimage.gaussian_filter1d(counts.astype(float), 4).argmax()]
    tissue = rest & (x > 0.6 * usual) & (x < 1.5 * usual)
    fine = (x - ndimage.gaussian_filter(x, 1.5))[ndimage.binary_erosion(tissue)].std()
    noise = ndimage.gaussian_filter(rng.normal(size=x.shape), 0.5)
    noise *= 0.7 * fine / noise.std()
    return np.where(marks, np.minimum(x, mean_around(x, tissue, 2) + noise), x)


def from_labels(regions, rng):
    """A FLAIR-like scan of region numbers, without lesions: float32 on their grid."""
    tissue = tissue_of(regions)
    white = 140.0
    means = np.zeros(6)  # outside, outer fluid, ventricles, deep grey, cortex, white matter
    means[1], means[2] = white * rng.uniform(0.15, 0.7), white * rng.uniform(0.05, 0.3)
    means[3], means[4] = white * rng.uniform(1.0, 1.25), white * rng.uniform(1.15, 1.5)
    means[5] = white
    own = rng.normal(1, 0.04, int(regions.max()) + 1)  # no two regions are quite alike
    x = means[tissue] * own[np.asarray(regions).round().astype(int)]
    x += np.where(tissue > 0, 5 * ndimage.gaussian_filter(rng.normal(size=x.shape), 1) * 6, 0)
    thick = rng.uniform(2, 6) / VOXEL  # slices of 2 to 6 mm
    x = ndimage.gaussian_filter(x, (0.4, 0.4, thick / 2.355))
    knots = ndimage.zoom(rng.normal(0, 0.12, (4, 4, 4)), np.array(x.shape) / 4, order=3)
    x = x * np.exp(knots)
    x += ndimage.gaussian_filter(rng.normal(size=x.shape), (0.5, 0.5, 0.3)) * rng.uniform(5, 25)
    return np.where(tissue > 0, np.maximum(x, 1), 0).astype("float32")


def write(folder, name, image, affine):
    """Writes a scan into a BIDS folder."""
    path = folder / f"sub-{name}" / "anat" / f"sub-{name}_FLAIR.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image.astype("float32"), affine), path)


def write_all(root, out, left_out=3, seed=0):
    """Writes the four folders and, for each, a table of who is in which split."""
    people, rng = people_of(root), np.random.default_rng(seed)
    test = list(people)[left_out::4]
    for kind in KINDS:
        (out / kind).mkdir(parents=True)
    cohort = data.open_cohort(
        "simulated", n_subjects=2 * len(people), modality="FLAIR", spacing=VOXEL, seed=2000
    )
    data.write_simulated_bids(cohort, out / "simulated", workers=1)
    for kind in KINDS[:2]:
        about = {"Name": f"FLAIR without lesions: {kind}", "BIDSVersion": "1.8.0"}
        (out / kind / "dataset_description.json").write_text(json.dumps(about))
    for name, (scan, marks, regions) in people.items():
        x, affine = read(scan)
        whole = healed(x, read(marks)[0] > 0, rng)
        short = name.removeprefix("sub-")
        write(out / "healed", short, whole, affine)
        if name in test:
            write(out / "labels", short, whole, affine)
            write(out / "simulated", short, whole, affine)
        else:
            regions, affine = read(regions)
            for number in (1, 2):
                write(out / "labels", f"{short}l{number}", from_labels(regions, rng), affine)
    for kind in KINDS:
        for folder in sorted((out / kind).glob("sub-*"))[:: 1 if kind == "healed" else 2]:
            shutil.copytree(folder, out / "mixed" / folder.name, dirs_exist_ok=True)
    about = out / "simulated" / "dataset_description.json"  # the mixture is simulated in part
    shutil.copy(about, out / "mixed")
    for kind in (*KINDS, "mixed"):
        _write_splits(out / kind, [name.removeprefix("sub-") for name in test])


def _write_splits(folder, test):
    names = sorted(path.name.removeprefix("sub-") for path in folder.glob("sub-*"))
    rest = [name for name in names if name not in test]
    with open(f"{folder}.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("subject", "split"))
        for name in names:
            split = "test" if name in test else "validation" if name in rest[::12] else "train"
            rows.writerow((name, split))


def main():
    """Writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="BIDS folder of FLAIR with lesion marks and regions")
    parser.add_argument("out", type=Path, help="folder to write, new")
    options = parser.parse_args()
    write_all(options.data, options.out)


if __name__ == "__main__":
    main()
