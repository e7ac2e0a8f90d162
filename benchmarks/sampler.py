"""Time the cached sampler of PixelCNN against forward passes of the same network.

    python benchmarks/sampler.py                              # 32x32 codes, K=512, batch 16
    python benchmarks/sampler.py --grid 9 11 9 --codes 256    # a volume of codes
    python benchmarks/sampler.py --grid 16 16 --batch 64 --plan --filters 64 --blocks 6   # oasis2d
    KERAS_BACKEND=jax python benchmarks/sampler.py

Prints the seconds of one compiled forward pass on the batch, of drawing that batch with the cached
sampler (noise included, compilation not), and of the naive loop, which calls the network once per
code: a forward pass times the number of codes, since it would take minutes. Then it checks that
both draw the same codes from the same noise. On a busy machine compare the ratios of one run, not
seconds of different runs.
"""

import argparse
import statistics
import time

import keras
import numpy as np

from brainvq.backend import compile_function
from brainvq.models.pixelcnn import PixelCNN


def seconds(function):
    """Time one call of a function without arguments."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    """Build a prior of the given size with random weights, and time it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--grid", type=int, nargs="+", default=[32, 32], help="sizes of the grid")
    parser.add_argument("--codes", type=int, default=512, help="number of codes K")
    parser.add_argument("--batch", type=int, default=16, help="grids per batch")
    parser.add_argument("--filters", type=int, default=96, help="channels of a stack")
    parser.add_argument("--blocks", type=int, default=8, help="number of blocks")
    parser.add_argument("--kernel", type=int, default=3, help="size of the blocks' kernels")
    parser.add_argument("--plan", action="store_true", help="give it a plan of four channels")
    parser.add_argument("--plain", action="store_true", help="the plain form, not the gated one")
    parser.add_argument("--repeats", type=int, default=5, help="measurements; the median counts")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    prior = PixelCNN(
        options.grid,
        options.codes,
        filters=options.filters,
        num_blocks=options.blocks,
        kernel_size=options.kernel,
        gated=not options.plain,
        plan_shape=(*options.grid, 4) if options.plan else None,
    )
    rng = np.random.default_rng(0)
    codes = rng.integers(0, options.codes, (options.batch, *options.grid), dtype="int32")
    given = {}
    if options.plan:
        given["plan"] = rng.random((options.batch, *prior.plan_shape), "float32")
    compiled = compile_function(lambda batch: prior(batch, training=False), owner=prior)

    def logits_of(batch):
        return compiled({"codes": batch, **given} if given else batch)

    def forward():
        return keras.ops.convert_to_numpy(logits_of(codes)[(0,) * (codes.ndim - 1)])

    def cached():
        return prior.sample(options.batch, seed=0, batch_size=options.batch, **given)

    print(f"backend {keras.backend.backend()}, {prior.count_params():,} weights, {options}")
    print(f"first forward pass, compilation included   {seconds(forward):8.2f} s")
    print(f"first batch drawn, compilation included    {seconds(cached):8.2f} s")
    # Taken in turns, so that what else the machine does weighs on both alike.
    times = [(seconds(forward), seconds(cached)) for _ in range(options.repeats)]
    one = statistics.median(pair[0] for pair in times)
    drawn = statistics.median(pair[1] for pair in times)
    ratio = statistics.median(pair[1] / pair[0] for pair in times)
    positions = int(np.prod(options.grid))
    # The naive loop costs a forward pass per code, at the least.
    print(f"one forward pass                           {one:8.3f} s")
    print(f"one batch drawn, cached                    {drawn:8.3f} s = {ratio:.2f} forward passes")
    print(
        f"one batch drawn, naive ({positions} passes)     {one * positions:8.1f} s = "
        f"{positions / ratio:.0f} times the cached sampler"
    )
    # The naive loop takes argmax(logits + noise) given the codes before. One pass over the finished
    # codes therefore tells whether it would have drawn the same: by induction over the codes.
    drawn_codes = cached()
    noise = prior._noise(np.random.default_rng(0), options.batch, greedy=False)
    logits = keras.ops.convert_to_numpy(logits_of(drawn_codes))
    naive = (logits.reshape(noise.shape) + noise).argmax(-1)
    same = int((naive == drawn_codes.reshape(naive.shape)).sum())
    print(f"codes as the naive loop draws them         {same} of {naive.size}")


if __name__ == "__main__":
    main()
