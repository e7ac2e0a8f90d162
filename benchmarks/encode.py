"""Seconds to encode a volume of 256 x 256 x 150, and slices a second by batch size.

    python benchmarks/encode.py [--run RUN] [--rounds 3]

Without a run the network of `ixi2d` `best` is built with random weights: the time is the same.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the application's own files

import brainvq

# isort: split
import numpy as np

from brainvq.studies import STUDIES

SHAPE = (150, 256, 256, 1)


def main():
    """Times `encode` and `reconstruct`, the first call, which compiles, apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="folder of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    options = parser.parse_args()
    if options.run:
        model = brainvq.load(options.run).model
    else:
        study = STUDIES["ixi2d"]["best"]
        model = study.model.build(study.data.input_shape)
    volume = np.random.default_rng(0).random(SHAPE, dtype="float32")
    print("batch  encode (s)  first call (s)  slices/s  reconstruct (s)")
    for batch in options.batch_sizes:
        first = seconds(lambda size=batch: model.encode(volume, batch_size=size))
        encode = min(
            seconds(lambda size=batch: model.encode(volume, batch_size=size))
            for _ in range(options.rounds)
        )
        model.reconstruct(volume[:batch], batch_size=batch)
        whole = seconds(lambda size=batch: model.reconstruct(volume, batch_size=size))
        print(
            f"{batch:5d}  {encode:10.2f}  {first:14.2f}  {len(volume) / encode:8.1f}  {whole:15.2f}"
        )


def seconds(function):
    """Wall time of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
