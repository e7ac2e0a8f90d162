"""Small data sets in the layouts of the published ones, made on the spot."""

import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image


def blob(shape=(8, 10, 6), seed=0):
    """A brain stand-in: bright in the middle, 0 at the border, no symmetry; float32."""
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    image = np.clip(1 - sum(g**2 for g in grids), 0, None)
    noise = np.random.default_rng(seed).random(shape)
    return (100 * image * (0.5 + 0.5 * noise)).astype(np.float32)


def write_nifti(path, image=None, affine=None, dtype=None):
    """Writes a NIfTI file and returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = blob() if image is None else image
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(np.asarray(image, dtype), affine), path)
    return path


def write_analyze(path, image, zooms=(1.0, 1.0, 1.0), byteorder=">"):
    """Writes an Analyze 7.5 pair of 16 bit integers, big-endian unless told otherwise."""
    path = Path(f"{path}.img")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.AnalyzeHeader(endianness=byteorder)
    header.set_data_dtype(np.int16)
    header.set_data_shape(image.shape)
    header.set_zooms((*zooms, 1.0)[: image.ndim])
    with open(path.with_suffix(".hdr"), "wb") as file:
        header.write_to(file)
    path.write_bytes(np.asarray(image).astype(f"{byteorder}i2").tobytes(order="F"))
    return path.with_suffix(".hdr")


OASIS1_PEOPLE = [
    # visit, sex, age, CDR, acquisitions, disc
    ("OAS1_0001_MR1", "F", "74", "0", 4, 1),
    ("OAS1_0002_MR1", "F", "55", "", 4, 1),
    ("OAS1_0003_MR1", "M", "73", "0.5", 3, 1),
    ("OAS1_0061_MR1", "M", "20", "", 4, 2),
    ("OAS1_0061_MR2", "M", "20", "", 4, 2),
    ("OAS1_0062_MR1", "F", "80", "", 3, 2),
]


def oasis1(root, table="csv", text=False, trailing_axis=True):
    """An OASIS-1 tree of two discs, five people, six visits."""
    root = Path(root)
    rows = []
    for number, (visit, sex, age, cdr, count, disc) in enumerate(OASIS1_PEOPLE):
        folder = root / f"disc{disc}" / visit
        stem = f"{visit}_mpr_n{count}_anon_111_t88"
        image = np.rint(blob((6, 8, 5), number))
        stored = image[..., None] if trailing_axis and number % 2 == 0 else image
        atlas = folder / "PROCESSED" / "MPRAGE" / "T88_111"
        write_analyze(atlas / f"{stem}_masked_gfc", stored)
        write_analyze(atlas / f"{stem}_gfc", image + 1)
        write_analyze(folder / "FSL_SEG" / f"{stem}_masked_gfc_fseg", np.clip(image // 25, 0, 3))
        if text:
            (folder / f"{visit}.txt").write_text(
                f"SESSION ID:   {visit}\n\nAGE:          {age}\n"
                f"M/F:          {'Female' if sex == 'F' else 'Male'}\nHAND:         Right\n"
                f"MMSE:         29\nCDR:          {cdr}\n\nMR Measurements\nAGE:  999\n"
            )
        rows.append({"ID": visit, "M/F": sex, "Hand": "R", "Age": age, "MMSE": "29", "CDR": cdr})
    if table == "csv":
        pd.DataFrame(rows).to_csv(root / "oasis_cross-sectional.csv", index=False)
    elif table == "xlsx":
        frame = pd.DataFrame(rows)
        frame["Age"] = frame["Age"].astype(int)
        frame.to_excel(root / "oasis_cross-sectional-5708.xlsx", index=False)
    return root


OASIS2_PEOPLE = [
    ("OAS2_0001_MR1", "Nondemented", "M", "87", "0", 1),
    ("OAS2_0001_MR2", "Nondemented", "M", "88", "0", 1),
    ("OAS2_0002_MR1", "Converted", "F", "75", "0", 2),
    ("OAS2_0002_MR2", "Converted", "F", "76", "0.5", 2),
]


def oasis2(root, acquisitions=2):
    """An OASIS-2 tree of two parts with its stray file and its table."""
    root = Path(root)
    rows = []
    for number, (visit, group, sex, age, cdr, part) in enumerate(OASIS2_PEOPLE):
        raw = root / f"OAS2_RAW_PART{part}" / visit / "RAW"
        for repeat in range(1, acquisitions + 1):
            image = np.rint(blob((6, 7, 4), 10 * number + repeat))
            write_analyze(raw / f"mpr-{repeat}.nifti", image[..., None], (1, 1, 1.25))
        if number == 0:
            write_analyze(raw / "3906-3.nift", np.rint(blob((6, 7, 4))))
        rows.append(
            {"Subject ID": visit[:9], "MRI ID": visit, "Group": group, "M/F": sex, "Age": age,
             "MMSE": "27", "CDR": cdr}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "oasis_longitudinal_demographics.csv", index=False)
    return root


def png_slices(root, train=(1, 2, 3), validate=(441,), test=(450, 451), slices=3, size=(12, 10)):
    """The three folders of PNG slices; `size` is (rows, columns)."""
    root = Path(root)
    folders = {"train": train, "validate": validate, "test": test}
    for folder, cases in folders.items():
        target = root / f"keras_png_slices_{folder}"
        target.mkdir(parents=True)
        for case in cases:
            volume = 2 * blob((*size, slices), case)
            # No leading zeros, as published: slice 10 comes before slice 2 in a sorted listing.
            for index in range(slices):
                picture = Image.fromarray(volume[:, :, index].astype(np.uint8))
                picture.save(target / f"case_{case:03d}_slice_{index}.nii.png")
    return root


def bids(root, subjects=6, suffix="T1w", sessions=(), sidecar=True):
    """A BIDS data set with people, sidecars at two levels and a derivative to be left out."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "generated"}))
    rows = ["participant_id\tage\tgender\tgroup\tsite"]
    for number in range(1, subjects + 1):
        name = f"sub-{number:02d}"
        group = "patient" if number % 2 else "control"
        age = "n/a" if number == subjects else str(30 + number)
        rows.append(f"{name}\t{age}\t{'mf'[number % 2]}\t{group}\tA")
        for session in sessions or ("",):
            parts = [name, f"ses-{session}"] if session else [name]
            folder = root.joinpath(*parts) / "anat"
            write_nifti(folder / ("_".join([*parts, suffix]) + ".nii.gz"), blob(seed=number))
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    if sidecar:
        (root / f"{suffix}.json").write_text(
            json.dumps({"RepetitionTime": 2.3, "EchoTime": 0.003, "Manufacturer": "Maker"})
        )
    write_nifti(root / "derivatives" / "tool" / "sub-01" / "anat" / f"sub-01_{suffix}.nii.gz")
    return root


