"""Scans as volumes that become one vector each, and the way back; what `predict` does with them."""

from brainvq.errors import UserError
from brainvq.files import read_array, write_array
from brainvq.reports.planes import reconstruction_planes
from brainvq.tasks.names import bids_name, participant_of, write_rows
from brainvq.tasks.samples import Samples, require_finite
from brainvq.tasks.scan_samples import ScanSample
from brainvq.tasks.vectors import walks
from brainvq.tasks.vectors.decoded import (
    SHOWN,
    decoded,
    grid_of,
    picture_volumes,
    read_scans,
    save_volumes,
    vectors_of,
)
from brainvq.tasks.volumes.samples import measures_row


class VectorSample(ScanSample):
    """A scan as a volume that becomes one vector; see `ScanSample`."""

    def reconstruct(self, batch_size):
        """The volume through its vector, float32 `(1, x, y, z, 1)` in [0, 1]."""
        return decoded(self.trained, vectors_of(self.trained, [self.scan]), batch_size)

    def restore(self, restored):
        """The volume on the scan's grid."""
        return self.scan.to_scan(restored[0])

    def measures(self, restored, whole):
        """A row, measured on the study's grid."""
        del whole
        return [measures_row(self.path, self.scan, self.scan.volume[None], restored)]

    def summary(self, row):
        """A row of `measures` in words."""
        return f"{super().summary(row)}, PSNR {row['psnr']:.1f} dB"

    def picture(self, restored, whole, rows, path):
        """The volume and its reconstruction on the study's grid, in three planes."""
        del whole, rows
        reconstruction_planes(
            self.scan.volume[..., 0],
            restored[0, ..., 0],
            grid_of(self.trained),
            path=path,
            title=f"{self.name} through {self.model.latent_size} numbers",
            simulated=self.simulated,
        )

    def encode(self, batch_size):
        """The vector of the scan: float32 `(latent_size,)`."""
        del batch_size
        return vectors_of(self.trained, [self.scan])[0]

    def save_latents(self, latents, folder):
        """Writes the vector; decoding needs nothing beside it."""
        write_array(folder / f"{self.name}.npy", latents)

    def row(self, latents):
        """The vector as a row of `latents.tsv`."""
        columns = [f"z{number:03d}" for number in range(len(latents))]
        whose = {"participant_id": participant_of(self.name, self.path), "scan": self.name}
        return {**whose, **dict(zip(columns, latents, strict=True))}

    def describe(self, latents):
        """The vector in words."""
        return f"{len(latents)} numbers"

    def decode(self, latents, batch_size):
        """Volumes `(n, x, y, z, 1)` of vectors, in [0, 1]."""
        return decoded(self.trained, latents, batch_size)

    def save_decoded(self, decoded, folder):
        """Writes volumes as NIfTI, and a picture of them."""
        count, stem = len(decoded), f"{self.name}_decoded"
        start = bids_name(self.name, self.path)[0]
        numbers = [f"{number:03d}" for number in range(1, count + 1)] if count > 1 else [""]
        names = [(start, f"decoded{number}") for number in numbers]
        save_volumes(self.trained, folder, names, decoded)
        few = f", {SHOWN} of {count}" if count > SHOWN else ""
        title = f"decoded from {self.path.name}{few}"
        picture_volumes(self.trained, decoded, folder / f"{stem}.png", title)
        return f"{count} volume{'s' if count > 1 else ''} in {folder}"


class VectorSamples(Samples):
    """What samples that become vectors have in common."""

    verbs = {
        "sample": walks.sample,
        "traverse": walks.traverse,
        "interpolate": walks.interpolate,
    }
    needs_prior = False

    def in_template_space(self, study):
        """Whether volumes are registered to the template."""
        return study.data.registration != "no"

    def similarity(self, trained):
        """How the measures of `similarity.tsv` are made, in words."""
        return "SSIM: 3D, 7x7x7 window, data range 1; on the study's grid"

    def draw(self, trained, n, level=None, bundle=None, temperature=1.0, seed=None, **options):
        """Draws vectors as `IntroVAE.draw` does: float32 `(n, latent_size)`; see `Samples`."""
        for name, value in {"level": level, "bundle": bundle, **options}.items():
            if value not in (None, False):
                raise UserError(
                    f"{name}: found {value}; expected temperature and seed alone, because the "
                    f"volumes of {trained.path} are drawn as vectors"
                )
        return trained.model.draw(n, seed, temperature)

    def read(self, trained, options, log):
        """Yields the sample of each scan; bad ones are reported and counted."""
        wanted = options.wanted(trained.study)
        for path, given, scan in read_scans(trained, options.files, log, options.out, wanted):
            yield VectorSample(trained, path, given.name, scan)

    def read_latents(self, path, name, trained):
        """Vectors `(n, latent_size)` of a file, checked against the model; see `Samples`."""
        size = trained.model.latent_size
        vectors = read_array(path, expected="what encode writes")
        numbers = vectors.dtype.kind in "iuf" and vectors.ndim > 0 and vectors.size > 0
        if not numbers or vectors.shape[-1] != size:
            raise UserError(
                f"{path}: found {vectors.dtype} of shape {vectors.shape}; expected numbers of "
                f"shape ({size},) or (n, {size})"
            )
        require_finite(vectors, path)
        vectors = vectors.reshape(-1, size).astype("float32")
        return vectors, VectorSample(trained, path, name, None)

    def finish_encode(self, trained, rows, folder, log):
        """Writes `latents.tsv`."""
        write_rows(folder / "latents.tsv", rows, column="scan")
        log.info("%d vectors (float32) and latents.tsv in %s", len(rows), folder)
