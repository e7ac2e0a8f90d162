"""Downloads that survive interruption: terms first, then resume, size, checksum and disk checks."""

import contextlib
import email.utils
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3

from brainvq.data.archives import extract, extracted
from brainvq.errors import UserError
from brainvq.files import DISK_FULL, write_json
from brainvq.progress import progress as progress_of

_CHUNK = 1 << 18
_RETRIED = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
# Answers that may be different a moment later.
_BUSY = (408, 425, 429, 500, 502, 503, 504)
# Bytes in a second below which a connection counts as dropped.
_SLOWEST = 100
# Seconds that a server may ask us to wait for.
_LONGEST_WAIT = 600
_CHANGED = object()  # the file on the server is another one by now
_OF_THE_DISK = (
    *DISK_FULL,
    errno.EACCES,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


class Session(requests.Session):
    """A session that goes on to no address without encryption from one with it."""

    def get_redirect_target(self, resp):
        """Where an answer sends us, None for nowhere."""
        target = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:"):
            place = urljoin(resp.url, target)
            if not place.startswith("https:"):
                raise UserError(
                    f"{resp.url}: the server sends us on to {place}, without encryption; expected "
                    "an address with https"
                )
        return target


class _Busy(requests.ConnectionError):
    """The server asks for patience: `wait` seconds, or None."""

    def __init__(self, response):
        super().__init__(f"the server answered {response.status_code}")
        asked = _header(response, "Retry-After")
        self.wait = _number(asked)
        if asked and self.wait is None:
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                moment = email.utils.parsedate_to_datetime(asked).timestamp()
                self.wait = max(0, moment - time.time())


class _Slow(requests.ConnectionError):
    """The connection brings hardly anything."""


@dataclass(frozen=True)
class RemoteDataset:
    """A data set that can be downloaded.

    Args:
        title: full name.
        base_url: address of the folder of its files, without a slash at the end.
        parts: name of a part → file name; the order is that of the download.
        terms: what the user agrees to, in a few lines.
        terms_url: where the agreement itself is.
        md5: file name → checksum, where known.
        keep: function from the name of an archive's member to bool: what the reader needs.
        keep_name: short name of that choice.
        size: rough size of all files, for people.
        default: parts that are taken where none are named; None for all.
        tables: file names that every download takes along, such as the table of people; they are
            no archives and stay in the root.
    """

    title: str
    base_url: str
    parts: dict
    terms: str
    terms_url: str
    md5: dict = field(default_factory=dict)
    keep: Callable[[str], bool] | None = None
    keep_name: str = "all"
    size: str = ""
    default: tuple | None = None
    tables: tuple = ()


_OASIS_TERMS = """\
OASIS is free to use, but not without conditions. By its data use agreement you promise, in short:
- to name OASIS as the source, with its grant numbers and papers, in what you publish;
- not to try to find out who the participants are, nor to contact them;
- not to hand the data on except to people who accept the same agreement;
- to use the data at your own risk, and to follow the rules of your institution."""

# Of an OASIS-1 disc (1.3 GB): the atlas image of the brain, its tissue labels, the session's text.
_OASIS1_NEEDED = re.compile(
    r".*(/PROCESSED/MPRAGE/T88_111/[^/]*t88_masked_gfc\.(hdr|img)"
    r"|/FSL_SEG/[^/]*_fseg\.(hdr|img)"
    r"|/OAS1_\d+_MR\d+\.txt)"
)
_OASIS2_NEEDED = re.compile(r".*/RAW/mpr-\d+\.nifti\.(hdr|img)")

_IXI_TERMS = """\
IXI is published under the Creative Commons licence CC BY-SA 3.0. In short:
- name the IXI data set (brain-development.org) as the source in what you publish;
- pass on what you make from the images only under the same or a compatible licence."""
_IXI_IMAGE = re.compile(r"(.*/)?IXI[^/]*\.nii(\.gz)?")

DATASETS = {
    "oasis1": RemoteDataset(
        title="OASIS-1 (cross-sectional MRI of 416 people)",
        base_url="https://download.nrg.wustl.edu/data",
        parts={str(disc): f"oasis_cross-sectional_disc{disc}.tar.gz" for disc in range(1, 13)},
        terms=_OASIS_TERMS,
        terms_url="https://sites.wustl.edu/oasisbrains/",
        md5={"oasis_cross-sectional_disc1.tar.gz": "c83e216ef8654a7cc9e2a30a4cdbe0cc"},
        keep=lambda name: _OASIS1_NEEDED.fullmatch(name) is not None,
        keep_name="t88_masked+fseg",
        size="15.8 GB in 12 discs",
    ),
    "oasis2": RemoteDataset(
        title="OASIS-2 (longitudinal MRI of 150 older people)",
        base_url="https://download.nrg.wustl.edu/data",
        parts={str(part): f"OAS2_RAW_PART{part}.tar.gz" for part in (1, 2)},
        terms=_OASIS_TERMS,
        terms_url="https://sites.wustl.edu/oasisbrains/",
        keep=lambda name: _OASIS2_NEEDED.fullmatch(name) is not None,
        keep_name="raw",
        size="2 parts of several GB",
    ),
    "ixi": RemoteDataset(
        title="IXI (MRI of 600 healthy people at three hospitals)",
        base_url="https://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI",
        parts={kind: f"IXI-{kind}.tar" for kind in ("T1", "T2", "PD")},
        terms=_IXI_TERMS,
        terms_url="https://brain-development.org/ixi-dataset/",
        md5={
            "IXI-T1.tar": "34901a0593b41dd19c1a1f746eac2d58",
            "IXI-T2.tar": "e3140d78730ecdd32ba92da48c0a9aaa",
            "IXI-PD.tar": "88ecd9d1fa33cb4a2278183b42ffd749",
        },
        keep=lambda name: _IXI_IMAGE.fullmatch(name) is not None,
        keep_name="nifti",
        size="4.8 GB for the T1 images (part T1)",
        default=("T1",),
        tables=("IXI.xls",),
    ),
}


def download(
    dataset,
    root,
    *,
    accept_terms=False,
    parts=None,
    base_url=None,
    checksums=None,
    progress=True,
    retries=5,
    backoff=1.0,
    timeout=60.0,
):
    """Downloads the files of a data set; what is there already is not fetched again.

    Tables that belong to the data set come along, unless a table of that name (`.csv`, `.xlsx`,
    `.xls`) is there.

    Args:
        dataset: key of `DATASETS`, e.g. "oasis1".
        root: folder for the files; made if missing.
        accept_terms: the user has read and accepted the terms. They are printed in any case.
        parts: names of the parts wanted, e.g. `["1", "2"]`; None for all (IXI: the T1 images).
        base_url: address of a mirror instead of the publisher's.
        checksums: file name → md5, instead of the known ones.
        progress: show a progress bar per file.
        retries: see `download_file`.
        backoff: see `download_file`.
        timeout: see `download_file`.

    Returns:
        list of `pathlib.Path`, one per part (none for the tables).

    Raises:
        UserError: if the terms are not accepted, a part is unknown, the disk is too small, or
            a file cannot be had; see `download_file`.
    """
    known = _known(dataset)
    names = [known.parts[part] for part in _chosen(dataset, parts)]
    checksums = known.md5 if checksums is None else checksums
    root = Path(root)
    tables = _missing_tables(known, root)
    missing = [*tables, *(name for name in names if not (root / name).exists())]
    if missing:
        require_terms(dataset, known, accept_terms)
        with _disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
    base_url = (base_url or known.base_url).rstrip("/")
    options = {"progress": progress, "retries": retries, "backoff": backoff, "timeout": timeout}
    with Session() as session:
        _check_total(session, base_url, root, missing, timeout)
        for name in (*tables, *names):
            url, md5 = f"{base_url}/{name}", checksums.get(name)
            download_file(url, root / name, md5=md5, session=session, **options)
    return [root / name for name in names]


def fetch(dataset, root, *, accept_terms=False, parts=None, keep_archives=True, **options):
    """Downloads and unpacks a data set, ready for its reader.

    Of each archive only what the reader needs is unpacked, to a folder named after the archive. A
    part that is unpacked already needs neither its archive nor the network.

    Args:
        dataset: key of `DATASETS`.
        root: folder of the data set.
        accept_terms: the user has read and accepted the terms.
        parts: names of the parts wanted; None for all (IXI: the T1 images).
        keep_archives: keep the archives after unpacking; False removes each when it is done.
        **options: those of `download`.

    Returns:
        `pathlib.Path` of `root`, as `open_cohort(dataset, root)` takes it.

    Raises:
        UserError: as `download` and `brainvq.data.extract`.
    """
    known, root = _known(dataset), Path(root)
    for part in _chosen(dataset, parts):
        name = known.parts[part]
        folder = root / re.sub(r"\.(tar\.gz|tgz|tar|zip)$", "", name)
        marker = extracted(folder)
        if marker and (marker.get("archive"), marker.get("keep")) == (name, known.keep_name):
            continue
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder}: exists and is no finished copy of {name}; move it away to download it"
            )
        [archive] = download(dataset, root, accept_terms=accept_terms, parts=[part], **options)
        extract(
            archive,
            folder,
            keep=known.keep,
            keep_name=known.keep_name,
            progress=options.get("progress", True),
        )
        if not keep_archives:
            archive.unlink()
    return root


