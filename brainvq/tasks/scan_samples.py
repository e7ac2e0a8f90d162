"""Scans with codes, as slices or as volumes, and what is done with both in one way."""

import functools
import time

import numpy as np
import pandas as pd

from brainvq import data
from brainvq.data.code_maps import label_maps, label_table
from brainvq.data.derivatives import known_parts, skull_stripped
from brainvq.data.inputs import comes_from_simulation
from brainvq.data.scans import PICTURES
from brainvq.errors import UserError
from brainvq.files import (
    read_array,
    read_json,
    write_array,
    write_bytes,
    write_json,
    write_tsv,
)
from brainvq.layers.som_grid import GridQuantizer
from brainvq.reports import figures
from brainvq.reports.planes import reconstruction_planes
from brainvq.reports.som import brain_on_grid, grid_colours
from brainvq.tasks.names import bids_name, participant_of, readable_scans, write_rows
from brainvq.tasks.samples import Sample, Samples, codebook_of, save_codebook, sizes


class ScanSample(Sample):
    """A scan with codes.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        path: `pathlib.Path` of the scan, or of its codes.
        name: str, what the names of its results begin with.
        scan: `brainvq.data.PreparedScan` or `PreparedVolume`; None where only codes are known.
    """

    unit = ""

    def __init__(self, trained, path, name, scan):
        super().__init__(trained, path, name)
        self.scan = scan

    @property
    def model(self):
        """The model of the run."""
        return self.trained.model

    @property
    def simulated(self):
        """Whether the scan is simulated."""
        return comes_from_simulation(self.path)

    @functools.cached_property
    def of_brain(self):
        """Whether the scan shows a brain alone."""
        scan = self.scan
        return skull_stripped(scan.image, scan.original_affine, self.trained.of_brains)

    @functools.cached_property
    def bids(self):
        """What the names of its images begin with, and their contrast; see `bids_name`."""
        return bids_name(self.name, self.path)

    @property
    def header(self):
        """The file whose header results take over; None for pictures and codes, without one."""
        return None if self.path.name.lower().endswith((*PICTURES, ".npy", ".bvq")) else self.path

    def save(self, whole, folder):
        """Writes a volume on the scan's grid in the intensities of the scan, as NIfTI."""
        note = {"Description": "the scan through the model and back"}
        self.save_image(folder, "recon", self.scan.to_intensities(whole), note)

    def save_image(self, folder, desc, image, note, suffix=""):
        """Writes an image on the scan's grid, with its sidecar, where BIDS has it.

        Args:
            folder: `pathlib.Path` of the results.
            desc: str, what it is, such as "recon".
            image: array of the scan's shape.
            note: dict with "Description", of the sidecar.
            suffix: str such as "dseg"; "" for the scan's contrast.
        """
        results, place = self.trained.results(folder), self.scan.original_affine
        note = {**note, "SkullStripped": self.of_brain}
        start, contrast = self.bids
        file, like = results.file(start, desc, suffix or contrast), self.header
        results.save(file, image, place, note, sources=[self.path], like=like)

    def picture(self, restored, whole, rows, path):
        """The scan, its reconstruction and the error, in three planes."""
        del restored, rows
        reconstruction_planes(
            self.scan.image,
            self.scan.to_intensities(whole),
            self.scan.original_affine,
            path=path,
            title=f"{self.name} through its codes"
            if self.model.decodes_codes
            else f"{self.name}, restored",
            simulated=self.simulated,
        )

    def summary(self, row):
        """A row of `measures` in words."""
        return f"SSIM {row['ssim']:.3f}, foreground {row['ssim_foreground']:.3f}"

    def save_latents(self, latents, folder):
        """Writes codes, their vectors, and the way back as `.json`; see `pack` for packed codes."""
        if self.model.bottleneck.sample_bits is not None:
            write_bytes(folder / f"{self.name}.bvq", pack(self.model, latents))
        else:
            write_array(folder / f"{self.name}.npy", latents)
            write_array(folder / "vectors" / f"{self.name}.npy", vectors_of(self.model, latents))
        about = {"scan": self.path.name, "bids_name": "_".join(filter(None, self.bids))}
        write_json(folder / f"{self.name}.json", {**about, **self.scan.place()})

    def row(self, latents):
        """Codes as a row of `scans.tsv`."""
        # Codes that the decoder does not read do not hold the image.
        whole = self.model.decodes_codes
        return {
            "participant_id": participant_of(self.name, self.path),
            "name": self.name,
            "subject": self.subject,
            "file": str(self.path),
            **self.grid(latents),
            "bits": self.model.bottleneck.code_bits(latents[None])[0] if whole else np.nan,
            "codes_used": len(np.unique(latents)),
        }

    def grid(self, codes):
        """How many codes there are along each axis: dict, columns of `scans.tsv`."""
        raise NotImplementedError

    def describe(self, latents):
        """Codes in words."""
        return f"codes {sizes(latents.shape)}"

    def decode(self, latents, batch_size):
        """Images of codes, `(n, *sample_shape)`."""
        size = self.scan and self.scan.size
        try:
            images = self.model.decode(latents, batch_size=batch_size, size=size)
        except ValueError as error:
            raise UserError(f"{self.path}: {' '.join(str(error).split())}") from None
        return np.clip(images, 0, 1) if self.trained.unit_range else images

    def save_decoded(self, decoded, folder):
        """Writes images as `.npy` and, where the way back is known, as NIfTI on the scan's grid."""
        stem = folder / f"{self.name}_decoded"
        write_array(f"{stem}.npy", decoded)
        whole = None
        if self.scan:
            whole = self.scan.to_intensities(self.on_scan(decoded))
            self.save_image(folder, "decoded", whole, {"Description": "decoded from codes"})
        self.picture_decoded(decoded, whole, stem)
        plural = "s" if len(decoded) > 1 else ""
        return f"{len(decoded)} {self.unit}{plural} in {folder}"

    def on_scan(self, images):
        """Images of the model on the scan's grid, in the scale of the study: `(x, y, z)`."""
        raise NotImplementedError

    def picture_decoded(self, decoded, whole, stem):
        """Draws decoded images, and writes more of them where a kind does."""
        raise NotImplementedError

    def middles(self, codes):
        """Slices `(n, rows, columns[, 1])` and their codes `(n, rows, columns)`, for a picture."""
        raise NotImplementedError


