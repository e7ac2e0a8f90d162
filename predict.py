"""Use a trained study: new brains, reconstructions, codes, maps of codes.

    python predict.py [RUN] [sample] [-n 64]        new brains from the prior
    python predict.py [RUN] reconstruct SCANS...    NIfTI on each scan's own grid, SSIM, picture
    python predict.py [RUN] encode SCANS...         SUBJECT.npy: codes; their vectors; a table
    python predict.py [RUN] decode CODES.npy        back to slices or volumes, and to NIfTI
                                                    where the scan is known
    python predict.py [RUN] map SCANS...            the code of every voxel as NIfTI; of a
                                                    self-organising map row and column too
    python predict.py [RUN] classify --labels participants.tsv:COLUMN [SCANS...]
                                                    classifiers on codes, beside others
    python predict.py [RUN] classify --images DIR   the same on pictures, a sub-folder a class
    python predict.py [RUN] anomaly SCANS... [--masks MASKS...] [--healthy SCANS...]
                                                    maps of what is unlike a healthy brain
    python predict.py [RUN] export                  a small folder of weights to hand on

RUN is the folder of a run; without it the newest run in runs/, or the weights that come
with brainvq. SCANS are NIfTI files or folders of them. classify and anomaly need a study of
slices, all else takes those of volumes (som3d) too. A run of study streamlines has verbs of
the same names, for TRACTS: .trk, .tck or .trx files or folders of them.

    python predict.py RUN sample [--bundle MCP ...] [-n 4]
                                                    new bundles, each a .trk in mm
    python predict.py RUN reconstruct TRACTS...     tractograms in the format, space, order and
                                                    direction of the files, BUAN, picture
    python predict.py RUN encode TRACTS...          NAME.npy: codes; codebook; a table
    python predict.py RUN decode CODES.npy          back to tractograms
    python predict.py RUN perturb TRACTS... [--epsilon 0.1 0.5 1.0]
                                                    what noise on the latents does, BUAN

A run of study introvae3d makes one vector of a volume, without codes. Its verbs, of which decode
and what comes before it write volumes in the space of the template, MNI, as NIfTI:

    python predict.py RUN sample [-n 8] [--temperature 1.0]
                                                    new volumes, their latents.npy, picture
    python predict.py RUN traverse [SCAN] [--dimensions 3 17 ...] [--values -3 0 3]
                                                    volumes while one number of the vector changes,
                                                    of a scan or of zeros: 4D NIfTI, picture
    python predict.py RUN interpolate SCAN SCAN [--steps 7] [--spherical]
                                                    volumes on the way from one scan to another
    python predict.py RUN decode VECTORS.npy        vectors to volumes
    python predict.py RUN encode SCANS...           NAME.npy: the vector; latents.csv
    python predict.py RUN reconstruct SCANS...      NIfTI on each scan's own grid, SSIM, picture
    python predict.py RUN export                    a small folder of weights to hand on
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import brainvq  # first: it keeps the start-up lines of TensorFlow off the screen

# isort: split
import keras
import numpy as np
import pandas as pd

import dataset
import hyperparameters
import modules
import tracts
import walks
from brainvq import data, evaluation
from brainvq.data.code_maps import label_maps, label_table
from brainvq.data.prepared import AXCODES
from brainvq.errors import UserError
from brainvq.evaluation import anomaly as anomaly_measures
from brainvq.evaluation import ssim
from brainvq.evaluation.anomaly import MEASURES, LesionScores
from brainvq.evaluation.latents import TRAVERSAL_VALUES
from brainvq.evaluation.similarity import foreground
from brainvq.files import read_json, write_array, write_csv, write_json, write_text
from brainvq.reports import figures
from brainvq.reports.anomaly import (
    anomaly_grid,
    anomaly_planes,
    anomaly_report,
    roc_and_precision_recall,
    score_bars,
)
from brainvq.reports.classification import classification_report
from brainvq.reports.html import write_report
from brainvq.reports.planes import reconstruction_planes, three_planes
from brainvq.reports.som import brain_on_grid, grid_colours
from brainvq.training import classify as training
from brainvq.training import pretrained
from brainvq.training.anomaly import AnomalyDetector
from brainvq.training.augment import Augment
from brainvq.training.programs import run_program
from brainvq.training.runs import RunFolder, start_log
from hyperparameters import Anomaly, Classify, Sampling
from scans import comes_from_simulation, readable_scans, scan_paths, subject_of

PLANES = tuple(AXCODES)
# Verbs, each with what a run's samples may be.
IMAGES, ANY = ("slices", "volumes"), ("slices", "volumes", "bundles")
VERBS = {
    "sample": ANY,
    "reconstruct": ANY,
    "encode": ANY,
    "decode": ANY,
    "perturb": ("bundles",),
    "traverse": ("volumes",),
    "interpolate": ("volumes",),
    "map": IMAGES,
    "classify": ("slices",),
    "anomaly": ("slices",),
    "export": IMAGES,
}
# Options that speak of one kind of samples only. Of volumes there is one way to prepare them.
ONLY = dict.fromkeys(("plane", "matrix", "spacing", "level"), "slices")
ONLY |= dict.fromkeys(("bundle", "points"), "bundles")
# Samples that the network takes at a time, by default; of bundles groups of streamlines, and
# "vectors" are the coarse volumes of a study that makes one vector of each.
AT_A_TIME = {"slices": 32, "volumes": 2, "vectors": 16, "bundles": 64}
# Samples that a picture in three planes has room for, and columns of code maps.
SHOWN_SAMPLES, SHOWN_MAPS = 6, 8
# Scores that are laid over the scan in three planes.
SHOWN = ("intensity", "pixel", "restoration", "combined")
# What is combined by default. On FLAIR lesions shine: plain intensity is good evidence there.
COMBINED = {
    "bright": ("intensity", "pixel", "restoration"),
    "dark": anomaly_measures.COMBINED,
    "both": anomaly_measures.COMBINED,
}
# Verbs whose numbers are the fields of a dataclass in hyperparameters.py.
TUNED = {"classify": Classify, "anomaly": Anomaly}


def main(arguments):
    """Reads the command line and does what it says."""
    options = parse(arguments)
    trained = load(options.run)
    check_samples(trained, options)
    if options.batch_size is None:
        kind = "vectors" if trained.has_vectors else trained.layout
        options.batch_size = AT_A_TIME[kind]
    log = start_log()
    log.info("using %s (%s)", trained.path, describe(trained.about))
    actions = {
        "sample": sample,
        "reconstruct": reconstruct,
        "encode": encode,
        "decode": decode,
        "map": map_codes,
        "classify": classify,
        "anomaly": anomaly,
        "export": export,
    }
    if trained.layout == "bundles":
        actions = tracts.VERBS
    elif trained.has_vectors:
        actions = walks.VERBS | {"export": export}
    actions[options.verb](trained, options, log)


def parse(arguments):
    """`[RUN] [VERB] ...` as a namespace; a mistake is a `UserError`."""
    words = list(arguments)
    run = None
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        run = words.pop(0)
    if not words or words[0] not in (*VERBS, "-h", "--help"):
        if words and not words[0].startswith("-"):
            raise UserError(f"verb: found {words[0]!r}; expected one of {', '.join(VERBS)}")
        words.insert(0, "sample")
    parser = _Parser(
        prog="python predict.py [RUN]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    defaults = Sampling()

    verb = verbs.add_parser("sample", help="draw new brains from the prior")
    verb.add_argument(
        "-n",
        "--samples",
        type=int,
        help=f"how many (default: {defaults.samples} slices, volumes as in the study, "
        f"{walks.SAMPLES} from vectors, or 1 of each bundle)",
    )
    verb.add_argument(
        "--temperature",
        type=float,
        help="below 1: more typical, less varied; above 0, of vectors from 0 (default: "
        f"{defaults.temperature}, of vectors {walks.TEMPERATURE})",
    )
    verb.add_argument(
        "--top-k",
        type=int,
        default=defaults.top_k,
        help="draw from the k most probable codes only (default: all)",
    )
    verb.add_argument(
        "--top-p",
        type=float,
        default=defaults.top_p,
        help="draw from the most probable codes of this total probability (default: %(default)s)",
    )
    verb.add_argument(
        "--level", type=float, help="how high in the brain: 0 lowest, 1 highest (default: all)"
    )
    verb.add_argument("--bundle", nargs="+", metavar="NAME", help="which bundles (default: all)")
    verb.add_argument("--seed", type=int, help="the same seed gives the same brains")

    verb = verbs.add_parser("reconstruct", help="scans or bundles through the codes and back")
    verb.add_argument("files", nargs="+", metavar="FILE")
    verb.add_argument(
        "--plane",
        choices=(*PLANES, "all"),
        help="plane of the slices; all: the mean of the three (default: axial)",
    )
    add_matrix(verb)
    add_points(verb)

    verb = verbs.add_parser("encode", help="scans or bundles to codes")
    verb.add_argument("files", nargs="+", metavar="FILE")
    add_plane(verb)
    add_matrix(verb)
    add_points(verb)

    verb = verbs.add_parser("decode", help="codes to slices, scans or bundles")
    verb.add_argument("files", nargs="+", metavar="CODES.npy")

    verb = verbs.add_parser("perturb", help="bundles from latents with noise")
    verb.add_argument("files", nargs="+", metavar="FILE")
    verb.add_argument(
        "--epsilon",
        type=float,
        nargs="+",
        default=tracts.EPSILONS,
        help="sizes of the noise in standard deviations of the latents (default: %(default)s)",
    )
    verb.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    add_points(verb)

    verb = verbs.add_parser("traverse", help="volumes while one number of a vector changes")
    verb.add_argument("scan", nargs="?", metavar="SCAN", help="start from it (default: zeros)")
    verb.add_argument(
        "--dimensions",
        type=int,
        nargs="+",
        metavar="D",
        help=f"numbers of the vector, from 0 (default: the {walks.TRAVERSED} that differ most "
        "between classes or, where those are not known, most among training scans)",
    )
    verb.add_argument(
        "--values",
        type=float,
        nargs="+",
        metavar="VALUE",
        default=TRAVERSAL_VALUES,
        help="values that each takes (default: from -3 to 3)",
    )

    verb = verbs.add_parser("interpolate", help="volumes on the way from one scan to another")
    verb.add_argument("files", nargs=2, metavar="SCAN")
    verb.add_argument(
        "--steps", type=int, default=7, help="volumes, both ends included (default: %(default)s)"
    )
    verb.add_argument(
        "--spherical",
        action="store_true",
        help="along a great circle rather than a straight line, whose middle is nearer to zeros",
    )

    verb = verbs.add_parser("map", help="the code of every voxel of scans")
    verb.add_argument("files", nargs="+", metavar="SCAN")
    add_plane(verb)
    add_matrix(verb)

    for name, kind in TUNED.items():
        verbs.add_parser(name, help=" ".join(kind.__doc__.split(" (`")[0].split()))
    verbs.add_parser("export", help="weights in half precision, to hand on")
    for verb in verbs.choices.values():
        verb.add_argument("--out", help="folder for the results (default: predictions/VERB)")
        verb.add_argument(
            "--batch-size",
            type=int,
            help="slices, volumes or groups of streamlines at a time (default: {slices}, "
            "{volumes}, {vectors} for vectors, or {bundles})".format(**AT_A_TIME),
        )
    if words[0] in TUNED:
        kind = TUNED[words[0]]
        tuned = hyperparameters.parse_fields(
            kind(), words[1:], f"python predict.py [RUN] {words[0]}", kind.__doc__
        )
        options = argparse.Namespace(
            verb=words[0],
            tuned=tuned,
            files=tuned.scans,
            out=tuned.out,
            batch_size=tuned.batch_size,
        )
    else:
        options = parser.parse_args(words)
    options.run = run
    options.out = Path(options.out or Path("predictions") / options.verb)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: found {options.out}, which is a file; expected a folder")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size: found {options.batch_size}; expected 1 or more")
    return options


def add_plane(verb):
    """Adds the option that says which slices of a scan the model gets."""
    verb.add_argument("--plane", choices=PLANES, help="plane of the slices (default: axial)")


def add_matrix(verb):
    """Adds the options that say which pixels of a scan the model gets."""
    verb.add_argument(
        "--matrix",
        help="native: every voxel as it is; study: as for training; or a number of rows and "
        "columns (default: native where the study leaves pixels as they are, else study)",
    )
    verb.add_argument("--spacing", type=float, help="pixel size in mm for a number as --matrix")


def add_points(verb):
    """Adds the option that says how many points the streamlines that are written have."""
    verb.add_argument(
        "--points",
        choices=tracts.POINTS,
        help="points of a streamline in results: the model's, or its own in the file (default: own "
        "where the file has data per point, else model)",
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (see python predict.py --help)")


def check_samples(trained, options):
    """Refuses verbs and options that the samples of a run know nothing of."""
    if trained.layout not in VERBS[options.verb]:
        raise UserError(
            f"{options.verb}: {trained.path} is of study {trained.about['study']['name']}, whose "
            f"samples are {trained.layout}; expected a run of a study of "
            f"{' or '.join(VERBS[options.verb])}"
        )
    if trained.has_vectors:
        walks.check(trained, options)
    elif options.verb in ("traverse", "interpolate"):
        raise UserError(
            f"{options.verb}: {trained.path} is of study {trained.about['study']['name']}, which "
            "has no vector of a volume; expected a run of study introvae3d"
        )
    if options.verb == "sample" and options.temperature is None:
        options.temperature = walks.TEMPERATURE if trained.has_vectors else Sampling().temperature
    for name, layout in ONLY.items():
        given = getattr(options, name, None)
        if given is not None and layout != trained.layout:
            given = " ".join(given) if isinstance(given, list) else given
            raise UserError(
                f"--{name}: found {given}; expected it with a study of {layout} only, and the "
                f"samples of {trained.path} are {trained.layout}"
            )


def load(name):
    """The run called `name`, the newest run, or the weights that come with brainvq."""
    if name is None:
        newest = RunFolder.newest("runs", having="prior.keras")
        name = newest.path if newest else "oasis2d"
    return brainvq.load(name)


def describe(about):
    """One line about a run."""
    study = about["study"]
    kind = (
        "trained on simulated brains"
        if study["data"]["source"] == "simulated"
        else "trained on scans"
    )
    return f"study {study['name']}, variant {study['variant']}, {kind}"


def sample(trained, options, log):
    """Draws brains: `samples.npy`, `codes.npy` and a picture; volumes as NIfTI too."""
    volumes = trained.volume_shape is not None
    count = options.samples
    if count is None:
        count = trained.about["study"]["sampling"]["samples"] if volumes else Sampling().samples
    if count < 1:
        raise UserError(f"-n: found {count}; expected 1 or more")
    images, codes = trained.sample(
        count,
        level=options.level,
        batch_size=options.batch_size,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    write_array(options.out / "samples.npy", images)
    write_array(options.out / "codes.npy", codes.astype("int32"))
    title = f"of {len(images)} brains drawn from the prior"
    if volumes:
        names = [f"sample-{number:03d}" for number in range(1, len(images) + 1)]
        save_volumes(trained, options.out, names, images)
        picture_volumes(
            trained,
            dict(zip(names[:SHOWN_SAMPLES], images, strict=False)),
            options.out / "samples.png",
            title=f"{min(SHOWN_SAMPLES, len(images))} {title}",
        )
    else:
        figures.image_grid(
            images[:64],
            options.out / "samples.png",
            title=f"{min(64, len(images))} {title}, axial",
            simulated=trained.simulated,
        )
    log.info("%d new brains in %s: samples.npy, codes.npy, samples.png", len(images), options.out)


def save_volumes(trained, folder, names, images):
    """Writes volumes that belong to no scan as NIfTI, each with a note on its intensities."""
    units = (
        "shares of the scan's range, from 0 to 1"
        if trained.unit_range
        else "standard deviations of the scan above its background; what is darker is 0"
    )
    about = {"Description": "decoded from codes", "Units": units, "Run": trained.path.name}
    affine = dataset.grid_affine(trained.about["study"]["data"])
    for name, image in zip(names, images, strict=True):
        image = image[..., 0] if trained.unit_range else data.above_background(image[..., 0])
        file = folder / f"{name}.nii.gz"
        data.save_nifti(file, image, affine, mni=trained.in_template_space)
        write_json(folder / f"{name}.json", about)


def picture_volumes(trained, volumes, path, title):
    """A picture of volumes that belong to no scan, in three planes through the middle."""
    three_planes(
        {name: data.above_background(image[..., 0]) for name, image in volumes.items()},
        dataset.grid_affine(trained.about["study"]["data"]),
        path,
        position=(0, 0, 0),
        title=title,
        simulated=trained.simulated,
    )


def reconstruct(trained, options, log):
    """Writes each scan's reconstruction on the scan's own grid, and how alike the two are."""
    volumes = trained.volume_shape is not None
    plane = PLANES[0] if options.plane in (None, "all") else options.plane
    rows = []
    for path, name, scan in prepared_scans(trained, options, plane, log):
        started = time.perf_counter()
        restore = restored_volume if volumes else restored_slices
        image, measured = restore(trained, options, path, scan)
        rows += measured
        seconds = time.perf_counter() - started
        affine = scan.original_affine
        data.save_nifti(
            options.out / f"{name}_desc-reconstruction.nii.gz", image, affine, like=path
        )
        reconstruction_planes(
            scan.image,
            image,
            affine,
            options.out / f"{name}_reconstruction.png",
            title=f"{name} through its codes"
            if trained.model.decodes_codes
            else f"{name}, restored",
            simulated=comes_from_simulation(path),
        )
        alike = rows[-1]
        log.info(
            "%s: SSIM %.3f, foreground %.3f (%.1f s)",
            *(path, alike["ssim"], alike["ssim_foreground"], seconds),
        )
    write_csv(options.out / "similarity.csv", pd.DataFrame(rows))
    kind = "3D, 7x7x7" if volumes else "2D, 7x7"
    log.info("%d rows in %s (SSIM: %s window, data range 1)", len(rows), options.out, kind)


def restored_slices(trained, options, path, scan):
    """A scan's reconstruction from slices of one or three planes, and a row of measures of each."""
    planes = PLANES if options.plane == "all" else (scan.plane,)
    volume, rows = 0, []
    for plane in planes:
        if plane != scan.plane:
            scan = read_scan(trained, options, path, plane)
        restored = trained.model.reconstruct(scan.slices, batch_size=options.batch_size)
        restored = np.clip(restored, 0, 1)
        volume = volume + scan.to_volume(restored) / np.float32(len(planes))
        rows.append(similarity_row(path, plane, scan, restored))
    if len(planes) > 1:
        scan = read_scan(trained, options, path, "axial")
        rows.append(similarity_row(path, "mean of three", scan, scan.from_volume(volume)))
    return scan.to_intensities(volume), rows