def download_file(
    url, path, *, md5=None, progress=True, retries=5, backoff=1.0, timeout=60.0, session=None
):
    """Downloads one file, going on where an earlier attempt stopped.

    The bytes go to `path.part`, with the server's ETag or date in `path.part.json`; `path` appears
    only when size and checksum are right. A part is continued only if the server confirms that its
    file is still the same (If-Range), otherwise the download starts over. Dropped connections and
    busy servers are tried again, after the time that a server names in Retry-After; attempts that
    bring new bytes do not count. A redirect from https to http is refused.

    Args:
        url: address, http or https.
        path: file to write. If it exists it is checked against `md5` (if given) and returned.
        md5: expected checksum in hexadecimal, or None.
        progress: show a progress bar.
        retries: attempts without a new byte before giving up, beyond the first.
        backoff: seconds before the first retry; doubled for each further one, at most 60.
        timeout: seconds without an answer, or with less than 100 bytes in a second, after which a
            connection counts as dropped.
        session: `requests.Session` to use, or None.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        UserError: if the server refuses, does not answer or keeps dropping the connection (the part
            stays, and a second call goes on), if the checksum is wrong (the part is removed), or if
            the disk is full (the part stays).
    """
    path = Path(path)
    if path.exists():
        if md5 is not None and _md5(path, progress) != md5.lower():
            raise UserError(
                f"{path}: md5 differs from {md5}, the file is incomplete or another; move it away "
                "and try again"
            )
        return path
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(Session())
        with _disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = _fetch_part(session, url, path, progress, retries, backoff, timeout)
            if md5 is not None and (actual := _md5(part, progress)) != md5.lower():
                _discard(path)
                raise UserError(
                    f"{url}: md5 of the download is {actual}, expected {md5}; the file was damaged "
                    "or tampered with on the way and was removed"
                )
            os.replace(part, path)
            _sidecar(path).unlink(missing_ok=True)
    return path


