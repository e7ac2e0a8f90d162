"""The way back from groups of streamlines to a tractogram, and its form in a file.

The streamlines of a file get the model's number of points (at equal distances along them) and one
direction, make groups in their order, the last one filled up with its own, and are scaled by the
run's scale.json. On the way back all of this is undone: the file that is written has the format,
space, order and directions of the one that was read, and as many streamlines.
"""

import dataclasses

import numpy as np

from brainvq import data
from brainvq.data.tractograms import FORMATS
from brainvq.errors import UserError
from brainvq.files import read_json


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Place:
    """What the way back from groups to the streamlines of a file needs, besides the run's scale.

    Attributes:
        format: ".trk", ".tck" or ".trx".
        flipped: bool `(n,)`, the streamlines that were turned around.
        points: int `(n,)`, points that each gets; None for as many as the model gives.
        affine: `(4, 4)` voxel indices of the file's space to mm, or None where it has none (.tck).
        shape: (x, y, z) voxels of that space, or None.
        others: what the file holds that is no curve, such as a single point, and stays as it is:
            dict of its number in the file to float `(points, 3)` in mm.
    """

    format: str
    flipped: np.ndarray
    points: np.ndarray | None = None
    affine: np.ndarray | None = None
    shape: tuple | None = None
    others: dict = dataclasses.field(default_factory=dict)

    def streamlines(self, groups, scale):
        """Groups in units as the streamlines of the file, in mm: array or list of `(points, 3)`."""
        # Only the end of the last group is filled up.
        lines = np.asarray(groups).reshape(-1, *groups.shape[2:])[: len(self.flipped)]
        lines = data.restore_directions(scale.to_mm(lines), self.flipped)
        lines = lines if self.points is None else with_points(lines, self.points)
        if not self.others:
            return lines
        curves = iter(lines)
        count = len(lines) + len(self.others)
        return [self.others[k] if k in self.others else next(curves) for k in range(count)]

    def to_config(self):
        """The content of the `.json` beside codes."""
        others = {str(k): np.asarray(line).tolist() for k, line in self.others.items()}
        return {
            "format": self.format,
            "streamlines": len(self.flipped),
            "flipped": "".join(map(str, self.flipped.astype(int))),
            "points": None if self.points is None else self.points.tolist(),
            "affine": None if self.affine is None else np.asarray(self.affine).tolist(),
            "shape": None if self.shape is None else list(self.shape),
            **({"others": others} if others else {}),
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
            place = cls(
                config["format"],
                flipped,
                None if points is None else np.array(points, int).reshape(len(flipped)),
                None if affine is None else np.array(affine, float).reshape(4, 4),
                None if shape is None else tuple(int(size) for size in shape),
                {
                    int(k): np.array(line, float).reshape(-1, 3)
                    for k, line in config.get("others", {}).items()
                },
            )
            if not set(place.others) <= set(range(len(flipped) + len(place.others))):
                raise ValueError(f"others: found numbers {', '.join(map(str, place.others))}")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: {reason}; expected what encode wrote") from None
        space = (affine is None) == (shape is None) and len(shape or "xyz") == 3
        if place.format not in FORMATS or len(flipped) == 0 or not space:
            raise UserError(f"{path}: found another content; expected what encode wrote")
        if place.points is not None and place.points.min() < 2:
            raise UserError(f"{path}: points: found {place.points.min()}; expected 2 or more")
        return place


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
    curves = [None] * len(lines)
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        place = np.linspace(0, lines.shape[1] - 1, count)
        first = np.minimum(place.astype(int), lines.shape[1] - 2)
        part = (place - first)[:, None]
        resampled = (1 - part) * lines[rows][:, first] + part * lines[rows][:, first + 1]
        for row, curve in zip(rows, resampled.astype("float32"), strict=True):
            curves[row] = curve
    return curves


def save_new(lines, path, place=None):
    """Writes streamlines in mm without a header of their own, in the space of `place` or MNI's."""
    space = () if place is None or place.affine is None else (place.affine, place.shape)
    return data.save_tractogram(data.new_tractogram(lines, *space), lines, path)
