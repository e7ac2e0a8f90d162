"""Use a trained study: new brains, reconstructions, codes.

    python predict.py [RUN] [sample] [-n 64]        new brains from the prior
    python predict.py [RUN] reconstruct SCANS...    NIfTI on each scan's own grid, SSIM, picture
    python predict.py [RUN] encode SCANS...         NAME_codes.npy, one code map a slice
    python predict.py [RUN] decode CODES.npy        back to slices, and to NIfTI
                                                    where the scan is known
    python predict.py [RUN] export                  a small folder of weights to hand on

RUN is the folder of a run; without it the newest run in runs/, or the weights that come
with brainvq. SCANS are NIfTI files or folders of them.
"""

import argparse
import sys
from pathlib import Path

import brainvq  # first: it keeps the start-up lines of TensorFlow off the screen

# isort: split
import numpy as np
import pandas as pd

from brainvq import data
from brainvq.errors import UserError
from brainvq.evaluation import ssim
from brainvq.evaluation.similarity import foreground
from brainvq.files import atomic_path, read_json, write_csv, write_json
from brainvq.reports import figures
from brainvq.training import pretrained
from brainvq.training.programs import run_program
from brainvq.training.runs import RunFolder, start_log
from hyperparameters import Sampling

VERBS = ("sample", "reconstruct", "encode", "decode", "export")