def _fetch_part(session, url, path, progress, retries, backoff, timeout):
    """Brings `path.part` to its full length; returns its path."""
    failures, furthest = 0, _part_size(path)
    wait = None
    with progress_of(title=path.name, unit="B", shown=progress) as bar:
        while True:
            slow, wait = False, None
            try:
                if _attempt(session, url, path, timeout, bar):
                    return _part(path)
                problem = "the connection ended early"
            except requests.TooManyRedirects:
                raise UserError(
                    f"{url}: the server sends us in a circle; expected the file"
                ) from None
            except _RETRIED as error:
                if _is_disk_error(error):
                    raise
                if isinstance(error, ValueError):  # how requests reports an unusable address
                    raise UserError(f"{url}: is no address to download from: {error}") from error
                slow, wait = isinstance(error, _Slow), getattr(error, "wait", None)
                problem = " ".join(str(error).split()) or type(error).__name__
            # Only bytes beyond the furthest point count as progress: a server that always drops
            # the connection and cannot resume must not keep us here for ever.
            if _part_size(path) > furthest and not slow:
                failures, furthest = 0, _part_size(path)
            else:
                failures += 1
            if failures > retries or (wait or 0) > _LONGEST_WAIT:
                later = "" if wait is None else f", try again in {wait:.0f} s"
                raise UserError(
                    f"{url}: gave up after {failures} attempts ({problem}{later}); "
                    f"{_part_size(path) / 1e6:.1f} MB are kept, the same command goes on from there"
                )
            usual = min(backoff * 2 ** max(failures - 1, 0), 60.0)
            time.sleep(usual if wait is None else max(usual, wait))


