"""Preprocessing steps that change intensities and leave every voxel where it is."""

import dataclasses

import numpy as np

from brainvq.data.errors import ScanError
from brainvq.data.foreground import darkest, foreground_mask
from brainvq.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClipIntensity:
    """Cuts off the darkest and brightest values at percentiles.

    Args:
        lower: percentile (0 to 100) that lower values are raised to; 0 (default) leaves the dark
            end as it is, background included, but for outliers below it (see `darkest`).
        upper: percentile that higher values are lowered to; default 99.9, 100 leaves them.
        over: the voxels the percentiles are taken over: "foreground" (default) or "all".
    """

    lower: float = 0.0
    upper: float = 99.9
    over: str = "foreground"

    def __post_init__(self):
        _check_percentiles("ClipIntensity", self.lower, self.upper)
        _check_over("ClipIntensity", self.over)

    def __call__(self, image, affine):
        """Returns the clipped image and the same affine."""
        low, high = _percentiles(image, self.lower, self.upper, self.over)
        return np.clip(image, low, high), affine


@dataclasses.dataclass(frozen=True)
class ScaleIntensity:
    """Brings intensities into [0, 1].

    Args:
        method: "minmax" (default): (x − min) / (max − min) over all voxels, where min leaves out a
            few outliers below the background, which become 0 (see `darkest`). "max": x / max, with
            values below 0 set to 0. "percentile": (x − low) / (high − low), cut off at 0 and 1.
        lower: percentile of the foreground for low ("percentile" only); 0 (default) is the minimum
            of all voxels, as for "minmax".
        upper: percentile of the foreground for high ("percentile" only); default 99.5.
    """

    method: str = "minmax"
    lower: float = 0.0
    upper: float = 99.5

    def __post_init__(self):
        if self.method not in ("minmax", "max", "percentile"):
            raise UserError(
                f"ScaleIntensity: method is {self.method!r}; expected minmax, max or percentile"
            )
        _check_percentiles("ScaleIntensity", self.lower, self.upper)

    def limits(self, image):
        """The intensities (low, high) of `image` that become 0 and 1."""
        if self.method == "percentile":
            return _percentiles(image, self.lower, self.upper, "foreground")
        return (darkest(image) if self.method == "minmax" else 0.0), image.max()

    def __call__(self, image, affine):
        """Returns the image in [0, 1] and the same affine."""
        low, high = self.limits(image)
        if not high > low:
            raise ScanError(
                f"intensities from {float(low):g} to {float(high):g}; expected more than one value "
                "to scale by"
            )
        return np.clip((image - low) / np.float32(high - low), 0, 1), affine


@dataclasses.dataclass(frozen=True)
class ZScore:
    """Subtracts the mean and divides by the standard deviation; all voxels are transformed.

    Args:
        over: the voxels that mean and deviation are taken over: "foreground" (default) or "all".
    """

    over: str = "foreground"

    def __post_init__(self):
        _check_over("ZScore", self.over)

    def limits(self, image):
        """The intensities (low, high) of `image` that become 0 and 1: mean, mean + deviation."""
        mean, deviation = self._moments(image)
        return mean, mean + deviation

    def __call__(self, image, affine):
        """Returns the standardised image and the same affine."""
        mean, deviation = self._moments(image)
        return (image - np.float32(mean)) / np.float32(deviation), affine

    def _moments(self, image):
        values = image[foreground_mask(image)] if self.over == "foreground" else image
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        if not deviation > 0:
            raise ScanError(f"all intensities are {mean:g}; expected more than one value")
        return mean, deviation


def _percentiles(image, lower, upper, over):
    values = image
    if over == "foreground" and (lower > 0 or upper < 100):
        values = image[foreground_mask(image)]
    low = np.percentile(values, lower) if lower > 0 else darkest(image)
    high = np.percentile(values, upper) if upper < 100 else image.max()
    return np.float32(low), np.float32(high)


def _check_percentiles(name, lower, upper):
    if not 0 <= lower < upper <= 100:
        raise UserError(
            f"{name}: percentiles {lower!r} to {upper!r}; expected 0 <= lower < upper <= 100"
        )


def _check_over(name, over):
    if over not in ("foreground", "all"):
        raise UserError(f"{name}: over is {over!r}; expected 'foreground' or 'all'")
