"""`--train.precision auto`: the number type that a step of training takes least time with."""

import dataclasses
import logging
import statistics
import time
from pathlib import Path

import numpy as np

logger = logging.getLogger("brainvq")

# Instructions of x86 CPUs that multiply bfloat16; without them each number is converted twice.
INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
CPU_FACTS = Path("/proc/cpuinfo")
# Rounding is a price: a type of fewer bits must be as many times as fast.
WORTH = 1.1
STEPS = 3


def settled(study):
    """The study with the number type that `auto` stands for; another is left as it is.

    A trial of some steps decides, on noise of the size of a batch. On a CPU without instructions
    for bfloat16 nothing is tried. What is chosen is in the run's `study.json`, so that a run goes
    on, or is repeated, with the same.

    Args:
        study: a `brainvq.options.Study`.

    Returns:
        A study.
    """
    if study.train.precision != "auto":
        return study
    if not multiplies_bfloat16():
        return _with(study, "float32", "this CPU has no instructions for bfloat16")
    seconds = {name: step_seconds(study, name) for name in ("float32", "mixed_bfloat16")}
    ratio = seconds["float32"] / seconds["mixed_bfloat16"]
    chosen = "mixed_bfloat16" if ratio >= WORTH else "float32"
    return _with(study, chosen, f"a step is {ratio:.2f} times as fast with bfloat16")


def _with(study, precision, reason):
    logger.info("--train.precision auto: %s, for %s", precision, reason)
    return dataclasses.replace(study, train=dataclasses.replace(study.train, precision=precision))


def multiplies_bfloat16():
    """Whether the device may gain by bfloat16: any GPU, and a CPU unless it is known not to."""
    import keras  # noqa: F401 (first: it brings the layers, which need brainvq.backend whole)

    from brainvq.backend import has_accelerator

    if has_accelerator() or not CPU_FACTS.exists():
        return True
    flags = [line for line in CPU_FACTS.read_text().splitlines() if line.startswith("flags")]
    return not flags or bool(INSTRUCTIONS & set(flags[0].split()))


def step_seconds(study, precision):
    """Seconds of a step of training with a number type, the median of some, compilation apart."""
    from brainvq.app.stages import build_autoencoder
    from brainvq.tasks import of

    study = dataclasses.replace(study, train=dataclasses.replace(study.train, precision=precision))
    model = build_autoencoder(study)
    of(study).compile(model, study.train, 100)
    shape = study.data.sample_shape if study.window is None else (study.window, study.window, 1)
    batch = np.random.default_rng(0).random((study.train.batch_size, *shape), dtype="float32")
    model.train_on_batch(batch)
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        model.train_on_batch(batch)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
