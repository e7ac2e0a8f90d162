"""Tractograms as groups of streamlines, and the way back; what `predict` does with them."""

import math

import numpy as np

from brainvq import data, evaluation
from brainvq.data.inputs import comes_from_simulation, tractogram_paths
from brainvq.errors import UserError
from brainvq.files import read_array, write_array, write_json
from brainvq.reports import bundles as pictures
from brainvq.tasks.names import inputs, participant_of, readable_inputs, write_rows
from brainvq.tasks.samples import Sample, Samples, require_finite, save_codebook, sizes
from brainvq.tasks.streamlines import draws
from brainvq.tasks.streamlines.figures import title_of
from brainvq.tasks.streamlines.groups import group_score
from brainvq.tasks.streamlines.place import Place, save_new
from brainvq.tasks.streamlines.units import (
    bits_per_streamline,
    known_scale,
    run_scale,
    step_of,
    why_units,
)

# Unseen people reach a little beyond the training bundles, which fill [-1, 1]. A larger share of
# points beyond that is said: the file is then most likely in another space.
BOX = 1.1
OUTSIDE = 0.05


class BundleSample(Sample):
    """A tractogram as groups of streamlines.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        path: `pathlib.Path` of the tractogram, or of its codes.
        name: str, what the names of its results begin with.
        place: `Place`, the way back.
        scale: `brainvq.data.BundleScale` of the run; None where its mm are not known.

    Attributes:
        tractogram: `brainvq.data.Tractogram`, as loaded; None where only codes are known.
        groups: float32 `(groups, size, points, 3)`, in units of the scale.
        counts: int `(groups,)`, how many streamlines of each are real.
    """

    tractogram = groups = counts = None

    def __init__(self, trained, path, name, place, scale):
        super().__init__(trained, path, name)
        self.place, self.scale = place, scale

    @classmethod
    def read(cls, trained, path, name, points=None):
        """Reads a file. What is no curve in it, such as a single point, is left as it is.

        Args:
            trained: `brainvq.tasks.trained.Trained`.
            path: `pathlib.Path` of a .trk, .tck or .trx file.
            name: str, what the names of its results begin with.
            points: "model" or "own", what results have; None: "own" where the file has data per
                point, which would not fit otherwise.
        """
        step, scale = step_of(trained), known_scale(trained)
        tractogram = data.load_tractogram(path)
        usable = data.usable(tractogram.streamlines)
        others = {int(k): tractogram.streamlines[k] for k in np.flatnonzero(~usable)}
        others = others if usable.any() else {}  # then `resample` says what is wrong
        curves = tractogram.streamlines[usable] if others else tractogram.streamlines
        lines = data.resample(curves, step.points, source=str(path))
        flipped = np.zeros(len(lines), bool)
        if step.align:
            lines, flipped = data.align_directions(lines)
        groups, counts = data.group(lines, step.size)
        own = points == "own" or (points is None and bool(tractogram.data_per_point))
        lengths = np.array([len(line) for line in curves]) if own else None
        space = tractogram.affine, tractogram.shape
        place = Place(tractogram.format, flipped, lengths, *space, others)
        sample = cls(trained, path, name, place, scale)
        sample.tractogram, sample.groups, sample.counts = tractogram, scale.to_unit(groups), counts
        return sample

    @property
    def model(self):
        """The model of the run."""
        return self.trained.model

    @property
    def title(self):
        """The run as it is called in figures."""
        return title_of(self.trained.study.variant)

    @property
    def simulated(self):
        """Whether the streamlines are simulated."""
        return comes_from_simulation(self.path)

    def in_mm(self, groups):
        """The real streamlines of groups as `(n, points, 3)` in mm."""
        return self.scale.to_mm(data.ungroup(groups, self.counts))

    def likeness(self, restored):
        """How alike the groups and what a model made of them are: dict."""
        pair = data.ungroup(self.groups, self.counts), data.ungroup(restored, self.counts)
        distance = evaluation.mean_point_distance(*pair).mean() * self.scale.half
        return {
            "streamlines": len(pair[0]),
            "buan": group_score(self.groups, restored, self.counts),
            "mse": float(evaluation.mse(*pair).mean()),
            "distance_mm": float(distance),
        }

    def reconstruct(self, batch_size):
        """The groups through the model, in units."""
        return self.model.reconstruct(self.groups, batch_size=batch_size)

    def restore(self, restored):
        """Groups as the streamlines of the file, in mm."""
        return self.place.streamlines(restored, self.scale)

    def measures(self, restored, whole):
        """A row."""
        del whole
        bits = bits_per_streamline(self.trained) or math.nan
        return [{"file": str(self.path), **self.likeness(restored), "bits_per_streamline": bits}]

    def save(self, whole, folder, desc="reconstruction"):
        """Writes streamlines beside the header and the data of the file."""
        file = folder / f"{self.name}_desc-{desc}{self.place.format}"
        data.save_tractogram(self.tractogram, whole, file)

    def picture(self, restored, whole, rows, path):
        """The bundle above its reconstruction."""
        del whole
        through = "its codes" if bits_per_streamline(self.trained) else self.title
        pictures.bundle_grid(
            {"original": self.in_mm(self.groups), self.title: self.in_mm(restored)},
            path=path,
            scores={self.title: rows[0]["buan"]},
            scale_mm=1.0,
            title=f"{self.name} through {through}",
            simulated=self.simulated,
        )

    def summary(self, row):
        """A row of `measures` in words."""
        return (
            f"{row['streamlines']} streamlines, {self.points}; BUAN {row['buan']:.3f}, "
            f"{row['distance_mm']:.2f} mm"
        )

    @property
    def points(self):
        """The points of what is written, in words."""
        if self.place.points is None:
            return f"{self.groups.shape[2]} points each, as the model gives"
        return "as many points each as in the file"

    def encode(self, batch_size):
        """Codes `(groups, *grid)`, or latents where the decoder reads those."""
        latents = self.model.encode(self.groups, batch_size=batch_size)
        if not self.model.decodes_codes:
            return latents
        return latents.astype("int16" if self.model.num_codes <= 2**15 else "int32")

    def save_latents(self, latents, folder):
        """Writes codes or latents, and the way back as `.json`."""
        stem = self.name if self.model.decodes_codes else f"{self.name}_latents"
        write_array(folder / f"{stem}.npy", latents)
        about = {"tractogram": self.path.name, "run": self.trained.path.name}
        write_json(folder / f"{stem}.json", about | self.place.to_config())

    def row(self, latents):
        """Codes or latents as a row of `tractograms.tsv`."""
        codes = self.model.decodes_codes
        return {
            "participant_id": participant_of(self.name, self.path),
            "name": self.name,
            "file": str(self.path),
            "streamlines": len(self.tractogram),
            "groups": len(latents),
            "grid": sizes(latents.shape[1:]),
            "bits_per_streamline": bits_per_streamline(self.trained) or math.nan,
            "codes_used": len(np.unique(latents)) if codes else math.nan,
        }

    def describe(self, latents):
        """Codes or latents in words."""
        kind = "codes" if self.model.decodes_codes else "latents"
        return (
            f"{len(self.tractogram)} streamlines, {kind} {latents.shape}; decoded they get "
            f"{self.points}"
        )

    def decode(self, latents, batch_size):
        """Groups of codes or latents, in units."""
        return self.model.decode(latents, batch_size=batch_size)

    def save_decoded(self, decoded, folder):
        """Writes a tractogram, or groups in units where no mm are known, and a picture."""
        stem = f"{self.name}_decoded"
        lines = decoded.reshape(-1, *decoded.shape[2:])[: len(self.place.flipped)]
        if self.scale is None:
            file = folder / f"{stem}.npy"
            write_array(file, decoded)
        else:
            file = folder / f"{stem}{self.place.format}"
            save_new(self.restore(decoded), file, self.place)
            lines = self.scale.to_mm(lines)
        pictures.bundle_grid(
            {"decoded": lines},
            path=folder / f"{stem}.png",
            scale_mm=None if self.scale is None else 1.0,
            title=f"decoded from {self.path.name}",
            simulated=self.trained.simulated,
        )
        return f"{len(lines)} streamlines in {file}"


