"""Scans as slices, in one plane or all three, and the way back; what `predict` does with them."""

import dataclasses

import numpy as np

from brainvq import data
from brainvq.data import ArrayStore
from brainvq.data.remarks import collected, remark
from brainvq.errors import UserError
from brainvq.evaluation import anatomy_table, ssim
from brainvq.evaluation.similarity import foreground
from brainvq.files import read_json, write_csv
from brainvq.reports import figures
from brainvq.reports.planes import three_planes
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.scan_samples import ScanSample, ScanSamples
from brainvq.tasks.slices.measures import measure_anatomy
from brainvq.tasks.slices.plans import drawn_conditions, drawn_volume
from brainvq.tasks.slices.steps import spread

# Below this share of the brightest pixel a foreground is black.
BLACK = 0.05
# New or decoded slices that a picture has room for.
SHOWN = 64


class SliceSample(ScanSample):
    """A scan as slices of one or three planes.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        path: `pathlib.Path` of the scan, or of its codes.
        name: str, what the names of its results begin with.
        scans: `PreparedScan`s, one for each plane; empty where only codes are known.
    """

    unit = "slice"
    black = False

    def __init__(self, trained, path, name, scans):
        super().__init__(trained, path, name, scans[0] if scans else None)
        self.scans = scans

    def reconstruct(self, batch_size):
        """Slices of each plane: list of float32 `(n, rows, columns, 1)` in [0, 1]."""
        return [
            np.clip(self.model.reconstruct(scan.slices, batch_size=batch_size), 0, 1)
            for scan in self.scans
        ]

    def restore(self, restored):
        """Slices on the scan's grid, the mean over planes: float32 `(x, y, z)` in [0, 1]."""
        volume = 0
        for scan, slices in zip(self.scans, restored, strict=True):
            volume = volume + scan.to_volume(slices) / np.float32(len(self.scans))
        return volume

    def measures(self, restored, whole):
        """A row for each plane, and one for the mean of three."""
        rows = [
            self._row(scan.plane, scan, slices)
            for scan, slices in zip(self.scans, restored, strict=True)
        ]
        if len(rows) > 1:
            rows.append(self._row("mean of three", self.scan, self.scan.from_volume(whole)))
        return rows

    def summary(self, row):
        """A row of `measures` in words, and why its foreground is like nothing."""
        why = " (the model gives black there: was it trained long enough?)" if self.black else ""
        return super().summary(row) + why

    def _row(self, plane, scan, restored):
        restored = restored.reshape(scan.slices.shape)
        brain = foreground(scan.slices)
        inside = ssim(scan.slices, restored, mask=brain)
        self.black = brain.any() and restored.reshape(brain.shape)[brain].max() < BLACK
        return {
            "file": str(self.path),
            "plane": plane,
            "slices": len(restored),
            "rows": scan.size[0],
            "columns": scan.size[1],
            "ssim": float(ssim(scan.slices, restored).mean()),
            "ssim_foreground": float(np.nanmean(inside)) if np.isfinite(inside).any() else np.nan,
        }

    def encode(self, batch_size):
        """Codes `(n, rows, columns)` of all slices."""
        return self.model.codes(self.scan.slices, batch_size=batch_size)

    def grid(self, codes):
        """Plane, slices, and codes along each axis of one."""
        return {
            "plane": self.scan.plane,
            "slices": len(codes),
            "code_rows": codes.shape[1],
            "code_columns": codes.shape[2],
        }

    def on_scan(self, images):
        """Slices on the scan's grid: float32 `(x, y, z)` in [0, 1]."""
        return self.scan.to_volume(np.clip(images, 0, 1))

    def picture_decoded(self, decoded, whole, stem):
        """Slices side by side, evenly spread over the scan."""
        del whole
        plane = self.scan.plane if self.scan else "plane not known"
        figures.image_grid(
            decoded[spread(len(decoded), SHOWN)],
            path=f"{stem}.png",
            title=f"decoded from {self.path.name}, {plane}",
            simulated=self.trained.simulated,
        )

    def middles(self, codes):
        """All slices, their codes and their plane."""
        return self.scan.slices, codes, self.scan.plane


