"""Every comparison of docs/performance.md in one command: `make bench`.

    make bench                                     all of them
    .make/bench/bin/python benchmarks/bench.py --only quantizer --rounds 9
    .make/bench/bin/python benchmarks/bench.py --quick            does it run: small sizes, no file

Each side of a comparison is a process of its own, which builds, warms up and waits. Then rounds go
through the sides in turn, A B A B, each computing while the others sleep: whatever else the machine
does falls on all. Two more processes, a product of matrices and a copy, take part in every round,
and tell what the machine could do just then. Reported are medians over the rounds, ratios as
medians of the rounds' own ratios with their range, and what the resident memory of the process rose
by above what it held once imports, network and inputs were there.

Results go into benchmarks/results.json, from which `tables.py` writes the tables of the page.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tables

FOLDER = Path(__file__).resolve().parent
PACKAGES = ("keras", "tensorflow", "jax", "numpy", "scikit-learn", "scikit-image", "dipy")
PACKAGES += ("torch", "monai", "vector-quantize-pytorch")
QUANTIZER = {"shape": (32, 32, 32, 64)}
# Name: (what it is, unit of work, sizes, sizes of --quick, {side: (function, further sizes)}).
COMPARISONS = {
    "train2d": (
        "training a VQ-VAE on slices of 128 x 128, batch 32, K=16, the same network",
        "images/s",
        {"shape": (128, 128), "filters": (32, 32, 64, 64), "dim": 16, "codes": 16, "batch": 32},
        {"shape": (32, 32), "filters": (4, 4), "batch": 2},
        {"brainvq": ("train_brainvq", {}), "MONAI VQVAE": ("train_monai", {})},
    ),
    "train3d": (
        "training a VQ-VAE on volumes of 144 x 176 x 144, batch 8, K=256, the same network",
        "volumes/s",
        {
            "shape": (144, 176, 144),
            "filters": (4, 8, 16, 32),
            "dim": 32,
            "codes": 256,
            "batch": 8,
        },
        {"shape": (16, 16, 16), "filters": (4, 4), "batch": 2},
        {"brainvq": ("train_brainvq", {}), "MONAI VQVAE": ("train_monai", {})},
    ),
    "tutorial": (
        "training the VQ-VAE of keras.io on slices of 128 x 128, batch 64, the same convolutions",
        "images/s",
        {"size": 128, "batch": 64},
        {"size": 32, "batch": 2},
        {"brainvq": ("train_tutorial_brainvq", {}), "keras.io": ("train_tutorial", {})},
    ),
    **{
        f"quantizer{codes}": (
            f"quantising 32 grids of 32 x 32 vectors of 64, forward and backward, K={codes}",
            "vectors/s",
            {**QUANTIZER, "codes": codes},
            {"shape": (2, 4, 4, 8), "codes": 16},
            {
                "brainvq EMA": ("ema_brainvq", {}),
                "MONAI EMAQuantizer": ("ema_monai", {}),
                "vector-quantize-pytorch": ("ema_vqp", {}),
            },
        )
        for codes in (512, 8192)
    },
    "residual": (
        "the same by four stages of K=512 one after the other",
        "vectors/s",
        {**QUANTIZER, "codes": 512, "depth": 4},
        {"shape": (2, 4, 4, 8), "codes": 16, "depth": 2},
        {
            "brainvq ResidualQuantizer": ("residual_brainvq", {}),
            "vector-quantize-pytorch": ("residual_vqp", {}),
        },
    ),
    "fsq": (
        "finite scalar quantisation (8, 5, 5, 5) of 128 grids of 32 x 32, forward and backward",
        "vectors/s",
        {"shape": (128, 32, 32, 4)},
        {"shape": (2, 4, 4, 4)},
        {
            "brainvq FiniteScalarQuantizer": ("fsq_brainvq", {}),
            "vector-quantize-pytorch": ("fsq_vqp", {}),
        },
    ),
    "sampler": (
        "drawing 8 grids of 16 x 16 codes, K=512: PixelCNN with kept activations, transformer",
        "grids/s",
        {"grid": 16, "codes": 512, "batch": 8},
        {"grid": 4, "codes": 16, "batch": 2},
        {
            "brainvq PixelCNN": ("draw_brainvq", {"filters": 64, "num_blocks": 6}),
            "MONAI VQVAETransformerInferer": ("draw_monai", {"width": 128, "depth": 4}),
        },
    ),
    "loop": (
        "drawing 10 grids of 8 x 8 codes, K=128: the plain PixelCNN of the tutorial's size",
        "grids/s",
        {"grid": 8, "codes": 128, "batch": 10},
        {"grid": 4, "codes": 16, "batch": 2},
        {
            "brainvq PixelCNN": (
                "draw_brainvq",
                {"filters": 128, "num_blocks": 4, "gated": False},
            ),
            "keras.io loop": ("draw_tutorial", {}),
        },
    ),
    "ssim": (
        "SSIM of 64 slices of 256 x 256, window 7",
        "images/s",
        {"size": 256, "count": 64},
        {"size": 32, "count": 4},
        {"brainvq": ("ssim_brainvq", {}), "scikit-image": ("ssim_skimage", {})},
    ),
    "kmeans": (
        "ten iterations of k-means on 50,000 vectors of 16, K=512, from the same start",
        "vectors/s",
        {"count": 50_000, "dim": 16, "codes": 512},
        {"count": 500, "codes": 16},
        {"brainvq": ("kmeans_brainvq", {}), "scikit-learn": ("kmeans_sklearn", {})},
    ),
    "buan": (
        "bundle shape similarity (BUAN) of two bundles of 1,000 streamlines",
        "pairs/s",
        {"count": 1000},
        {"count": 20},
        {"brainvq": ("buan_brainvq", {}), "dipy": ("buan_dipy", {})},
    ),
}
LIMITS = {"matmul": ("matmul", {"size": 2048}), "copy": ("copy", {"megabytes": 256})}


class Side:
    """A process that does a job each time it is asked to."""

    def __init__(self, function, sizes, threads, script=__file__, **environment):
        names = ("OMP", "OPENBLAS", "MKL")
        counts = {f"{name}_NUM_THREADS": str(threads) for name in names}
        counts |= {f"TF_NUM_{kind}OP_THREADS": str(threads) for kind in ("INTRA", "INTER")}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        words = [sys.executable, script, "--side", function, json.dumps(sizes)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **counts, **quiet, **environment},
        )
        self.facts = self.answer()

    def answer(self):
        """The next line of the process."""
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise SystemExit(f"{' '.join(self.process.args[2:])}: ended\n{self.log.read()}")
        return json.loads(line)

    def run(self):
        """Seconds of a call, by the clock and of the processor: dict."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def serve(function, sizes):
    """The process of a `Side`: makes a job and times it; see `answer`."""
    own, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    import peers

    from brainvq.allocator import keep_freed_memory
    from brainvq.cli import ask_for_onednn

    if "brainvq" in function or "tutorial" in function:
        keep_freed_memory()
        ask_for_onednn()
    if function in ("train_monai", "ema_monai", "ema_vqp", "residual_vqp", "fsq_vqp", "draw_monai"):
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in sizes.items()}
    job = getattr(peers, function)(**sizes)
    before = memory("VmRSS")
    answer(own, job, lambda: memory("VmHWM") - before)


