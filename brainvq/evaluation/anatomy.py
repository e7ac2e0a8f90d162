"""Do drawn slices pass for brains? Anatomy of axial slices, drawn and real, side by side.

Likelihoods and pixel distances say little about this: a prior of fewer bits per code may draw
halves that do not match and brains without ventricles. So drawn slices are compared with slices of
people that training never saw, best with their reconstructions, which are what a perfect prior
could draw. Each measure is also taken of real slices (one half of the people against the other:
what chance allows) and of *shuffled halves* (left and right halves of different people, joined: a
control that must fail).

Fluid is taken to be dark, as on T1w and FLAIR. Slices lie as the program keeps them: rows from
anterior to posterior, columns from one side of the head to the other, background 0.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainvq.evaluation.images import as_images

# What the report says of each key; the order is that of the table.
MEASURES = {
    "near": "nearness to real anatomy, mean correlation",
    "near_in_range": "nearness: share above the real 5 % point",
    "near_w1": "nearness: Wasserstein distance (sd of real)",
    "mirror": "left against right, mean correlation",
    "mirror_in_range": "left against right: share in the real 95 % range",
    "mirror_w1": "left against right: Wasserstein distance (sd of real)",
    "dark": "dark places in the middle, mean share of the brain",
    "dark_in_range": "dark places: share in the real 95 % range",
    "dark_w1": "dark places: Wasserstein distance (sd of real)",
    "ventricles": "share with ventricles, at mid level",
    "c2st": "told from real by a classifier (AUC; .5: not at all)",
    "precision": "precision: share that is within the real variety",
    "recall": "recall: share of the real variety that is drawn",
    "copies": "copies: share nearer to training than 95 % of unseen slices",
}
COLUMNS = {"draws": "draws", "control": "real against real", "shuffled_halves": "shuffled halves"}
SIDE = 128  # pixels along the longer side of the grid on which all is measured
BOX = (64, 48)  # the brain's bounding box in nearness and copies
LEVELS = {  # heights at which a measure is taken: 0 is the brain's lowest slice, 1 its highest
    "middle": (0.45, 0.65),
    "deep": (0.4, 0.7),
    "all": (0.15, 0.9),
}
BRIGHT, DARK = 0.1, 0.7  # brain: above this; fluid: below this share of the brain's median
NEIGHBOURS = 1 / 16  # k of the manifolds of precision and recall, as a share of the slices
ASYMMETRY = 2.0  # weight of what differs between left and right, in the features of the same
BLOCKS = 15  # groups that stand for people among draws
LEAST = 8  # slices that a measure needs on either side
CANDIDATES = 8  # training slices that are compared with a moved and scaled draw
SEARCHED = 250  # slices that copies are sought among


class Slices(NamedTuple):
    """Slices of several people, or draws.

    Attributes:
        images: float32 `(n, SIDE, SIDE)`, background 0, about 1 at the brightest.
        heights: float `(n,)` from 0, the lowest slice of the brain, to 1, the highest.
        people: `(n,)`, whose each slice is; draws have groups in the place of people.
    """

    images: np.ndarray
    heights: np.ndarray
    people: np.ndarray

    def at(self, rows):
        """Those of a mask or of row numbers."""
        return Slices(*(part[rows] for part in self))

    def between(self, level):
        """Those at the heights of an entry of `LEVELS`."""
        low, high = LEVELS[level]
        return self.at((self.heights > low) & (self.heights < high))


def compare_anatomy(
    draws, real, *, heights, people, draw_heights=None, draw_groups=None, train=None, seed=0
):
    """Takes every measure of draws, of real slices against real ones, and of shuffled halves.

    Measures are, with the heights at which they are taken:

    - `near` (.4 to .7): correlation of the smoothed inner brain with the most alike slice of
      another real person, `nearness`; `near_in_range` is the share above the real 5 % point.
    - `mirror` (.45 to .65): `mirror_correlation`; its share in the real 2.5 to 97.5 % range.
    - `dark` (.45 to .65): `dark_share`, the ventricles; its share in the real range; `ventricles`
      is the share of slices that have at least what the real 5 % point has.
    - `c2st` (.15 to .9): `classifier_auc` (Lopez-Paz and Oquab 2017, "Revisiting classifier
      two-sample tests"), people apart.
    - `precision` and `recall` (.4 to .7): Kynkäänniemi et al. 2019, "Improved precision and recall
      metric for assessing generative models", see `precision_recall`.
    - `copies` (.15 to .9): share nearer to a training slice, `nearest_copy`, than 95 % of the
      unseen slices are; .05 is what unseen people have.

    `*_w1` are Wasserstein distances between values of draws and of real slices, in standard
    deviations of the latter.

    Args:
        draws: `(n, rows, columns)` or `(n, rows, columns, 1)` in [0, 1], of any size; all is
            measured on a grid of 128 x 128 pixels.
        real: `(m, rows, columns[, 1])`, slices of unseen people or better their reconstructions.
        heights: `(m,)`, how high in the brain each real slice lies, from 0 to 1.
        people: `(m,)`, whose each real slice is.
        draw_heights: `(n,)`. Default: evenly spread from 0 to 1, in their order.
        draw_groups: `(n,)`, which draws belong together, as slices of one brain do: no group is on
            both sides of the classifier. Default: 15 groups, dealt out.
        train: `(t, rows, columns[, 1])`, training slices. Default: copies are not looked for.
        seed: int, which slices the classifier sees, and whose halves are joined. Default 0.

    Returns:
        Dict for `metrics.json`: `draws`, `control` and `shuffled_halves`, each a dict of the keys
        of `MEASURES`; `left_out`, a dict of what could not be measured to why; `people`, `slices`
        and `drawn`, numbers of what was compared. `anatomy_table` makes a table of it.

    Raises:
        ValueError: arrays do not fit each other.
    """
    if draw_heights is None:
        draw_heights = np.linspace(0, 1, len(draws))
    if draw_groups is None:
        draw_groups = [number % BLOCKS for number in range(len(draws))]
    groups = [f"draws {group}" for group in draw_groups]
    drawn = _slices(draws, draw_heights, groups, "draws")
    real = _slices(real, heights, people, "real")
    if train is not None:
        train = _on_grid(as_images(train, 2, "train"))
    names, left_out = np.unique(real.people), {}
    first = np.isin(real.people, names[::2])
    half, other = real.at(first), real.at(~first)
    # Draws are held to the variety of as many people as the controls are: to each half in turn.
    measured = functools.partial(_measured, train=train, seed=seed)
    found = {"draws": measured(drawn, real, halves=(half, other), left_out=left_out)}
    if len(names) < 4:
        why = f"real slices are of {len(names)} people; halves that can be compared need 4 or more"
        left_out |= {"control": why, "shuffled_halves": why}
    else:
        shuffled = shuffled_halves(half, seed)
        found["control"] = measured(half, other, halves=(other,), left_out={})
        found["shuffled_halves"] = measured(shuffled, other, halves=(other,), left_out={})
    counts = {"people": len(names), "slices": len(real.images), "drawn": len(drawn.images)}
    return found | {"left_out": left_out} | counts


def anatomy_table(found):
    """What `compare_anatomy` gave as a table.

    Args:
        found: dict.

    Returns:
        `pandas.DataFrame` with the columns `measure`, in words, `draws`, `real against real` and
        `shuffled halves`; NaN where a measure was left out.
    """
    rows = [
        {"measure": words}
        | {title: found.get(column, {}).get(key, np.nan) for column, title in COLUMNS.items()}
        for key, words in MEASURES.items()
    ]
    return pd.DataFrame(rows)


def _measured(drawn, real, *, halves, train, seed, left_out):
    """The measures of slices against those of other people: dict; notes why one is left out."""
    # Name, heights, people that it needs, and how it is measured.
    measures = (
        ("dark", "middle", 1, _dark),
        ("mirror", "middle", 1, _mirror),
        ("near", "deep", 2, _near),
        ("c2st", "all", 2, lambda a, b: {"c2st": classifier_auc(a, b, seed)}),
        ("precision", "deep", 2 * len(halves), lambda a, b: _precision_recall(a, halves)),
        ("copies", "all", 1, lambda a, b: _copies(a, b, train)),
    )
    found = {}
    for name, level, needed, measure in measures:
        parts = drawn.between(level), real.between(level)
        count = min(len(part.images) for part in parts)
        people = len(np.unique(parts[1].people))
        low, high = LEVELS[level]
        if name == "copies" and train is None:
            left_out[name] = "no training slices are known"
        elif count < LEAST:
            left_out[name] = f"{count} slices at heights from {low} to {high}; it needs {LEAST}"
        elif people < needed:
            left_out[name] = f"real slices are of {people} people; it needs {needed}"
        else:
            found |= measure(*parts)
            if np.isnan(found[name]):
                left_out[name] = "brains are too small or too uniform for it"
    return {key: found[key] for key in MEASURES if np.isfinite(found.get(key, np.nan))}


# --- what is measured of a slice ------------------------------------------------------------------


def dark_share(images):
    """Area of the two largest dark places in the middle of the brain: the ventricles, where cut.

    The middle is more than .35 of the largest depth away from the outline; dark is below .7 of the
    brain's median. Two, because the ventricles of a slice are one place or two.

    Args:
        images: float `(n, SIDE, SIDE)`.

    Returns:
        float64 `(n,)`, as a share of the brain's area; NaN where there is hardly any brain.
    """
    shares = np.full(len(images), np.nan)
    smooth = ndimage.gaussian_filter(images, (0, 1, 1))
    for number, image in enumerate(images):
        brain = ndimage.binary_fill_holes(smooth[number] > BRIGHT)
        if brain.sum() < 0.025 * brain.size:
            continue
        depth = ndimage.distance_transform_edt(brain)
        dark = (depth > 0.35 * depth.max()) & (image < DARK * np.median(image[brain]))
        places, count = ndimage.label(ndimage.binary_opening(dark))
        sizes = np.sort(np.bincount(places.ravel(), minlength=count + 1)[1:])
        shares[number] = sizes[-2:].sum() / brain.sum()
    return shares


def mirror_correlation(images):
    """Correlation of the smoothed brain with its mirror image about its own centre column.

    Args:
        images: float `(n, SIDE, SIDE)`.

    Returns:
        float64 `(n,)`; NaN where there is no brain.
    """
    columns = np.arange(images.shape[2])
    centre = _centre(images)[:, None]
    mirrored = 2 * centre - columns
    inside = (mirrored >= 0) & (mirrored < len(columns))
    mirrored = np.clip(mirrored, 0, len(columns) - 1)[:, None]
    smooth = ndimage.gaussian_filter(images, (0, 2, 2)).astype("float64")
    brain = images > BRIGHT / 2
    brain |= np.take_along_axis(brain, mirrored, axis=2)
    brain &= inside[:, None]
    return _correlation(smooth, np.take_along_axis(smooth, mirrored, axis=2), brain)


def inner_brain(images):
    """The brain's bounding box on 64 x 48 pixels, smoothed, without its rim, of mean 0, length 1.

    So the size and place of the brain do not count, and neither does its outline, which all brains
    share: the inner product of two is the correlation of their anatomy.

    Args:
        images: float `(n, SIDE, SIDE)`.

    Returns:
        float32 `(n, 1728)`.
    """
    box = ndimage.gaussian_filter(_boxes(images), (0, 1.5, 1.5))
    return _standardised(box[:, 8:-8, 6:-6])


def texture(images):
    """Means and log energies of three bands of frequency on cells of 16 and 8 pixels a side.

    Args:
        images: float `(n, SIDE, SIDE)`.

    Returns:
        float32 `(n, 1024)`.
    """
    parts, last = [_cell_means(images, 8)], images
    for sigma in (1, 2, 4):
        low = ndimage.gaussian_filter(images, (0, sigma, sigma))
        parts.append(np.log(_cell_means((last - low) ** 2, 8) + 1e-6))
        last = low
    return np.concatenate(parts, axis=1)


def shuffled_halves(slices, seed=0):
    """Slices whose left half is one person's and whose right half another's at the same height.

    The halves are joined at their own centre columns and at the same middle row.

    Args:
        slices: `Slices` of two people or more.
        seed: int, whose right half each gets. Default 0.

    Returns:
        `Slices` as many, at the heights and in the name of the left halves.
    """
    rng = np.random.default_rng(seed)
    people = np.unique(slices.people)
    away = np.abs(slices.heights[:, None] - slices.heights[None])
    partner = {name: people[people != name] for name in people}
    theirs = np.array([rng.choice(partner[name]) for name in slices.people])
    other = np.where(theirs[:, None] == slices.people[None], away, np.inf).argmin(1)
    images = slices.images
    rows = np.arange(SIDE)[None, :, None]
    columns = np.arange(SIDE)[None, None, :]
    centre, middle = _centre(images), _centre(images.transpose(0, 2, 1))
    right = (columns > centre[:, None, None]) + np.zeros_like(rows, bool)
    rows = rows + (middle[other] - middle)[:, None, None]
    columns = columns + (centre[other] - centre)[:, None, None]
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    rows, columns = np.clip(rows, 0, SIDE - 1), np.clip(columns, 0, SIDE - 1)
    halves = np.where(inside, images[other[:, None, None], rows, columns], 0)
    return slices._replace(images=np.where(right, halves, images))


# --- measures of many slices against many ---------------------------------------------------------


def classifier_auc(drawn, real, seed=0):
    """Area under the ROC curve of a classifier that tells draws from real slices.

    A logistic regression on 64 principal components of `texture`, tested on people and draws that
    it was not fitted on, as many draws as real slices.

    Args:
        drawn: `Slices`.
        real: `Slices` of two people or more.
        seed: int, which slices it takes. Default 0.

    Returns:
        float: .5 is a coin, 1 is never mistaken.
    """
    rng = np.random.default_rng(seed)
    count = min(len(drawn.images), len(real.images))
    parts = [part.at(rng.permutation(len(part.images))[:count]) for part in (real, drawn)]
    ranks = [np.unique(part.people, return_inverse=True)[1] for part in parts]
    folds = min(5, *(rank.max() + 1 for rank in ranks))
    fold = np.concatenate(ranks) % folds
    is_drawn = np.repeat([0, 1], count)
    features = texture(np.concatenate([part.images for part in parts]))
    scores = np.zeros(2 * count)
    for number in range(folds):
        fitted = fold != number
        components = min(64, fitted.sum() - 1)
        classifier = make_pipeline(
            StandardScaler(),
            PCA(components, random_state=0),
            LogisticRegression(C=0.1, max_iter=2000),
        ).fit(features[fitted], is_drawn[fitted])
        scores[~fitted] = classifier.decision_function(features[~fitted])
    return float(roc_auc_score(is_drawn, scores))


def nearness(slices, real):
    """Correlation of the `inner_brain` with the most alike slice of another real person.

    Args:
        slices: `Slices`.
        real: `Slices`.

    Returns:
        float `(n,)`; -1 where there is no other person.
    """
    alike = inner_brain(slices.images) @ inner_brain(real.images).T
    return np.where(_same(slices, real), -1, alike).max(1)


def _near(drawn, real):
    value, usual = nearness(drawn, real), nearness(real, real)
    above = float((value > np.percentile(usual, 5)).mean())
    return {"near": float(value.mean()), "near_in_range": above, "near_w1": _distance(value, usual)}


def _mirror(drawn, real):
    return _in_range("mirror", *(mirror_correlation(part.images) for part in (drawn, real)))[0]


def _dark(drawn, real):
    found, value, usual = _in_range("dark", *(dark_share(part.images) for part in (drawn, real)))
    if len(value) and len(usual):
        found["ventricles"] = float(((value > 0) & (value >= np.percentile(usual, 5))).mean())
    return found


def _in_range(name, value, usual):
    """Mean, share in the real 95 % range and distance of values; and those that are numbers."""
    value, usual = (part[np.isfinite(part)] for part in (value, usual))
    if not len(value) or not len(usual):
        return {name: np.nan}, value, usual
    low, high = np.percentile(usual, [2.5, 97.5])
    found = {
        name: float(value.mean()),
        f"{name}_in_range": float(((value >= low) & (value <= high)).mean()),
        f"{name}_w1": _distance(value, usual),
    }
    return found, value, usual


def _distance(value, usual):
    spread = usual.std()
    return float(wasserstein_distance(value, usual) / spread) if spread > 0 else np.nan


def precision_recall(drawn, real):
    """Share of draws within the variety of real slices, and of real slices within that of draws.

    The variety of slices is what lies within a ball around any of them that reaches to its k-th
    nearest slice of another person (of its own would be too near: neighbours are alike); k is 1 in
    16 slices. The space: the symmetric part of the `inner_brain` and, doubled, the part that
    differs between left and right. Chosen because real slices of other people lie within the
    variety (.9 and more), and shuffled halves, made of the same tissue, do not.

    Args:
        drawn: `Slices`.
        real: `Slices` of two people or more.

    Returns:
        (precision, recall): floats in [0, 1].
    """
    features = [_two_sided(part.images) for part in (drawn, real)]
    apart = _euclidean(*features)
    radii = []
    for slices, own in zip((drawn, real), features, strict=True):
        k = max(1, round(NEIGHBOURS * len(own)))
        away = np.sort(np.where(_same(slices, slices), np.inf, _euclidean(own, own)), axis=1)
        # The k-th, or the farthest where other people have fewer slices.
        radii.append(np.where(np.isinf(away), -np.inf, away)[:, :k].max(1))
    within_real = (apart <= radii[1][None]).any(1)
    within_drawn = (apart <= radii[0][:, None]).any(0)
    return float(within_real.mean()), float(within_drawn.mean())


def _precision_recall(drawn, halves):
    """Means over groups of people."""
    found = [precision_recall(drawn, half.between("deep")) for half in halves]
    return dict(zip(("precision", "recall"), np.mean(found, axis=0).tolist(), strict=True))


def nearest_copy(images, train):
    """Correlation with the most alike training slice, after small shifts and changes of size.

    Brains are brought to one bounding box first; the nearest eight are then compared again, moved
    by up to 1 in 64 of the box and scaled by up to 4 %.

    Args:
        images: float `(n, SIDE, SIDE)`.
        train: float `(t, SIDE, SIDE)`, one or more.

    Returns:
        float `(n,)`; 1 is a copy.
    """
    boxes, references = _boxes(images), _boxes(train)
    alike = _standardised(boxes) @ _standardised(references).T
    nearest = np.argsort(-alike, axis=1)[:, :CANDIDATES]
    references = _standardised(references[:, 1:-1, 1:-1])[nearest]
    best = np.full(len(images), -1.0)
    rows, columns = BOX
    for scale in (1.0, 0.96, 1.04):
        grid = np.indices(BOX, dtype="float64")
        middle = (np.array(BOX).reshape(2, 1, 1) - 1) / 2
        y, x = (grid - middle) * scale + middle
        points = np.broadcast_arrays(np.arange(len(boxes))[:, None, None], y[None], x[None])
        scaled = ndimage.map_coordinates(boxes, points, order=1) if scale != 1 else boxes
        for down in range(3):
            for along in range(3):
                part = scaled[:, down : rows - 2 + down, along : columns - 2 + along]
                value = np.einsum("nf,ncf->nc", _standardised(part), references).max(1)
                best = np.maximum(best, value)
    return best


def _copies(drawn, real, train):
    value, usual = (nearest_copy(_spread(part).images, train) for part in (drawn, real))
    return {"copies": float((value > np.percentile(usual, 95)).mean())}


def _spread(slices):
    """At most `SEARCHED` of the slices."""
    rows = np.linspace(0, len(slices.images) - 1, min(SEARCHED, len(slices.images)))
    return slices.at(rows.astype(int))


def _two_sided(images):
    """Features of `precision_recall`: `(n, 3456)`."""
    inner = inner_brain(images).reshape(len(images), BOX[0] - 16, BOX[1] - 12)
    mirrored = inner[:, :, ::-1]
    parts = ((inner + mirrored) / 2, ASYMMETRY * (inner - mirrored) / 2)
    return np.concatenate([part.reshape(len(images), -1) for part in parts], axis=1)


def _euclidean(a, b):
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def lineup(draws, real, *, heights, people, draw_heights=None, count=20, seed=0):
    """Draws and real slices in a random order, for people to tell apart.

    Both are spread over the same heights of the brain, from .15 to .9, and the real slices over the
    people.

    Args:
        draws: `(n, rows, columns[, 1])`.
        real: `(m, rows, columns[, 1])`, best reconstructions of slices of unseen people.
        heights: `(m,)`, see `compare_anatomy`.
        people: `(m,)`, whose each real slice is.
        draw_heights: `(n,)`. Default: evenly spread from 0 to 1.
        count: int, most slices of either kind. Default 20.
        seed: int, of the order. Default 0.

    Returns:
        (pictures, drawn): `(2 count, rows, columns)`, and bool `(2 count,)`, which were drawn.
    """
    draws, real = as_images(draws, 2, "draws"), as_images(real, 2, "real")
    heights, people = np.asarray(heights, "float64"), np.asarray(people)
    if draw_heights is None:
        draw_heights = np.linspace(0, 1, len(draws))
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(people))
    count = min(count, len(draws), len(real))
    taken, free = [], [np.zeros(len(draws)), np.zeros(len(real))]
    for number, height in enumerate(np.linspace(*LEVELS["all"], count)):
        away = [np.abs(np.asarray(draw_heights) - height), np.abs(heights - height)]
        away[1] = away[1] + 2.0 * (people != names[number % len(names)])
        chosen = [
            int((distance + used).argmin()) for distance, used in zip(away, free, strict=True)
        ]
        for used, row in zip(free, chosen, strict=True):
            used[row] = np.inf
        taken.append(chosen)
    rows = np.array(taken, int).reshape(count, 2).T
    order = rng.permutation(2 * count)
    return np.concatenate([draws[rows[0]], real[rows[1]]])[order], (order < count)


# --- images ---------------------------------------------------------------------------------------


def _slices(images, heights, people, name):
    """`Slices` on the grid on which all is measured."""
    images = as_images(images, 2, name)
    heights, people = np.asarray(heights, "float64"), np.asarray(people)
    if not len(images) == len(heights) == len(people):
        raise ValueError(
            f"{name}: expected a height and a person for each slice. Received: {len(images)} "
            f"slices, {len(heights)} heights, {len(people)} people"
        )
    return Slices(_on_grid(images), heights, people)


def _on_grid(images):
    """Pictures of any size scaled and filled to `SIDE` x `SIDE`: float32."""
    longest = max(images.shape[1:])
    if longest != SIDE:
        scale = SIDE / longest
        images = np.stack([ndimage.zoom(i.astype("float32"), scale, order=1) for i in images])
    missing = [SIDE - size for size in images.shape[1:]]
    margins = [(0, 0), *((size // 2, size - size // 2) for size in missing)]
    return np.pad(images, margins).astype("float32")


def _boxes(images):
    """The bounding box of each brain on `BOX` pixels: float32 `(n, *BOX)`; 0 without a brain."""
    brain = images > BRIGHT
    places = [np.broadcast_to(np.arange(len(images))[:, None, None], (len(images), *BOX))]
    there = np.ones(len(images), bool)
    for axis, count in ((2, BOX[0]), (1, BOX[1])):
        filled = brain.any(axis)
        first, last = filled.argmax(1), SIDE - 1 - filled[:, ::-1].argmax(1)
        there &= filled.sum(1) > SIDE // 6
        places.append(first[:, None] + (last - first)[:, None] * np.linspace(0, 1, count))
    points = np.broadcast_arrays(places[0], places[1][:, :, None], places[2][:, None, :])
    boxes = ndimage.map_coordinates(images, points, order=1)
    return np.where(there[:, None, None], boxes, 0)


def _centre(images):
    """The brain's centre column: int `(n,)`."""
    weights = images.sum(1, dtype="float64") + 1e-6
    return np.round((weights * np.arange(images.shape[2])).sum(1) / weights.sum(1)).astype(int)


def _cell_means(images, cells):
    """Means over cells of a grid: `(n, cells²)`."""
    shape = (len(images), cells, SIDE // cells, cells, SIDE // cells)
    return images.reshape(shape).mean((2, 4)).reshape(len(images), -1)


def _standardised(images):
    """Pictures as vectors of mean 0 and length 1, so that inner products are correlations."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)


def _correlation(a, b, mask):
    """Pearson's, of each picture over its mask; NaN where that is nearly empty."""
    count = mask.sum((1, 2))
    divisor = np.maximum(count, 1)[:, None, None]
    a, b = (
        np.where(mask, part - (part * mask).sum((1, 2), keepdims=True) / divisor, 0)
        for part in (a, b)
    )
    norm = np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    return np.where(
        (count > 50) & (norm > 0), (a * b).sum((1, 2)) / np.maximum(norm, 1e-12), np.nan
    )


def _same(a, b):
    """Which pairs of slices are of one person: bool `(n, m)`."""
    return a.people.astype(str)[:, None] == b.people.astype(str)[None]
