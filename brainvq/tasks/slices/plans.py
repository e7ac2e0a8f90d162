"""Plans of brains: what the prior over slices is given of each slice beside its codes.

A plan is a coarse picture of all of a brain, see `brainvq.models.plan`. That of a training scan is
its projection on principal components of other people: so a prior learns from plans that are as
wrong about a brain as drawn plans are, and does not read from them what they cannot know.
"""

import numpy as np
import pandas as pd

from brainvq.files import growing_array, read_csv, write_csv
from brainvq.models.plan import GaussianPlan, stack_of
from brainvq.progress import progress
from brainvq.tasks.base import spread
from brainvq.tasks.slices.steps import (
    heights,
    heights_of_slices,
    levels_of_slices,
    pixel_size,
)

# Slices of a stack, and its cells along a side of a code.
HEIGHTS, CELLS = 32, 2
# Parts of the training people, each of which is planned by the others.
FOLDS = 8
# Scans that principal components are taken from; memory must not grow with the cohort.
MOST = 256


def fit_plan(run):
    """The `GaussianPlan` of the training scans of a run; None where its prior is given none."""
    return _fitted(run, _Stacks(run).some("train")[1]) if run.study.plans else None


def plans(run, split):
    """What the prior is given of each slice of a split, from the plan of its brain.

    Args:
        run: a `LoadedRun` whose codes are known.
        split: "train", "validation" or "test".

    Returns:
        float16 array `(slices, *context_shape)` by memory map, in the order of `run.rows[split]`.
        It is kept in `codes/`, beside a table of the bits of each scan's plan.
    """
    file = run.file("codes", f"plans-{split}.npy")
    if not file.exists():
        _write(run, split, file)
    return np.load(file, mmap_mode="r")


def plan_bits(run, split):
    """Bits of the plans of a split, as a mean over its slices: float."""
    table = read_csv(run.file("codes", f"plans-{split}.csv"), "scan_id")
    return float(table["bits"].sum() / len(run.rows[split]))


def conditions_of_scan(prior, slices, stride):
    """What a prior is given of all slices of one scan.

    Args:
        prior: a `PixelCNN` over slices; None for none.
        slices: float `(n, rows, columns, 1)`, lowest first.
        stride: side of a code in pixels, for each axis.

    Returns:
        Dict of `labels` and `plan`, those that the prior takes.
    """
    given = {}
    if prior is not None and prior.num_classes is not None:
        given["labels"] = levels_of_slices(slices, prior.num_classes)
    if prior is not None and prior.plan is not None:
        plan, place = prior.plan, heights_of_slices(slices)
        inside = (place >= 0) & (place <= 1)
        stack = stack_of(padded(slices[inside], stride), place[inside], plan.shape)
        coefficients = np.repeat(plan.project(stack[None]), len(slices), axis=0)
        given["plan"] = plan.context(coefficients, np.clip(place, 0, 1))
    return given


def drawn_conditions(prior, n, level=None, seed=None, brains=None):
    """What a prior is given to draw slices of new brains.

    Args:
        prior: a `PixelCNN` over slices.
        n: int, how many slices.
        level: how high in the brain all slices lie, from 0 to 1; None for slices that are spread
            over the brain, from the lowest on.
        seed: int, of the plans; None for fresh ones.
        brains: 1 for slices of one brain; None or `n` for a brain each.

    Returns:
        Dict of `labels` and `plan`, those that the prior takes.
    """
    given, count = {}, prior.num_classes
    if count is not None:
        known = np.arange(n) * count // n if level is None else np.full(n, int(level * count))
        given["labels"] = np.minimum(known, count - 1)
    if prior.plan is not None:
        place = np.linspace(0, 1, n) if level is None else np.full(n, level)
        # Another stream of random numbers than that of the codes.
        drawn = prior.plan.draw(brains or n, None if seed is None else (seed, 1))
        given["plan"] = prior.plan.context(np.broadcast_to(drawn, (n, drawn.shape[1])), place)
    return given


def drawn_volume(slices, plan):
    """Axial slices of one drawn brain as a volume.

    Args:
        slices: float `(n, rows, columns, 1)` from the lowest to the highest, anterior above and the
            left of the person on the right.
        plan: the `GaussianPlan` that they were drawn by; it knows millimetres.

    Returns:
        (volume, affine): float32 `(columns, rows, n)`, and `(4, 4)` to mm in RAS+ world
        coordinates, the origin in the middle.
    """
    volume = np.ascontiguousarray(np.asarray(slices, "float32")[..., 0].transpose(2, 1, 0))
    levels, rows, columns = plan.shape
    shape = np.array([columns, rows, levels - 1]) / [*volume.shape[:2], max(len(slices) - 1, 1)]
    # Columns run from right to left, rows from front to back.
    steps = np.array([-1, -1, 1]) * shape * np.array(plan.spacing[::-1])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(volume.shape) - 1) / 2
    return volume, affine


