"""Inputs for the fuzzer: sound files of each format, and ways to spoil them."""

import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from brainvq import data
from tests.data import generators

EXTREMES = {
    "b": (0, 1, -1, 127, -128),
    "h": (0, 1, -1, 2, 3, 7, 8, 255, 4096, 32767, -32768),
    "i": (0, 1, -1, 10**6, 2**31 - 1, -(2**31), 348, 65536),
    "q": (0, -1, 2**31, 2**62, 10**18),
    "f": (0.0, -0.0, 1.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), -float("inf"), 352.5, 1e6),
}


# Tables of a model of packed codes, 4 x 5 x 3 cells of 16 codes; a place in 17 is always 0.
PLACES = np.arange(4 * 5 * 3 * 16).reshape(4, 5, 3, 16)
ZERO, MORE = np.where(PLACES % 17, 40000 + PLACES % 9999, 65536), 30000 + PLACES % 77


def volume(seed=0, shape=(12, 14, 10)):
    """A little brain: bright in the middle, 0 around it."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    noise = np.random.default_rng(seed).normal(0, 5, shape)
    image = np.where(x**2 + y**2 + z**2 < 0.6, 200 + 90 * np.sin(5 * x + 3 * y) + noise, 0)
    return image.round().astype(np.int16)


def write_sound(folder):
    """Writes a sound file, or folder, of each kind into `folder`."""
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = -40
    scan = nib.Nifti1Image(volume(), affine)
    nib.save(scan, folder / "nii.nii")
    nib.save(nib.Nifti2Image(volume(), affine), folder / "nii2.nii")
    nib.save(nib.AnalyzeImage(volume(), affine), folder / "analyze.img")
    nib.save(nib.MGHImage(volume().astype(np.int32), affine), folder / "mgh.mgh")
    rng = np.random.default_rng(0)
    lines = [np.cumsum(rng.normal(1, 1, (count, 3)), 0).astype("f4") for count in (5, 9, 12, 7)]
    made = data.new_tractogram(lines)
    for suffix in ("trk", "tck", "trx"):
        data.save_tractogram(made, lines, folder / f"{suffix}.{suffix}")
    grey = (volume()[:, :, 5] / 2).clip(0, 255).astype(np.uint8)
    for suffix in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(grey).save(folder / f"{suffix}.{suffix}")
    np.save(folder / "npy.npy", rng.uniform(-1, 1, (3, 4, 3, 64)).astype("f4"))
    codes = rng.integers(-3, 4, ZERO.shape) * (ZERO < 65536)
    (folder / "bvq.bvq").write_bytes(data.pack_codes(codes, ZERO, MORE))
    (folder / "tsv.tsv").write_text(
        "participant_id\tsession_id\tage\tsex\tgroup\nsub-01\tses-1\t31\tF\tMS\nsub-02\t1\tn/a\tM\t\n"
    )
    (folder / "csv.csv").write_text(
        "scan_id,subject,session,group,age,sex,paths,split\na,01,1,MS,31,F,a.nii,train\n"
        'b,02,,HC,40,M,"[""b.nii"", ""c.nii""]",test\n'
    )
    generators.ixi_table(folder, "xls")
    generators.ixi_table(folder, "xlsx")
    (folder / "IXI.xls").rename(folder / "xls.xls")
    (folder / "IXI.xlsx").rename(folder / "xlsx.xlsx")
    (folder / "json.json").write_text(
        json.dumps({"EchoTime": 0.003, "Manufacturer": "M", "list": [1, {"a": None}]})
    )
    from brainvq.options import to_dict
    from brainvq.studies import STUDIES
    from brainvq.training.runs import FORMAT

    steps = [{"name": "Canonical", "axcodes": "LPS"}, {"name": "ClipIntensity", "upper": 99.9}]
    about = {"format": FORMAT, "brainvq": "0.1.0", "steps": steps}
    about["study"] = to_dict(next(iter(STUDIES["oasis2d"].values())))
    (folder / "study.json").write_text(json.dumps(about))
    members = {"a/one.txt": b"1" * 3000, "a/two.bin": bytes(range(256)), "b.txt": b"x"}
    with zipfile.ZipFile(folder / "zip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with tarfile.open(folder / "tar.tar", "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / "tgz.tar.gz").write_bytes(gzip.compress((folder / "tar.tar").read_bytes(), mtime=0))


# kind of input → (file that is spoilt, ending that the spoilt one gets, bytes where headers lie).
KINDS = {
    "nii": ("nii.nii", ".nii", 352),
    "nii2": ("nii2.nii", ".nii", 544),
    "nii-gz": ("nii.nii", ".nii.gz", 352),
    "analyze": ("analyze.hdr", ".hdr", 348),
    "mgh": ("mgh.mgh", ".mgh", 284),
    "trk": ("trk.trk", ".trk", 1000),
    "tck": ("tck.tck", ".tck", 200),
    "trx": ("trx.trx", ".trx", 400),
    "png": ("png.png", ".png", 60),
    "jpg": ("jpg.jpg", ".jpg", 300),
    "tif": ("tif.tif", ".tif", 300),
    "bmp": ("bmp.bmp", ".bmp", 60),
    "npy": ("npy.npy", ".npy", 128),
    "bvq": ("bvq.bvq", ".bvq", 8),
    "tsv": ("tsv.tsv", ".tsv", 400),
    "csv": ("csv.csv", ".csv", 400),
    "xls": ("xls.xls", ".xls", 400),
    "xlsx": ("xlsx.xlsx", ".xlsx", 400),
    "json": ("json.json", ".json", 400),
    "study": ("study.json", ".json", 3000),
    "zip": ("zip.zip", ".zip", 200),
    "tar": ("tar.tar", ".tar", 512),
    "tgz": ("tgz.tar.gz", ".tar.gz", 200),
}
# Fields of headers: kind → list of (offset, format, how many).
_NIFTI = [(0, "<i", 1), (40, "<h", 8), (68, "<h", 3), (76, "<f", 8), (108, "<f", 3), (123, "b", 1)]
_NIFTI += [(124, "<f", 2), (252, "<h", 2), (256, "<f", 6), (280, "<f", 12), (344, "b", 4)]
FIELDS = {
    "nii": _NIFTI,
    "nii-gz": _NIFTI,
    "analyze": [(0, "<i", 1), (40, "<h", 8), (70, "<h", 2), (76, "<f", 8), (108, "<f", 2)],
    "nii2": [(0, "<i", 1), (12, "<h", 2), (16, "<q", 8), (104, "<f", 16), (168, "<q", 1)],
    "mgh": [(0, ">i", 7), (28, ">h", 1), (30, ">f", 15)],
    "trk": [(0, "b", 6), (6, "<h", 3), (12, "<f", 6), (36, "<h", 1), (238, "<h", 1)]
    + [(440, "<f", 16), (948, "b", 4), (988, "<i", 3), (1000, "<i", 1)],
    "bmp": [(2, "<i", 12)],
    "tif": [(4, "<i", 1)],
}


def spoilt(kind, rng, sound):
    """A spoilt input.

    Args:
        kind: a key of `KINDS`.
        rng: `numpy.random.Generator`.
        sound: folder of `write_sound`.

    Returns:
        bytes.
    """
    content = (sound / KINDS[kind][0]).read_bytes()
    special = {
        "json": _spoil_tree,
        "study": _spoil_tree,
        "png": _spoil_png,
        "npy": _spoil_npy,
        "tck": _spoil_words,
        "tsv": _spoil_words,
        "csv": _spoil_words,
        "trx": _spoil_members,
        "xlsx": _spoil_members,
        "zip": _spoil_archive,
        "tar": _spoil_archive,
        "tgz": _spoil_archive,
    }.get(kind, _spoil_fields if kind in FIELDS else None)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if special is not None and rng.random() < 0.6:
            content = special(content, rng, kind)
        else:
            content = _spoil_bytes(content, rng, KINDS[kind][2])
    if kind == "nii-gz":
        content = gzip.compress(content, mtime=0)
        if rng.random() < 0.3:
            content = _spoil_bytes(content, rng, 20)
    return content


def _spoil_bytes(content, rng, header):
    """Flips, cuts, repeats, swaps and overwrites; half of it in the header."""
    content = bytearray(content)
    if not content:
        return b"\0"
    end = min(header, len(content)) if rng.random() < 0.5 else len(content)
    at, size = int(rng.integers(end)), int(2 ** rng.uniform(0, 9))
    match int(rng.integers(8)):
        case 0:
            for place in rng.integers(0, end, 1 + size // 64):
                content[place] ^= 1 << int(rng.integers(8))
        case 1:
            del content[at:]
        case 2:
            content[at:at] = rng.bytes(size)
        case 3:
            del content[at : at + size]
        case 4:
            content[at:at] = content[at : at + size]
        case 5:
            other = int(rng.integers(len(content)))
            one, two = content[at : at + size], content[other : other + size]
            content[at : at + size], content[other : other + size] = two, one
        case 6:
            content[at : at + size] = bytes([int(rng.choice([0, 255, 127, 32]))]) * size
        case 7:
            form = "<>"[int(rng.integers(2))] + "hif"[int(rng.integers(3))]
            content[at : at + struct.calcsize(form)] = _extreme(form, rng)
    return bytes(content)


def _extreme(form, rng):
    values = EXTREMES[form[-1]]
    return struct.pack(form, values[int(rng.integers(len(values)))])


def _spoil_fields(content, rng, kind):
    """Sets a field of the header, or a row of them, to an extreme value."""
    offset, form, count = FIELDS[kind][int(rng.integers(len(FIELDS[kind])))]
    size, content = struct.calcsize(form), bytearray(content)
    value, alike = _extreme(form, rng), rng.random() < 0.3
    for number in range(count) if alike else [int(rng.integers(count))]:
        content[offset + number * size : offset + (number + 1) * size] = value
    return bytes(content)


def _spoil_png(content, rng, kind):
    """Another size, depth or colour type in the header, with the right check sum."""
    fields = list(struct.unpack(">iiBBBBB", content[16:29].ljust(13, b"\0")))
    which = int(rng.integers(7))
    limit = (1, 2, 5000, 10**6, 2**31 - 1) if which < 2 else (0, 1, 2, 3, 4, 6, 8, 16, 255)
    fields[which] = int(rng.choice(limit))
    head = struct.pack(">iiBBBBB", *fields)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return content[:16] + head + check + content[33:]


def _spoil_npy(content, rng, kind):
    """Another shape or type in the header."""
    shapes = ["()", "(0,)", f"({10**6}, {10**6}, {10**6})", "(3, 4, 3, 64)", "(-1,)", "(2,)", "x"]
    kinds = ["<f4", ">f8", "|O", "<c16", "<U9", "|V4", "<i1", "[('a', '<f4')]", "?", "M8[s]", "<f2"]
    kinds = [name if name.startswith("[") else repr(name) for name in kinds]
    head = (
        f"{{'descr': {rng.choice(kinds)}, 'fortran_order': {rng.choice(['True', 'False', '3'])}, "
    )
    head = (head + f"'shape': {rng.choice(shapes)}, }}").encode().ljust(117) + b"\n"
    version = bytes([int(rng.choice([1, 1, 1, 2, 3, 9])), 0])
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head + content[128:]


WORDS = ["", "nan", "inf", "-1", "1e400", "9" * 40, "NA", "\t", ",", "\n", '"', "\0", "\ufeff", "ä"]
WORDS += [
    "participant_id",
    "sub-01",
    "../x",
    "count: 1000000000000",
    "datatype: Float64BE",
    "[",
    "{",
]
WORDS += [
    "file: . 9999999999",
    "file: x 3",
    "END",
    "a" * 5000,
    "=1+1",
    "simulated:{}",
    "mask=",
    "💥",
]


def _spoil_words(content, rng, kind):
    """A word, a cell or a line in the place of another."""
    parts = content.split(*([b"\n"] if rng.random() < 0.5 else [b"\t" if kind == "tsv" else b","]))
    parts[int(rng.integers(len(parts)))] = WORDS[int(rng.integers(len(WORDS)))].encode()
    return (b"\n" if rng.random() < 0.7 else b"\t").join(parts)


VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**40,
    "",
    "x",
    "../x",
    [],
    {},
    [[]],
    {"name": 3},
]
VALUES += [["a"] * 9, "simulated", "bids", [1, 2], 0.5, "9" * 5000, {"a": {"b": []}}, -(10**9)]


def _spoil_tree(content, rng, kind):
    """Another value, a missing one or one too many somewhere in JSON."""
    try:
        tree = json.loads(content)
        whole = isinstance(tree, dict | list)
    except (ValueError, RecursionError):
        whole = False
    if not whole:  # spoilt before
        return _spoil_bytes(content, rng, 400)
    places, stack = [], [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        stack += [node[key] for key in keys if isinstance(node[key], dict | list) and node[key]]
    value = VALUES[int(rng.integers(len(VALUES)))]
    if not places or rng.random() < 0.05:
        return json.dumps(value).encode()
    node, key = places[int(rng.integers(len(places)))]
    match int(rng.integers(4)):
        case 0 if isinstance(node, dict):
            del node[key]
        case 1 if isinstance(node, dict):
            node[str(rng.choice(["x", "name", "kind", "data", ""]))] = value
        case _:
            node[key] = value
    return json.dumps(tree).encode()


def _spoil_members(content, rng, kind):
    """A member of a zip that is spoilt itself, renamed or repeated; the archive is whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # spoilt before
        return _spoil_bytes(content, rng, 400)
    if not members:
        return content
    name = list(members)[int(rng.integers(len(members)))]
    inner = members.pop(name)
    match int(rng.integers(4)):
        case 0:
            members[
                str(rng.choice([f"{name}.x", "../out", "/abs", name.upper(), "dpv/a.int8"]))
            ] = inner
        case 1:
            members[name] = b"" if rng.random() < 0.3 else inner[: len(inner) // 2]
        case 2:
            spoil = _spoil_tree if name.endswith("json") else _spoil_bytes
            members[name] = spoil(inner, rng, 200)
        case 3:
            members[name] = bytes(int(10 ** rng.uniform(6, 7.5)))  # a bomb
    return _zip(members)


def _zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


NAMES = [
    "../out.txt",
    "/abs.txt",
    "a/../../x",
    "a\\b",
    "C:/x",
    "a",
    "a/one.txt",
    "",
    ".",
    "x\0y",
    "é",
]


def _spoil_archive(content, rng, kind):
    """Members with names, sizes and links that an archive should not have."""
    if kind == "zip":
        return _spoil_members(content, rng, kind)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tgz" else "w") as archive:
        for name in rng.choice(NAMES, int(rng.integers(1, 5))):
            info = tarfile.TarInfo(str(name))
            info.type = bytes([int(rng.choice(list(b"0015263LK")))])
            info.linkname = str(rng.choice(["a/one.txt", "../../etc", "/etc/passwd", "b", ""]))
            info.size = int(rng.choice([0, 10, 1000]))
            archive.addfile(info, io.BytesIO(bytes(info.size)))
        if rng.random() < 0.1:
            info = tarfile.TarInfo("bomb")
            info.size = 2 * 10**7
            archive.addfile(info, _Zeros())
    return buffer.getvalue()


class _Zeros(io.RawIOBase):
    def read(self, size=-1):
        return bytes(max(size, 0))


def place(kind, content, sound, folder):
    """Writes a spoilt input into an empty folder, beside what it needs; returns its path."""
    path = Path(folder) / f"input{KINDS[kind][1]}"
    path.write_bytes(content)
    if kind == "analyze":
        shutil.copy(sound / "analyze.img", path.with_suffix(".img"))
    return path