class SliceSamples(ScanSamples):
    """What samples of slices have in common."""

    prepared = data.PreparedScan
    code_shape = "(n, rows, columns)"
    chosen_by = ("level", "stack")

    def sample(self, trained, path, name, scan):
        """The `SliceSample` of scans as `read_scan` gives them, or of one, or of None."""
        scans = scan if isinstance(scan, list) else [scan] if scan else []
        return SliceSample(trained, path, name, scans)

    def conditions(self, trained, n, seed, level=None, stack=False, **wanted):
        """Heights of `n` slices, and plans of as many brains, or of one."""
        planned = trained.prior.plan is not None
        known = planned or trained.prior.num_classes is not None
        if level is not None and not (known and 0 <= level <= 1):
            expected = "from 0 to 1" if known else "none, because this prior knows no heights"
            raise UserError(f"level: found {level}; expected {expected}")
        if stack and not planned:
            raise UserError(
                f"stack: the prior of {trained.path} knows no brain as a whole; expected one that "
                "draws by a plan (--prior.plan)"
            )
        return drawn_conditions(trained.prior, n, level, seed, brains=1 if stack else n)

    def similarity(self, trained):
        """How the measures of `similarity.tsv` are made, in words."""
        return "SSIM: 2D, 7x7 window, data range 1"

    def read_scan(self, trained, path, options):
        """A `PreparedScan` for each plane that the options ask for; the first has the image."""
        matrix = options.matrix_for(trained.study)
        given = {"matrix": matrix, "spacing": options.spacing, "usual": trained.usual}
        with collected() as remarks:  # each once, not for each plane
            scans = [
                data.PreparedScan.read(str(path), trained.steps, plane=plane, **given)
                for plane in options.planes
            ]
        for text in remarks:
            remark(text)
        return scans[:1] + [dataclasses.replace(scan, image=None) for scan in scans[1:]]

    def show_drawn(self, trained, images, options):
        """New slices side by side; those of one brain as NIfTI and in three planes too."""
        stack, folder = options.stack, options.out
        shown = min(SHOWN, len(images))
        what = f"{shown} of {len(images)} {'slices of a brain' if stack else 'brains'}"
        figures.image_grid(
            images[spread(len(images), SHOWN)],
            path=folder / "samples.png",
            title=f"{what} drawn from the prior, axial",
            simulated=trained.simulated,
        )
        if not stack:
            return "samples.png"
        volume, affine = drawn_volume(images, trained.prior.plan)
        results = trained.results(folder)
        note = {"Description": "decoded from drawn codes, slice by slice"}
        note |= {"Units": "shares of a scan's range, from 0 to 1", "Simulated": trained.simulated}
        file = results.save(
            results.file("sub-sample001", "drawn"), volume, affine, note, grid="study"
        )
        three_planes(
            {"drawn": volume},
            affine,
            path=folder / "brain.png",
            title=f"A brain drawn from the prior, {len(images)} axial slices",
            simulated=trained.simulated,
        )
        return f"samples.png, {file.relative_to(folder)}, brain.png"

    def measure_drawn(self, trained, images, options, log):
        """Writes `anatomy.csv` where slices spread over the brain and unseen people are at hand."""
        note = trained.path / "store.json"
        if options.level is not None or options.stack or not note.exists():
            return
        try:
            run = LoadedRun.open(trained.path)
            # As they are: a sample is no time to prepare scans anew.
            run.arrays, run.model = ArrayStore.open(read_json(note)["path"]), trained.model
            measured, _ = measure_anatomy(run, images)
        except UserError as error:
            log.info("no anatomy.csv: slices of unseen people are not at hand (%s)", error)
            return
        if not measured:
            return
        table = anatomy_table(measured["anatomy"])
        write_csv(options.out / "anatomy.csv", table)
        log.info("beside unseen people (anatomy.csv):\n%s", table.round(3).to_string(index=False))
        for name, why in measured["anatomy"]["left_out"].items():
            log.info("%s: not measured (%s)", name.replace("_", " "), why)