def _attempt(session, url, path, timeout, bar):
    """One request. Returns True if the part is complete, False if the connection ended early."""
    known = _read_sidecar(path)
    start = _part_size(path)
    # Without a validator nobody can tell whether the rest belongs to the bytes that we have.
    resumable = start > 0 and known.get("url") == url and known.get("validator")
    # "identity": the bytes as they lie on the server, so that Range and checksum mean those.
    headers = {"Accept-Encoding": "identity"}
    if resumable:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["validator"]}
    with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code in _BUSY:
            raise _Busy(response)
        if response.status_code == 206 and resumable:
            total = _resumed_total(response, known, start)
            if total is _CHANGED:
                _discard(path)
                return False
            if total is not None:
                check_space(path.parent, total - start, url)
        elif response.status_code == 416 and resumable:
            # Nothing is left to send: complete if the length and the file are still the same.
            place = re.fullmatch(r"bytes \*/(\d+)", _header(response, "Content-Range"))
            if place and int(place[1]) == start == known.get("total") and _same(response, known):
                return True
            _discard(path)
            return False
        elif response.status_code == 200:
            start, total = 0, _number(_header(response, "Content-Length"))
            if total is not None:  # what the old part holds is about to be free
                check_space(path.parent, total - _part_size(path), url)
            _discard(path)
            content = {"url": url, "validator": _validator(response), "total": total}
            write_json(_sidecar(path), content)
        else:
            raise UserError(
                f"{url}: the server answered {response.status_code} {response.reason}, expected "
                "the file; is the address right?"
            )
        ended = _append(response, _part(path), start, total, bar, timeout)
    size = _part_size(path)
    if total is not None and size > total:
        _discard(path)
        return False
    return ended if total is None else size == total


def _same(response, known):
    """Whether the server's file is still the one that the sidecar speaks of."""
    return _validator(response) in (known["validator"], None)


def _resumed_total(response, known, start):
    """Length of the whole file as a resumed answer has it, None if unknown; or `_CHANGED`."""
    total = known.get("total")
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", _header(response, "Content-Range"))
    size = int(place[2]) if place and place[2] != "*" else total
    total = size if total is None else total
    if not place or int(place[1]) != start or size != total or not _same(response, known):
        return _CHANGED
    return total


def _append(response, part, start, total, bar, timeout):
    """Writes the bytes of an answer behind the part; False where the connection ended early."""
    enough, until = timeout * _SLOWEST, time.monotonic() + timeout
    bar.total = total
    bar.n = bar.last_print_n = start
    bar.initial = start  # the rate and the time left count this attempt only
    bar.start_t = bar.last_print_t = time.time()
    bar.refresh()
    with open(part, "ab") as file:
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                _write(file, chunk)
                bar.update(len(chunk))
                enough -= len(chunk)
                if enough <= 0:
                    enough, until = timeout * _SLOWEST, time.monotonic() + timeout
                elif time.monotonic() > until:
                    raise _Slow(f"less than {_SLOWEST} bytes in a second")
        except urllib3.exceptions.HTTPError:
            return False  # what came before the drop is in the part
    return True


def _write(file, chunk):
    file.write(chunk)


