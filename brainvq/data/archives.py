"""Unpacking archives from strangers: all members are judged before the first byte is written."""

import contextlib
import gzip
import json
import lzma
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from brainvq.errors import UserError
from brainvq.files import write_json
from brainvq.progress import progress as progress_of

MARKER = ".brainvq-extracted.json"

_CHUNK = 1 << 20
# Archives of images and tables are unpacked to a few times their size. One that is unpacked to more
# than so many bytes, and so many times its size, was made to fill the disk.
_HARMLESS, _MOST_UNPACKED = 1 << 28, 100
_DAMAGED = (
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    struct.error,
    NotImplementedError,  # a zip that uses a compression which Python does not have
    RuntimeError,  # a zip with a password
    ValueError,
    OverflowError,
)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive, its name already normalised ("a/b"); type: file, folder or link."""

    name: str
    type: str
    size: int = 0
    target: str = ""  # of a link, normalised, relative to the archive
    handle: object = None


def extract(archive, folder, *, keep=None, keep_name="all", progress=True):
    """Unpacks a tar (plain or compressed) or zip archive into a new folder.

    Every member is looked at first, kept or not. Then the kept ones are written to a temporary
    folder beside `folder`, which takes its name at the end; a kill leaves no half-made `folder`.
    A marker file in it makes a second call return at once. Only plain files and folders are ever
    made: a link to another file of the archive becomes a copy of it.

    Args:
        archive: path of a `.tar`, `.tar.gz`, `.tgz`, `.tar.xz`, `.tar.bz2` or `.zip` file,
            recognised by its content.
        folder: path of the folder to make.
        keep: function from a member's name ("disc1/a.img") to bool; None keeps everything.
        keep_name: short name of that choice, written to the marker.
        progress: show a progress bar.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        UserError: if the archive is missing, damaged or truncated; if a member has an absolute
            path, leaves the folder, is a device or pipe, is a link that leaves the folder, or
            claims the place of another; if nothing is kept; if `folder` exists and is not a
            finished extraction of this archive with this choice; or if the disk is full. Nothing
            is left on disk then.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; an archive is expected")
    wanted = {"archive": archive.name, "bytes": archive.stat().st_size, "keep": keep_name}
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        marker = extracted(folder)
        if marker is not None and {key: marker.get(key) for key in wanted} == wanted:
            return folder
        what = "another extraction" if marker else "a folder of yours"
        raise UserError(f"{folder}: exists and is {what}; move it away to unpack {archive.name}")

    temporary = folder.with_name(f".{folder.name}.extracting")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
        count = _unpack(archive, temporary, keep, keep_name, f"unpack {folder.name}", progress)
        write_json(temporary / MARKER, {**wanted, "files": count})
        os.replace(temporary, folder)
    except _DAMAGED as error:
        if isinstance(error, UserError):
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{archive}: is truncated or damaged ({line}); download it again"
        ) from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked to {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def extracted(folder):
    """Returns the content of the marker of a finished extraction, or None if there is none."""
    try:
        content = json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def _opened(archive):
    """Yields the members and a function that opens one of them for reading."""
    # By its first bytes: a tar that holds a zip also ends like one.
    if _head(archive)[:2] == b"PK":
        with zipfile.ZipFile(archive) as opened:
            check_unpacked(archive, sum(info.file_size for info in opened.infolist()))
            yield [_zip_member(archive, opened, info) for info in opened.infolist()], opened.open
        return
    with tarfile.open(archive, "r:*") as opened:
        members, total = [], 0
        for info in opened:  # to go on to the next one, this one is unpacked
            total += info.size
            check_unpacked(archive, total)
            members.append(_tar_member(archive, info))
        _check_tar_end(archive, opened)
        yield members, opened.extractfile


def check_unpacked(archive, size):
    """Refuses an archive that is made to fill disk or memory: small itself, and huge unpacked.

    Args:
        archive: path of the archive.
        size: bytes of its members, as it states them.

    Raises:
        UserError: it is one.
    """
    packed = Path(archive).stat().st_size
    if size > max(_HARMLESS, _MOST_UNPACKED * packed):
        raise UserError(
            f"{archive}: its members are {size:,} bytes, {size // max(packed, 1):,} times as many "
            f"as the archive has; expected {_MOST_UNPACKED} times at most; nothing was unpacked"
        )


def _head(archive):
    with open(archive, "rb") as file:
        return file.read(6)


def _check_tar_end(archive, opened):
    """Finds truncation that the tar reader takes for the end of the archive."""
    stream = opened.fileobj
    if not _head(archive).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        # The archive ends with blocks of zeros; at a cut between members they are not there.
        stream.seek(opened.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise EOFError("the end of the archive is missing")
    else:
        # Reading to the end makes the decompressor compare its checksum.
        while stream.read(_CHUNK):
            pass


def _tar_member(archive, info):
    name = _safe_name(archive, info.name)
    if info.isreg():
        return _Member(name, "file", info.size, handle=info)
    if info.isdir():
        return _Member(name, "folder")
    if info.issym():
        return _Member(name, "link", target=_safe_target(archive, name, info.linkname, True))
    if info.islnk():
        return _Member(name, "link", target=_safe_target(archive, name, info.linkname, False))
    raise UserError(
        f"{archive}: member {info.name!r} is a device or pipe; only files, folders and links are "
        "expected, nothing was unpacked"
    )


def _zip_member(archive, opened, info):
    # orig_filename, because zipfile cuts names at a zero byte and turns separators around.
    name = _safe_name(archive, info.orig_filename)
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode == stat.S_IFLNK:
        if info.file_size > 4096:
            raise UserError(f"{archive}: member {name!r} is a link with a path of no end")
        target = opened.read(info).decode("utf-8", "surrogateescape")
        return _Member(name, "link", target=_safe_target(archive, name, target, True))
    if info.filename.endswith("/"):  # `is_dir` fails where a name is empty
        return _Member(name, "folder")
    if mode not in (0, stat.S_IFREG):
        raise UserError(
            f"{archive}: member {name!r} is a device or pipe; only files, folders and links are "
            "expected, nothing was unpacked"
        )
    return _Member(name, "file", info.file_size, handle=info)


def _safe_name(archive, name):
    """Normalises a member's name, or refuses it; "" stands for the folder itself."""
    parts = name.split("/")
    absolute = name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":")
    if absolute or ".." in parts or "\\" in name or "\0" in name:
        raise UserError(
            f"{archive}: member {name!r} has a path that leaves the folder; nothing was unpacked"
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _safe_target(archive, name, target, relative):
    """Where a link points, inside the archive; symbolic links start at their own folder."""
    start = posixpath.dirname(name) if relative else ""
    joined = posixpath.normpath(posixpath.join(start, target))
    outside = joined == ".." or joined.startswith(("../", "/"))
    if outside or "\\" in target or "\0" in target or (len(target) > 1 and target[1] == ":"):
        raise UserError(
            f"{archive}: link {name!r} points to {target!r}, outside the folder; nothing was "
            "unpacked"
        )
    return joined


def _judged(archive, members):
    """Refuses members that claim one place: a name twice, or a file that is also a folder."""
    kinds = {}
    for member in members:
        if not member.name and member.type != "folder":
            raise UserError(f"{archive}: a member has no name; nothing was unpacked")
        if member.name in kinds and (member.type, kinds[member.name]) != ("folder", "folder"):
            raise UserError(
                f"{archive}: member {member.name!r} is there twice; nothing was unpacked"
            )
        kinds[member.name] = member.type
    for member in members:
        parent = posixpath.dirname(member.name)
        while parent:
            if kinds.get(parent, "folder") != "folder":
                raise UserError(
                    f"{archive}: member {member.name!r} lies in {parent!r}, which is not a folder; "
                    "nothing was unpacked"
                )
            parent = posixpath.dirname(parent)
    return [member for member in members if member.name and member.name != MARKER]


def _resolved(archive, members, chosen):
    """Name to write → the file member whose bytes go there, links followed; in archive order."""
    by_name = {member.name: member for member in members}
    files = {}
    for member in chosen:
        target, steps = member, 0
        while target is not None and target.type == "link" and steps < 40:
            target, steps = by_name.get(target.target), steps + 1
        if target is not None and target.type == "file":
            files[member.name] = target
        elif member.type == "link":
            raise UserError(
                f"{archive}: link {member.name!r} points to {member.target!r}, which is no file of "
                "the archive; nothing was unpacked"
            )
    return files


def _check_space(archive, folder, needed):
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{archive}: unpacking needs {needed / 1e9:.2f} GB, but {folder} has "
            f"{free / 1e9:.2f} GB free"
        )


def _unpack(archive, folder, keep, keep_name, title, progress):
    """Judges all members and writes the wanted ones to a new folder; returns how many files."""
    with _opened(archive) as (members, read):
        members = _judged(archive, members)
        chosen = [m for m in members if keep is None or keep(m.name)]
        files = _resolved(archive, members, chosen)
        if not files:
            raise UserError(
                f"{archive}: none of its {len(members)} members is wanted ({keep_name}); "
                "is it the right archive?"
            )
        total = sum(member.size for member in files.values())
        _check_space(archive, folder.parent, total)
        folder.mkdir()
        for member in chosen:
            if member.type == "folder":
                (folder / member.name).mkdir(parents=True, exist_ok=True)
        with progress_of(total, title, "B", shown=progress) as bar:
            for name, member in files.items():
                _write(read, member, folder / name, bar)
    return len(files)


def _write(read, member, path, bar):
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with read(member.handle) as packed, open(path, "xb") as file:
        while chunk := packed.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise EOFError(f"{member.name} is longer than the archive says")
            file.write(chunk)
            bar.update(len(chunk))
    if left:
        raise EOFError(f"{member.name} is shorter than the archive says")