def restored_volume(trained, options, path, scan):
    """A scan's reconstruction as one volume, and its measures in the voxels of the study."""
    images = scan.volume[None]
    restored = trained.model.reconstruct(images, batch_size=options.batch_size)
    pair = evaluation.to_unit(images, restored)
    measured = evaluation.per_subject(*pair, [str(path)], ndim=3).to_dict("records")[0]
    row = {"file": str(path), "voxels": sizes(scan.size)} | {
        name: measured[name] for name in ("ssim", "ssim_foreground", "psnr", "psnr_foreground")
    }
    return on_scan(scan, restored), [row]


def on_scan(scan, images):
    """What a model made for a prepared scan, on the scan's own grid in its intensities."""
    if isinstance(scan, data.PreparedVolume):
        return scan.to_intensities(scan.to_scan(scan.clip(images[0])))
    return scan.to_intensities(scan.to_volume(np.clip(images, 0, 1)))


def sizes(shape):
    """Sizes as they are written: 9x11x9."""
    return "x".join(map(str, shape))


def similarity_row(path, plane, scan, restored):
    """How alike the slices of a scan and their reconstructions are, as a row of a table."""
    restored = restored.reshape(scan.slices.shape)
    inside = ssim(scan.slices, restored, mask=foreground(scan.slices))
    return {
        "file": str(path),
        "plane": plane,
        "slices": len(restored),
        "rows": scan.size[0],
        "columns": scan.size[1],
        "ssim": float(ssim(scan.slices, restored).mean()),
        "ssim_foreground": float(np.nanmean(inside)) if np.isfinite(inside).any() else np.nan,
    }