def _validator(response):
    """A strong ETag, or else the date of the file; None if the server gives neither."""
    etag = _header(response, "ETag")
    if etag and not etag.startswith("W/"):  # RFC 9110: a weak one is not allowed in If-Range
        return etag
    return _header(response, "Last-Modified") or None


def _number(text):
    """A number of a header; None where it is none, or none of bytes or seconds."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def _header(response, name):
    return response.headers.get(name, "")


def _part(path):
    return path.with_name(path.name + ".part")


def _sidecar(path):
    return path.with_name(path.name + ".part.json")


def _part_size(path):
    try:
        return _part(path).stat().st_size
    except FileNotFoundError:
        return 0


def _read_sidecar(path):
    try:
        content = json.loads(_sidecar(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _discard(path):
    # The part goes first: a sidecar without a part is harmless, the reverse would be a lie.
    _part(path).unlink(missing_ok=True)
    _sidecar(path).unlink(missing_ok=True)


def _md5(path, progress):
    digest = hashlib.md5(usedforsecurity=False)
    size = path.stat().st_size
    with (
        open(path, "rb") as file,
        progress_of(size, f"verify {path.name}", "B", shown=progress, part=True) as bar,
    ):
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _known(dataset):
    if dataset not in DATASETS:
        raise UserError(
            f"data set {dataset!r} cannot be downloaded; expected one of {', '.join(DATASETS)}"
        )
    return DATASETS[dataset]


def _chosen(dataset, parts):
    known = DATASETS[dataset].parts
    if parts is None:
        return list(DATASETS[dataset].default or known)
    chosen = [str(part) for part in ([parts] if isinstance(parts, str | int) else parts)]
    unknown = [part for part in chosen if part not in known]
    if unknown or not chosen:
        raise UserError(
            f"data set {dataset}: no part {', '.join(unknown) or '(none given)'}; "
            f"parts are {', '.join(known)}"
        )
    return list(dict.fromkeys(chosen))


def _missing_tables(known, root):
    """The tables of a data set that the root has not, in whatever format users saved them."""
    suffixes = (".xls", ".xlsx", ".csv")
    return [
        name
        for name in known.tables
        if not any((root / name).with_suffix(suffix).exists() for suffix in suffixes)
    ]


def require_terms(dataset, known, accepted):
    """Prints the terms of a `RemoteDataset`; `UserError` unless the user has accepted them."""
    print(f"{known.title}, {known.size}\n{known.terms}\nThe agreement: {known.terms_url}")
    if not accepted:
        raise UserError(
            f"{dataset}: the terms of use above are not accepted; read them at {known.terms_url} "
            "and repeat the command with --data.accept-terms"
        )


def _check_total(session, base_url, root, names, timeout):
    """Asks for the sizes of all files before the first byte, where the server tells them."""
    needed = 0
    with contextlib.suppress(requests.RequestException):  # the download itself will say more
        for name in names:
            url, headers = f"{base_url}/{name}", {"Accept-Encoding": "identity"}
            response = session.head(url, headers=headers, timeout=timeout, allow_redirects=True)
            length = _number(_header(response, "Content-Length"))
            if response.ok and length is not None:
                needed += max(length - _part_size(root / name), 0)
    if needed:
        check_space(root, needed, f"{len(names)} files from {base_url}")


def check_space(folder, needed, what):
    """`UserError` unless the disk of `folder` has room for `needed` bytes of `what`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB more, the disk has {free / 1e9:.2f} GB "
            "free"
        )


def _is_disk_error(error):
    """True for errors of our own disk, as opposed to those of the network (both are OSError)."""
    return getattr(error, "errno", None) in _OF_THE_DISK


@contextlib.contextmanager
def _disk_errors(folder):
    try:
        yield
    except OSError as error:
        if not _is_disk_error(error):
            raise
        full = error.errno in DISK_FULL
        raise UserError(
            f"{folder}: the disk is full; make room, the same command goes on where it stopped"
            if full
            else f"{folder}: cannot be written: {error}"
        ) from error
