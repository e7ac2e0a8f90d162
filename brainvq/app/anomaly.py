"""Maps of what is unlike a healthy brain; with lesion masks, how well they find the lesions."""

import dataclasses
import time

import numpy as np
import pandas as pd

from brainvq import data
from brainvq.app.lesion_masks import mask_on, masks_by_scan
from brainvq.data.derivatives import skull_stripped
from brainvq.data.inputs import comes_from_simulation, scan_paths
from brainvq.errors import UserError
from brainvq.evaluation import anomaly as scoring
from brainvq.evaluation.lesion_scores import MEASURES, LesionScores
from brainvq.files import read_json, write_csv, write_tsv
from brainvq.reports.anomaly import (
    anomaly_grid,
    anomaly_planes,
    anomaly_report,
    roc_and_precision_recall,
    score_bars,
)
from brainvq.reports.html import write_report
from brainvq.tasks.names import bids_name, participant_of, readable_scans
from brainvq.tasks.slices.plans import conditions_of_scan
from brainvq.training.anomaly import AnomalyDetector

# Scores that are laid over the scan in three planes.
SHOWN = ("depth", "intensity", "pixel", "restoration", "combined")
# The score that found most on real scans: maps are ordered and marked by it. On FLAIR that is no
# network's (docs/results.md); elsewhere there is none that could be recommended.
LEADING = {"bright": "depth"}
# Of `depth`: less than 1 % of the brain outside of lesions is above it, in 16 people of 69 to 90.
USUAL_THRESHOLD = 1.5
# What is combined by default. On FLAIR lesions shine: plain intensity is good evidence there.
COMBINED = {
    "bright": ("intensity", "pixel", "restoration"),
    "dark": scoring.COMBINED,
    "both": scoring.COMBINED,
}


def anomaly(trained, options, log):
    """Writes score maps of scans; with `options.masks`, measures and a report on them too.

    Args:
        trained: `brainvq.tasks.trained.Trained` of a study of slices.
        options: `brainvq.options.verbs.Anomaly`.
        log: `logging.Logger`.

    Raises:
        UserError: there are no scans, or masks or healthy scans do not go with them.
    """
    if not options.scans:
        raise UserError("anomaly: found no scans; expected SCANS..., files or folders")
    search, wanted = Search(trained, options), options.wanted(trained.study)
    masks = masks_by_scan(options, log, **wanted)
    thresholds = search.calibrate(log)
    search.simulated = all(map(comes_from_simulation, scan_paths(options.scans, **wanted)))
    lesions, pictures = LesionScores(thresholds), []
    where = {"out": options.out, "run": trained.path.name} | wanted
    for path, given, scan in readable_scans(options.scans, search.read, log, **where):
        started = time.perf_counter()
        result = Result(search, path, given.name, scan)
        result.save_maps(thresholds or {})
        if path in masks:
            try:
                result.measure(masks[path], lesions)
            except UserError as error:
                if len(masks) == 1:
                    raise
                log.warning("not measured: %s", error)
        pictures.append((result.name, result.height(), result.pictures()))
        log.info("%s: %d slices (%.0f s)", path, len(scan.slices), time.perf_counter() - started)
    report(search, lesions, pictures, thresholds, log)