def encode(trained, options, log):
    """Writes each scan's codes and their vectors, what decoding needs to know, and a table."""
    require_codes(trained, options)
    model, rows = trained.model, []
    for path, name, scan in prepared_scans(trained, options, options.plane, log):
        started = time.perf_counter()
        codes = codes_of(trained, options, scan)
        seconds = time.perf_counter() - started
        write_array(options.out / f"{name}.npy", codes)
        write_array(options.out / "vectors" / f"{name}.npy", vectors_of(model, codes))
        write_json(options.out / f"{name}.json", {"scan": path.name, **scan.place()})
        shape = {"grid": sizes(codes.shape)}
        if trained.volume_shape is None:
            shape = {
                "plane": scan.plane,
                "slices": len(codes),
                "code_rows": codes.shape[1],
                "code_columns": codes.shape[2],
            }
        rows.append(
            {
                "name": name,
                "subject": subject_of(path),
                "file": str(path),
                **shape,
                # Codes that the decoder does not read do not hold the image.
                "bits": codes.size * model.bits_per_code if trained.model.decodes_codes else np.nan,
                "codes_used": len(np.unique(codes)),
            }
        )
        log.info("%s: codes %s (%.1f s)", path, sizes(codes.shape), seconds)
    write_array(options.out / "codebook" / "codebook.npy", codebook_of(model))
    write_csv(options.out / "scans.csv", pd.DataFrame(rows))
    log.info("codes, vectors (float16), codebook and scans.csv in %s", options.out)


