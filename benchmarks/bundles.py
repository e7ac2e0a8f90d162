"""Bundles of 64 streamlines a second, encoded and decoded, for each model of study `streamlines`.

    python benchmarks/bundles.py [--count 256] [--batch-size 32] [--rounds 3]

The networks have random weights: the time is the same. Models without codes are timed on
`reconstruct`, which is the same way; classical codecs of as many bits stand beside them.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the application's own files

import brainvq

# isort: split
import numpy as np

from brainvq.evaluation import ResidualKMeans, TransformCodec
from brainvq.studies import STUDIES


def main():
    """Times every variant, the first call, which compiles, apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 0.02, (options.count, 64, 64, 3))
    bundles = np.clip(steps.cumsum(axis=2), -1, 1).astype("float32")
    print("model                            bundles/s  first call (s)")
    for variant, study in STUDIES["streamlines"].items():
        model = study.model.build(study.data.input_shape)

        def whole_way(model=model):
            if isinstance(model, brainvq.VQVAETrainer):
                return model.decode(model.encode(bundles, options.batch_size), options.batch_size)
            return model.reconstruct(bundles, options.batch_size)

        report(variant, whole_way, options)
    curves = bundles.reshape(-1, 64, 3)
    for name, codec in (
        ("residual k-means, 36 bits", ResidualKMeans(4)),
        ("local PCA and scalar, 36 bits", TransformCodec(36, clusters=32)),
    ):
        codec.fit(curves[:5000])
        report(name, lambda codec=codec: codec.decode(codec.encode(curves)), options)


def report(name, function, options):
    """Prints the rate of a call over all bundles, the best of some rounds."""
    first = seconds(function)
    best = min(seconds(function) for _ in range(options.rounds))
    print(f"{name:32s} {options.count / best:9.0f}  {first:14.2f}")


def seconds(function):
    """Wall time of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
