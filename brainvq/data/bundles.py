"""Cohorts of white-matter bundles, a row per bundle file, and their groups of streamlines."""

import re

import numpy as np
import pandas as pd

from brainvq.data.cohort import SPLITS, Cohort, safe_id
from brainvq.data.readers.bids import is_simulated
from brainvq.data.readers.folders import entries, existing_folder
from brainvq.data.store import prepare
from brainvq.data.streamlines import FORMATS, BundleScale, GroupStreamlines
from brainvq.errors import UserError

# The bundles of the VQ-Diff study: those of TractoInferno with 1000 streamlines or more in most
# people (Lizarraga et al. 2023, section 3).
BUNDLES = (
    "MCP",
    "FPT_L",
    "FPT_R",
    "ILF_L",
    "ILF_R",
    "IFOF_L",
    "IFOF_R",
    "POPT_L",
    "POPT_R",
    "PYT_L",
    "PYT_R",
    "CC_Fr_1",
)

# TractoInferno's own folders → the names of splits here.
PUBLISHED_SPLITS = {"trainset": "train", "validset": "validation", "testset": "test"}

_SUBJECT = re.compile(r"sub-([A-Za-z0-9]+)")
_NAMED = re.compile(r"(?P<subject>.+?)__(?P<bundle>.+)")


def read_tractoinferno(root, bundles=BUNDLES, published_splits=False):
    """Reads TractoInferno's tree: `…/testset/sub-1006/tractography/sub-1006__PYT_L.trk`.

    The tree may begin at any level of that path. Not every person has every bundle.

    Args:
        root: folder that holds the tree, or any folder of it.
        bundles: names of the bundles wanted; None for all that are there.
        published_splits: add a column `split` by the folders trainset, validset and testset.

    Returns:
        `Cohort` "tractoinferno", a row per bundle: subject "1006", `group` and `variant` the
        bundle's name, modality "tractogram", `units` "mm". Split it with `stratify=None`: what is
        balanced is people, each of whom has all kinds of bundles.

    Raises:
        UserError: if the layout is another, or a bundle is there twice.
    """
    root = existing_folder(root)
    rows, other = [], []
    for path in _files(root, FORMATS[:1]):
        match = _NAMED.fullmatch(path.stem)
        person = match and _SUBJECT.fullmatch(match["subject"])
        if not person or (bundles is not None and match["bundle"] not in bundles):
            other.append(path)
            continue
        row = bundle_row(person[1], match["bundle"], path)
        if published_splits:
            row["split"] = _published_split(path)
        rows.append(row)
    if not rows:
        raise UserError(
            f"{root}: no bundle found; expected "
            "[derivatives/testset/]sub-1006/tractography/sub-1006__PYT_L.trk with one of "
            f"{', '.join(bundles or ('any name',))}, found {entries(root)}"
        )
    note = _left_out(other, "other .trk files")
    return Cohort("tractoinferno", pd.DataFrame(rows), _simulated(root), note)


def read_tracts(root, bundles=None):
    """Reads any folder of `.trk`, `.tck` and `.trx` files whose names say whose bundle they are.

    Args:
        root: folder; files lie in it or deeper. A file is named `<subject>__<bundle>.trk`, or lies
            anywhere below a folder `sub-<subject>` and is named `<bundle>.trk` (there
            `sub-<subject>_` may come first).
        bundles: names of the bundles wanted; None for all. Names of `BUNDLES` are found in small
            and capital letters.

    Returns:
        `Cohort` "tracts", as that of `read_tractoinferno`. Its note counts the files that could not
        be placed.

    Raises:
        UserError: if no file can be placed, or a bundle of a person is there twice.
    """
    root = existing_folder(root)
    rows, unplaced, unwanted = [], [], []
    for path in _files(root, FORMATS):
        subject, bundle = _placed(path.relative_to(root))
        if subject is None:
            unplaced.append(path)
        elif bundles is not None and bundle not in bundles:
            unwanted.append(path)
        else:
            rows.append(bundle_row(subject, bundle, path))
    if not rows:
        problem = _left_out([*unplaced, *unwanted], "files") or f"found {entries(root)}"
        raise UserError(
            f"{root}: no bundle found; expected <subject>__<bundle>.trk (.tck, .trx) or "
            f"sub-<subject>/<bundle>.trk; {problem}"
        )
    notes = (
        _left_out(unplaced, "files that name no subject and bundle"),
        _left_out(unwanted, "files of other bundles"),
    )
    note = "; ".join(filter(None, notes))
    return Cohort("tracts", pd.DataFrame(rows), _simulated(root), note)