def answer(file, job, risen, seconds=0.3):
    """Says what a job is, then times a few calls for each line that the process reads.

    Args:
        file: where answers go.
        job: a `peers.Job`.
        risen: function that tells by how many bytes memory rose at most.
        seconds: calls that take less are timed several at once.
    """
    began = time.perf_counter()
    job.call()
    first = time.perf_counter() - began
    job.call()
    began = time.perf_counter()
    job.call()
    repeats = max(1, min(100, round(seconds / (time.perf_counter() - began))))
    flops = None if job.flops is None else float(job.flops)
    facts = {"first": first, "work": float(job.work), "flops": flops, "weights": job.weights}
    print(json.dumps(facts), file=file, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            job.call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found = {"wall": wall / repeats, "cpu": cpu / repeats, "memory": risen()}
        print(json.dumps(found), file=file, flush=True)


def memory(kind):
    """Resident memory of this process in bytes: `VmRSS` now, `VmHWM` at most so far."""
    # Not resource.getrusage: a process that another started has at least the peak of that one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) * 1024


def compare(name, options):
    """Runs a comparison; returns what results.json holds of it."""
    title, unit, sizes, small, sides = COMPARISONS[name]
    sizes = {**sizes, **(small if options.quick else {})}
    limits = {
        n: (f, {"size": 128} if options.quick and n == "matmul" else s)
        for n, (f, s) in LIMITS.items()
    }
    running = {}
    try:
        for side, (function, further) in [*sides.items(), *limits.items()]:
            given = further if side in limits else {**sizes, **further}
            running[side] = Side(function, given, options.threads)
        rounds = {side: [] for side in running}
        for _ in range(options.rounds):
            for side, process in running.items():
                rounds[side].append(process.run())
    finally:
        for process in running.values():
            process.close()
    facts = {side: process.facts for side, process in running.items()}
    return {"title": title, "unit": unit, "sizes": sizes} | summary(list(sides), facts, rounds)


def summary(sides, facts, rounds):
    """Medians, and ratios to the first side, round by round."""
    rates = {n: facts[n]["work"] / median(r["wall"] for r in rounds[n]) for n in LIMITS}
    found = {}
    for side in sides:
        own = rounds[side]
        seconds = median(r["wall"] for r in own)
        pairs = list(zip(own, rounds[sides[0]], strict=True))
        ratios = sorted(theirs["wall"] / ours["wall"] for theirs, ours in pairs)
        flops = facts[side]["flops"]
        found[side] = {
            "seconds": seconds,
            "rate": facts[side]["work"] / seconds,
            "ratio": median(ratios),
            "ratios": [ratios[0], ratios[-1]],
            "ratio_cpu": median(theirs["cpu"] / ours["cpu"] for theirs, ours in pairs),
            "memory": max(r["memory"] for r in own),
            "first_seconds": facts[side]["first"],
            "weights": facts[side]["weights"],
            "share_of_matmul": None if flops is None else flops / seconds / rates["matmul"],
        }
    return {"sides": found, "limits": rates}


def median(values):
    """The median of an iterable of numbers."""
    return statistics.median(list(values))


def machine(options):
    """What the figures were taken with."""
    cpu = "unknown"
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else platform.machine()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": options.threads,
        "rounds": options.rounds,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def main():
    """Runs the comparisons and writes the results and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="those whose names begin so")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each side")
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return serve(options.side[0], json.loads(options.side[1]))
    names = [n for n in COMPARISONS if not options.only or n.startswith(tuple(options.only))]
    for name in names:
        found = compare(name, options) | {"machine": machine(options)}
        print(tables.comparison(found), flush=True)
        if not options.quick:
            keep(name, found)


def keep(name, found):
    """Writes the results of a comparison beside the others, and the tables."""
    results = tables.read()
    kept = results.get("bench", {}) | {name: found}
    results["bench"] = {n: kept[n] for n in COMPARISONS if n in kept}
    tables.write(results)


if __name__ == "__main__":
    main()
