"""Which files of a BIDS folder are taken: by the entities of their names, and none it ignores."""

import collections
import json
import re
from pathlib import Path

from brainvq.errors import UserError

DESCRIPTION = "dataset_description.json"
# Entities that say on which grid an image lies; without them it is that of the scanner.
PLACE = ("space", "cohort", "res", "den")
# Long names of entities that people type.
_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "resolution": "res",
    "description": "desc",
}


def entities_of(name):
    """File name → entities in order: "sub-01_run-2_T1w.nii" → {"sub": "01", "run": "2"}."""
    pairs = re.findall(r"(?:^|_)([A-Za-z0-9]+)-([^_.]+)", str(name).partition(".")[0])
    return dict(pairs)


def plain_label(label):
    """A label as the text that all ways of writing its number have in common."""
    return str(int(label)) if label.isdecimal() else label


def entities_from(text, option="entities"):
    """Entities as a user writes them.

    Args:
        text: str such as "space=MNI152NLin2009cAsym,run=1", or as in a file name, "acq-x_run-1". A
            label left empty, as in "space=", wants files without that entity.
        option: what the text is called in messages.

    Returns:
        dict of entity to label.

    Raises:
        UserError: the text is of another form.
    """
    wanted = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        pairs = [part.split("=", 1)] if "=" in part else list(entities_of(part).items())
        names = [_SHORT.get(key, key) for key, _ in pairs]
        labels = [
            value.removeprefix(f"{key}-") for key, (_, value) in zip(names, pairs, strict=True)
        ]
        good = all(map(str.isalnum, names)) and not any(re.search("[_.=]", lab) for lab in labels)
        if not pairs or not good or wanted.keys() & set(names):
            raise UserError(
                f"{option}: found {text!r}; expected names and labels of entities, each name once, "
                "as in space=MNI152NLin2009cAsym,run=1"
            )
        wanted |= zip(names, labels, strict=True)
    return wanted


def has_entities(path, wanted):
    """Whether the name of a file has entities; numbers compare as numbers.

    Args:
        path: `pathlib.Path` or str.
        wanted: mapping of entity to label; an empty label: without that entity.
    """
    parts = entities_of(Path(path).name)
    return all(
        plain_label(parts.get(key, "")) == plain_label(str(label)) for key, label in wanted.items()
    )


def in_one_space(paths, differ=(*PLACE, "desc")):
    """Of images of one person, visit and acquisition in several spaces those of one space.

    That is the scanner's, of images without the entity "space", where there is one; else the space
    that most of all the images have.

    Args:
        paths: list of `pathlib.Path`; those whose names have no "sub-" stay.
        differ: entities that images of one acquisition need not share; derived ones are described.

    Returns:
        List of `pathlib.Path`.
    """
    groups, places = collections.defaultdict(list), {}
    for path in paths:
        parts = entities_of(path.name)
        places[path] = tuple(parts.get(name, "") for name in PLACE)
        rest = frozenset((key, label) for key, label in parts.items() if key not in differ)
        dataset = next((path for path in path.parents if path.name.startswith("sub-")), path).parent
        kind = path.name.split(".")[0].rpartition("_")[2]
        groups[(dataset, rest, kind) if "sub" in parts else path].append(path)
    common = collections.Counter(places.values())
    kept = set()
    for group in groups.values():
        ranks = {(any(place), -common[place], place): place for place in map(places.get, group)}
        kept |= {path for path in group if places[path] == ranks[min(ranks)]}
    return [path for path in paths if path in kept]


def is_ours(about):
    """Whether the content of a `dataset_description.json` is that of results of brainvq."""
    made = about.get("GeneratedBy") if isinstance(about, dict) else None
    made = made if isinstance(made, list) else []
    named = any(isinstance(one, dict) and one.get("Name") == "brainvq" for one in made)
    return named and about.get("DatasetType") == "derivative"


class Ignored:
    """The files that a data set asks to leave out, by its `.bidsignore` (patterns as of git).

    That of results of brainvq names what is no part of BIDS, such as tractograms, and leaves out
    nothing.

    Args:
        folder: `pathlib.Path` of the data set, or of a folder in it.
    """

    def __init__(self, folder):
        folder = Path(folder).absolute()
        names = (DESCRIPTION, ".bidsignore")
        around = [folder, *folder.parents[:3]]
        has_one = (place for place in around if any((place / name).exists() for name in names))
        self.root = next(has_one, folder)
        self.rules = []
        if self._is_ours():
            return
        try:
            content = (self.root / ".bidsignore").read_bytes()
        except OSError:  # there is none, or nobody may read it
            return
        for line in content.decode("utf-8-sig", errors="replace").splitlines():
            pattern = line.rstrip()
            if pattern and not pattern.startswith("#"):
                negated = pattern.startswith("!")
                self.rules.append((not negated, _regular(pattern[negated:])))

    def _is_ours(self):
        try:
            return is_ours(json.loads((self.root / DESCRIPTION).read_bytes()))
        except (OSError, ValueError, RecursionError):
            return False

    def __call__(self, path):
        """Whether a file is left out; of several patterns that fit, the last one counts."""
        if not self.rules:
            return False
        path = Path(path).absolute()
        name = path.relative_to(self.root).as_posix() if self.root in path.parents else path.name
        return next((out for out, rule in reversed(self.rules) if rule.fullmatch(name)), False)


def _regular(pattern):
    """A pattern of a `.gitignore` as a regular expression of the paths of files."""
    inside = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    pattern = pattern.rstrip("/")
    anywhere = "" if "/" in pattern else "(?:.*/)?"
    result, place = "", 0
    pattern = pattern.lstrip("/")
    tokens = re.compile(r"\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?[^\]]*\]|\\.|.", re.DOTALL)
    for token in tokens.findall(pattern, place):
        if token == "**/":
            result += "(?:.*/)?"
        elif token == "/**":
            result += "/.*"
        elif token[0] == "*":
            result += "[^/]*"
        elif token == "?":
            result += "[^/]"
        elif token[0] == "[" and len(token) > 2:
            negated = token[1] in "!^"
            inner = re.escape(token[1 + negated : -1]).replace(r"\-", "-")
            result += f"[{'^/' if negated else ''}{inner}]"
        else:
            result += re.escape(token[-1])
    try:
        return re.compile(anywhere + result + inside, re.DOTALL)
    except re.error:  # such as the range z-a, which fits nothing
        return re.compile(r"(?!)")