def padded(slices, stride):
    """Slices with black rows and columns around them, as a network pads them to whole cells.

    Args:
        slices: float `(n, rows, columns, 1)`.
        stride: side of a code in pixels, for each axis.
    """
    missing = [-size % step for size, step in zip(slices.shape[1:3], stride, strict=True)]
    if not any(missing):
        return slices
    widths = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
    return np.pad(slices, [(0, 0), *widths, (0, 0)])


def _write(run, split, file):
    """Writes `plans` of a split, scan by scan, and the bits of each."""
    stacks = _Stacks(run)
    whole = run.prior.plan if run.prior is not None else fit_plan(run)
    planned_by = _plans_of_others(run, stacks) if split == "train" else {}
    scans, bits = stacks.scans(split), []
    with (
        progress(len(scans), f"plans of the {split} split", "scan", part=True) as bar,
        growing_array(file, "<f2", len(run.rows[split])) as write,
    ):
        for number, scan in enumerate(scans):
            stack = stacks(scan)[None]
            known = whole.blurred(whole.project(stack), (run.study.seed, number))
            bits.append(whole.bits(known)[0])
            plan = planned_by.get(scan, whole)
            known = known if plan is whole else plan.project(stack)
            place = stacks.places[stacks.rows[scan]]
            write(plan.context(np.repeat(known, len(place), axis=0), place))
            bar.update()
        write_csv(file.with_suffix(".csv"), pd.DataFrame({"scan_id": scans, "bits": bits}))


def _plans_of_others(run, stacks):
    """For each training scan the plan of people of other parts: dict; empty for one person."""
    scans = stacks.scans("train")
    people = run.store.table.drop_duplicates("scan_id").set_index("scan_id")["subject"]
    names = {name: number for number, name in enumerate(sorted(people[scans].unique()))}
    if len(names) < 2:
        return {}
    part = people[scans].map(names).to_numpy() % min(FOLDS, len(names))
    chosen, arrays = stacks.some("train")
    of_chosen = part[np.isin(scans, chosen)]
    planned = {}
    for number in np.unique(part):
        plan = _fitted(run, arrays[of_chosen != number])
        planned |= dict.fromkeys(scans[part == number], plan)
    return planned


def _fitted(run, stacks):
    """A plan of stacks and their mirror images: brains have two like halves."""
    stacks = np.concatenate([stacks, stacks[..., ::-1]])
    rank = min(run.study.prior.plan_rank, len(stacks) - 1)
    plan = GaussianPlan(stacks.shape[1:], rank, spacing=_spacing(run))
    plan.fit(stacks)
    return plan


def _spacing(run):
    """Mean steps of the stacks of training scans in mm: between slices, rows, columns."""
    table = run.store.table.iloc[run.rows["train"]]
    positions = table.groupby("scan_id")["position_mm"]
    tall = float((positions.max() - positions.min()).mean()) or 1.0
    across = [
        side * step / CELLS
        for side, step in zip(pixel_size(run.store), run.model.stride, strict=True)
    ]
    return (tall / (HEIGHTS - 1), *across)


class _Stacks:
    """Coarse stacks of the scans of a run: float32 `(HEIGHTS, rows, columns)` each.

    Args:
        run: a `LoadedRun`.

    Attributes:
        places: how high in its brain each slice of the store lies.
        rows: dict of scan to the numbers of its slices, the lowest first.
    """

    def __init__(self, run):
        self.run, self.places = run, heights(run.store)
        # A scan's slices lie one after the other in a store.
        self.rows = run.store.table.groupby("scan_id", sort=False).indices
        grid = run.model.code_shape(run.store.sample_shape)
        self.shape = (HEIGHTS, *(CELLS * size for size in grid))

    def __call__(self, scan):
        rows = self.rows[scan]
        slices = padded(self.run.store.read(rows), self.run.model.stride)
        return stack_of(slices, self.places[rows], self.shape)

    def scans(self, split):
        """Names of the scans of a split, in the order of their samples."""
        return self.run.store.table["scan_id"].iloc[self.run.rows[split]].unique()

    def some(self, split):
        """At most `MOST` scans of a split, evenly spread: their names, and stacks as an array."""
        names = spread(self.scans(split), MOST)
        return names, np.stack([self(name) for name in names])
