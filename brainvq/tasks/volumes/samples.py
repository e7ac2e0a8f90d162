"""Scans as volumes, and the way back; what `predict` does with them."""

import logging

import numpy as np

from brainvq import data, evaluation
from brainvq.errors import UserError
from brainvq.reports.planes import three_planes
from brainvq.tasks.samples import sizes
from brainvq.tasks.scan_samples import ScanSample, ScanSamples
from brainvq.tasks.volumes.registration import grid_affine

logger = logging.getLogger("brainvq")
SEXES = {"F": 0.0, "M": 1.0}
EXPECTED = {"age": "years from 0 to 150", "sex": "F or M"}
MOST_YEARS = 150
# New or decoded volumes that a picture has room for.
SHOWN = 6
MEASURES = ("ssim", "ssim_foreground", "psnr", "psnr_foreground")


class VolumeSample(ScanSample):
    """A scan as a volume; see `ScanSample`."""

    unit = "volume"

    def reconstruct(self, batch_size):
        """The volume through the model, float32 `(1, x, y, z, 1)` in the scale of the study."""
        return self.model.reconstruct(self.scan.volume[None], batch_size=batch_size)

    def restore(self, restored):
        """The volume on the scan's grid."""
        return self.on_scan(restored)

    def measures(self, restored, whole):
        """A row, measured in the voxels of the study."""
        del whole
        pair = evaluation.to_unit(self.scan.volume[None], restored)
        return [measures_row(self.path, self.scan, *pair)]

    def encode(self, batch_size):
        """Codes `(x, y, z)`."""
        del batch_size
        return self.model.codes(self.scan.volume[None], batch_size=1)[0]

    def grid(self, codes):
        """Codes along each axis."""
        return {"grid": sizes(codes.shape)}

    def on_scan(self, images):
        """A volume of the model on the scan's grid, no darker or brighter than the scan."""
        return self.scan.to_scan(self.scan.clip(images[0]))

    def picture_decoded(self, decoded, whole, stem):
        """Three planes; volumes that belong to no scan are written as NIfTI too."""
        title, path = f"decoded from {self.path.name}", f"{stem}.png"
        if self.scan:
            affine = self.scan.original_affine
            simulated = self.trained.simulated
            three_planes(whole, affine, path=path, title=title, simulated=simulated)
            return
        start = self.bids[0]
        names = [(start, f"decoded{number:03d}") for number in range(1, len(decoded) + 1)]
        save_volumes(self.trained, stem.parent, names, decoded)
        picture_volumes(self.trained, decoded, path, title)

    def middles(self, codes):
        """The slice in the middle of each layer of codes, with the codes, as axial pictures."""
        step = self.model.stride[2]
        middles = np.arange(codes.shape[2]) * step + step // 2
        images = self.scan.volume[:, :, middles.clip(0, self.scan.size[2] - 1), 0].T
        return images, codes.T, "axial"