class Search:
    """Looks for what is unlike a healthy brain in the slices of a scan.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.Anomaly`.
    """

    def __init__(self, trained, options):
        self.trained, self.options = trained, options
        self.modality = trained.study.data.suffix
        self.direction = options.direction
        if self.direction == "auto":
            self.direction = {"FLAIR": "bright", "T1w": "dark"}.get(self.modality, "both")
        self.leading = LEADING.get(self.direction)
        if options.threshold is not None and self.leading is None:
            raise UserError(
                f"--threshold: given where {self.direction} places count; expected it with "
                "--direction bright"
            )
        self.detector, self.participants = None, {}
        self.simulated = False

    def read(self, path):
        """A scan as some of its axial slices: `brainvq.data.PreparedScan`."""
        scan = data.PreparedScan.read(str(path), self.trained.steps, usual=self.trained.usual)
        return scan.every(self.options.step)

    def calibrate(self, log):
        """Makes the detector; its threshold is what healthy brains show.

        Returns:
            Thresholds for Dice that leave healthy scans alone, dict of score to number; None
            without `--healthy`.
        """
        self.detector = self._make_detector(log)
        options, trained = self.options, self.trained
        leading, own = self.leading, options.threshold
        if not options.healthy:
            return {leading: USUAL_THRESHOLD if own is None else own} if leading else None
        wanted = options.wanted(trained.study)
        files = scan_paths(options.healthy, **wanted)
        measured = {path.resolve() for path in scan_paths(options.scans, **wanted)}
        for path in files:
            if path.resolve() in measured:
                raise UserError(f"--healthy: {path} is also measured; expected other subjects")
        scans = [self.read(path) for path in files]
        if options.threshold_bits is None and trained.prior is not None:
            slices = np.concatenate([scan.slices for scan in scans])
            given = [self.conditions(scan.slices) for scan in scans]
            some = (slices > 0).any(axis=(1, 2, 3))
            given = {key: np.concatenate([g[key] for g in given])[some] for key in given[0]}
            self.detector.calibrate(slices[some], given, options.quantile)
            log.info("codes of more than %.2f bits are drawn anew", self.detector.threshold_bits)
        rows = []
        for scan in scans:
            _, brain, scores = self.scores(scan)
            rows.append(scoring.healthy_thresholds(scores, brain, options.specificity))
        found = pd.DataFrame(rows).mean().to_dict()
        return found if own is None else found | {leading: own}

    def _make_detector(self, log):
        options, trained = self.options, self.trained
        if trained.prior is None:
            log.warning("no prior in %s: reconstruction errors alone", trained.path)
        threshold = options.threshold_bits
        if threshold is None and (trained.path / "metrics.json").exists():
            noted = read_json(trained.path / "metrics.json").get("prior", {})
            noted = noted.get("validation_quantiles", {})
            if noted:  # bits of validation subjects, at the nearest quantile that was noted
                threshold = noted[
                    min(noted, key=lambda share: abs(float(share) - options.quantile))
                ]
        names = ("draws", "passes", "temperature", "top_p", "sharpness", "mirror", "seed")
        return AnomalyDetector(
            trained.model,
            trained.prior,
            threshold_bits=threshold,
            batch_size=options.batch_size,
            **{name: getattr(options, name) for name in names},
        )

    def conditions(self, slices):
        """What the prior is given of all slices of a scan: dict, see `conditions_of_scan`."""
        return conditions_of_scan(self.trained.prior, slices, self.trained.model.stride)

    def scores(self, scan):
        """What the model says about slices of a scan, the brain in them, and every score map."""
        options, slices = self.options, scan.slices
        evidence = self.detector.evidence(slices, self.conditions(slices))
        brain = scoring.brain_area(slices)
        names = ("smooth", "restoration_smooth", "median", "erode", "without_fluid")
        depth = ("depth_smooth", "depth_weight", "depth_reach")
        across, down, up = np.linalg.norm(scan.affine[:3, :3], axis=0)
        scores = scoring.score_maps(
            slices,
            evidence,
            brain,
            direction=self.direction,
            **{name: getattr(options, name) for name in names},
            combined=options.combined or COMBINED[self.direction],
            spacing=(up, down, across),
            depth={name: getattr(options, name) for name in depth},
        )
        return evidence, brain, scores


