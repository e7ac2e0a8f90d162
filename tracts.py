"""The verbs of `predict.py` for runs on bundles of streamlines: tractograms in, tractograms out.

The streamlines of a file get the model's number of points (at equal distances along them) and one
direction, make groups in their order, the last one filled up with its own, and are scaled by the
run's scale.json. On the way back all of this is undone: the file that is written has the format,
space, order and directions of the one that was read, and as many streamlines.
"""

import dataclasses
import math
import time
from pathlib import Path

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import keras
import numpy as np
import pandas as pd

import bundles
from brainvq import data, evaluation
from brainvq.data.streamlines import FORMATS
from brainvq.errors import UserError
from brainvq.files import read_json, write_array, write_csv, write_json
from brainvq.reports import bundles as pictures
from brainvq.training.runs import RunFolder
from scans import readable

# Sizes of the noise on latents, in standard deviations of them.
EPSILONS = (0.1, 0.5, 1.0)
# New bundles of one kind that a picture has room for.
SHOWN_SAMPLES = 6
# Unseen people reach a little beyond the training bundles, which fill [-1, 1]. A larger share of
# points beyond that is said: the file is then most likely in another space.
BOX = 1.1
OUTSIDE = 0.05
# Streamlines with as many points as the model's, or as many as each has in its file.
POINTS = ("model", "own")


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Place:
    """What the way back from groups to the streamlines of a file needs, besides the run's scale.

    Attributes:
        format: ".trk", ".tck" or ".trx".
        flipped: bool `(n,)`, the streamlines that were turned around.
        points: int `(n,)`, points that each gets; None for as many as the model gives.
        affine: `(4, 4)` voxel indices of the file's space to mm, or None where it has none (.tck).
        shape: (x, y, z) voxels of that space, or None.
    """

    format: str
    flipped: np.ndarray
    points: np.ndarray | None = None
    affine: np.ndarray | None = None
    shape: tuple | None = None

    def streamlines(self, groups, scale):
        """Groups in units as the streamlines of the file, in mm: array or list of `(points, 3)`."""
        # Only the end of the last group is filled up.
        lines = np.asarray(groups).reshape(-1, *groups.shape[2:])[: len(self.flipped)]
        lines = data.restore_directions(scale.to_mm(lines), self.flipped)
        return lines if self.points is None else with_points(lines, self.points)

    def to_config(self):
        """The content of the `.json` beside codes."""
        return {
            "format": self.format,
            "streamlines": len(self.flipped),
            "flipped": "".join(map(str, self.flipped.astype(int))),
            "points": None if self.points is None else self.points.tolist(),
            "affine": None if self.affine is None else np.asarray(self.affine).tolist(),
            "shape": None if self.shape is None else list(self.shape),
        }

    @classmethod
    def read(cls, path):
        """The counterpart of `to_config`; something else in the file is a `UserError`."""
        config = read_json(path)
        try:
            flipped = np.array([bool(int(digit)) for digit in config["flipped"]], bool)
            if len(flipped) != config["streamlines"]:
                raise ValueError(f"flipped: found {len(flipped)} for {config['streamlines']}")
            points, affine, shape = (config[key] for key in ("points", "affine", "shape"))
            found = cls(
                config["format"],
                flipped,
                None if points is None else np.array(points, int).reshape(len(flipped)),
                None if affine is None else np.array(affine, float).reshape(4, 4),
                None if shape is None else tuple(int(size) for size in shape),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: {reason}; expected what encode wrote") from None
        space = (affine is None) == (shape is None) and len(shape or "xyz") == 3
        if found.format not in FORMATS or len(flipped) == 0 or not space:
            raise UserError(f"{path}: found another content; expected what encode wrote")
        if found.points is not None and found.points.min() < 2:
            raise UserError(f"{path}: points: found {found.points.min()}; expected 2 or more")
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A tractogram as a model takes it.

    Attributes:
        tractogram: `brainvq.data.Tractogram`, as loaded.
        groups: float32 `(groups, size, points, 3)`, in units of the run's scale.
        counts: int `(groups,)`, how many streamlines of each are real.
        place: `Place`, the way back.
        scale: `brainvq.data.BundleScale`.
    """

    tractogram: data.Tractogram
    groups: np.ndarray
    counts: np.ndarray
    place: Place
    scale: data.BundleScale

    @classmethod
    def read(cls, path, step, scale, points=None):
        """Reads a file.

        Args:
            path: `.trk`, `.tck` or `.trx`.
            step: `brainvq.data.GroupStreamlines`, the preprocessing of the run.
            scale: `brainvq.data.BundleScale` of the run.
            points: "model" or "own", what results have; None: "own" where the file has data per
                point, which would not fit otherwise.
        """
        found = data.load_tractogram(path)
        lines = data.resample(found.streamlines, step.points, source=str(path))
        flipped = np.zeros(len(lines), bool)
        if step.align:
            lines, flipped = data.align_directions(lines)
        groups, counts = data.group(lines, step.size)
        own = points == "own" or (points is None and bool(found.data_per_point))
        lengths = np.array([len(line) for line in found.streamlines]) if own else None
        place = Place(found.format, flipped, lengths, found.affine, found.shape)
        return cls(found, scale.to_unit(groups), counts, place, scale)

    def save(self, groups, path):
        """Writes what a model made of the groups, beside the header and data of the file."""
        lines = self.place.streamlines(groups, self.scale)
        return data.save_tractogram(self.tractogram, lines, path)

    def in_mm(self, groups):
        """The real streamlines of groups as `(n, points, 3)` in mm."""
        return self.scale.to_mm(data.ungroup(groups, self.counts))

    def likeness(self, restored):
        """How alike the groups and what a model made of them are: a row of a table."""
        pair = data.ungroup(self.groups, self.counts), data.ungroup(restored, self.counts)
        distance = evaluation.mean_point_distance(*pair).mean() * self.scale.half
        return {
            "streamlines": len(pair[0]),
            "buan": bundles.group_score(self.groups, restored, self.counts),
            "mse": float(evaluation.mse(*pair).mean()),
            "distance_mm": float(distance),
        }


def reconstruct(trained, options, log):
    """Writes each tractogram's reconstruction, a picture, and how alike the two are."""
    title, bits, rows = title_of(trained), bits_per_streamline(trained), []
    for path, name, bundle in prepared(trained, options, log):
        started = time.perf_counter()
        restored = trained.model.reconstruct(bundle.groups, batch_size=options.batch_size)
        alike = bundle.likeness(restored)
        bundle.save(restored, options.out / f"{name}_desc-reconstruction{bundle.place.format}")
        pictures.bundle_grid(
            {"original": bundle.in_mm(bundle.groups), title: bundle.in_mm(restored)},
            options.out / f"{name}_reconstruction.png",
            scores={title: alike["buan"]},
            scale_mm=1.0,
            title=f"{name} through {'its codes' if bits else title}",
            simulated=comes_from_simulation(path),
        )
        rows.append({"file": str(path), **alike, "bits_per_streamline": bits or math.nan})
        log.info(
            "%s: %d streamlines, %s; BUAN %.3f, %.2f mm (%.1f s)",
            *(path, alike["streamlines"], points_of(bundle), alike["buan"], alike["distance_mm"]),
            time.perf_counter() - started,
        )
    write_csv(options.out / "similarity.csv", pd.DataFrame(rows))
    log.info(
        "%d rows in %s (BUAN: mean over groups of %d streamlines, threshold 0.05 units; mse: "
        "squared units; distance_mm: between points of equal number)",
        *(len(rows), options.out, trained.group_shape[0]),
    )


def encode(trained, options, log):
    """Writes each tractogram's codes, or latents where there are none, and what decoding needs."""
    model, rows = trained.model, []
    kind = "codes" if model.decodes_codes else "latents"
    for path, name, bundle in prepared(trained, options, log):
        started = time.perf_counter()
        found = model.encode(bundle.groups, batch_size=options.batch_size)
        if model.decodes_codes:
            found = found.astype("int16" if model.num_codes <= 2**15 else "int32")
        file = options.out / (f"{name}.npy" if model.decodes_codes else f"{name}_latents.npy")
        write_array(file, found)
        about = {"tractogram": path.name, "run": trained.path.name}
        write_json(file.with_suffix(".json"), about | bundle.place.to_config())
        rows.append(
            {
                "name": name,
                "file": str(path),
                "streamlines": len(bundle.tractogram),
                "groups": len(found),
                "grid": "x".join(map(str, found.shape[1:])),
                "bits_per_streamline": bits_per_streamline(trained) or math.nan,
                "codes_used": len(np.unique(found)) if model.decodes_codes else math.nan,
            }
        )
        log.info(
            "%s: %d streamlines, %s %s; decoded they get %s (%.1f s)",
            *(path, len(bundle.tractogram), kind, found.shape, points_of(bundle)),
            time.perf_counter() - started,
        )
    write_csv(options.out / "tractograms.csv", pd.DataFrame(rows))
    if not model.decodes_codes:
        log.info(
            "the decoder of %s reads vectors, not codes: NAME_latents.npy (float32) holds what it "
            "reads; latents and tractograms.csv in %s",
            *(trained.path, options.out),
        )
        return
    if model.bottleneck.codebook is not None:
        codebook = keras.ops.convert_to_numpy(model.bottleneck.codebook)
        write_array(options.out / "codebook" / "codebook.npy", np.asarray(codebook, "float32"))
    log.info("codes, codebook and tractograms.csv in %s", options.out)


def decode(trained, options, log):
    """Writes the tractogram of each code file; a `.json` beside it tells format and space.

    Without one it is a `.trk` in the space of the ICBM152 template.
    """
    scale = scale_of(trained)

    def read(path):
        found, sidecar = read_codes(path, trained), path.with_suffix(".json")
        size = trained.group_shape[0]
        if not sidecar.exists() or scale is None:
            return found, Place(".trk", np.zeros(len(found) * size, bool))
        place = Place.read(sidecar)
        wanted = -(-len(place.flipped) // size)
        if len(found) != wanted:
            raise UserError(
                f"{path}: found {len(found)} groups; expected {wanted}, for the "
                f"{len(place.flipped)} streamlines of {sidecar}"
            )
        return found, place

    for path, name, (found, place) in readable(named(map(Path, options.files)), read, log):
        groups = trained.model.decode(found, batch_size=options.batch_size)
        file = options.out / f"{name}_decoded{place.format}"
        lines = groups.reshape(-1, *groups.shape[2:])[: len(place.flipped)]
        if scale is None:
            file = file.with_suffix(".npy")
            write_array(file, groups)
            log.info("%s", why_units(trained))
        else:
            save_new(place.streamlines(groups, scale), file, place)
            lines = scale.to_mm(lines)
        pictures.bundle_grid(
            {"decoded": lines},
            options.out / f"{name}_decoded.png",
            scale_mm=None if scale is None else 1.0,
            title=f"decoded from {path.name}",
            simulated=trained.simulated,
        )
        log.info("%s: %d streamlines in %s", path, len(lines), file)


def perturb(trained, options, log):
    """Writes what tractograms become when noise is added to their latents, and how alike it is."""
    epsilons = sorted({0.0, *options.epsilon})
    if not all(math.isfinite(epsilon) and epsilon >= 0 for epsilon in epsilons):
        raise UserError(f"--epsilon: found {options.epsilon}; expected numbers from 0")
    robustness = RunFolder(trained.path).metrics().get("robustness", {})
    width = robustness.get("spread")
    whose = "file's" if width is None else "training"
    title, rows = title_of(trained), []
    for path, name, bundle in prepared(trained, options, log):
        z = bundles.vectors(trained.model, bundle.groups)
        spread = evaluation.channel_spread(z) if width is None else np.asarray(width)
        # The same draws for every size.
        noise = np.random.default_rng(options.seed).standard_normal(z.shape) * spread
        lines, scores = {}, {}
        for epsilon in epsilons:
            made = bundles.through_bottleneck(trained.model, z + epsilon * noise)
            alike = bundle.likeness(made)
            lines[epsilon], scores[epsilon] = bundle.in_mm(made), alike["buan"]
            rows.append({"file": str(path), "epsilon": epsilon, **alike})
            if epsilon:  # without noise it is the reconstruction
                label = f"{epsilon:g}".replace(".", "p")
                file = f"{name}_desc-noise{label}{bundle.place.format}"
                bundle.save(made, options.out / file)
        pictures.perturbation(
            {title: lines},
            options.out / f"{name}_perturbation.png",
            original=bundle.in_mm(bundle.groups),
            scores={title: scores},
            scale_mm=1.0,
            title=f"{name} from latents with noise",
            simulated=comes_from_simulation(path),
        )
        told = ", ".join(f"{score:.3f} at {epsilon:g}" for epsilon, score in scores.items())
        log.info("%s: BUAN %s", path, told)
    write_csv(options.out / "perturbation.csv", pd.DataFrame(rows))
    log.info(
        "tractograms, pictures and perturbation.csv in %s (noise: Gaussian, epsilon times the "
        "standard deviation of each channel of the %s latents, before the bottleneck)",
        *(options.out, whose),
    )


def sample(trained, options, log):
    """Draws bundles of one kind or several: `.trk`, `samples.npy`, `codes.npy`, table, picture."""
    each, names = options.samples or 1, tuple(options.bundle or trained.bundles)
    if options.samples is not None and options.samples < 1:
        raise UserError(f"-n: found {options.samples}; expected 1 or more")
    if len(set(names)) < len(names):
        raise UserError(f"--bundle: found {' '.join(names)}; expected each name once")
    scale = scale_of(trained)
    kinds = [name for name in names for _ in range(each)]
    made, codes = trained.sample(
        len(kinds),
        bundle=kinds,
        batch_size=options.batch_size,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    write_array(options.out / "samples.npy", made)
    write_array(options.out / "codes.npy", codes)
    numbers = [number for _ in names for number in range(1, each + 1)]
    titles = [f"{kind}_sample-{number:03d}" for kind, number in zip(kinds, numbers, strict=True)]
    write_csv(
        options.out / "samples.csv",
        pd.DataFrame({"name": titles, "bundle": kinds, "streamlines": made.shape[1]}),
    )
    if scale is None:
        log.info("%s", why_units(trained))
    else:
        made = scale.to_mm(made)
        for title, lines in zip(titles, made, strict=True):
            save_new(lines, options.out / f"{title}.trk")
    found = {"scale_mm": None if scale is None else 1.0, "simulated": trained.simulated}
    picture = options.out / "samples.png"
    if len(names) == 1:
        shown = dict(zip(titles[:SHOWN_SAMPLES], made, strict=False))
        title = f"{names[0]}, drawn from the prior"
        pictures.bundle_grid(shown, picture, title=title, **found)
    else:
        shown = {name: np.concatenate(made[np.array(kinds) == name]) for name in names}
        pictures.bundle_views(shown, picture, title="Bundles drawn from the prior", **found)
    log.info(
        "%d new bundles of %d streamlines in %s (space of the training data%s)",
        *(len(made), made.shape[1], options.out),
        "" if scale is None else "; the headers are those of the ICBM152 template",
    )


VERBS = {
    "sample": sample,
    "reconstruct": reconstruct,
    "encode": encode,
    "decode": decode,
    "perturb": perturb,
}


def scale_of(trained):
    """The `BundleScale` of a run; None where the mm of its training data are not known."""
    if trained.about["study"]["data"]["source"] == "groups":
        return None
    return bundles.scale_of(RunFolder(trained.path))


def step_of(trained):
    """The `GroupStreamlines` of a run."""
    try:
        (config,) = trained.steps
        return data.GroupStreamlines(**{k: v for k, v in config.items() if k != "name"})
    except (TypeError, ValueError):
        raise UserError(
            f"{trained.path}/study.json: found steps {trained.steps}; expected GroupStreamlines"
        ) from None


def known_scale(trained):
    """The `BundleScale` of a run that files in mm need."""
    scale = scale_of(trained)
    if scale is None:
        raise UserError(f"{why_units(trained)}; expected a run trained on tractograms")
    return scale


def why_units(trained):
    """Why there are no mm."""
    return (
        f"{trained.path}: was trained on groups of streamlines scaled to [-1, 1], whose scale in "
        "mm is not known, so that results are .npy in those units"
    )


def title_of(trained):
    """A run's variant as it is called in figures."""
    return bundles.title_of(trained.about["study"]["variant"])


def bits_per_streamline(trained):
    """Bits of a group's codes by its streamlines; None where nothing is discrete."""
    if not trained.model.decodes_codes:
        return None
    codes = math.prod(trained.model.code_shape(trained.group_shape))
    return codes * trained.model.bits_per_code / trained.group_shape[0]


def points_of(bundle):
    """The points of what is written, in words."""
    if bundle.place.points is None:
        return f"{bundle.groups.shape[2]} points each, as the model gives"
    return "as many points each as in the file"


def with_points(lines, counts):
    """Curves of equally many points as curves of other numbers of points.

    Point k of n lies at k / (n - 1) of the way, counted in points of the curve: the inverse of
    `brainvq.data.resample`, where the file's points lie at equal distances.

    Args:
        lines: float `(n, points, 3)`.
        counts: int `(n,)`, from 2; a curve of one point begins where `lines` does.

    Returns:
        List of float32 `(count, 3)`.
    """
    found = [None] * len(lines)
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        place = np.linspace(0, lines.shape[1] - 1, count)
        first = np.minimum(place.astype(int), lines.shape[1] - 2)
        part = (place - first)[:, None]
        curves = (1 - part) * lines[rows][:, first] + part * lines[rows][:, first + 1]
        for row, curve in zip(rows, curves.astype("float32"), strict=True):
            found[row] = curve
    return found


def save_new(lines, path, place=None):
    """Writes streamlines in mm without a header of their own, in the space of `place` or MNI's."""
    space = () if place is None or place.affine is None else (place.affine, place.shape)
    return data.save_tractogram(data.new_tractogram(lines, *space), lines, path)


def prepared(trained, options, log):
    """Yields (path, name, `Prepared`) of each tractogram; bad ones are reported and counted."""
    # Before the files: a mistake of the run is none of theirs.
    step, scale = step_of(trained), known_scale(trained)

    def read(path):
        found = Prepared.read(path, step, scale, options.points)
        outside = (np.abs(found.groups) > BOX).any(axis=-1).mean()
        if outside > OUTSIDE:
            log.warning(
                "%s: %.0f %% of its points lie outside of the box of the training bundles; "
                "expected streamlines in the space of those",
                *(path, 100 * outside),
            )
        return found

    return readable(named(tractogram_paths(options.files)), read, log)


def tractogram_paths(names):
    """The files that `names` are, and the tractograms that folders among them hold at any depth."""
    paths = []
    for name in map(Path, names):
        found = [name]
        if name.is_dir():
            found = sorted(
                path
                for path in name.rglob("[!.]*")
                if path.suffix.lower() in FORMATS and path.is_file()
            )
        if not found:
            raise UserError(f"{name}: holds no {', '.join(FORMATS)}; expected tractograms")
        paths += found
    return paths


def named(paths):
    """Names that the results of files get: dict of path to str.

    The file's name without its ending; where two share that, with the folder's name before it, with
    the ending, and at last with a number.
    """
    paths = list(dict.fromkeys(paths))
    forms = [
        [path.stem for path in paths],
        [f"{path.absolute().parent.name}_{path.stem}" for path in paths],
        [f"{path.absolute().parent.name}_{path.stem}_{path.suffix[1:]}" for path in paths],
        [f"{path.stem}_{number}" for number, path in enumerate(paths, 1)],
    ]

    def name_of(number):
        return next(form[number] for form in forms if form.count(form[number]) == 1)

    return {path: name_of(number) for number, path in enumerate(paths)}


def read_codes(path, trained):
    """Codes, or latents where the model has none that it decodes, checked against the model."""
    model = trained.model
    if model.decodes_codes:
        kind, what, wanted = "iu", "whole numbers", model.code_shape(trained.group_shape)
    else:
        kind, what, wanted = "f", "numbers with a fraction", model.decoder.input_shape[1:]
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected what encode writes (.npy)") from None
    except (ValueError, OSError, EOFError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({line}); expected .npy") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path}: found several arrays; expected one, as .npy has it")
    if found.ndim == len(wanted):
        found = found[None]
    shape = found.shape[1:]
    if model.decodes_codes and model.depth is not None and found.ndim > 1:
        # The first codes of each cell are enough for a coarser bundle.
        shape = (*shape[:-1], model.depth) if 1 <= shape[-1] <= model.depth else shape
    if found.dtype.kind not in kind or shape != tuple(wanted) or len(found) == 0:
        raise UserError(
            f"{path}: found {found.dtype} of shape {found.shape}; expected {what} of shape "
            f"(groups, {', '.join(map(str, wanted))})"
        )
    if model.decodes_codes and (found.min() < 0 or found.max() >= model.num_codes):
        raise UserError(
            f"{path}: found {found.min()} to {found.max()}; expected codes from 0 to "
            f"{model.num_codes - 1}"
        )
    if not np.isfinite(found).all():
        raise UserError(f"{path}: found numbers that are not finite; expected latents")
    return found


def comes_from_simulation(path):
    """Whether a file lies in a folder that was written as simulated."""
    return any(map(data.is_simulated, path.absolute().parents))
