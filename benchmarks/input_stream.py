"""Whether training waits for its input, and how much memory that takes, at the size of IXI.

    python benchmarks/input_stream.py --folder DIR [--train 30] [--batches 1000] [--keep]

Writes an array store of 600 scans of 128 slices of 256x256 (76,800 slices, 10 GB) under DIR with
`brainvq.data.prepare`, as a study would: the scans are a few simulated brains, each under many
names, since the store does not know that they are alike. Then it streams shuffled, augmented
batches from it and prints slices per second and the peak memory of the process; with `--train` also
the speed of training steps fed by the store, beside the same steps fed by one batch that is held in
memory. The two speeds are equal where the input is no bottleneck. The store is removed at the end
unless `--keep`; a second run with the same DIR uses what is there.

Measured on a store of full size, on two cores that other programs used at the same time: peak
memory 1.7 GB, training included; a batch of 16 takes 2.3 ms of processor time to read and 0.5 ms to
augment in quiet moments, a training step 1.10 s fed by the store and 1.09 s fed by memory. Of files
that are not in memory, 1.15 times the bytes asked for are read from the disk.
"""

import argparse
import os
import resource
import shutil
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import numpy as np
import pandas as pd

SOURCES = 4  # different brains
SHIFT, FLIP, GAIN = 8, 0.5, 0.1