def require_codes(trained, options):
    """Refuses a model without codes."""
    if trained.model.num_codes is None:
        raise UserError(
            f"{options.verb}: the model of {trained.path} has no codes; expected one with a "
            "codebook, such as VectorQuantizer or SOMQuantizer"
        )


def codes_of(trained, options, scan):
    """The codes of a prepared scan: `(n, rows, columns)` of slices, `(x, y, z)` of a volume."""
    if trained.volume_shape is None:
        return trained.model.codes(scan.slices, batch_size=options.batch_size)
    return trained.model.codes(scan.volume[None], batch_size=1)[0]


def codebook_of(model):
    """The codebook as a float32 array `(codes, dim)`, after an axis of stages if there are."""
    return np.asarray(keras.ops.convert_to_numpy(model.bottleneck.codebook), "float32")


def vectors_of(model, codes):
    """The vectors behind codes in half precision; the exact ones are in the codebook."""
    if model.depth is None:
        return codebook_of(model).astype("float16")[codes]
    stages = zip(codebook_of(model), np.moveaxis(codes, -1, 0), strict=True)
    return sum(codebook[found] for codebook, found in stages).astype("float16")


def decode(trained, options, log):
    """Writes what each code file decodes to; as NIfTI where a `.json` beside it tells the grid.

    Volumes become NIfTI without it too, around an origin of their own.
    """
    trained.require_decoding()
    volumes = trained.volume_shape is not None
    kind = data.PreparedVolume if volumes else data.PreparedScan
    for path in map(Path, options.files):
        codes = read_codes(path, trained.model)
        place, scan = path.with_suffix(".json"), None
        if place.exists():
            scan = kind.from_place(read_json(place))
        if volumes and scan and len(codes) > 1:
            raise UserError(f"{path}: found {len(codes)} volumes; expected one, that of {place}")
        try:
            images = trained.model.decode(
                codes, batch_size=options.batch_size, size=scan and scan.size
            )
        except ValueError as error:
            raise UserError(f"{path}: {' '.join(str(error).split())}") from None
        if trained.unit_range:
            images = np.clip(images, 0, 1)
        name = path.name.removesuffix(".npy")
        write_array(options.out / f"{name}_decoded.npy", images)
        if scan:
            image, affine = on_scan(scan, images), scan.original_affine
            data.save_nifti(options.out / f"{name}_decoded.nii.gz", image, affine)
        picture, title = options.out / f"{name}_decoded.png", f"decoded from {path.name}"
        if not volumes:
            figures.image_grid(
                images[np.linspace(0, len(images) - 1, min(64, len(images))).astype(int)],
                picture,
                title=f"{title}, {scan.plane if scan else 'plane not known'}",
                simulated=trained.simulated,
            )
        elif scan:
            three_planes(image, affine, picture, title=title, simulated=trained.simulated)
        else:
            names = [f"{name}-{number:03d}_decoded" for number in range(1, len(images) + 1)]
            save_volumes(trained, options.out, names, images)
            shown = dict(zip(names[:SHOWN_SAMPLES], images, strict=False))
            picture_volumes(trained, shown, picture, title)
        what = "volume" if volumes else "slice"
        plural = "s" if len(images) > 1 else ""
        log.info("%s: %d %s%s in %s", path, len(images), what, plural, options.out)


