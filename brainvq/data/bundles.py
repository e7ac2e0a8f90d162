"""Bundles as groups of streamlines in a store: preparing, balancing, splitting, scaling them."""

import numpy as np

from brainvq.data.cohort import SPLITS
from brainvq.data.store import prepare
from brainvq.data.streamlines import BundleScale, GroupStreamlines
from brainvq.errors import UserError
from brainvq.names import BUNDLES


def prepare_bundles(
    cohort,
    cache,
    *,
    points=64,
    size=64,
    bundles=BUNDLES,
    per_bundle=None,
    align=True,
    seed=0,
    workers=None,
    progress=True,
):
    """Resamples, aligns and groups the streamlines of every bundle, as an array store.

    As with `prepare`, what is finished is never made again, and a file that cannot be used is
    reported, left out and counted.

    Args:
        cohort: `Cohort` of bundles.
        cache: folder for stores.
        points: points of a streamline.
        size: streamlines of a group.
        bundles: names of the bundles wanted; None for all of the cohort.
        per_bundle: groups to keep of each file at most, drawn at random; None for all.
        align: give the streamlines of a bundle one direction (see `align_directions`).
        seed: which groups are drawn.
        workers: see `prepare`.
        progress: see `prepare`.

    Returns:
        `ArrayStore` of layout "bundles": samples float32 `(size, points, 3)` in RAS+ mm (in the
        units of the files where the cohort's `units` is "scaled"); its table has `group` (the
        bundle), `subject`, `index` (of the group within what was kept of its file) and `count`
        (real streamlines).

    Raises:
        UserError: as `prepare`; or the cohort has none of the bundles.
    """
    if bundles is not None:
        cohort = cohort.select(group=list(bundles))
    step = GroupStreamlines(points, size, align, per_bundle, seed)
    return prepare(
        cohort,
        (step,),
        cache,
        layout="bundles",
        dtype="float32",
        workers=workers,
        progress=progress,
    )


def balanced_rows(table, rows=None, seed=0, per_bundle=None, repeat=False):
    """Draws equally many samples of each bundle.

    Args:
        table: table of an `ArrayStore`; column `group` is the bundle.
        rows: int array of sample numbers to draw from; None for all.
        seed: which are drawn.
        per_bundle: samples of each bundle; by default those of the rarest bundle, of the most
            frequent one if `repeat`.
        repeat: allow a bundle that has fewer to be repeated, each sample equally often or once
            more. Without it a bundle with fewer than `per_bundle` is an error.

    Returns:
        int64 array of sample numbers, ascending; the same for any order of `rows`.

    Raises:
        UserError: there are no rows, or a bundle has too few.
    """
    rows = np.arange(len(table)) if rows is None else np.unique(np.asarray(rows, np.int64))
    if len(rows) == 0:
        raise UserError("balanced samples: found no samples to draw from; expected one at least")
    bundles = table["group"].to_numpy()[rows]
    rows_of = {name: rows[bundles == name] for name in sorted(set(bundles))}
    counts = [len(members) for members in rows_of.values()]
    if per_bundle is None:
        per_bundle = max(counts) if repeat else min(counts)
    if per_bundle < 1:
        raise UserError(f"per_bundle: found {per_bundle}; expected 1 or more samples of a bundle")
    drawn = []
    for number, (name, members) in enumerate(rows_of.items()):
        if len(members) < per_bundle and not repeat:
            raise UserError(
                f"per_bundle: bundle {name} has {len(members)} samples; expected {per_bundle} or "
                "more (ask for fewer, or let samples repeat)"
            )
        rng = np.random.default_rng([seed, number])
        whole, rest = divmod(per_bundle, len(members))
        drawn += [np.repeat(members, whole), rng.choice(members, rest, replace=False)]
    return np.sort(np.concatenate(drawn))


def split_groups(table, fractions=(0.8, 0.1, 0.1), seed=0):
    """Splits samples rather than people: all that can be done where there is one person.

    Groups of one person's bundle are alike, so figures on such a test split flatter; say so beside
    them.

    Args:
        table: table of an `ArrayStore`; column `group` is the bundle.
        fractions: shares of each bundle's samples in train, validation and test, summing to 1. A
            bundle with two samples or more gives one to train and one to test at least, with three
            or more one to validation too; a single one goes to train. A share of 0 leaves that
            split empty.
        seed: which sample goes where.

    Returns:
        dict: split → int64 array of sample numbers, ascending.

    Raises:
        UserError: on fractions that are no shares.
    """
    shares = np.array([float(share) for share in fractions])
    if shares.shape != (3,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise UserError(
            f"split fractions: found {tuple(fractions)}, expected three shares "
            "(train, validation, test) that sum to 1"
        )
    bundles = table["group"].to_numpy()
    parts = {split: [] for split in SPLITS}
    for number, name in enumerate(sorted(set(bundles))):
        members = np.flatnonzero(bundles == name)
        members = np.random.default_rng([seed, number]).permutation(members)
        edges = np.cumsum(_shared_out(len(members), shares))[:-1]
        for split, part in zip(SPLITS, np.split(members, edges), strict=True):
            parts[split].append(part)
    return {
        split: np.sort(np.concatenate([[], *part]).astype(int)) for split, part in parts.items()
    }


def scale_of(store, rows=None):
    """The scale that takes the samples of a store to [-1, 1], by their global extremes.

    Args:
        store: `ArrayStore` of bundles.
        rows: int array of sample numbers, those of the train split; None for all.

    Returns:
        `BundleScale`; the one that changes nothing where the store is scaled already.

    Raises:
        UserError: there are no rows.
    """
    if "units" in store.scans and (store.scans["units"] == "scaled").all():
        return BundleScale()
    rows = np.arange(len(store)) if rows is None else np.unique(rows)
    if len(rows) == 0:
        raise UserError(f"{store.path}: found no samples to scale by; expected one at least")
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for start in range(0, len(rows), 256):
        samples = store.read(rows[start : start + 256])
        low = np.minimum(low, samples.min(axis=(0, 1, 2)))
        high = np.maximum(high, samples.max(axis=(0, 1, 2)))
    return BundleScale.from_points(low, high)


def _shared_out(n, shares):
    """Samples of a bundle per split: one each as long as they last, then by largest remainders."""
    wanted = [split for split in (0, 2, 1) if shares[split] > 0]  # validation comes last
    counts = np.zeros(3, int)
    if n <= len(wanted):
        counts[wanted[:n]] = 1
        return counts
    exact = shares * n
    counts += np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    for split in wanted:
        if counts[split] == 0:
            counts[np.argmax(counts)] -= 1
            counts[split] = 1
    return counts
