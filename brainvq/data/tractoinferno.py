"""Download of TractoInferno's bundles: listed first, then one file per person and bundle."""

import re
import tempfile
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from brainvq.data.download import RemoteDataset, Session, check_space, download_file, require_terms
from brainvq.data.readers.bundles import PUBLISHED_SPLITS
from brainvq.errors import UserError
from brainvq.names import BUNDLES

TRACTOINFERNO = RemoteDataset(
    title="TractoInferno (tractography of 284 people; Poulin et al. 2022, OpenNeuro ds003900)",
    base_url="https://s3.amazonaws.com/openneuro.org",
    parts={split: f"ds003900/derivatives/{split}/" for split in PUBLISHED_SPLITS},
    terms="TractoInferno is in the public domain (Creative Commons CC0): use it as you like.",
    terms_url="https://openneuro.org/datasets/ds003900",
    size="some 100 MB for the twelve bundles of a person",
)
_BUNDLE = re.compile(
    r"ds003900/(?P<place>derivatives/(?P<split>trainset|validset|testset)/"
    r"sub-(?P<subject>[A-Za-z0-9]+)/tractography/sub-(?P=subject)__(?P<bundle>[A-Za-z0-9_]+)\.trk)"
)
_PAGES = 1000  # far more than there are: an end to a server that lists for ever


def download_tractoinferno(
    root,
    subjects=None,
    bundles=BUNDLES,
    split="testset",
    base_url=None,
    *,
    accept_terms=False,
    progress=True,
    retries=5,
    backoff=1.0,
    timeout=60.0,
):
    """Downloads bundles of TractoInferno; what is there already is not fetched again.

    Args:
        root: folder for the files, which lie there as published:
            `derivatives/testset/sub-1006/tractography/sub-1006__PYT_L.trk`.
        subjects: labels of the people wanted, with or without "sub-"; an int for the first so many;
            None for all of the split.
        bundles: names of the bundles wanted; None for all. Not every person has every one.
        split: "trainset", "validset" or "testset".
        base_url: address of a mirror instead of the publisher's; it answers as S3 does.
        accept_terms: the user has read and accepted the terms (CC0). They are printed in any case.
        progress: show a progress bar per file.
        retries: see `download_file`; for each page of the list and each file.
        backoff: see `download_file`.
        timeout: see `download_file`.

    Returns:
        `pathlib.Path` of `root`, as `read_tractoinferno` takes it.

    Raises:
        UserError: if the terms are not accepted, the split, a person or a bundle is not published,
            the list is none, a file has another size than the list says, the disk is too small, or
            the network fails (what has come stays, and a second call goes on).
    """
    if split not in TRACTOINFERNO.parts:
        raise UserError(
            f"TractoInferno: found split {split!r}; expected one of "
            f"{', '.join(TRACTOINFERNO.parts)}"
        )
    require_terms("tractoinferno", TRACTOINFERNO, accept_terms)
    root = Path(root)
    base_url = (base_url or TRACTOINFERNO.base_url).rstrip("/")
    options = {"retries": retries, "backoff": backoff, "timeout": timeout}
    with Session() as session:
        options["session"] = session
        published = _published(base_url, split, options)
        wanted = _chosen(published, subjects, bundles, f"{base_url} ({split})")
        missing = [entry for entry in wanted if not (root / entry[0]).exists()]
        if missing:
            root.mkdir(parents=True, exist_ok=True)
            check_space(root, sum(size for *_, size in missing), f"{len(missing)} bundles")
        for place, address, size in wanted:
            path = download_file(address, root / place, progress=progress, **options)
            _check_size(path, size)
    return root


def _check_size(path, size):
    if path.stat().st_size != size:
        raise UserError(
            f"{path}: found {path.stat().st_size} bytes; expected the {size} of the publisher's "
            "list (move it away and download it again)"
        )


def _published(base_url, split, options):
    """(subject, bundle) → (place below the root, address, bytes) of a split."""
    published = {}
    for key, size in _listed(base_url, TRACTOINFERNO.parts[split], options):
        if (match := _BUNDLE.fullmatch(key)) and match["split"] == split:
            address = f"{base_url}/{quote(key)}"
            published[match["subject"], match["bundle"]] = (match["place"], address, size)
    return published


def _listed(base_url, prefix, options):
    """Yields (key, size in bytes) of every file below a prefix, page after page."""
    query = {"list-type": "2", "prefix": prefix}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_PAGES):
            url = f"{base_url}?{urlencode(query)}"
            page = download_file(url, Path(folder) / f"{number}.xml", progress=False, **options)
            try:
                tree = ElementTree.fromstring(page.read_bytes())
                if _name(tree) != "ListBucketResult":
                    raise ValueError(f"found <{_name(tree)}>")
                for entry in tree:
                    if _name(entry) == "Contents":
                        fields = {_name(field): field.text for field in entry}
                        yield fields["Key"], int(fields["Size"])
                fields_of_page = {_name(entry): entry.text for entry in tree}
            except (ElementTree.ParseError, ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{url}: is no list of files ({error}); expected the answer of an S3 bucket"
                ) from None
            if fields_of_page.get("IsTruncated") != "true":
                return
            if not fields_of_page.get("NextContinuationToken"):
                break
            query["continuation-token"] = fields_of_page["NextContinuationToken"]
    raise UserError(f"{url}: the list of files does not end; expected the answer of an S3 bucket")


def _name(element):
    return element.tag.rpartition("}")[2]  # without the namespace


def _chosen(published, subjects, bundles, where):
    """The files wanted, in order; UserError for people and bundles that are not there."""
    if not published:
        raise UserError(f"{where}: lists no bundles; expected files such as sub-1006__PYT_L.trk")
    people = sorted({subject for subject, _ in published})
    names = sorted({bundle for _, bundle in published})
    if isinstance(subjects, int):
        if not 1 <= subjects <= len(people):
            raise UserError(f"subjects: found {subjects}; expected 1 to the {len(people)} there")
        chosen = people[:subjects]
    elif subjects is None:
        chosen = people
    else:
        listed = [subjects] if isinstance(subjects, str) else subjects
        chosen = [str(subject).removeprefix("sub-") for subject in listed]
        absent = [subject for subject in chosen if subject not in people]
        if absent or not chosen:
            raise UserError(
                f"{where}: has no subject {', '.join(absent) or '(none given)'}; expected some of "
                f"{', '.join(people[:5])}{' and so on' if len(people) > 5 else ''}"
            )
    unknown = [bundle for bundle in bundles or () if bundle not in names]
    if unknown:
        raise UserError(
            f"{where}: has no bundle {', '.join(unknown)}; expected some of {', '.join(names)}"
        )
    bundles = names if bundles is None else list(bundles)
    pairs = [(subject, bundle) for subject in dict.fromkeys(chosen) for bundle in bundles]
    files = [published[pair] for pair in pairs if pair in published]
    if not files:
        raise UserError(f"{where}: none of the subjects has one of {', '.join(bundles)}")
    if len(files) < len(pairs):
        print(f"{len(pairs) - len(files)} of {len(pairs)} bundles are not published")
    return files
