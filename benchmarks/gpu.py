"""On a GPU: the library on JAX beside programs on PyTorch; one command, under 8 minutes.

    python benchmarks/gpu.py --out gpu.json         on a GPU, with jax[cuda] and torch for CUDA
    python benchmarks/gpu.py --quick                does it run: small sizes, on a CPU too

Needs this package, keras, jax, torch, monai and vector-quantize-pytorch; a side whose packages are
missing, or whose memory does not suffice, is left out and says why. Sides are processes that take
turns, as in `bench.py`. Memory is the most that was allocated on the device. Beside each rate
stand the share of the rate of a plain product of matrices on JAX, and how busy `nvidia-smi` found
the device while this side computed. `bfloat16` is Keras's policy `mixed_bfloat16`, and autocast of
PyTorch. The file is written after each comparison; none is begun after `--seconds`.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import bench
import tables

# In the form of `bench.COMPARISONS`; a size `precision` is that of a side.
HALF = {"precision": "bfloat16"}
TRAINED = {
    "brainvq": ("train_brainvq", {}),
    "brainvq bfloat16": ("train_brainvq", HALF),
    "MONAI VQVAE": ("train_monai", {}),
    "MONAI VQVAE bfloat16": ("train_monai", HALF),
}
COMPARISONS = {
    "train2d": (
        "training a VQ-VAE on slices of 256 x 256, batch 64, K=512, the same network",
        "images/s",
        {"shape": (256, 256), "filters": (64, 128, 256, 256), "dim": 64, "codes": 512, "batch": 64},
        {"shape": (32, 32), "filters": (4, 4), "batch": 2},
        TRAINED,
    ),
    "train3d": (
        "training a VQ-VAE on volumes of 144 x 176 x 144, batch 4, K=1024, the same network",
        "volumes/s",
        {
            "shape": (144, 176, 144),
            "filters": (32, 64, 128, 256),
            "dim": 64,
            "codes": 1024,
            "batch": 4,
        },
        {"shape": (16, 16, 16), "filters": (4, 4), "batch": 2},
        TRAINED,
    ),
    "quantizer8192": bench.COMPARISONS["quantizer8192"],
    "sampler": (
        "drawing 16 grids of 32 x 32 codes, K=512: PixelCNN with kept activations, transformer",
        "grids/s",
        {"grid": 32, "codes": 512, "batch": 16},
        {"grid": 4, "codes": 16, "batch": 2},
        bench.COMPARISONS["sampler"][-1],
    ),
}
LIMITS = {"matmul": ("matmul_jax", {"size": 8192}), "copy": ("copy_jax", {"megabytes": 1024})}
SMALL = {"matmul": ("matmul_jax", {"size": 128}), "copy": ("copy_jax", {"megabytes": 1})}
ON_JAX = {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
PACKAGES = ("keras", "jax", "torch", "monai", "vector-quantize-pytorch", "numpy")


def serve(function, sizes):
    """The process of a side: makes its job on the GPU, where there is one, and times it."""
    own, sys.stdout = sys.stdout, sys.stderr
    precision, seconds = sizes.pop("precision", None), sizes.pop("seconds")
    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in sizes.items()}
    on_jax = "brainvq" in function or function.endswith("_jax")
    job, risen = (_jax_job if on_jax else _torch_job)(function, sizes, precision)
    bench.answer(own, job, risen, seconds)


def _jax_job(function, sizes, precision):
    """A job on JAX, and a function that tells the most memory that its device allocated."""
    import jax
    import keras
    import peers

    if precision is not None:
        keras.config.set_dtype_policy(f"mixed_{precision}")
    job, device = getattr(peers, function)(**sizes), jax.devices()[0]
    return job, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use", 0)


def _torch_job(function, sizes, precision):
    """The same on PyTorch."""
    import peers
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(kind)
    # What JAX does by itself: products of float32 in TensorFloat-32.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    job = getattr(peers, function)(**sizes)
    made = job.call

    def call():
        half = precision is not None
        with torch.autocast(kind, torch.bfloat16) if half else contextlib.nullcontext():
            made()
        if kind == "cuda":
            torch.cuda.synchronize()

    job.call = call
    return job, torch.cuda.max_memory_allocated if kind == "cuda" else lambda: 0


class Watch:
    """Samples how busy the GPU is, in percent, five times a second; nothing without `nvidia-smi`.

    Attributes:
        samples: list of (seconds of `time.monotonic`, percent).
    """

    def __init__(self):
        self.samples, self.process = [], None
        if shutil.which("nvidia-smi"):
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            self.process = subprocess.Popen(
                ["nvidia-smi", *query], stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.samples.append((time.monotonic(), float(line)))

    def between(self, spans):
        """The mean within some spans of time, or None."""
        found = [p for t, p in list(self.samples) if any(a + 0.2 <= t <= b for a, b in spans)]
        return statistics.fmean(found) if found else None

    def close(self):
        """Ends the sampling."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def started(jobs, options):
    """The sides that run, dict of name to `bench.Side`, and why others do not, dict of str."""

    def start(job):
        function, sizes = job
        seconds = {"seconds": 0.05 if options.quick else 1.5}
        try:
            return bench.Side(function, sizes | seconds, os.cpu_count(), __file__, **ON_JAX)
        except SystemExit as error:
            return str(error).strip().splitlines()[-1]

    # Most of their time goes into imports and compilers.
    with concurrent.futures.ThreadPoolExecutor(max(1, os.cpu_count() // 2)) as pool:
        sides = dict(zip(jobs, pool.map(start, jobs.values()), strict=True))
    running = {name: side for name, side in sides.items() if isinstance(side, bench.Side)}
    return running, {name: side for name, side in sides.items() if name not in running}


def compare(name, options, limits, watch):
    """Runs a comparison; returns what the file holds of it."""
    title, unit, sizes, small, sides = COMPARISONS[name]
    sizes = {**sizes, **(small if options.quick else {})}
    jobs = {side: (function, sizes | further) for side, (function, further) in sides.items()}
    running, missing = started(jobs, options)
    rounds = {side: [] for side in {**running, **limits}}
    spans = {side: [] for side in rounds}
    try:
        for _ in range(options.rounds):
            for side, process in {**running, **limits}.items():
                began = time.monotonic()
                rounds[side].append(process.run())
                spans[side].append((began, time.monotonic()))
    finally:
        for process in running.values():
            process.close()
    facts = {side: process.facts for side, process in {**running, **limits}.items()}
    found = bench.summary(list(running), facts, rounds)
    for side, about in found["sides"].items():
        about["busy"] = watch.between(spans[side])
    return {"title": title, "unit": unit, "sizes": sizes, "missing": missing} | found


def machine(options):
    """What the figures were taken with."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    gpu = None
    if shutil.which("nvidia-smi"):
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        gpu = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": gpu,
        "cores": os.cpu_count(),
        "rounds": options.rounds,
        "python": platform.python_version(),
        "versions": versions,
    }


def table(found):
    """A comparison as a table, with how busy the device was."""
    head = [found["title"], found["unit"], "time beside ours", "memory", "of matmul", "busy"]
    lines = []
    for name, side in found["sides"].items():
        row, busy = tables.side_row(name, side), side["busy"]
        lines.append([*row[:3], *row[4:], "" if busy is None else f"{busy:.0f}%"])
    left_out = [f"{name}: {why}" for name, why in found["missing"].items()]
    return "\n".join([tables.rows(head, lines), *left_out])


def main():
    """Runs the comparisons and writes the file after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    parser.add_argument("--seconds", type=float, default=330, help="begin none after so many")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the file of results")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return serve(options.side[0], json.loads(options.side[1]))
    began, watch = time.monotonic(), Watch()
    results = {"machine": machine(options), "comparisons": {}}
    limits, missing = started(SMALL if options.quick else LIMITS, options)
    try:
        if missing:
            raise SystemExit(f"JAX computes nothing here: {missing}")
        for name in options.only:
            if time.monotonic() - began > options.seconds:
                print(f"{name}: left out, for the time is up", flush=True)
                continue
            found = results["comparisons"][name] = compare(name, options, limits, watch)
            results["seconds"] = round(time.monotonic() - began)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(table(found), flush=True)
    finally:
        for process in limits.values():
            process.close()
        watch.close()


if __name__ == "__main__":
    main()