IXI_HEADER = (
    "IXI_ID", "SEX_ID (1=m, 2=f)", "HEIGHT", "WEIGHT", "ETHNIC_ID", "MARITAL_ID", "OCCUPATION_ID",
    "QUALIFICATION_ID", "DOB", "DATE_AVAILABLE", "STUDY_DATE", "AGE",
)  # fmt: skip
IXI_PEOPLE = [
    # Twice the same, once with a blank; a contradiction; a blank row; somebody without an image.
    (2, 2, 164, 58, 1, 4, 1, 5, 21890, 1, 34965, 35.800136892539356),
    (12, 1, 175, 70, 1, 2, 1, 5, 24370, 1, 38562, 38.781656),
    (12, 1, 175, "", 1, 2, 1, 5, 24370, 1, 38562, ""),
    (13, 1, 182, 70, 1, 2, 1, 5, 21650, 1, 38680, 46.71),
    (13, 2, 182, 70, 1, 2, 1, 5, 21650, 0, "", 52.3),
    ("", "", "", "", "", "", "", "", "", "", "", ""),
    (35, 1, 0, 0, 4, 2, 1, 5, 21650, 0, "", ""),
    (400, 2, 160, 60, 1, 2, 1, 5, 21650, 1, 38680, 60.5),
]
IXI_IMAGES = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI035-IOP-0873",
              "IXI500-Guys-1017")  # fmt: skip


def ixi(root, table="xls", folder="IXI-T1", modalities=("T1",)):
    """Five people of IXI: flat images, and the table with its repeated and blank rows."""
    root = Path(root)
    for number, name in enumerate(IXI_IMAGES):
        for modality in modalities:
            write_nifti(root / folder / f"{name}-{modality}.nii.gz", blob(seed=number))
    ixi_table(root, table)
    return root


def ixi_table(root, table):
    """Writes IXI.xls, .xlsx or .csv; none if `table` is None."""
    frame = pd.DataFrame(IXI_PEOPLE, columns=IXI_HEADER)
    other = pd.DataFrame({"note": ["not here"]})
    if table == "xls":
        write_xls(root / "IXI.xls", {"About": [["note"]], "Table": [IXI_HEADER, *IXI_PEOPLE]})
    elif table == "xlsx":
        with pd.ExcelWriter(root / "IXI.xlsx") as book:
            other.to_excel(book, sheet_name="About", index=False)
            frame.to_excel(book, sheet_name="Table", index=False)
    elif table == "csv":
        frame.to_csv(root / "IXI.csv", index=False)


def write_xls(path, sheets):
    """Writes sheets (name → rows of numbers and texts) in the Excel format of 1997, BIFF8.

    Only the records that hold cells, and without the OLE container: readers take the bare stream.
    """

    def record(kind, content=b""):
        return struct.pack("<HH", kind, len(content)) + content

    def text(value, length):
        return struct.pack(length, len(value)) + b"\x01" + value.encode("utf-16-le")

    def begin(kind):
        return record(0x0809, struct.pack("<HHHHII", 0x0600, kind, 0, 1997, 0, 6))

    end = record(0x000A)
    bodies = []
    for rows in sheets.values():
        body = begin(0x0010)
        for row, values in enumerate(rows):
            for place, value in enumerate(values):
                cell = struct.pack("<HHH", row, place, 0)
                if isinstance(value, str):
                    body += record(0x0204, cell + text(value, "<H")) if value else b""
                else:
                    body += record(0x0203, cell + struct.pack("<d", value))
        bodies.append(body + end)
    names = [text(name, "<B") for name in sheets]
    start = len(begin(5)) + sum(len(record(0, bytes(6) + name)) for name in names) + len(end)
    book = begin(0x0005)
    for name, body in zip(names, bodies, strict=True):
        book += record(0x0085, struct.pack("<IH", start, 0) + name)
        start += len(body)
    Path(path).write_bytes(book + end + b"".join(bodies))


def images(root, classes=("cats", "dogs"), count=3, size=(12, 10)):
    """Colour pictures `root/<class>/<class><n>.png`; `size` is (rows, columns)."""
    for number, name in enumerate(classes):
        folder = Path(root) / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng([number, index]).integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{index}.png")
    return Path(root)
