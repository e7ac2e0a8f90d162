"""How good reconstructions of unseen people are after so many minutes of training: three programs.

    python benchmarks/quality.py STORE --minutes 2 5

`best` of study oasis2d, MONAI's `VQVAE` with its own default network (96, 96 and 192 channels,
three residual units at each level) and the losses and rate of its tutorial, and the VQ-VAE of
keras.io; each with 16 x 16 codes of a codebook of 512, on the same prepared slices and the same
split, in batches of 16. STORE is a folder of slices as `brainvq prepare oasis2d` makes and names
it. `best` lowers its learning rate
towards the end, so it is trained anew for each number of minutes; the others have a constant rate,
and are looked at on their way.

Every training is a process of its own with one thread. Minutes are those of its processor, spent on
reading, augmenting and steps, not on compiling and measuring: on a machine that others use they
stay comparable. The results go into results.json, and the figure into docs/quality.png. Needs the
environment of `make bench`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tables

FOLDER = Path(__file__).resolve().parent
BATCH, CODES, MEASURED = 16, 512, 160
PROGRAMS = {"best": "brainvq best", "monai": "MONAI VQVAE", "keras_io": "keras.io VQ-VAE"}


class Data:
    """Prepared slices: batches of the training people, and slices of the test people."""

    def __init__(self, folder):
        from brainvq.app.stages import BatchStream
        from brainvq.data import ArrayStore
        from brainvq.studies import STUDIES
        from brainvq.tasks import of

        self.study = STUDIES["oasis2d"]["best"]
        self.task = of(self.study)
        store = ArrayStore.open(folder)
        table = store.table
        rows = {name: np.flatnonzero(table["split"] == name) for name in ("train", "test")}
        some = np.linspace(0, len(rows["test"]) - 1, MEASURED).astype(int)
        self.unseen = store.read(rows["test"][np.unique(some)])
        self.people = [int(table["subject"].iloc[own].nunique()) for own in rows.values()]
        self.stream = BatchStream(store.read, rows["train"], BATCH, shuffle=True)
        self.augment = self.task.augmentation(self.study)

    def batches(self, augment=None):
        """Batches without end, shuffled anew in each pass."""
        self.stream.augment = augment
        while True:
            for number in range(len(self.stream)):
                yield self.stream[number][0]
            self.stream.epoch += 1

    def measures(self, reconstruct):
        """SSIM of the unseen slices, whole and in the foreground."""
        from brainvq.evaluation import similarity

        decoded = np.clip(reconstruct(self.unseen), 0, 1)
        mask = similarity.foreground(self.unseen)
        whole = similarity.ssim(self.unseen, decoded).mean()
        inside = similarity.ssim(self.unseen, decoded, mask=mask).mean()
        return {"ssim": float(whole), "foreground": float(inside)}


def best(data, minutes):
    """`best` for so many minutes; yields a step and what reconstructs."""
    import keras

    study = data.study
    keras.utils.set_random_seed(study.seed)

    def made(steps):
        model = study.model.build(study.input_shape, seed=study.seed)
        data.task.compile(model, study.train, steps)
        return model

    batches = data.batches(data.augment)
    trial = made(100)
    times = []
    for _ in range(8):
        began = time.process_time()
        trial.train_on_batch(next(batches))
        times.append(time.process_time() - began)
    steps = max(10, int(60 * minutes / np.median(times[2:])))
    model = made(steps)
    return (lambda: model.train_on_batch(next(batches))), model.reconstruct, steps


def monai(data, minutes):
    """MONAI's `VQVAE` as its tutorial trains it: Adam at 1e-4 on the absolute error."""
    import torch
    from monai.networks.nets import VQVAE

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VQVAE(2, 1, 1, num_embeddings=CODES)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    batches = data.batches()

    def step():
        images = torch.from_numpy(np.moveaxis(next(batches), -1, 1).copy())
        model.train()
        optimizer.zero_grad(set_to_none=True)
        reconstruction, loss = model(images)
        (loss + torch.nn.functional.l1_loss(reconstruction, images)).backward()
        optimizer.step()

    def reconstruct(images):
        model.eval()
        with torch.no_grad():
            parts = torch.from_numpy(np.moveaxis(images, -1, 1).copy()).split(BATCH)
            return np.moveaxis(torch.cat([model(part)[0] for part in parts]).numpy(), 1, -1)

    return step, reconstruct, None


def keras_io(data, minutes):
    """The VQ-VAE of keras.io: Adam at 1e-3, a codebook by gradient, the loss over the variance."""
    import keras
    import tensorflow as tf
    from tutorial_vqvae import TutorialVQVAE

    keras.utils.set_random_seed(0)
    batches = data.batches()
    model = TutorialVQVAE(float(np.var(next(batches))), CODES, filters=(32, 64, 64))
    model.compile(keras.optimizers.Adam())
    model(next(batches))
    model.optimizer.build(model.trainable_variables)
    train = tf.function(lambda images: model.train_step(images))
    return (lambda: train(tf.constant(next(batches)))), model.reconstruct, None


def train(program, minutes, folder):
    """A process: trains up to the last of `minutes`; prints a line of JSON at each of them."""
    from brainvq.allocator import keep_freed_memory
    from brainvq.cli import ask_for_onednn

    keep_freed_memory()
    ask_for_onednn()
    data = Data(folder)
    step, reconstruct, limit = globals()[program](data, minutes[-1])
    done, spent, points = 0, 0.0, list(minutes)
    while points:
        began = time.process_time()
        step()
        # The first step compiles.
        spent, done = spent + (time.process_time() - began) * (done > 0), done + 1
        if done == limit or (limit is None and spent >= 60 * points[0]):
            point = {"minutes": points.pop(0), "spent": spent / 60, "steps": done}
            print(json.dumps(point | data.measures(reconstruct)), flush=True)
    print(json.dumps({"people": data.people, "measured": len(data.unseen)}), flush=True)


def main():
    """Trains all of them at once, and writes the results and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="folder of prepared slices")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5])
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    minutes = sorted(options.minutes)
    if options.program:
        return train(options.program, minutes, options.store)
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "TF_INTRAOP", "TF_INTEROP")}
    one |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    between = sorted({m / n for m in minutes for n in (1, 2)})
    jobs = [("best", [m]) for m in minutes] + [("monai", between), ("keras_io", between)]
    running = []
    for program, points in jobs:
        words = [sys.executable, __file__, options.store, "--program", program]
        process = subprocess.Popen(
            [*words, "--minutes", *map(str, points)],
            env=os.environ | one,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append((program, process))
    curves = {name: [] for name in PROGRAMS.values()}
    for program, process in running:
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            point = json.loads(line)
            if "minutes" in point:
                print(program, point, flush=True)
                curves[PROGRAMS[program]].append(point)
            else:
                facts = point
    results = tables.read() | {"quality": {**facts, "curves": curves}}
    tables.write(results)
    tables.figure_of_quality(results)


if __name__ == "__main__":
    main()