def map_codes(trained, options, log):
    """Writes the code of every voxel of scans; of a self-organising map row and column as well."""
    require_codes(trained, options)
    model = trained.model
    quantizer = modules.first_quantizer(model)
    grid = getattr(quantizer, "som_grid", None)
    codebook = np.asarray(keras.ops.convert_to_numpy(quantizer.codebook), "float32")
    rows = []
    for path, name, scan in prepared_scans(trained, options, options.plane, log):
        started = time.perf_counter()
        codes = modules.first_codes(model, codes_of(trained, options, scan))
        labels = scan.code_map(codes, model.stride)
        for key, (values, about) in label_maps(labels, model.num_codes, grid).items():
            file = options.out / f"{name}_desc-{key}_dseg"
            data.save_nifti(f"{file}.nii.gz", values, scan.original_affine, like=path)
            about = about | {"Sources": [path.name], "Run": trained.path.name}
            write_json(f"{file}.json", about | {"VoxelsPerCode": list(model.stride)})
        picture, simulated = options.out / f"{name}_map.png", comes_from_simulation(path)
        if grid is None:
            picture_codes(model, codebook, scan, codes, picture, f"{name}: its codes", simulated)
        else:
            brain_on_grid(
                scan.image,
                labels.astype("int32") - 1,
                scan.original_affine,
                *(grid.height, grid.width, grid.topology),
                picture,
                title=f"{name}: place on the map of every voxel's code",
                simulated=simulated,
            )
        used, counts = np.unique(labels[labels > 0] - 1, return_counts=True)
        rows.append(
            {
                "name": name,
                "subject": subject_of(path),
                "file": str(path),
                "voxels": int(counts.sum()),
                "codes_used": len(used),
                "num_codes": model.num_codes,
                "commonest_code": used[counts.argmax()] if len(used) else np.nan,
                "commonest_share": counts.max() / counts.sum() if len(used) else np.nan,
            }
        )
        log.info(
            "%s: %d of %d codes (%.1f s)",
            *(path, len(used), model.num_codes, time.perf_counter() - started),
        )
    write_csv(options.out / "map.csv", pd.DataFrame(rows))
    if grid is None:
        colours = figures.code_colours(model.num_codes, codebook)
    else:
        colours = grid_colours(grid.height, grid.width, grid.topology)
    table = label_table(colours, grid).to_csv(sep="\t", index=False)
    write_text(options.out / "desc-codes_dseg.tsv", table)
    log.info("label maps, pictures, map.csv and desc-codes_dseg.tsv in %s", options.out)