class VolumeSamples(ScanSamples):
    """What samples of volumes have in common."""

    sample = VolumeSample
    prepared = data.PreparedVolume
    code_shape = "(x, y, z) or (n, x, y, z)"
    chosen_by = ("age", "sex")

    def conditions(self, trained, n, seed, age=None, sex=None, **wanted):
        """Age and sex of all volumes, as the prior takes them."""
        given, traits = {"age": age, "sex": sex}, {}
        for name, value in given.items():
            if value is None:
                continue
            known = trained.prior.known(name) if hasattr(trained.prior, "known") else ()
            if not len(known) or min(known) == max(known):
                raise UserError(
                    f"{name}: found {value}; expected none, because the prior of {trained.path} "
                    f"knows no people that differ in {name}"
                )
            fits = value in SEXES if name == "sex" else 0 <= value <= MOST_YEARS
            if not fits:
                raise UserError(f"{name}: found {value}; expected {EXPECTED[name]}")
            traits[name] = SEXES.get(value, value)
            if not min(known) <= traits[name] <= max(known):
                logger.warning(
                    "age %g is outside that of the training people, %g to %g years: the new brains "
                    "go on along a straight line",
                    age,
                    min(known),
                    max(known),
                )
        return {"traits": traits} if traits else {}

    def similarity(self, trained):
        """How the measures of `similarity.tsv` are made, in words."""
        return "SSIM: 3D, 7x7x7 window, data range 1"

    def in_template_space(self, study):
        """Whether volumes are registered to the template."""
        return study.data.registration != "no"

    def read_scan(self, trained, path, options):
        """A `PreparedVolume`."""
        del options
        return data.PreparedVolume.read(str(path), trained.steps, trained.usual)

    def check_place(self, codes, path, place):
        """Refuses several volumes for one scan."""
        if len(codes) > 1:
            raise UserError(f"{path}: found {len(codes)} volumes; expected one, that of {place}")

    def show_drawn(self, trained, images, options):
        """New volumes as NIfTI, and in three planes."""
        folder = options.out
        names = [(f"sub-sample{number:03d}", "drawn") for number in range(1, len(images) + 1)]
        wanted = {"Age": options.age, "Sex": options.sex}
        save_volumes(trained, folder, names, images, wanted)
        title = f"{min(SHOWN, len(images))} of {len(images)} brains drawn from the prior"
        picture_volumes(trained, images, folder / "samples.png", title)
        return "sub-sample*/anat/*.nii.gz, samples.png"


def measures_row(path, scan, images, restored):
    """How alike a volume and its reconstruction are, a row of `similarity.tsv`.

    Args:
        path: `pathlib.Path` of the scan.
        scan: its `PreparedVolume`.
        images: float `(1, x, y, z, 1)` in [0, 1].
        restored: array of the same shape.
    """
    measured = evaluation.per_subject(images, restored, [str(path)], ndim=3).to_dict("records")[0]
    row = {"file": str(path), "voxels": sizes(scan.size)}
    return row | {name: measured[name] for name in MEASURES}


def known_traits(table):
    """What a prior over volumes is told of training people.

    Args:
        table: `pandas.DataFrame` of their scans, with the columns age and sex.

    Returns:
        Dict of float arrays, NaN where not known: age in years, and sex, 0 for female and 1 for
        male; without those that are not known of anyone.
    """
    traits = {"age": table["age"], "sex": table["sex"].map(SEXES)}
    traits = {name: values.to_numpy("float32") for name, values in traits.items()}
    return {name: values for name, values in traits.items() if np.isfinite(values).any()}


def save_volumes(trained, folder, names, images, wanted=None):
    """Writes volumes that belong to no scan as NIfTI, each with a note on its intensities.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        folder: `pathlib.Path` of the results.
        names: list of (start of the name, description), as `Derivatives.file` takes them.
        images: arrays `(x, y, z, 1)`.
        wanted: dict of what else the notes shall say; None is left out.
    """
    units = (
        "shares of the scan's range, from 0 to 1"
        if trained.unit_range
        else "standard deviations of the scan above its background; what is darker is 0"
    )
    about = {"Description": "decoded from codes", "Units": units, "Simulated": trained.simulated}
    about |= {name: value for name, value in (wanted or {}).items() if value is not None}
    affine, results = grid_affine(trained.study.data), trained.results(folder)
    mni = trained.in_template_space
    for (start, desc), image in zip(names, images, strict=True):
        image = image[..., 0] if trained.unit_range else data.above_background(image[..., 0])
        file = results.file(start, desc, mni=mni)
        results.save(file, image, affine, about, grid="study", mni=mni)


def picture_volumes(trained, images, path, title):
    """A picture of volumes that belong to no scan, in three planes through the middle."""
    volumes = {f"{number:03d}": image for number, image in enumerate(images[:SHOWN], 1)}
    three_planes(
        {name: data.above_background(image[..., 0]) for name, image in volumes.items()},
        grid_affine(trained.study.data),
        path=path,
        position=(0, 0, 0),
        title=title,
        simulated=trained.simulated,
    )