class BundleSamples(Samples):
    """What groups of streamlines have in common."""

    verbs = {"sample": draws.sample, "perturb": draws.perturb}
    unit_range = False
    chosen_by = ("bundle",)

    @staticmethod
    def arrange(groups):
        """Groups with one direction each, and what gives streamlines theirs back."""
        aligned, flipped = data.align_groups(groups)
        return aligned, lambda restored: data.restore_directions(restored, flipped)

    def similarity(self, trained):
        """How the measures of `similarity.tsv` are made, in words."""
        return (
            f"BUAN: mean over groups of {trained.study.data.streamlines} streamlines, threshold "
            "0.05 units; mse: squared units; distance_mm: between points of equal number"
        )

    def draw(self, trained, n, **options):
        """Draws codes of groups; see `Samples`."""
        codes = super().draw(trained, n, **options)
        # A prior sees codes without axes of length 1.
        return codes.reshape(n, *trained.model.code_shape(trained.study.data.sample_shape))

    def conditions(self, trained, n, seed, bundle=None, **wanted):
        """The bundle of each sample as a number: each in turn, or those that are named."""
        known = trained.study.data.bundles
        if bundle is None:
            return {"labels": np.arange(n) % len(known)}
        wanted = [bundle] * n if isinstance(bundle, str) else list(bundle)
        if len(wanted) != n:
            raise UserError(f"bundle: found {len(wanted)} names; expected one, or n = {n}")
        for name in wanted:
            if name not in known:
                raise UserError(
                    f"bundle: found {name}; expected one of {', '.join(known)}, the bundles of "
                    f"{trained.path}"
                )
        return {"labels": np.array([known.index(name) for name in wanted], int)}

    def read(self, trained, options, log):
        """Yields the sample of each tractogram; bad ones are reported and counted."""
        # Before the files: a mistake of the run is none of theirs.
        step_of(trained), known_scale(trained)
        paths = tractogram_paths(options.files, **options.wanted(trained.study))
        names = inputs(paths, people=False, out=options.out, run=trained.path.name)

        def read(path):
            sample = BundleSample.read(trained, path, names[path].name, options.points)
            if sample.place.others:
                log.warning(
                    "%s: %d of %d streamlines are no curves (fewer than two different points, or "
                    "not finite) and stay as they are",
                    *(path, len(sample.place.others), len(sample.tractogram)),
                )
            outside = (np.abs(sample.groups) > BOX).any(axis=-1).mean()
            if outside > OUTSIDE:
                log.warning(
                    "%s: %.0f %% of its points lie outside of the box of the training bundles; "
                    "expected streamlines in the space of those",
                    *(path, 100 * outside),
                )
            return sample

        results = readable_inputs(names, read, log, out=options.out, run=trained.path.name)
        return (sample for _, _, sample in results)

    def start_decode(self, trained, log):
        """Refuses a run without its scale, and says where results have no mm."""
        if run_scale(trained) is None:
            log.info("%s", why_units(trained))

    def read_latents(self, path, name, trained):
        """Codes of a file; without a `.json` they become a `.trk` in the space of ICBM152."""
        latents, sidecar = read_codes(path, trained), path.with_suffix(".json")
        scale, size = run_scale(trained), trained.study.data.streamlines
        place = Place(".trk", np.zeros(len(latents) * size, bool))
        if sidecar.exists() and scale is not None:
            place = Place.read(sidecar)
            wanted = -(-len(place.flipped) // size)
            if len(latents) != wanted:
                raise UserError(
                    f"{path}: found {len(latents)} groups; expected {wanted}, for the "
                    f"{len(place.flipped)} streamlines of {sidecar}"
                )
        return latents, BundleSample(trained, path, name, place, scale)

    def finish_encode(self, trained, rows, folder, log):
        """Writes `tractograms.tsv`, and the codebook where there is one."""
        write_rows(folder / "tractograms.tsv", rows)
        if not trained.model.decodes_codes:
            log.info(
                "the decoder of %s reads vectors, not codes: NAME_latents.npy (float32) holds what "
                "it reads; latents and tractograms.tsv in %s",
                *(trained.path, folder),
            )
            return
        if trained.model.bottleneck.codebook is not None:
            save_codebook(trained.model.bottleneck, folder)
        log.info("codes, codebook and tractograms.tsv in %s", folder)


def read_codes(path, trained):
    """Codes, or latents where the model has none that it decodes, checked against the model."""
    model = trained.model
    if model.decodes_codes:
        kind, what = "iu", "whole numbers"
        wanted = model.code_shape(trained.study.data.sample_shape)
    else:
        kind, what, wanted = "f", "numbers with a fraction", model.decoder.input_shape[1:]
    latents = read_array(path, expected="what encode writes")
    if latents.ndim == len(wanted):
        latents = latents[None]
    shape = latents.shape[1:]
    if model.decodes_codes and model.depth is not None and latents.ndim > 1:
        # The first codes of each cell are enough for a coarser bundle.
        shape = (*shape[:-1], model.depth) if 1 <= shape[-1] <= model.depth else shape
    if latents.dtype.kind not in kind or shape != tuple(wanted) or len(latents) == 0:
        raise UserError(
            f"{path}: found {latents.dtype} of shape {latents.shape}; expected {what} of shape "
            f"(groups, {', '.join(map(str, wanted))})"
        )
    if model.decodes_codes and (latents.min() < 0 or latents.max() >= model.num_codes):
        raise UserError(
            f"{path}: found {latents.min()} to {latents.max()}; expected codes from 0 to "
            f"{model.num_codes - 1}"
        )
    require_finite(latents, path)
    return latents
