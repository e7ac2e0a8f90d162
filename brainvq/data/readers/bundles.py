"""Cohorts of white-matter bundles, a row per bundle file."""

import re

import pandas as pd

from brainvq.data.cohort import Cohort, safe_id
from brainvq.data.readers.bids import is_simulated
from brainvq.data.readers.folders import entries, existing_folder, files_below
from brainvq.data.tractograms import FORMATS
from brainvq.errors import UserError
from brainvq.names import BUNDLES

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
    is not in the files, so that no mm are known.

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
    return [
        path for path in files_below(root) if path.suffix.lower() in suffixes and path.is_file()
    ]


def _placed(path):
    """(subject, bundle) of a file by its path below the root; two times None if it tells none."""
    match = _NAMED.fullmatch(path.stem)
    folders = [named for part in path.parts[:-1] if (named := _SUBJECT.fullmatch(part))]
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
    splits = [PUBLISHED_SPLITS[part] for part in path.parts if part in PUBLISHED_SPLITS]
    if not splits:
        raise UserError(
            f"{path}: lies in none of {', '.join(PUBLISHED_SPLITS)}; expected one of them in its "
            "path where the published splits are asked for"
        )
    return splits[-1]


def _left_out(paths, what):
    return f"{len(paths)} {what} left out, e.g. {paths[0].name}" if paths else ""
