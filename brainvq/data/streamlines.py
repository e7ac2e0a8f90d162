"""Streamlines as arrays: points at equal distances, directions, groups, and their scale.

A bundle as a model takes it is float32 `(groups, size, points, 3)`: groups of `size` streamlines of
equally many points, in the order of the file, coordinates x, y, z in RAS+ mm or scaled by a
`BundleScale`.
"""

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np

from brainvq.data.scans import SIMULATED
from brainvq.data.tractograms import FORMATS, load_tractogram, sequence
from brainvq.errors import UserError
from brainvq.files import read_array

__all__ = [
    "FORMATS",
    "BundleScale",
    "GroupStreamlines",
    "align_directions",
    "align_groups",
    "group",
    "load_bundle",
    "resample",
    "restore_directions",
    "ungroup",
    "usable",
]

# Where a cosine of a streamline with the mean of its group is smaller, its direction is unclear.
UNCLEAR = 0.2
# The axis along which a group begins is doubtful where another, by which it would begin at the
# other end, is longer than this share of it.
DOUBTFUL = 0.8
logger = logging.getLogger("brainvq")


def load_bundle(paths, points=64):
    """Loads the streamlines of one row of a cohort of bundles, all with equally many points.

    Args:
        paths: path, or tuple of one path: a `.trk`, `.tck` or `.trx` file; a `.npy` file of groups
            `(n, streamlines, 3, points)` in [-1, 1], as TractoInferno's derived data set has them;
            or "simulated:" and parameters.
        points: int, points of each streamline.

    Returns:
        float32 `(n, points, 3)`, RAS+ mm; in the units of the file for `.npy`.

    Raises:
        UserError: the file cannot be read, is empty, or holds no streamline that can be resampled;
            those of a tractogram that cannot are left out, with a word in the log.
    """
    path = str(paths if isinstance(paths, str | Path) else paths[0])
    if path.startswith(SIMULATED):
        from brainvq.data.simulation_bundles import simulate_bundle

        streamlines = simulate_bundle(path.removeprefix(SIMULATED))
        return resample(streamlines, points, source="simulated bundle")
    if path.lower().endswith(".npy"):
        return _load_groups(Path(path), points)
    streamlines = load_tractogram(path).streamlines
    whole = usable(streamlines)
    if whole.any() and not whole.all():
        logger.warning(
            "%s: %d of %d streamlines left out: one point, no length, or not finite",
            path,
            (~whole).sum(),
            len(whole),
        )
        streamlines = streamlines[whole]
    return resample(streamlines, points, source=path)


def usable(streamlines):
    """Which streamlines are curves that `resample` takes.

    Args:
        streamlines: nibabel `ArraySequence` or sequence of `(points, 3)`.

    Returns:
        bool `(n,)`: False for fewer than two points, no length, or coordinates that are not finite.
    """
    return ~np.any(list(_faults(sequence(streamlines)).values()), axis=0)


def resample(streamlines, points=64, source="streamlines"):
    """Gives every streamline the same number of points, at equal distances along it.

    Args:
        streamlines: sequence of `(points, 3)`, or array `(n, points, 3)`.
        points: int from 2, points of each in the result (linear interpolation by arc length; the
            ends stay).
        source: name of the file, for messages.

    Returns:
        float32 `(n, points, 3)`, in the same order.

    Raises:
        UserError: there are none, or one has fewer than two points, no length, or coordinates that
            are not finite.
    """
    if points < 2:
        raise UserError(f"points: found {points}; expected 2 or more points of a streamline")
    streamlines = sequence(streamlines)
    _check_usable(streamlines, source)
    from dipy.tracking.streamline import set_number_of_points  # a second to import

    resampled = set_number_of_points(streamlines, nb_points=points)
    return resampled.get_data().reshape(-1, points, 3).astype(np.float32)


def align_directions(streamlines):
    """Turns streamlines around so that all of a bundle run the same way.

    Which end of a streamline comes first is an accident of tracking. A curve is nearer to a
    reference than its reverse is if their odd parts, (c(t) - c(1 - t)) / 2, have a positive
    product. The signs that agree best are those of the odd parts along their leading direction;
    they are then refined against the mean until none changes, which needs no first guess. The
    bundle as a whole begins at the lower coordinate (left, posterior or inferior) of the axis along
    which the ends of its mean lie farthest apart, so that the same bundle of two people agrees.

    Args:
        streamlines: float `(n, points, 3)`.

    Returns:
        aligned: the same array type and shape, a copy.
        flipped: bool `(n,)`, the ones that were turned around: `restore_directions` undoes it.
    """
    streamlines = np.asarray(streamlines)
    half = streamlines.shape[1] // 2
    turned = streamlines[:, ::-1].astype(np.float64)
    odd = (streamlines - turned)[:, :half] / 2  # (n, points // 2, 3); the other half is its mirror
    flat = odd.reshape(len(odd), -1)
    # Every curve counts the same for the direction: one long stray must not decide it.
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, length, out=np.zeros_like(flat), where=length > 0)
    leading = np.linalg.eigh(unit.T @ unit)[1][:, -1]
    signs = np.where(unit @ leading < 0, -1.0, 1.0)
    for _ in range(20):
        mean = (signs[:, None] * unit).mean(axis=0)
        new = np.where(unit @ mean < 0, -1.0, 1.0)
        if np.array_equal(new, signs):
            break
        signs = new
    # Minus half of the way from the first point of the mean to its last.
    start = (signs[:, None] * odd[:, 0]).mean(axis=0) if half else np.zeros(3)
    if start[np.argmax(np.abs(start))] > 0:
        signs = -signs
    flipped = signs < 0
    return restore_directions(streamlines, flipped), flipped