def picture_codes(model, codebook, scan, codes, path, title, simulated):
    """Slices of a prepared scan above their codes, for codes that lie on no map."""
    images, plane = getattr(scan, "slices", None), getattr(scan, "plane", "axial")
    steps = scan.affine[:3, 1], scan.affine[:3, 0]
    if images is None:  # of a volume the slice in the middle of each layer of codes
        middles = np.arange(codes.shape[2]) * model.stride[2] + model.stride[2] // 2
        images = scan.volume[:, :, middles.clip(0, scan.size[2] - 1), 0].T
        codes = codes.T
    picked = np.linspace(0, len(codes) - 1, min(SHOWN_MAPS, len(codes))).astype(int)
    figures.code_map_grid(
        images[picked],
        codes[picked],
        model.num_codes,
        path,
        codebook=codebook,
        title=title,
        plane=plane,
        spacing=tuple(np.linalg.norm(step) for step in steps),
        simulated=simulated,
    )


def classify(trained, options, log):
    """Cross-validates classifiers on frozen codes, and keeps one trained on everybody."""
    tuned = options.tuned
    samples, failures, simulated = labelled(trained, options)
    folds = [
        evaluation.subject_folds(samples.subjects, samples.labels, tuned.folds, tuned.seed + repeat)
        for repeat in range(tuned.repeats)
    ]
    if folds[0].note:
        log.info("%s", folds[0].note)
    methods = tuned.methods
    if samples.read is None:
        methods = [name for name in methods if name in ("codes", "linear codes")]
    settings = {
        field.name: getattr(tuned, field.name)
        for field in dataclasses.fields(training.ClassifierSettings)
    } | {"augment": Augment(**vars(tuned.augment))}
    found = training.cross_validate(
        samples, [fold.fold for fold in folds], methods=methods, model=trained.model, **settings
    )
    write_csv(options.out / "subjects.csv", found.table())
    measured = evaluation.compare_methods(
        found.labels, found.probabilities, level=tuned.confidence, seed=tuned.seed
    )
    write_csv(options.out / "measures.csv", measured)
    page = classification_report(
        found.labels,
        found.probabilities,
        found.classes,
        options.out,
        subjects=found.subjects,
        target=options.tuned.labels or f"the sub-folders of {options.tuned.images}",
        source=describe(trained.about),
        folds=folds[0].count,
        seconds=found.seconds,
        parameters=found.parameters,
        notes=[line for line in (folds[0].note, *failures) if line],
        simulated=simulated,
        level=tuned.confidence,
        seed=tuned.seed,
        footer=f"brainvq {trained.about['brainvq']}",
    )
    write_report(options.out / "report.html", page)
    wide = measured.pivot(index="method", columns="measure", values=["value", "low", "high"])
    shown = wide.loc[list(found.probabilities), [(k, "auroc") for k in ("value", "low", "high")]]
    log.info(
        "%d subjects, classes %s; area under the ROC curve:\n%s",
        len(found.subjects),
        ", ".join(found.classes),
        shown.round(3).to_string(),
    )
    if tuned.keep is not None and (samples.read is not None or tuned.keep == "codes"):
        training.train_final(
            samples,
            tuned.keep,
            options.out / "classifier.keras",
            model=trained.model,
            **settings,
        )
    log.info("tables, figures and report.html in %s", options.out)


def labelled(trained, options):
    """Samples with classes from scans, code files or pictures; what could not be read; and whether
    the brains are simulated."""
    given = [bool(options.files), bool(options.tuned.codes), bool(options.tuned.images)]
    if sum(given) > 1:
        raise UserError("classify: found several of SCANS, --codes, --images; expected one")
    if bool(options.tuned.labels) == bool(options.tuned.images):
        raise UserError(
            "--labels: expected FILE:COLUMN with scans and --codes, and none with --images"
        )
    simulated = False
    if options.tuned.codes:
        codebook = codebook_of(trained.model)
        samples = training.samples_from_files(options.tuned.codes, options.tuned.labels, codebook)
        return samples, [], comes_from_simulation(Path(options.tuned.labels))
    if options.tuned.images:
        cohort = data.open_cohort("images", options.tuned.images)
        steps = dataset.picture_steps(trained.about["study"]["data"]["size"])
        labels = dict(zip(cohort.table["subject"], cohort.table["group"], strict=True))
    else:
        folder = Path(options.tuned.labels.rsplit(":", 1)[0]).parent
        cohort = scans_as_cohort(options.files or [folder], trained)
        simulated = all(comes_from_simulation(Path(paths[0])) for paths in cohort.table["paths"])
        steps = [
            dataclasses.replace(step, count=options.tuned.slices)
            if isinstance(step, data.SelectSlices)
            else step
            for step in data.steps_from_config(trained.steps)
        ]
        labels = training.read_labels(options.tuned.labels, cohort.subjects)
        cohort = data.Cohort(cohort.name, cohort.table[cohort.table["subject"].isin(labels.index)])
    store = data.prepare(cohort, steps, options.tuned.cache, layout="slices")
    failures = [f"{scan}: {why}" for scan, why in store.failures.itertuples(index=False)]
    subjects = store.table["subject"].astype(str)
    return training.labelled_samples(subjects, labels, read=store.read), failures, simulated