def main():
    """Makes the store, streams it, and prints what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the store is written")
    parser.add_argument("--scans", type=int, default=600, help="scans in the store")
    parser.add_argument("--slices", type=int, default=128, help="slices of a scan")
    parser.add_argument("--size", type=int, default=256, help="rows and columns, in pixels")
    parser.add_argument("--batch-size", type=int, default=16, help="slices in a batch")
    parser.add_argument("--batches", type=int, default=0, help="batches to stream; 0: an epoch")
    parser.add_argument("--train", type=int, default=0, help="training steps of each kind; 0: none")
    parser.add_argument("--keep", action="store_true", help="leave the store where it is")
    options = parser.parse_args()
    made = options.folder / "input-stream-benchmark"
    try:
        store = make_store(made, options)
        print(store)
        print(f"after opening: peak memory {peak_memory():.2f} GB", flush=True)
        stream(store, options)
        if options.train:
            train(store, options)
        print(f"peak memory of the process: {peak_memory():.2f} GB")
    finally:
        if not options.keep:
            shutil.rmtree(made, ignore_errors=True)


def make_store(folder, options):
    """The array store; made where it is not there yet."""
    from brainvq.data import Cohort, prepare

    shape = (options.size, options.size, options.slices)
    needed = options.scans * int(np.prod(shape)) * 2 + SOURCES * int(np.prod(shape))
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.rglob("*.npy"))
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        sys.exit(f"{folder}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    sources = make_sources(folder, shape)
    rows = []
    for number in range(options.scans):
        # A link of its own for each scan: the store sees as many files as a real cohort has.
        link = folder / "scans" / f"scan{number:04d}.nii"
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(sources[number % len(sources)])
        rows.append({"scan_id": link.stem, "subject": link.stem, "paths": (str(link),)})
    start = time.perf_counter()
    store = prepare(Cohort("benchmark", pd.DataFrame(rows), simulated=True), [], folder / "store")
    print(f"store made or opened in {time.perf_counter() - start:.0f} s, {needed / 1e9:.1f} GB")
    return store


def make_sources(folder, shape):
    """Simulated brains of that shape in [0, 1], as uncompressed NIfTI of one byte a voxel."""
    import nibabel as nib

    from brainvq.data import CropOrPad, ScaleIntensity, SelectSlices, apply_steps
    from brainvq.data.simulation import simulate

    files = []
    for number in range(SOURCES):
        file = folder / f"source{number}-{'x'.join(map(str, shape))}.nii"
        files.append(file.resolve())
        if file.exists():
            continue
        image, affine = simulate({"number": number, "spacing": 1.0})[:2]
        steps = [
            ScaleIntensity(method="max"),
            SelectSlices(plane="axial", count=shape[2]),
            CropOrPad(shape=(*shape[:2], None)),
        ]
        image, affine = apply_steps(steps, image, affine)
        stored = nib.Nifti1Image(np.rint(255 * image).astype(np.uint8), affine)
        stored.header.set_slope_inter(1 / 255, 0)
        nib.save(stored, file)
    return files


def stream(store, options):
    """Speed of the input alone, from disk and from the memory of the operating system."""
    from brainvq.training.augment import Augment
    from brainvq.training.stream import BatchStream

    augment = Augment(shift=SHIFT, flip=FLIP, gain=GAIN)
    full = BatchStream(
        store.read, np.arange(len(store)), options.batch_size, shuffle=True, augment=augment
    )
    count = min(options.batches or len(full), len(full))
    for name, forget in (("files not in memory", True), ("again", False)):
        if forget:
            drop_from_page_cache(store)
        start, processor = time.perf_counter(), time.process_time()
        for number in range(count):
            full[number]
        seconds, busy = time.perf_counter() - start, time.process_time() - processor
        total = count * options.batch_size
        print(
            f"input alone, {name}: {total / seconds:.0f} slices/s over {total} slices "
            f"({1000 * busy / count:.1f} ms of processor time a batch); "
            f"peak memory {peak_memory():.2f} GB",
            flush=True,
        )
    read = [timed(lambda n=n: store.read(full.indices[full.rows(n)])) for n in range(50)]
    batch = store.read(full.indices[full.rows(0)])
    change = [timed(lambda n=n: augment(batch, np.random.default_rng(n))) for n in range(50)]
    shares = (1000 * statistics.median(times) for times in (read, change))
    print("of a batch: read {:.1f} ms, augment {:.1f} ms".format(*shares), flush=True)


def train(store, options):
    """Speed of training steps: fed by the store, and fed by one batch that is held in memory."""
    import keras

    from brainvq.studies import STUDIES
    from brainvq.training.augment import Augment
    from brainvq.training.stream import BatchStream

    study = STUDIES["oasis2d"]["best"]
    study = replace(study, data=replace(study.data, size=options.size))
    model = study.model.build(store.sample_shape)
    model.compile(keras.optimizers.Adam(1e-4))
    augment = Augment(shift=SHIFT, flip=FLIP, gain=GAIN)
    rng = np.random.default_rng(0)

    def from_store(steps):
        rows = rng.permutation(len(store))[: steps * options.batch_size]
        return BatchStream(store.read, rows, options.batch_size, shuffle=True, augment=augment)

    class Held(keras.utils.PyDataset):
        def __init__(self, steps):
            super().__init__()
            self.batch, self.steps = (augment(store.read(rng.permutation(16)), rng),), steps

        def __len__(self):
            return self.steps

        def __getitem__(self, number):
            return self.batch

    model.fit(from_store(3), verbose=0)  # builds the step
    times, busy = {from_store: [], Held: []}, {from_store: [], Held: []}
    blocks = 5  # in turn, so that both see the same machine
    steps = max(2, options.train // blocks)
    for _ in range(blocks):
        for kind in times:
            given = kind(steps)
            before = time.process_time()
            times[kind].append(timed(lambda given=given: model.fit(given, verbose=0)))
            busy[kind].append(time.process_time() - before)
    stored, held = (
        steps * options.batch_size / statistics.median(times[kind]) for kind in (from_store, Held)
    )
    print(
        f"training: {stored:.1f} slices/s from the store, {held:.1f} slices/s from one batch in "
        f"memory: {stored / held:.3f} (median of {blocks} blocks of {steps} steps)"
    )
    # On a machine that others use, the time on the processor says more than that on the clock.
    stored, held = (statistics.median(busy[kind]) / steps for kind in (from_store, Held))
    print(f"processor time of a step: {stored:.3f} s and {held:.3f} s", flush=True)


def drop_from_page_cache(store):
    """Asks the operating system to forget the files, where it can be asked (Linux)."""
    if hasattr(os, "posix_fadvise"):
        for file in store.path.glob("*.npy"):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_memory():
    """Most memory that the process has ever held, in GB (pages of mapped files count)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def timed(function):
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