class Result:
    """What a `Search` tells of a scan.

    Args:
        search: `Search`.
        path: `pathlib.Path` of the scan.
        name: str, what the names of its results begin with.
        scan: `brainvq.data.PreparedScan`.
    """

    def __init__(self, search, path, name, scan):
        self.search, self.path, self.name, self.scan = search, path, name, scan
        self.evidence, self.brain, self.scores = search.scores(scan)
        self.volumes = {key: scan.to_volume(score) for key, score in self.scores.items()}
        self.mask = self.lesions = None

    def save_maps(self, thresholds):
        """Writes reconstruction, restoration and scores on the scan's grid, as NIfTI.

        Args:
            thresholds: dict of score to number; what exceeds that of the leading score is marked.
        """
        scan = self.scan
        images = {
            (desc, f"{key} of the scan"): scan.to_intensities(scan.to_volume(self.evidence[key]))
            for key, desc in (("reconstruction", "recon"), ("restored", "restored"))
            if key in self.evidence
        } | {
            (f"{key}score", f"score {key}: higher is less like a healthy brain"): volume
            for key, volume in self.volumes.items()
        }
        results = self.search.trained.results(self.search.options.out)
        start, contrast = bids_name(self.name, self.path)
        place = scan.original_affine
        brain = skull_stripped(scan.image, place, self.search.trained.of_brains)
        leading = self.search.leading
        if leading in thresholds:
            text = f"{leading} score of {thresholds[leading]:.3f} or more"
            marked = results.file(start, "bright", "mask")
            image = (self.volumes[leading] >= thresholds[leading]).astype(np.uint8)
            note = {"Description": text, "Type": "Lesion"}
            results.save(marked, image, place, note, sources=[self.path], like=self.path)
        for (desc, text), image in images.items():
            file, note = results.file(start, desc, contrast), {"Description": text}
            note |= {"SkullStripped": brain}
            results.save(file, image, place, note, sources=[self.path], like=self.path)

    def measure(self, path, lesions):
        """Adds how well the scores find the lesions of a mask to a `LesionScores`."""
        self.mask = mask_on(self.scan, path)
        self.lesions = self.scan.from_volume(self.mask) > 0.5
        voxel_ml = abs(np.linalg.det(self.scan.affine[:3, :3])) / 1000
        lesions.add(self.name, self.scores, self.lesions, self.brain, voxel_ml)
        self.search.participants[self.name] = participant_of(self.name, self.path)

    def height(self):
        """How high scores rise in the brain: the 99th percentile, in units that scans share."""
        order = (self.search.leading, "restoration", "pixel")
        score = next(self.scores[name] for name in order if name in self.scores)
        return float(np.percentile(score[self.brain], 99)) if self.brain.any() else 0.0

    def pictures(self):
        """Draws the scan slice by slice, and in three planes: list of (path, caption)."""
        scan, name, out = self.scan, self.name, self.search.options.out
        simulated = self.search.simulated
        grid = anomaly_grid(
            scan.slices,
            self.evidence,
            self.scores,
            path=out / f"{name}_slices.png",
            title=f"{name}: what is unlike a healthy brain",
            spacing=tuple(np.linalg.norm(scan.affine[:3, :2], axis=0)[::-1]),
            mask=self.lesions,
            simulated=simulated,
        )
        planes = anomaly_planes(
            scan.image,
            {key: self.volumes[key] for key in SHOWN if key in self.volumes},
            scan.original_affine,
            path=out / f"{name}_planes.png",
            title=f"{name}: scores over the scan",
            mask=self.mask,
            simulated=simulated,
        )
        return [(grid, f"{name}, slice by slice."), (planes, f"{name} in three planes.")]


def report(search, lesions, pictures, thresholds, log):
    """Writes tables and figures of what was measured, and `report.html`.

    Args:
        search: `Search`.
        lesions: `brainvq.evaluation.LesionScores` of the scans with masks.
        pictures: list of (scan, how high its scores rise, list of (path, caption)).
        thresholds: what `Search.calibrate` returned.
        log: `logging.Logger`.
    """
    trained, options = search.trained, search.options
    measured = bool(lesions.methods) and lesions.table()["average_precision"].notna().any()
    drawn = {"scans": pictures}
    if measured:
        drawn |= _measures(lesions, search, log)
    page = anomaly_report(
        lesions if measured else None,
        drawn,
        about=f"{trained.description}; one axial slice in {options.step}",
        settings=dataclasses.asdict(options)
        | {"direction": search.direction, "threshold bits": search.detector.threshold_bits}
        | {"threshold": (thresholds or {}).get(search.leading)},
        modality=search.modality,
        direction=search.direction,
        calibrated=bool(options.healthy),
        simulated=search.simulated,
        simulated_training=trained.simulated,
        footer=f"brainvq {trained.about['brainvq']}",
    )
    write_report(options.out / "report.html", page)
    log.info("maps, pictures, tables and report.html in %s", options.out)


def _measures(lesions, search, log):
    """Writes `subjects.tsv`, `summary.csv` and two figures: dict of the figures."""
    table, summary = lesions.table(), lesions.summary()
    out, simulated = search.options.out, search.simulated
    whose = table["subject"].map(search.participants)
    write_tsv(out / "subjects.tsv", table.assign(participant_id=whose))
    write_csv(out / "summary.csv", summary)
    curves = {name: lesions.curves(name) for name in lesions.methods}
    drawn = {
        "curves": roc_and_precision_recall(
            curves, lesions.pooled(), path=out / "curves.png", simulated=simulated
        ),
        "bars": score_bars(table, path=out / "subjects.png", simulated=simulated),
    }
    shown = summary[["method", "n", *MEASURES, "pooled_average_precision"]]
    log.info("%s", shown.round(4).to_string(index=False))
    return drawn