class ScanSamples(Samples):
    """What scans with codes have in common."""

    sample = ScanSample
    prepared = data.PreparedScan
    # Shape of codes in messages.
    code_shape = ""

    @property
    def verbs(self):
        """The verbs that are done in a way of their own."""
        return {"sample": self.draw_files, "map": map_codes}

    def draw_files(self, trained, options, log):
        """Draws brains: `samples.npy`, `codes.npy` and what `show_drawn` adds."""
        images, codes = trained.sample(
            options.samples, batch_size=options.batch_size, **options.drawing
        )
        write_array(options.out / "samples.npy", images)
        write_array(options.out / "codes.npy", codes.astype("int32"))
        shown = self.show_drawn(trained, images, options)
        log.info("%d new brains in %s: samples.npy, codes.npy, %s", len(images), options.out, shown)
        self.measure_drawn(trained, images, options, log)

    def measure_drawn(self, trained, images, options, log):
        """Writes measures of new images where that is done in seconds."""

    def show_drawn(self, trained, images, options):
        """Draws new images as `samples.png`; returns the files that it wrote, in words."""
        raise NotImplementedError

    def read_scan(self, trained, path, options):
        """A scan as the model takes it, as the options ask for."""
        raise NotImplementedError

    def read(self, trained, options, log):
        """Yields the sample of each scan; bad ones are reported and counted."""

        def read(path):
            return self.read_scan(trained, path, options)

        where = {"out": options.out, "run": trained.path.name} | options.wanted(trained.study)
        for path, given, scan in readable_scans(options.files, read, log, **where):
            sample = self.sample(trained, path, given.name, scan)
            sample.subject = given.subject
            yield sample

    def require_codes(self, trained, verb):
        """Refuses a model without codes."""
        if trained.model.num_codes is None:
            raise UserError(
                f"{verb}: the model of {trained.path} has no codes; expected one with a codebook, "
                "such as VectorQuantizer or SOMQuantizer"
            )

    def start_decode(self, trained, log):
        """Refuses a model that does not decode codes alone."""
        trained.require_decoding()

    def read_latents(self, path, name, trained):
        """Codes of a file, and the way back where a `.json` beside it tells it."""
        codes = read_codes(path, trained.model, self.code_shape)
        place, scan, about = path.with_suffix(".json"), None, {}
        if place.exists():
            about = read_json(place)
            scan = self.prepared.from_place(about)
            self.check_place(codes, path, place)
        sample = self.sample(trained, path, name, scan)
        # As the scan's; codes of earlier versions do not tell it.
        sample.bids = known_parts(str(about.get("bids_name"))) or sample.bids
        return codes, sample

    def check_place(self, codes, path, place):
        """Refuses codes of another number than their `.json` is for."""

    def finish_encode(self, trained, rows, folder, log):
        """Writes codebook and `scans.tsv`."""
        write_rows(folder / "scans.tsv", rows)
        if trained.model.bottleneck.sample_bits is not None:
            zero, more = (table.astype("int32") for table in trained.model.bottleneck.tables())
            write_array(folder / "tables" / "zero.npy", zero)
            write_array(folder / "tables" / "more.npy", more)
            log.info("packed codes, tables of their coder and scans.tsv in %s", folder)
            return
        save_codebook(trained.model.bottleneck, folder)
        log.info("codes, vectors (float16), codebook and scans.tsv in %s", folder)


