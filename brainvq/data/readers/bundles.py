"""Cohorts of white-matter bundles, a row per bundle file."""

import re

import pandas as pd

from brainvq.data.cohort import Cohort, safe_id
from brainvq.data.readers.bids import is_simulated
from brainvq.data.readers.folders import entries, existing_folder, files_below
from brainvq.data.selection import (
    PLACE,
    Ignored,
    entities_from,
    entities_of,
    has_entities,
    in_one_space,
)
from brainvq.data.tractograms import FORMATS
from brainvq.errors import UserError
from brainvq.names import BUNDLES

# TractoInferno's own folders → the names of splits here.
PUBLISHED_SPLITS = {"trainset": "train", "validset": "validation", "testset": "test"}
_SUBJECT = re.compile(r"sub-([A-Za-z0-9]+)")
_NAMED = re.compile(r"(?P<subject>.+?)__(?P<bundle>.+)")
_ENTITY = re.compile("[A-Za-z0-9]+-")
_FOLDER = re.compile(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?|ses-[A-Za-z0-9]+")
# Last words of the names of tractograms, and of the images that they were made from.
_KINDS = ("tractography", "tractogram", "tracts", "tract", "streamlines", "bundle", "track", "dwi")


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


def read_tracts(root, bundles=None, entities=None):
    """Reads any folder of `.trk`, `.tck` and `.trx` files whose names say whose bundle they are.

    Args:
        root: folder; files lie in it or deeper. A file is named `<subject>[_ses-<session>]__
            <bundle>.trk`; or by BIDS, such as `sub-01_ses-1_desc-<bundle>_tractography.trk`; or
            lies anywhere below a folder `sub-<subject>` (and `ses-<session>`) and is named
            `<bundle>.trk`. What `.bidsignore` names is left out.
        bundles: names of the bundles wanted; None for all. Names of `BUNDLES` are found in small
            and capital letters, and with "left" and "right" for "L" and "R", as TractSeg has them.
        entities: which files to use, as in `brainvq.data.readers.bids.read_bids`.

    Returns:
        `Cohort` "tracts", as that of `read_tractoinferno`. Its note counts the files that could not
        be placed.

    Raises:
        UserError: if no file can be placed, or a bundle of a person is there twice.
    """
    root, wanted, ignored = existing_folder(root), entities_from(entities or ""), Ignored(root)
    rows, unplaced, unwanted = [], [], []
    known = {_plain(name): name for name in (*BUNDLES, *(bundles or ()))}
    files = [path for path in _files(root, FORMATS) if not ignored(path)]
    chosen = [path for path in files if has_entities(path, wanted)]
    kept = in_one_space(chosen, PLACE)
    for path in kept:
        subject, session, run, bundle = _placed(path.relative_to(root.parent), known)
        if subject is None:
            unplaced.append(path)
        elif bundles is not None and bundle not in bundles:
            unwanted.append(path)
        else:
            rows.append(bundle_row(subject, bundle, path, session=session) | {"run": run})
    if not rows:
        problem = _left_out([*unplaced, *unwanted], "files") or f"found {entries(root)}"
        raise UserError(
            f"{root}: no bundle found{f' with {entities}' if entities else ''}; expected "
            f"<subject>__<bundle>.trk (.tck, .trx) or sub-<subject>/<bundle>.trk; {problem}"
        )
    table = pd.DataFrame(rows)
    if (table["run"] == "").all():
        table = table.drop(columns="run")
    else:
        table["scan_id"] += [f"_run-{run}" if run else "" for run in table["run"]]
    notes = (
        _left_out([path for path in files if path not in set(chosen)], f"files without {entities}"),
        _left_out(sorted({*chosen} - {*kept}), "files, of which there is one in another space,"),
        _left_out(unplaced, "files that name no subject and bundle"),
        _left_out(unwanted, "files of other bundles"),
    )
    note = "; ".join(filter(None, notes))
    return Cohort("tracts", table, _simulated(root), note)


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


def bundle_row(subject, bundle, path, units="mm", session=""):
    """A row of a cohort of bundles; `path` may be "simulated:" and parameters."""
    visit = f"_ses-{session}" if session else ""
    return {
        "scan_id": safe_id(f"sub-{subject}{visit}__{bundle}"),
        "subject": subject,
        "session": session,
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


def _placed(path, known):
    """(subject, session, run, bundle) by path; subject and bundle are None if it tells none."""
    told = {}
    for part in path.parts[:-1]:
        told |= entities_of(part) if _FOLDER.fullmatch(part) else {}
    *heads, bundle = path.stem.split("__") if "__" in path.stem else (path.stem,)
    named = entities_of("_".join(heads) or bundle)
    told |= {key: named[key] for key in ("sub", "ses", "run") if key in named}
    if heads and "sub" not in named:
        told["sub"] = re.sub(r"_(ses|run)-[^_]+", "", heads[0])
    subject, bundle = told.get("sub"), _bundle_of(bundle, known)
    if not subject or not bundle:
        return None, "", "", None
    return subject, told.get("ses", ""), told.get("run", ""), bundle


def _bundle_of(stem, known):
    """The bundle that a name tells, that of `known` (plain spelling → name) if it is one."""
    words = [word for word in stem.split("_") if word]
    free = [word for word in words if not _ENTITY.match(word) and word.lower() not in _KINDS]
    bundle = known.get(_plain("_".join(free)))
    if bundle or words[-1:] == free[-1:]:  # not by BIDS
        return bundle or "_".join(free)
    words = re.split("[_-]", stem)
    for size in (3, 2, 1):
        for start in range(len(words) - size + 1):
            if _plain("_".join(words[start : start + size])) in known:
                return known[_plain("_".join(words[start : start + size]))]
    entities = entities_of(stem)
    told = (entities[key] for key in ("bundle", "tract", "label", "desc") if key in entities)
    return next(told, "_".join(free))


def _plain(bundle):
    words = re.split("[_-]", bundle.lower())
    return "".join({"left": "l", "right": "r"}.get(word, word) for word in words)


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
