"""How time and memory grow: exponents of the quantiser's batch and codes, grids and cohorts.

    python benchmarks/scaling.py                    # some minutes on a core
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

CURVES = {
    "batch": (
        "vectors in a step of moving averages, K=512, 64 channels",
        "ema_brainvq",
        [(n * 1024, {"shape": (n, 32, 32, 64), "codes": 512}) for n in (2, 8, 32)],
    ),
    "codes": (
        "codes K, 8192 vectors of 64 channels",
        "ema_brainvq",
        [(k, {"shape": (8, 32, 32, 64), "codes": k}) for k in (16, 256, 4096, 16384)],
    ),
    "grid": (
        "codes of a grid that are drawn, 4 at once, K=512",
        "draw_brainvq",
        [(g * g, {"grid": g, "codes": 512, "batch": 4, "filters": 32, "num_blocks": 2})
         for g in (8, 16, 32)],
    ),
    "cohort": (
        "slices of 128 x 128 in a cohort of which 1024 are read",
        "read_store",
        [(n, {"slices": n}) for n in (1000, 10_000, 100_000)],
    ),
}  # fmt: skip


def exponent(sizes, values):
    """Slope of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


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
        key: exponent(sizes, [max(point[key], 1e-9) for point in found])
        for key in ("seconds", "memory")
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
        results.setdefault("scaling", {})[name] = curve
        tables.write(results)
        print(name, curve["exponents"], flush=True)


if __name__ == "__main__":
    main()