def read_codes(path, model, shape):
    """Codes from a `.npy` file, checked against the model.

    Args:
        path: path of the file.
        model: an `Autoencoder` with codes.
        shape: how codes lie, for messages, such as "(n, rows, columns)".

    Returns:
        int array `(n, *grid)`, after `grid` an axis of stages where the model has them.

    Raises:
        UserError: the file is missing, or its codes are none of this model.
    """
    if path.suffix == ".bvq":
        return unpack(path, model)[None]
    codes = read_array(path, expected="codes")
    axes = len(model.stride) + (0 if model.depth is None else 1)
    if codes.ndim == axes:
        codes = codes[None]
    if codes.dtype.kind not in "iu" or codes.ndim != axes + 1:
        if model.depth is not None:
            shape = shape.replace("z)", "z, code)")
        raise UserError(
            f"{path}: found {codes.dtype} of shape {codes.shape}; expected whole numbers of shape "
            f"{shape}"
        )
    if codes.size == 0 or codes.min() < 0 or codes.max() >= model.num_codes:
        values = f"{codes.min()} to {codes.max()}" if codes.size else "no codes"
        raise UserError(f"{path}: found {values}; expected codes from 0 to {model.num_codes - 1}")
    return codes


def pack(model, codes):
    """The codes of a scan as the bytes of a `.bvq` file; see `brainvq.data.pack_codes`.

    Args:
        model: an `Autoencoder` whose bottleneck is an `EntropyQuantizer`.
        codes: int `(*grid, depth)`.
    """
    return data.pack_codes(codes - model.num_codes // 2, *model.bottleneck.tables())


def unpack(path, model):
    """The codes `(*grid, depth)` of a `.bvq` file.

    Raises:
        UserError: it cannot be read, or is none of this model.
    """
    if model.bottleneck.sample_bits is None:
        raise UserError(f"{path}: found packed codes; expected .npy, as this run writes them")
    middle, tables = model.num_codes // 2, model.bottleneck.tables()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected codes") from error
    return data.unpack_codes(content, *tables, middle, str(path)) + middle


def vectors_of(model, codes):
    """The vectors behind codes in half precision; the exact ones are in the codebook."""
    codebook = codebook_of(model.bottleneck)
    if model.depth is None:
        return codebook.astype("float16")[codes]
    stages = zip(codebook, np.moveaxis(codes, -1, 0), strict=True)
    return sum(vectors[numbers] for vectors, numbers in stages).astype("float16")


# --- map ----------------------------------------------------------------------------------------

# Columns of code maps that a picture has room for.
SHOWN_MAPS = 8


def map_codes(trained, options, log):
    """Writes the code of every voxel of scans; of a self-organising map row and column as well."""
    samples, model, folder = trained.task.samples, trained.model, options.out
    samples.require_codes(trained, "map")
    quantizer = model.first_quantizer
    if quantizer.codebook is None:
        raise UserError(
            f"map: {trained.path} has no codebook, for its codes are numbers; expected a run with "
            "one, such as those of som3d"
        )
    grid = quantizer.som_grid if isinstance(quantizer, GridQuantizer) else None
    rows = []
    for sample in samples.read(trained, options, log):
        started = time.perf_counter()
        codes = model.first_codes(sample.encode(options.batch_size))
        labels = sample.scan.code_map(codes, model.stride)
        _save_maps(sample, label_maps(labels, model.num_codes, grid), folder)
        _picture_map(sample, codes, labels, grid, folder / f"{sample.name}_map.png")
        rows.append(_map_row(sample, labels))
        log.info(
            "%s: %d of %d codes (%.1f s)",
            *(sample.path, rows[-1]["codes_used"], model.num_codes),
            time.perf_counter() - started,
        )
    write_tsv(folder / "map.tsv", pd.DataFrame(rows))
    if grid is None:
        colours = figures.code_colours(model.num_codes, codebook_of(quantizer))
    else:
        colours = grid_colours(grid.height, grid.width, grid.topology)
    write_tsv(folder / "desc-codes_dseg.tsv", label_table(colours, grid))
    log.info("label maps, pictures, map.tsv and desc-codes_dseg.tsv in %s", folder)


def _save_maps(sample, maps, folder):
    """Writes label maps as NIfTI, each with a `.json` on what its numbers mean."""
    for key, (values, about) in maps.items():
        note = about | {"Manual": False, "VoxelsPerCode": list(sample.model.stride)}
        sample.save_image(folder, key, values, note, suffix="dseg")


def _map_row(sample, labels):
    """A row of `map.tsv`."""
    used, counts = np.unique(labels[labels > 0] - 1, return_counts=True)
    return {
        "participant_id": participant_of(sample.name, sample.path),
        "name": sample.name,
        "subject": sample.subject,
        "file": str(sample.path),
        "voxels": int(counts.sum()),
        "codes_used": len(used),
        "num_codes": sample.model.num_codes,
        "commonest_code": used[counts.argmax()] if len(used) else np.nan,
        "commonest_share": counts.max() / counts.sum() if len(used) else np.nan,
    }


def _picture_map(sample, codes, labels, grid, path):
    """A scan in the colours of its codes' places on the map, or above its codes without one."""
    scan = sample.scan
    if grid is not None:
        brain_on_grid(
            scan.image,
            labels.astype("int32") - 1,
            scan.original_affine,
            *(grid.height, grid.width, grid.topology),
            path=path,
            title=f"{sample.name}: place on the map of every voxel's code",
            simulated=sample.simulated,
        )
        return
    images, codes, plane = sample.middles(codes)
    steps = scan.affine[:3, 1], scan.affine[:3, 0]
    picked = np.linspace(0, len(codes) - 1, min(SHOWN_MAPS, len(codes))).astype(int)
    figures.code_map_grid(
        images[picked],
        codes[picked],
        sample.model.num_codes,
        path=path,
        codebook=codebook_of(sample.model.first_quantizer),
        title=f"{sample.name}: its codes",
        plane=plane,
        spacing=tuple(np.linalg.norm(step) for step in steps),
        simulated=sample.simulated,
    )
