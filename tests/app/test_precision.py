"""`--train.precision auto` takes bfloat16 where steps are quicker with it."""

import dataclasses
import logging

import keras  # noqa: F401 (first: it brings the layers)
import pytest

from brainvq.app import precision
from brainvq.studies import STUDIES

BEST = STUDIES["oasis2d"]["best"]
AUTO = dataclasses.replace(BEST, train=dataclasses.replace(BEST.train, precision="auto"))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((4.3, 1.0), "mixed_bfloat16"), ((1.05, 1.0), "float32"), ((1, 9), "float32")],
)
def test_the_quicker_type_is_chosen_and_said(monkeypatch, caplog, seconds, chosen):
    caplog.set_level(logging.INFO, "brainvq")
    times = dict(zip(("float32", "mixed_bfloat16"), seconds, strict=True))
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "step_seconds", lambda study, name: times[name])
    study = precision.settled(AUTO)
    assert study == dataclasses.replace(
        BEST, train=dataclasses.replace(BEST.train, precision=chosen)
    )
    assert caplog.messages == [
        f"--train.precision auto: {chosen}, for a step is {seconds[0] / seconds[1]:.2f} times as "
        "fast with bfloat16"
    ]


@pytest.mark.parametrize(
    ("flags", "gains"),
    [
        ("flags\t\t: fpu avx2 fma\n", False),
        ("flags\t: amx_bf16 fpu\n", True),
        ("Features: asimd\n", True),
    ],
)
def test_a_cpu_without_the_instructions_is_not_tried(monkeypatch, tmp_path, flags, gains):
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr("brainvq.backend.has_accelerator", lambda: False)
    precision.CPU_FACTS.write_text("processor\t: 0\n" + flags)
    assert precision.multiplies_bfloat16() is gains
    if not gains:
        monkeypatch.setattr(precision, "step_seconds", None)
        assert precision.settled(AUTO) == BEST
    assert precision.settled(BEST) is BEST


@pytest.mark.thorough
def test_a_trial_takes_the_time_of_steps(monkeypatch):
    small = dataclasses.replace(
        BEST,
        data=dataclasses.replace(BEST.data, size=32),
        train=dataclasses.replace(BEST.train, batch_size=1),
    )
    ticks = iter(range(1000))
    # Each look at the clock is a second later: a step takes one.
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(ticks))
    assert precision.step_seconds(small, "mixed_bfloat16") >= 1