def scans_as_cohort(names, trained):
    """Scan files as a cohort; of several contrasts in a BIDS folder that of the model."""
    paths = scan_paths(names)
    suffix = "_" + trained.about["study"]["data"]["suffix"]
    same = {path: name for path, name in paths.items() if path.name.split(".")[0].endswith(suffix)}
    paths = same or paths
    table = pd.DataFrame(
        {
            "scan_id": list(paths.values()),
            "subject": [subject_of(path) for path in paths],
            "session": [name if name != subject_of(path) else "" for path, name in paths.items()],
            "modality": suffix[1:],
            "paths": [(str(path),) for path in paths],
        }
    )
    return data.Cohort("scans", table)


def anomaly(trained, options, log):
    """Maps of what is unlike a healthy brain; with lesion masks, how well they find the lesions."""
    if not options.files:
        raise UserError("anomaly: found no scans; expected SCANS..., files or folders")
    tuned = options.tuned
    modality = trained.about["study"]["data"]["suffix"]
    direction = tuned.direction
    if direction == "auto":
        direction = {"FLAIR": "bright", "T1w": "dark"}.get(modality, "both")
    masks = masks_by_scan(options)
    finder = detector(trained, options, log)
    thresholds = healthy_thresholds(trained, finder, options, direction, log)
    simulated = all(map(comes_from_simulation, scan_paths(options.files)))
    found, pictures = LesionScores(thresholds), []
    for path, name, scan in prepared_scans(trained, options, "axial", log):
        scan = scan.every(tuned.step)
        started = time.perf_counter()
        slices, evidence, brain, scores = scored(trained, finder, scan, tuned, direction)
        volumes = {key: scan.to_volume(score) for key, score in scores.items()}
        for key in ("reconstruction", "restored"):
            if key in evidence:
                image = scan.to_intensities(scan.to_volume(evidence[key]))
                file = options.out / f"{name}_desc-{key}.nii.gz"
                data.save_nifti(file, image, scan.original_affine, like=path)
        for key, volume in volumes.items():
            file = options.out / f"{name}_desc-{key}_score.nii.gz"
            data.save_nifti(file, volume, scan.original_affine, like=path)
        mask = lesions = None
        if path in masks:
            mask = mask_on(scan, masks[path])
            lesions = scan.from_volume(mask) > 0.5
            voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
            found.add(name, scores, lesions, brain, voxel_ml)
        titles = {"simulated": simulated, "mask": lesions}
        grid = anomaly_grid(
            slices,
            evidence,
            scores,
            options.out / f"{name}_slices.png",
            title=f"{name}: what is unlike a healthy brain",
            spacing=tuple(np.linalg.norm(scan.affine[:3, :2], axis=0)[::-1]),
            **titles,
        )
        planes = anomaly_planes(
            scan.image,
            {key: volumes[key] for key in SHOWN if key in volumes},
            scan.original_affine,
            options.out / f"{name}_planes.png",
            title=f"{name}: scores over the scan",
            **(titles | {"mask": mask}),
        )
        pictures += [(grid, f"{name}, slice by slice."), (planes, f"{name} in three planes.")]
        log.info("%s: %d slices (%.0f s)", path, len(slices), time.perf_counter() - started)
    drawn = {"scans": pictures}
    measured = bool(found.methods) and found.table()["average_precision"].notna().any()
    if measured:
        table, pooled = found.table(), found.pooled()
        write_csv(options.out / "subjects.csv", table)
        write_csv(options.out / "summary.csv", found.summary())
        curves = {name: found.curves(name) for name in found.methods}
        drawn["curves"] = roc_and_precision_recall(
            curves, pooled, options.out / "curves.png", simulated=simulated
        )
        drawn["bars"] = score_bars(table, options.out / "subjects.png", simulated=simulated)
        shown = found.summary()[["method", "n", *MEASURES, "pooled_average_precision"]]
        log.info("%s", shown.round(4).to_string(index=False))
    page = anomaly_report(
        found if measured else None,
        drawn,
        about=f"{describe(trained.about)}; one axial slice in {tuned.step}",
        settings=dataclasses.asdict(tuned)
        | {"direction": direction, "threshold bits": finder.threshold_bits},
        modality=modality,
        direction=direction,
        calibrated=bool(thresholds),
        simulated=simulated,
        simulated_training=trained.simulated,
        footer=f"brainvq {trained.about['brainvq']}",
    )
    write_report(options.out / "report.html", page)
    log.info("maps, pictures, tables and report.html in %s", options.out)


def masks_by_scan(options):
    """The lesion mask of each scan that has one: dict of path to path."""
    if not options.tuned.masks:
        return {}
    scans, masks = scan_paths(options.files), scan_paths(options.tuned.masks)
    if len(scans) == len(masks) == 1:
        return dict(zip(scans, masks, strict=True))
    of_subject = {}
    for path in masks:
        if subject_of(path) in of_subject:
            raise UserError(
                f"--masks: found {of_subject[subject_of(path)]} and {path}; expected one mask for "
                "a subject"
            )
        of_subject[subject_of(path)] = path
    found = {path: of_subject[subject_of(path)] for path in scans if subject_of(path) in of_subject}
    if not found:
        raise UserError(
            f"--masks: none of {len(masks)} files ({next(iter(masks)).name}) is of the subject of "
            f"a scan ({next(iter(scans)).name}); expected names that begin alike, as sub-01_"
        )
    return found


def mask_on(scan, path):
    """A lesion mask on the grid of a scan, bool; it may lie in another orientation or grid."""
    mask, affine = data.load_scan((str(path),))
    moved = data.to_original_grid(mask, affine, scan.shape, scan.original_affine, order=0) > 0.5
    if (mask > 0.5).any() and not moved.any():
        raise UserError(f"--masks: {path} lies outside of its scan; expected one in its space")
    return moved


