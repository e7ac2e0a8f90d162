"""How well scans are registered to a template, and the outliers of a cohort.

The correlation of a scan with a template depends on the scan's contrast: grey matter is darker than
white on T1 and brighter on FLAIR. So the score that scans are compared by is the multiple
correlation with the template's tissue maps: the correlation with their best linear combination,
whatever the contrast. It is taken over the brain and a rim around it, where a misplaced brain shows
first: inside, a scan of one person differs from an average of many by its gyri alone, so that
correlations there stay far below 1 for perfect maps too. With a symmetric template, a scan whose
left and right were exchanged is not detected.
"""

import numpy as np
import pandas as pd
from scipy import ndimage

from brainvq.errors import UserError

_BINS = 32
# A robust z-score beyond this is an outlier (Iglewicz and Hoaglin 1993, "How to detect and handle
# outliers").
THRESHOLD = 3.5
# The deviation counts as at least this, or a cohort of nearly equal scans would have outliers.
_SMALLEST_SPREAD = 0.01


class RegistrationQuality:
    """Scores of registered scans against a template, and their mean image; scans come in batches.

    Args:
        template: `(x, y, z)`, the template's intensities.
        tissues: list of `(x, y, z)`, maps of its tissues, such as grey and white matter and fluid.
        mask: bool `(x, y, z)`, its brain.
        rim: int ≥ 0, voxels around the brain that count too. Default 2, 8 mm in voxels of 4 mm.

    Raises:
        ValueError: the shapes differ, or the mask is empty.
    """

    def __init__(self, template, tissues, mask, rim=2):
        self.mask = np.asarray(mask, bool)
        shapes = [np.shape(template), *map(np.shape, tissues)]
        if any(shape != self.mask.shape for shape in shapes) or not self.mask.any():
            raise ValueError(
                "template, tissues and mask must be of one shape, the mask not empty. "
                f"Received: {shapes}, mask {self.mask.shape} with {int(self.mask.sum())} voxels"
            )
        self._area = ndimage.binary_dilation(self.mask, iterations=rim) if rim else self.mask
        self._template = np.asarray(template, np.float64)
        maps = [np.asarray(tissue, np.float64)[self._area] for tissue in tissues]
        # Orthonormal, so that the fit of a scan is one product.
        self._basis = np.linalg.qr(np.stack([*maps, np.ones_like(maps[0])], axis=1))[0]
        self._rows = []
        self._sum = np.zeros(self.mask.shape)
        self._steepness = 0.0

    def update(self, volumes):
        """Takes a batch of scans `(n, x, y, z)` or `(n, x, y, z, 1)`, in any units.

        Raises:
            ValueError: another shape.
        """
        volumes = np.asarray(volumes, np.float64)
        volumes = volumes[..., 0] if volumes.ndim == 5 else volumes
        if volumes.shape[1:] != self.mask.shape:
            raise ValueError(
                f"scans must be (n, {self.mask.shape}). Received: shape {volumes.shape}"
            )
        for volume in volumes:
            values = volume[self.mask]
            information = mutual_information(volume[self._area], self._template[self._area])
            self._rows.append(
                {
                    "fit": self._fit(volume[self._area]),
                    "correlation": _correlation(values, self._template[self.mask]),
                    "mutual_information": information,
                }
            )
            # One brightness for all: else the brightest scans would be the mean image.
            scale = np.median(np.abs(values))
            if scale > 0:
                self._sum += volume / scale
                self._steepness += _steepness(volume / scale, self.mask)

    @property
    def mean(self):
        """float32 `(x, y, z)`: the mean image, the median of each scan's brain being 1."""
        return (self._sum / max(len(self._rows), 1)).astype(np.float32)

    @property
    def sharpness(self):
        """Steepness of the mean image as a share of that of its scans, 0 to 1.

        The root mean square gradient inside the mask. 1: all scans show the same; where scans lie
        apart their edges cancel out. The paper (Vogelsanger and Federau) judged the sharpness of
        the mean image by eye.
        """
        return float(_steepness(self.mean, self.mask) * len(self._rows) / self._steepness)

    def table(self, scan_ids):
        """The scores, a row per scan in the order of the updates.

        Args:
            scan_ids: `(n,)`, their names.

        Returns:
            `pandas.DataFrame` of scan_id, fit (multiple correlation with the tissue maps in brain
            and rim, 0 to 1), correlation (with the template inside the brain, -1 to 1),
            mutual_information (with the template in brain and rim, bits per voxel), z (robust
            z-score of the fit over these scans, negative for poor ones) and outlier (bool).

        Raises:
            UserError: no scan was there.
            ValueError: another number of names.
        """
        if not self._rows:
            raise UserError("registration quality: no scans; expected one or more")
        table = pd.DataFrame(self._rows)
        if len(scan_ids) != len(table):
            raise ValueError(
                f"one name for each of {len(table)} scans is needed. Received: {len(scan_ids)}"
            )
        table.insert(0, "scan_id", list(scan_ids))
        table["z"] = robust_z(table["fit"])
        table["outlier"] = table["z"] < -THRESHOLD
        return table

    def _fit(self, values):
        deviations = values - values.mean()
        total = deviations @ deviations
        fitted = self._basis.T @ deviations
        return float(np.sqrt(np.clip(fitted @ fitted / total, 0, 1))) if total > 0 else 0.0


def robust_z(values):
    """Distances from the median in robust standard deviations.

    z = 0.6745 (x - median) / MAD (Iglewicz and Hoaglin 1993); the deviation counts as at least
    0.01, in the units of the values.

    Args:
        values: `(n,)` numbers.

    Returns:
        float64 `(n,)`.
    """
    values = np.asarray(values, np.float64)
    away = values - np.median(values)
    return away / max(np.median(np.abs(away)) / 0.6745, _SMALLEST_SPREAD)


def mutual_information(x, y):
    """Mutual information of two lists of intensities, in bits per voxel.

    From a joint histogram of 32 by 32 bins, which end at the 0.5th and 99.5th percentile of each.

    Args:
        x: `(n,)`.
        y: `(n,)`, of the same voxels.

    Returns:
        float from 0 to 5; 0 where one of the two has a single value.
    """
    places = []
    for values in (np.asarray(x, np.float64), np.asarray(y, np.float64)):
        low, high = np.percentile(values, [0.5, 99.5])
        if not high > low:
            return 0.0
        places.append(np.clip((values - low) / (high - low) * _BINS, 0, _BINS - 1).astype(int))
    counts = np.bincount(places[0] * _BINS + places[1], minlength=_BINS**2)
    joint = counts.reshape(_BINS, _BINS) / counts.sum()
    alone = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log2(joint[there] / alone[there])))


def _correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else 0.0


def _steepness(volume, mask):
    gradients = np.gradient(volume)
    return np.sqrt(np.mean(sum(g[mask] ** 2 for g in gradients)))