def main(arguments):
    """Reads the command line and does what it says."""
    options = parse(arguments)
    trained = load(options.run)
    log = start_log()
    log.info("using %s (%s)", trained.path, describe(trained.about))
    actions = {
        "sample": sample,
        "reconstruct": reconstruct,
        "encode": encode,
        "decode": decode,
        "export": export,
    }
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
    verb.add_argument("-n", "--samples", type=int, default=defaults.samples, help="how many")
    verb.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        help="below 1: more typical, less varied; above 0 (default: %(default)s)",
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
    verb.add_argument("--seed", type=int, help="the same seed gives the same brains")

    verb = verbs.add_parser("reconstruct", help="scans through the codes and back")
    verb.add_argument("files", nargs="+", metavar="SCAN")

    verb = verbs.add_parser("encode", help="scans to codes")
    verb.add_argument("files", nargs="+", metavar="SCAN")

    verb = verbs.add_parser("decode", help="codes to slices or scans")
    verb.add_argument("files", nargs="+", metavar="CODES.npy")
    verbs.add_parser("export", help="weights in half precision, to hand on")
    for verb in verbs.choices.values():
        verb.add_argument("--out", help="folder for the results (default: predictions/VERB)")
        verb.add_argument("--batch-size", type=int, default=32, help="slices at a time")
    options = parser.parse_args(words)
    options.run = run
    options.out = Path(options.out or Path("predictions") / options.verb)
    if options.batch_size < 1:
        raise UserError(f"--batch-size: found {options.batch_size}; expected 1 or more")
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (see python predict.py --help)")


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
    """Draws brains: `samples.npy`, `codes.npy` and a picture."""
    if options.samples < 1:
        raise UserError(f"-n: found {options.samples}; expected 1 or more")
    images, codes = trained.sample(
        options.samples,
        level=options.level,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    save_array(options.out / "samples.npy", images)
    save_array(options.out / "codes.npy", codes.astype("int32"))
    figures.image_grid(
        images[:64],
        options.out / "samples.png",
        title=f"{min(64, len(images))} of {len(images)} brains drawn from the prior, axial",
        simulated=is_simulated(trained),
    )
    log.info("%d new brains in %s: samples.npy, codes.npy, samples.png", len(images), options.out)


def reconstruct(trained, options, log):
    """Writes each scan's reconstruction on the scan's own grid, and how alike the two are."""
    rows = []
    for path, name, scan in prepared_scans(trained, options.files, log):
        restored = np.clip(
            trained.model.reconstruct(scan.slices, batch_size=options.batch_size), 0, 1
        )
        data.save_nifti(options.out / f"{name}_desc-reconstruction.nii.gz", *scan.to_scan(restored))
        show = np.linspace(0, len(restored) - 1, min(8, len(restored)) + 2).astype(int)[1:-1]
        figures.reconstruction_grid(
            scan.slices[show], restored[show], options.out / f"{name}_reconstruction.png"
        )
        alike = {
            "ssim": ssim(scan.slices, restored).mean(),
            "ssim_foreground": np.nanmean(
                ssim(scan.slices, restored, mask=foreground(scan.slices))
            ),
        }
        rows.append({"file": str(path), "slices": len(restored), **alike})
        log.info("%s: SSIM %.3f, foreground %.3f", path, *alike.values())
    write_csv(options.out / "similarity.csv", pd.DataFrame(rows))
    log.info(
        "%d reconstructions in %s (SSIM: 2D, 7x7 window, data range 1)", len(rows), options.out
    )


def encode(trained, options, log):
    """Writes each scan's codes, and what decoding needs to know about the scan."""
    for path, name, scan in prepared_scans(trained, options.files, log):
        codes = trained.model.encode(scan.slices, batch_size=options.batch_size)
        save_array(options.out / f"{name}_codes.npy", codes)
        write_json(options.out / f"{name}_codes.json", {"scan": path.name, **scan.place()})
        log.info("%s: %d code maps of %s", path, len(codes), "x".join(map(str, codes.shape[1:])))
    log.info("codes in %s", options.out)


def decode(trained, options, log):
    """Writes the slices of each code file; as NIfTI where a `.json` beside it tells the grid."""
    for path in map(Path, options.files):
        codes = read_codes(path, trained.model)
        images = np.clip(trained.model.decode(codes, batch_size=options.batch_size), 0, 1)
        name = path.name.removesuffix(".npy")
        save_array(options.out / f"{name}_decoded.npy", images)
        figures.image_grid(
            images[np.linspace(0, len(images) - 1, min(64, len(images))).astype(int)],
            options.out / f"{name}_decoded.png",
            title=f"decoded from {path.name}, axial",
            simulated=is_simulated(trained),
        )
        place = path.with_suffix(".json")
        if place.exists():
            scan = PreparedScan.from_place(read_json(place))
            data.save_nifti(options.out / f"{name}_decoded.nii.gz", *scan.to_scan(images))
        log.info("%s: %d slices in %s", path, len(images), options.out)


def export(trained, options, log):
    """Writes the run as a small folder that `brainvq.load` takes."""
    pretrained.export(trained, options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    log.info("%s: %.1f MB, brainvq.load(%r) reads it", options.out, size, str(options.out))


class PreparedScan:
    """A scan as the slices that a model takes, and the way back to its own grid.

    Attributes:
        slices: float32 `(n, rows, cols, 1)`, or None when only the way back is known.
    """

    def __init__(self, slices, affine, shape, original_affine, low, high):
        self.slices, self.affine = slices, np.asarray(affine)
        self.shape, self.original_affine = tuple(shape), np.asarray(original_affine)
        self.low, self.high = float(low), float(high)

    @classmethod
    def read(cls, path, config):
        """Reads a scan and applies the steps of a study to all of its slices."""
        image, affine = data.load_scan((str(path),))
        scaled, low, high, grid = image, 0.0, 1.0, affine
        for step in data.steps_from_config(config):
            if type(step).__name__ == "SelectSlices":
                # Every slice of the brain, no margin: a reconstruction should have no holes.
                step = data.SelectSlices(plane=step.plane, spacing=step.spacing)
            if type(step).__name__ == "ScaleIntensity":
                low, high = float(scaled.min()), float(scaled.max())
            scaled, grid = step(scaled, grid)
        slices = np.moveaxis(scaled, 2, 0).swapaxes(1, 2)[..., None].astype("float32")
        return cls(slices, grid, image.shape, affine, low, high)

    def to_scan(self, slices):
        """Slices back on the scan's grid, in its units: (image, affine)."""
        stack = np.moveaxis(slices[..., 0].swapaxes(1, 2), 0, 2)
        image = data.to_original_grid(stack, self.affine, self.shape, self.original_affine)
        return image * (self.high - self.low) + self.low, self.original_affine

    def place(self):
        """Everything but the slices, for a JSON file."""
        return {
            "affine": self.affine,
            "shape": self.shape,
            "original_affine": self.original_affine,
            "low": self.low,
            "high": self.high,
        }

    @classmethod
    def from_place(cls, place):
        """The counterpart of `place`."""
        try:
            return cls(
                None, *(place[key] for key in ("affine", "shape", "original_affine", "low", "high"))
            )
        except KeyError as error:
            raise UserError(f"codes .json: has no {error}; expected the file of `encode`") from None


def prepared_scans(trained, names, log):
    """Yields (path, name, `PreparedScan`) of each scan; bad ones are reported and counted."""
    paths = scan_paths(names)
    bad = 0
    for path, name in paths.items():
        try:
            scan = PreparedScan.read(path, trained.steps)
        except UserError as error:
            if len(paths) == 1:
                raise
            bad += 1
            log.warning("skipped: %s", error)
            continue
        yield path, name, scan
    if bad == len(paths):
        raise UserError(
            f"{names[0]}: none of {len(paths)} scans could be read; expected NIfTI scans"
        )
    if bad:
        log.warning("%d of %d scans were skipped", bad, len(paths))


def scan_paths(names):
    """The NIfTI files that `names` are or hold, each with the name that its results get.

    Args:
        names: paths of files, or of folders that are searched to any depth.

    Returns:
        dict of `pathlib.Path` to str: the file's name without endings; where two files share it,
        the folder's name stands before it.
    """
    paths = []
    for name in map(Path, names):
        found = sorted(name.rglob("*.nii*")) if name.is_dir() else [name]
        if not found:
            raise UserError(f"{name}: holds no .nii or .nii.gz; expected scans")
        paths += found
    stems = [path.name.split(".")[0] for path in paths]
    return {
        path: stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}_{stem}"
        for path, stem in zip(paths, stems, strict=True)
    }


def read_codes(path, model):
    """Codes from a `.npy` file, checked against the model."""
    try:
        codes = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected codes (.npy)") from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected codes (.npy)") from None
    if codes.dtype.kind not in "iu" or codes.ndim < 2:
        raise UserError(
            f"{path}: found {codes.dtype} of shape {codes.shape}; expected whole numbers of shape "
            "(n, rows, columns)"
        )
    if codes.ndim == 2:
        codes = codes[None]
    if codes.size == 0 or codes.min() < 0 or codes.max() >= model.num_codes:
        found = f"{codes.min()} to {codes.max()}" if codes.size else "no codes"
        raise UserError(f"{path}: found {found}; expected codes from 0 to {model.num_codes - 1}")
    return codes


def save_array(path, array):
    """`numpy.save`, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array)


def is_simulated(trained):
    """Whether the model was trained on simulated brains."""
    return trained.about["study"]["data"]["source"] == "simulated"


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