def detector(trained, options, log):
    """The `AnomalyDetector` of a run, its threshold taken from what healthy brains show."""
    tuned = options.tuned
    if trained.prior is None:
        log.warning("no prior in %s: reconstruction errors alone", trained.path)
    threshold = tuned.threshold_bits
    if threshold is None and (trained.path / "metrics.json").exists():
        noted = read_json(trained.path / "metrics.json").get("prior", {})
        noted = noted.get("validation_quantiles", {})
        if noted:  # bits of validation subjects, at the nearest quantile that was noted
            threshold = noted[min(noted, key=lambda share: abs(float(share) - tuned.quantile))]
    return AnomalyDetector(
        trained.model,
        trained.prior,
        threshold_bits=threshold,
        batch_size=options.batch_size,
        **{
            name: getattr(tuned, name)
            for name in ("draws", "passes", "temperature", "top_p", "sharpness", "mirror", "seed")
        },
    )


def healthy_thresholds(trained, finder, options, direction, log):
    """Thresholds for Dice that leave healthy scans alone; None without `--healthy`."""
    if not options.tuned.healthy:
        return None
    tuned, files = options.tuned, scan_paths(options.tuned.healthy)
    measured = {path.resolve() for path in scan_paths(options.files)}
    for path in files:
        if path.resolve() in measured:
            raise UserError(f"--healthy: {path} is also measured; expected other subjects")
    scans = [read_scan(trained, options, path).every(tuned.step) for path in files]
    if tuned.threshold_bits is None and trained.prior is not None:
        slices = np.concatenate([scan.slices for scan in scans])
        labels = [levels_for(trained, scan.slices) for scan in scans]
        labels = None if labels[0] is None else np.concatenate(labels)
        some = (slices > 0).any(axis=(1, 2, 3))
        finder.calibrate(slices[some], None if labels is None else labels[some], tuned.quantile)
        log.info("codes of more than %.2f bits are drawn anew", finder.threshold_bits)
    rows = []
    for scan in scans:
        _, _, brain, scores = scored(trained, finder, scan, tuned, direction)
        rows.append(anomaly_measures.healthy_thresholds(scores, brain, tuned.specificity))
    return pd.DataFrame(rows).mean().to_dict()


def scored(trained, finder, scan, tuned, direction):
    """Slices of a scan, what the model says about them, the brain and every score map."""
    evidence = finder.evidence(scan.slices, levels_for(trained, scan.slices))
    brain = anomaly_measures.brain_area(scan.slices)
    scores = anomaly_measures.score_maps(
        scan.slices,
        evidence,
        brain,
        direction=direction,
        **{
            name: getattr(tuned, name)
            for name in ("smooth", "restoration_smooth", "median", "erode", "without_fluid")
        },
        combined=tuned.combined or COMBINED[direction],
    )
    return scan.slices, evidence, brain, scores


def levels_for(trained, slices):
    """How high in the brain slices lie, where the prior is told; else None."""
    count = trained.prior.num_classes if trained.prior is not None else None
    return None if count is None else dataset.levels_of_slices(slices, count)


def export(trained, options, log):
    """Writes the run as a small folder that `brainvq.load` takes."""
    pretrained.export(trained, options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    log.info("%s: %.1f MB, brainvq.load(%r) reads it", options.out, size, str(options.out))


def read_scan(trained, options, path, plane=None):
    """A scan as the slices that the options ask for, or as the volume of the study."""
    if trained.volume_shape is not None:
        return data.PreparedVolume.read(str(path), trained.steps)
    matrix = getattr(options, "matrix", "study")
    if matrix is None:
        native = trained.about["study"]["data"].get("spacing", 0) is None
        matrix = "native" if native else "study"
    elif matrix.isdigit() and int(matrix) > 0:
        matrix = int(matrix)
    elif matrix not in ("native", "study"):
        raise UserError(f"--matrix: found {matrix!r}; expected native, study or a number")
    if matrix != "study" and None not in trained.model.encoder.input_shape[1:]:
        raise UserError(
            f"--matrix: found {matrix}; expected study, because the network of {trained.path} "
            "takes one size only"
        )
    spacing = getattr(options, "spacing", None)
    if spacing is not None and not isinstance(matrix, int):
        raise UserError("--spacing: given; expected it with a number as --matrix only")
    return data.PreparedScan.read(
        str(path), trained.steps, plane=plane or "axial", matrix=matrix, spacing=spacing
    )


def prepared_scans(trained, options, plane, log):
    """Yields (path, name, prepared scan) of each scan; bad ones are reported and counted."""
    return readable_scans(options.files, lambda path: read_scan(trained, options, path, plane), log)


def read_codes(path, model):
    """Codes from a `.npy` file, checked against the model."""
    try:
        codes = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected codes (.npy)") from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected codes (.npy)") from None
    axes = len(model.stride) + (0 if model.depth is None else 1)
    if codes.ndim == axes:
        codes = codes[None]
    if codes.dtype.kind not in "iu" or codes.ndim != axes + 1:
        shape = "(n, rows, columns)" if axes == 2 else "(x, y, z) or (n, x, y, z)"
        if model.depth is not None:
            shape = shape.replace("z)", "z, code)")
        raise UserError(
            f"{path}: found {codes.dtype} of shape {codes.shape}; expected whole numbers of shape "
            f"{shape}"
        )
    if codes.size == 0 or codes.min() < 0 or codes.max() >= model.num_codes:
        found = f"{codes.min()} to {codes.max()}" if codes.size else "no codes"
        raise UserError(f"{path}: found {found}; expected codes from 0 to {model.num_codes - 1}")
    return codes


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
