"""How time and memory grow: exponents of batches, codebooks, grids, volumes and cohorts.

    python benchmarks/scaling.py                    # a quarter of an hour on a core
    python benchmarks/scaling.py --only codes

Each size is a process of its own (`bench.py`); an exponent is the slope of the logarithm of the
time, or of the memory above imports and inputs, against that of the size: 1 is in proportion, 0
does not grow. The cohort is an array store of generated slices, of which a process reads 1024 in
random batches of 16; its memory counts from before the store is opened. Results go into
results.json.
"""

import argparse
import os

import numpy as np
import tables
from bench import Side

SLICES = {"shape": (128, 128), "filters": (32, 32, 64, 64), "dim": 16, "codes": 16}
VOLUMES = {"filters": (4, 8, 16, 32), "dim": 32, "codes": 256, "batch": 1}
DRAWN = {"codes": 512, "batch": 4, "filters": 32, "num_blocks": 2}
# Name: (title, function of peers.py, [(size, arguments)]).
CURVES = {
    "images": (
        "slices of 128 x 128 in a step of training",
        "train_brainvq",
        [(n, {**SLICES, "batch": n}) for n in (2, 8, 32, 128)],
    ),
    "batch": (
        "vectors in a step of moving averages, K=512, 64 channels",
        "ema_brainvq",
        [(n * 1024, {"shape": (n, 32, 32, 64), "codes": 512}) for n in (2, 8, 32)],
    ),
    "codes": (
        "codes K, 8192 vectors of 64 channels",
        "ema_brainvq",
        [(k, {"shape": (8, 32, 32, 64), "codes": k}) for k in (16, 256, 4096, 16384, 65536)],
    ),
    "grid": (
        "codes of a grid that are drawn, 4 at once, K=512",
        "draw_brainvq",
        [(g * g, {**DRAWN, "grid": (g, g)}) for g in (8, 16, 32, 64)],
    ),
    "cube": (
        "the same of a grid in space, 9 x 11 x 9 to 24 x 28 x 24",
        "draw_brainvq",
        [(x * y * z, {**DRAWN, "grid": (x, y, z)}) for x, y, z in
         ((9, 11, 9), (15, 18, 15), (24, 28, 24))],
    ),
    "volume": (
        "voxels of a volume in a step of training, 48 x 64 x 48 to 144 x 176 x 144",
        "train_brainvq",
        [(x * y * z, {**VOLUMES, "shape": (x, y, z)}) for x, y, z in
         ((48, 64, 48), (96, 112, 96), (144, 176, 144))],
    ),
    "cohort": (
        "slices of 128 x 128 in a cohort of which 1024 are read",
        "read_store",
        [(n, {"slices": n}) for n in (100, 1000, 10_000, 100_000)],
    ),
}  # fmt: skip
LEAST = 10e6  # bytes of memory below which pages, not sizes, say what it rose by


def exponent(sizes, values, least=0.0):
    """Slope of the logarithms of what is above `least`; None where that is fewer than two."""
    pairs = [(size, value) for size, value in zip(sizes, values, strict=True) if value > least]
    if len(pairs) < 2:
        return None
    return float(np.polyfit(*np.log(np.array(pairs, float)).T, 1)[0])


def measured(name, rounds):
    """A curve: what results.json holds of it."""
    title, function, points = CURVES[name]
    found = []
    for size, sizes in points:
        side = Side(function, sizes, 1)
        times = [side.run() for _ in range(rounds)]
        side.close()
        seconds = float(np.median([t["cpu"] for t in times]))
        found.append({"size": size, "seconds": seconds, "memory": times[-1]["memory"]})
    sizes = [point["size"] for point in found]
    slopes = {
        key: exponent(sizes, [point[key] for point in found], least)
        for key, least in (("seconds", 0), ("memory", LEAST))
    }
    return {"title": title, "points": found, "exponents": slopes}


def main():
    """Measures the curves and writes results and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.threads = 1
    for name in options.only:
        curve = measured(name, options.rounds) | {"load": round(os.getloadavg()[0], 1)}
        results = tables.read()
        kept = results.get("scaling", {}) | {name: curve}
        results["scaling"] = {n: kept[n] for n in CURVES if n in kept}
        tables.write(results)
        print(name, curve["exponents"], flush=True)


if __name__ == "__main__":
    main()
