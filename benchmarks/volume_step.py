"""Time and memory of a training step of study `som3d`, beside the same network in plain Keras.

    python benchmarks/volume_step.py                          # 144x176x144, batch 8: some minutes
    python benchmarks/volume_step.py --shape 32 48 32 --batch 2
    python benchmarks/volume_step.py --filters 16 32 64 128   # a wide network

The bare network is written below with Keras' own layers and trained by `keras.Model.compile("adam",
"mse")`; the others are `brainvq.Autoencoder`s. All train on the same batch in one process, in
rounds that go through them in turn, so that whatever else the machine does falls on all: compare
the ratios to the bare network of the same run, not seconds of different runs. The ratio by CPU
seconds of the process is for a machine that other programs use as well.

The peak of the resident memory is taken in a process of its own for each configuration, Python,
Keras and the batch included; "step" is what it rises by from the finished model to the end of the
steps. It is read from Linux, and on a GPU it says nothing.
"""

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from brainvq import Autoencoder
from brainvq.layers import Identity, SOMQuantizer
from brainvq.models import strided_decoder, strided_encoder


def bare(shape, filters):
    """The network by Keras alone."""
    inputs = keras.Input((*shape, 1))
    x = inputs
    for width in filters:
        x = layers.Conv3D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    for width in reversed(filters[:-1]):
        x = layers.Conv3DTranspose(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv3DTranspose(1, 3, strides=2, padding="same")(x)
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.Adam(0.005), "mse")
    return lambda batch: model.train_on_batch(batch, batch)


def ours(shape, filters, bottleneck=None, continuous_weight=None, **options):
    """An autoencoder of the library."""
    encoder = strided_encoder((*shape, 1), filters, **options)
    decoder = strided_decoder(encoder.output_shape[1:], filters, **options)
    bottleneck = bottleneck or Identity()
    model = Autoencoder(encoder, bottleneck, decoder, continuous_weight=continuous_weight)
    model.compile(keras.optimizers.Adam(0.005))
    return model.train_on_batch


def som(shape, filters, **options):
    """The study's self-organising map, whose decoder reads twice the batch."""
    bottleneck = SOMQuantizer((16, 16), "toroid")
    return ours(shape, filters, bottleneck, continuous_weight=0.8, **options)


CONFIGURATIONS = {
    "bare": bare,
    "identity": ours,
    "som": som,
    "group norm": lambda *a: ours(*a, norm="group"),
    "no norm": lambda *a: ours(*a, norm="none"),
    "checkpoint": lambda *a: ours(*a, checkpoint=True),
    "som checkpoint": lambda *a: som(*a, checkpoint=True),
    "mixed_bfloat16": ours,
}


@contextlib.contextmanager
def policy_of(name):
    """Within it layers are made with the configuration's dtype policy."""
    keras.config.set_dtype_policy(name if name.startswith("mixed") else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def build(name, options):
    """Returns a function that trains one step on the batch."""
    keras.utils.set_random_seed(0)
    with policy_of(name):
        return CONFIGURATIONS[name](tuple(options.shape), tuple(options.filters))


def batch_of(options):
    """Noise of the size and scale of the volumes."""
    values = np.random.default_rng(0).standard_normal(
        (options.batch, *options.shape, 1), dtype="float32"
    )
    return keras.ops.convert_to_tensor(values)


def peak():
    """Peak of this process' resident memory so far, in GB."""
    # Not resource.getrusage: a process that another started has at least the peak of that one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9


def measure(name, options):
    """Memory of one configuration, in this process."""
    batch = batch_of(options)
    step = build(name, options)
    before = peak()
    for _ in range(2):
        step(batch)
    print(json.dumps([peak(), peak() - before]))


def memory_of(name):
    """What `measure` finds in a fresh process with the same options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def main():
    """Starts a process for the memory of each configuration, then times them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[144, 176, 144], help="voxels")
    parser.add_argument("--batch", type=int, default=8, help="volumes per step")
    parser.add_argument("--filters", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3, help="measurements; the median counts")
    parser.add_argument("--steps", type=int, default=2, help="steps of a measurement")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--memory-of", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure(options.memory_of, options)
        return
    names = ["bare", *(name for name in options.only if name != "bare")]
    memory = {name: memory_of(name) for name in names}
    batch = batch_of(options)
    steps = {name: build(name, options) for name in names}
    for step in steps.values():
        step(batch)  # compiles
    wall = {name: [] for name in names}
    cpu = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, step in steps.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            for _ in range(options.steps):
                step(batch)
            wall[name].append((time.perf_counter() - began) / options.steps)
            cpu[name].append((time.process_time() - cpu_began) / options.steps)
    print(f"backend {keras.backend.backend()}, {options}")
    print("configuration    s/step  ratio  ratio by CPU  peak GB  of it the step")
    for name in names:
        most, rise = memory[name]
        print(
            f"{name:15s} {statistics.median(wall[name]):7.3f}  {ratio(name, wall):5.2f}  "
            f"{ratio(name, cpu):12.2f}  {most:7.2f}  {rise:14.2f}"
        )


def ratio(name, times):
    """Median of the rounds' ratios to the bare network."""
    pairs = zip(times[name], times["bare"], strict=True)
    return statistics.median(own / bare for own, bare in pairs)


if __name__ == "__main__":
    main()
