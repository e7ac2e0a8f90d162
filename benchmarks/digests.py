"""Every study, variant and verb once with `--smoke`, and a digest of all that they write.

    python benchmarks/digests.py run FOLDER [--root CHECKOUT] [--only oasis2d,som3d]
                                                    FOLDER/digests.json
    python benchmarks/digests.py compare A B        what differs between two digests.json

A change that shall leave the behaviour as it is keeps these equal: every number of `metrics.json`,
every table, every exported array and every figure. Numbers that say how long something took, or
where it lies, are left out. About 25 minutes on two cores.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("oasis2d", "ixi2d", "som3d", "introvae3d", "streamlines")
# Verbs of `predict.py` for a run of each kind; {name} is replaced, see `inputs`.
SLICES = (
    ("sample", "-n", "4", "--seed", "3"),
    ("sample", "-n", "2", "--seed", "3", "--level", "0.5", "--temperature", "1", "--out", "level"),
    ("reconstruct", "{scans}", "--plane", "all"),
    ("reconstruct", "{scan}", "--plane", "coronal", "--out", "coronal"),
    ("encode", "{scans}"),
    ("decode", "{codes}"),
    ("map", "{scan}"),
    ("anomaly", "{patients}", "--masks", "{masks}", "--step", "4"),
    ("classify", "--labels", "{labels}", "--folds", "2", "--epochs", "2", "--slices", "4"),
    ("export",),
)
VOLUMES = (
    ("sample", "-n", "2", "--seed", "3"),
    ("reconstruct", "{scans}"),
    ("encode", "{scans}"),
    ("decode", "{codes}"),
    ("map", "{scan}"),
)
VECTORS = (
    ("sample", "-n", "3", "--seed", "3"),
    ("traverse", "--dimensions", "0", "2", "--values", "-2", "0", "2"),
    ("encode", "{scan}"),
    ("decode", "{codes}"),
    ("reconstruct", "{scan}"),
    ("interpolate", "{scan}", "{other}", "--steps", "3"),
    ("export",),
)
BUNDLES = (
    ("sample", "--bundle", "MCP", "ILF_L", "--seed", "3"),
    ("reconstruct", "{tracts}"),
    ("encode", "{tracts}"),
    ("decode", "{codes}"),
    ("perturb", "{tracts}", "--epsilon", "0.5"),
)
# Runs that are used, each with its verbs.
USED = {
    "oasis2d": {"best": SLICES, "paper": (SLICES[0], SLICES[2])},
    "ixi2d": {"best": (SLICES[0], SLICES[3], ("reconstruct", "{scan}", "--matrix", "80"))},
    "som3d": {
        "best": VOLUMES,
        "best-deep": VOLUMES[1:],
        "vqvae-new": VOLUMES[2:],
        "psomvae": (VOLUMES[1],),
        "vae": (VOLUMES[1],),
    },
    "introvae3d": {"best": VECTORS, "ivae-256": VECTORS[:2]},
    "streamlines": {"best": BUNDLES, "vq-diff": BUNDLES[1:4]},
}
# What differs between two runs of the same program.
PLACES = {"timings.json", "finished.json", "log.txt", "study.json", "cohort.json"}
SECONDS = ("second", "command", "path", "file", "run", "Run", "Sources", "name")


def main():
    """Runs or compares, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--root", type=Path, default=ROOT, help="checkout whose scripts are run")
    verb.add_argument("--only", default=",".join(STUDIES), help="studies, with commas between")
    verb.add_argument("--workers", type=int, default=2)
    verb = verbs.add_parser("compare")
    verb.add_argument("before", type=Path)
    verb.add_argument("after", type=Path)
    verb.add_argument("--tolerance", type=float, default=1e-4, help="relative, of single numbers")
    options = parser.parse_args()
    if options.verb == "compare":
        sys.exit(compare(options.before, options.after, options.tolerance))
    run_all(options)


def run_all(options):
    """Runs the studies side by side and writes `digests.json`."""
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    names = options.only.split(",")
    call = Caller(options.root.resolve(), folder)
    call(folder, "dataset.py", "simulate", "--out", "scans", "--subjects", "4", "--spacing", "3")
    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda name: study(name, folder / name, call), names))
    known = folder / "digests.json"
    found = json.loads(known.read_text()) if known.exists() else {}
    for name in names:
        found = {key: value for key, value in found.items() if not key.startswith(f"{name}/")}
        found |= digests(folder / name, name)
    known.write_text(json.dumps(dict(sorted(found.items())), indent=1))
    print(f"{len(found)} digests in {known}")