def restore_directions(streamlines, flipped):
    """Turns the streamlines of a mask around: the inverse of `align_directions`.

    Args:
        streamlines: `(..., points, 3)`.
        flipped: bool `(...)`.

    Returns:
        Array `(..., points, 3)`, a copy.
    """
    return np.where(np.asarray(flipped)[..., None, None], streamlines[..., ::-1, :], streamlines)


def align_groups(groups):
    """Turns streamlines around so that those of each group run the same way.

    As `align_directions` of every group, but for one difference: a group knows less of the
    direction than the bundle that it is of. Groups of aligned bundles, and others that have one
    direction, therefore stay as they are, unless they clearly begin at the end where others stop.

    Args:
        groups: float `(g, size, points, 3)`. Groups that are not finite are left alone.

    Returns:
        aligned: the same array type and shape, a copy.
        flipped: bool `(g, size)`, see `restore_directions`.
    """
    groups = np.asarray(groups)
    flipped = np.zeros(groups.shape[:2], bool)
    for number in np.flatnonzero(np.isfinite(groups).all(axis=(1, 2, 3))):
        flipped[number] = _clearly_flipped(groups[number])
    return restore_directions(groups, flipped), flipped


def _clearly_flipped(streamlines):
    """What `align_directions` turns around, without what it may turn for want of others."""
    aligned, flipped = align_directions(streamlines)
    if not flipped.any():
        return flipped
    odd = (aligned - aligned[:, ::-1])[:, : aligned.shape[1] // 2].astype(np.float64)
    flat = odd.reshape(len(odd), -1)
    length = np.linalg.norm(flat, axis=1)
    mean = np.divide(flat.T, length, out=np.zeros_like(flat.T), where=length > 0).mean(axis=1)
    clear = flipped[flat @ mean > UNCLEAR * length * np.linalg.norm(mean)]
    if clear.any() and not clear.all():
        return flipped
    start = odd[:, 0].mean(axis=0)
    against = max(start.max(), UNCLEAR * np.linalg.norm(odd, axis=2).mean())
    turned = clear.any() and against < DOUBTFUL * -start.min()
    return np.full(len(flipped), turned)


def group(streamlines, size=64):
    """Puts streamlines into groups of `size`, in their order.

    Args:
        streamlines: array `(n, points, 3)`, n from 1.
        size: int, streamlines of a group.

    Returns:
        groups: `(g, size, points, 3)`; streamline i is row i % size of group i // size. The last
            group is filled up by repeating its streamlines from its first.
        counts: int64 `(g,)`, how many rows of each are real.

    Raises:
        UserError: there are no streamlines, or size is below 1.
    """
    streamlines = np.asarray(streamlines)
    if size < 1:
        raise UserError(f"group: size is {size}; expected 1 or more streamlines of a group")
    n = len(streamlines)
    if n == 0:
        raise UserError("group: found no streamlines; expected one at least")
    counts = np.full(-(-n // size), size)
    counts[-1] = n - size * (len(counts) - 1)
    last = size * (len(counts) - 1) + np.arange(size) % counts[-1]
    rows = np.concatenate([np.arange(size * (len(counts) - 1)), last])
    return streamlines[rows].reshape(len(counts), size, *streamlines.shape[1:]), counts


def ungroup(groups, counts):
    """The real streamlines of groups, in order: the inverse of `group`.

    Args:
        groups: `(g, size, points, 3)`.
        counts: int `(g,)`.

    Returns:
        Array `(sum of counts, points, 3)`.
    """
    groups = np.asarray(groups)
    real = np.arange(groups.shape[1]) < np.asarray(counts)[:, None]  # (g, size)
    return groups[real]


@dataclasses.dataclass(frozen=True)
class GroupStreamlines:
    """The one step that prepares bundles: directions aligned, streamlines grouped.

    Args:
        points: points of a streamline.
        size: streamlines of a group.
        align: give the streamlines of a bundle one direction.
        most: groups to keep of each bundle at most, drawn at random and left in their order; None
            for all.
        seed: which groups are drawn.
    """

    points: int = 64
    size: int = 64
    align: bool = True
    most: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name, least in (("points", 2), ("size", 1), ("most", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name == "most":
                continue
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"GroupStreamlines: {name} is {value!r}; expected a whole number from {least}"
                )

    def __call__(self, paths):
        """Loads a bundle and groups it.

        Args:
            paths: as `load_bundle` takes them.

        Returns:
            float32 `(g, size, points, 3)`, RAS+ mm, and the number of real streamlines in it.

        Raises:
            UserError: as `load_bundle`.
        """
        streamlines = load_bundle(paths, self.points)
        if self.align:
            streamlines, _ = align_directions(streamlines)
        groups, counts = group(streamlines, self.size)
        if self.most is not None and len(groups) > self.most:
            rng = np.random.default_rng([self.seed, len(groups)])
            drawn = np.sort(rng.choice(len(groups), self.most, replace=False))
            groups, counts = groups[drawn], counts[drawn]
        return groups, int(counts.sum())


@dataclasses.dataclass(frozen=True)
class BundleScale:
    """One scale for all three axes, from mm to about [-1, 1] and back.

    Args:
        center: (x, y, z) that becomes 0, in mm.
        half: mm that become 1, above 0.
    """

    center: tuple = (0.0, 0.0, 0.0)
    half: float = 1.0

    def __post_init__(self):
        center = tuple(float(value) for value in self.center)
        half = float(self.half)
        if len(center) != 3 or not all(map(math.isfinite, (*center, half))) or half <= 0:
            raise UserError(
                f"bundle scale: found center {self.center}, half {self.half}; expected three "
                "numbers, and one above 0"
            )
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "half", half)

    def to_unit(self, mm):
        """Coordinates `(..., 3)` in mm as float32 in units of the scale."""
        return ((np.asarray(mm, np.float64) - self.center) / self.half).astype(np.float32)

    def to_mm(self, unit):
        """Coordinates `(..., 3)` in units of the scale as float32 in mm."""
        return (np.asarray(unit, np.float64) * self.half + self.center).astype(np.float32)

    @classmethod
    def from_points(cls, low, high):
        """The scale that takes a box to [-1, 1] along its longest side, its middle to 0.

        Args:
            low: (x, y, z), the lowest coordinates in mm.
            high: (x, y, z), the highest.

        Raises:
            UserError: they are not finite, or the same.
        """
        low, high = np.asarray(low, float), np.asarray(high, float)
        return cls(tuple((low + high) / 2), float(np.max(high - low) / 2))

    def to_config(self):
        """The scale as a JSON-ready dict."""
        return {"center": list(self.center), "half": self.half}

    @classmethod
    def from_config(cls, config):
        """The counterpart of `to_config`.

        Raises:
            UserError: something is missing in it.
        """
        try:
            return cls(tuple(config["center"]), config["half"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"bundle scale: found {config!r}; expected center (three numbers) and half"
            ) from None


def _check_usable(streamlines, source):
    """UserError unless every streamline can be resampled."""
    if len(streamlines) == 0:
        raise UserError(f"{source}: holds no streamlines; expected one at least")
    lengths = streamlines._lengths
    for what, wrong in _faults(streamlines).items():
        if wrong.any():
            raise UserError(
                f"{source}: {int(wrong.sum())} of {len(lengths)} streamlines with {what}, the "
                f"first is number {int(np.argmax(wrong))} (from 0); expected curves of two "
                "different points at least"
            )


def _faults(streamlines):
    """What can be wrong with a streamline → bool array of those that have it."""
    lengths, data = streamlines._lengths, streamlines._data
    number = np.repeat(np.arange(len(lengths)), lengths)  # which streamline a point belongs to
    unfinite = np.bincount(number, ~np.isfinite(data).all(axis=1), len(lengths)) > 0
    inside = number[1:] == number[:-1]
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.linalg.norm(np.diff(data, axis=0), axis=1)
    extent = np.bincount(number[1:][inside], steps[inside], len(lengths))
    return {
        "fewer than two points": lengths < 2,
        "coordinates that are not finite": unfinite,
        "no length (all points are the same)": extent == 0,
    }


def _load_groups(path, points):
    groups = read_array(path, expected="groups of streamlines")
    expected = f"expected float (n, streamlines, 3, {points})"
    if not np.issubdtype(groups.dtype, np.floating):
        raise UserError(f"{path}: found no floating-point numbers; {expected}")
    if groups.ndim != 4 or groups.shape[2:] != (3, points) or 0 in groups.shape:
        raise UserError(f"{path}: found shape {groups.shape}; {expected}")
    streamlines = groups.transpose(0, 1, 3, 2).reshape(-1, points, 3).astype(np.float32)
    _check_usable(sequence(streamlines), path)
    largest = float(np.abs(streamlines).max())
    if largest > 1.0001:
        raise UserError(f"{path}: found values up to {largest:g}; expected coordinates in [-1, 1]")
    return streamlines