def read_groups(root, bundles=BUNDLES):
    """Reads groups of streamlines as TractoInferno's derived data set has them: `<bundle>.npy`.

    Each file is float `(n, 64, 3, 64)`: groups of 64 streamlines of 64 points in [-1, 1]. The scale
    is not told, so that no mm are known.

    Args:
        root: folder with such files of one person, or with one sub-folder of them per person.
        bundles: names of the bundles wanted; None for all.

    Returns:
        `Cohort` "groups", as that of `read_tractoinferno`, `units` "scaled". One person cannot be
        split by people: `split_groups` splits the samples instead, and the note says so.

    Raises:
        UserError: if there are no such files.
    """
    root = existing_folder(root)
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    rows, other = [], []
    for folder in folders:
        for path in sorted(folder.glob("[!.]*.npy")):
            if bundles is None or path.stem in bundles:
                subject = _SUBJECT.fullmatch(folder.name)
                subject = subject[1] if subject else safe_id(folder.name)
                rows.append(bundle_row(subject, path.stem, path, units="scaled"))
            else:
                other.append(path)
    if not rows:
        raise UserError(
            f"{root}: no bundle found; expected <bundle>.npy with one of "
            f"{', '.join(bundles or ('any name',))}, found {entries(root)}"
        )
    notes = [_left_out(other, "other .npy files")]
    if len({row["subject"] for row in rows}) == 1:
        notes.append("one person: split by groups of streamlines, not by people")
    return Cohort("groups", pd.DataFrame(rows), note="; ".join(filter(None, notes)))


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
        seed: which groups are kept.
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
    found = {name: rows[bundles == name] for name in sorted(set(bundles))}
    counts = [len(members) for members in found.values()]
    if per_bundle is None:
        per_bundle = max(counts) if repeat else min(counts)
    if per_bundle < 1:
        raise UserError(f"per_bundle: found {per_bundle}; expected 1 or more samples of a bundle")
    drawn = []
    for number, (name, members) in enumerate(found.items()):
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


def bundle_row(subject, bundle, path, units="mm"):
    """A row of a cohort of bundles; `path` may be "simulated:" and parameters."""
    return {
        "scan_id": safe_id(f"sub-{subject}__{bundle}"),
        "subject": subject,
        "group": bundle,
        "modality": "tractogram",
        "paths": (str(path),),
        # Cohort lets a subject have several scans where a column tells them apart.
        "variant": bundle,
        "units": units,
    }


def _simulated(root):
    """Whether a folder, or one that holds it, says that its bundles were simulated."""
    return any(is_simulated(folder) for folder in (root, *root.parents[:2]))


def _files(root, suffixes):
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def _placed(path):
    """(subject, bundle) of a file by its path below the root; two times None if it tells none."""
    match = _NAMED.fullmatch(path.stem)
    folders = [found for part in path.parts[:-1] if (found := _SUBJECT.fullmatch(part))]
    if match:
        subject, bundle = match["subject"].removeprefix("sub-"), match["bundle"]
    elif folders:
        subject = folders[-1][1]
        bundle = path.stem.removeprefix(f"sub-{subject}").lstrip("_")
    else:
        return None, None
    known = {name.lower(): name for name in BUNDLES}
    bundle = known.get(bundle.lower(), bundle)
    return (subject, bundle) if subject and bundle else (None, None)


def _published_split(path):
    found = [PUBLISHED_SPLITS[part] for part in path.parts if part in PUBLISHED_SPLITS]
    if not found:
        raise UserError(
            f"{path}: lies in none of {', '.join(PUBLISHED_SPLITS)}; expected one of them in its "
            "path where the published splits are asked for"
        )
    return found[-1]


def _left_out(paths, what):
    return f"{len(paths)} {what} left out, e.g. {paths[0].name}" if paths else ""


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