class Caller:
    """Calls the scripts of a checkout, each as a process of its own."""

    def __init__(self, root, folder):
        self.root, self.folder = root, folder

    def __call__(self, folder, script, *words):
        """Calls `script` with `words` in `folder`; returns its exit status."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(self.root / script), *map(str, words)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        line = f"{folder.name}: {script} {' '.join(map(str, words))}"
        print(f"{line} ({time.monotonic() - began:.0f} s)", flush=True)
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", flush=True)
        return done.returncode


def study(name, folder, call):
    """Trains every variant of a study, uses some of the runs, and compares all of them."""
    folder.mkdir(exist_ok=True)
    call(folder, "train.py", name, "--variants", "all", "--smoke", "--data.workers", "1")
    runs = {
        path.name.removeprefix(f"{name}-").rsplit("-", 2)[0]: path
        for path in sorted((folder / "runs").iterdir())
        if path.is_dir()
    }
    for variant, verbs in USED[name].items():
        for verb, *words in verbs:
            here = inputs(call.folder / "scans", folder, variant)
            given = [part for word in words for part in here.get(word, [word])]
            where = given[given.index("--out") + 1] if "--out" in given else verb
            given = given[: given.index("--out")] if "--out" in given else given
            out = folder / "predictions" / variant / where
            call(folder, "predict.py", runs[variant], verb, *given, "--out", out)
    call(folder, "similarity.py", *runs.values())


def inputs(scans, folder, variant):
    """What the placeholders of the verbs stand for, each a list of words."""
    made = folder / "predictions" / variant
    images = sorted(path for path in scans.glob("sub-*/**/*.nii.gz"))
    return {
        "{scans}": images[:2],
        "{patients}": images[1:3],  # the other two are healthy, without lesions
        "{scan}": images[:1],
        "{other}": images[1:2],
        "{masks}": [scans / "derivatives" / "lesions"],
        "{labels}": [f"{scans / 'participants.tsv'}:group"],
        "{codes}": sorted((made / "encode").glob("*.npy"))[:1],
        "{tracts}": sorted((folder / "predictions" / "best" / "sample").glob("*.trk"))[:1],
    }


def digests(folder, name):
    """Digests of all files below `folder`: dict of key to number, text or list."""
    found = {}
    for path in sorted(folder.rglob("*")):
        key = "/".join([name, *map(without_time, path.relative_to(folder).parts)])
        parts = path.relative_to(folder).parts
        if not path.is_file() or parts[0] == "cache" or path.name in PLACES:
            continue
        if {"checkpoints", "tensorboard"} & set(parts) or ".keras" in path.name:
            continue
        try:
            found |= digest(path, key)
        except Exception as error:
            found[key] = f"cannot be read: {error}"
    return found


def without_time(part):
    """A name of a file or folder without the time of a run in it."""
    words = part.split("-")
    return "-".join(word for word in words if not (word.isdigit() and len(word) in (6, 8)))


def digest(path, key):
    """Digests of one file."""
    if path.suffix == ".json":
        return dict(flat(json.loads(path.read_text()), key))
    if path.suffix in (".csv", ".tsv"):
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))
        return dict(flat(rows, key))
    if path.suffix == ".npy":
        return {key: of_array(np.load(path))}
    if path.name.endswith((".nii.gz", ".nii")):
        import nibabel as nib

        image = nib.load(path)
        return {key: of_array(np.asarray(image.dataobj)), f"{key}#affine": of_array(image.affine)}
    if path.suffix in (".trk", ".tck", ".trx"):
        import nibabel as nib

        lines = nib.streamlines.load(path).streamlines
        return {key: of_array(np.concatenate(list(lines)))}
    if path.suffix == ".png":
        from PIL import Image

        return {key: of_array(np.asarray(Image.open(path)))}
    return {key: "is there"}


def flat(value, key):
    """Pairs of key and number or text of what a JSON file or a table holds."""
    last = key.rsplit("/", 1)[-1].rsplit("#", 1)[-1]
    if any(word in last for word in SECONDS) and not isinstance(value, dict | list):
        return
    if isinstance(value, dict):
        for name, part in value.items():
            yield from flat(part, f"{key}#{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from flat(part, f"{key}#{number}")
    else:
        try:
            yield key, float(value)
        except (TypeError, ValueError):
            yield key, None if value is None else str(value)


def of_array(array):
    """Shape, type, mean, deviation and checksum."""
    array = np.ascontiguousarray(array)
    numbers = array.astype("float64") if array.dtype.kind in "iufb" else np.zeros(1)
    return [
        list(array.shape),
        str(array.dtype),
        float(numbers.mean()) if numbers.size else 0.0,
        float(numbers.std()) if numbers.size else 0.0,
        hashlib.sha256(array.tobytes()).hexdigest()[:16],
    ]


def compare(before, after, tolerance):
    """Prints what differs between two files of digests; returns how many differ."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    missing, new = sorted(set(one) - set(other)), sorted(set(other) - set(one))
    changed = [
        key for key in sorted(set(one) & set(other)) if not same(one[key], other[key], tolerance)
    ]
    for title, keys in (("gone", missing), ("new", new), ("changed", changed)):
        for key in keys:
            print(f"{title}: {key}: {one.get(key)} -> {other.get(key)}")
    total = len(missing) + len(new) + len(changed)
    print(f"{len(set(one) & set(other)) - len(changed)} equal, {total} differ")
    return min(total, 1)


def same(a, b, tolerance):
    """Whether two digests are equal, numbers up to a relative tolerance."""
    if isinstance(a, float) and isinstance(b, float):
        both_nan = math.isnan(a) and math.isnan(b)
        return both_nan or math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-9)
    return a == b


if __name__ == "__main__":
    main()
