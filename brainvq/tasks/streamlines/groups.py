"""Groups of streamlines and their models: the scale of a run, latents, scores, whole bundles.

A group is `(streamlines, points, 3)`, scaled to [-1, 1] by the extremes of the training bundles.
"""

import keras
import numpy as np

from brainvq import evaluation
from brainvq.data import BundleScale
from brainvq.files import read_json

# Groups that a network takes at a time.
BATCH = 64


def scale_of(run):
    """The scale of a run: what takes mm to the units of its model and back.

    Args:
        run: a `LoadedRun` or a `brainvq.training.runs.RunFolder`.

    Returns:
        A `brainvq.data.BundleScale`.
    """
    return BundleScale.from_config(read_json(run.file("scale.json")))


def scale_mm(store):
    """Millimetres of one unit of a `brainvq.data.UnitStore`; None where its files hold units."""
    scaled = "units" in store.scans and (store.scans["units"] == "scaled").all()
    return None if scaled else float(store.scale.half)


def encodings(model, groups):
    """What the encoder makes of groups, before the bottleneck.

    Args:
        model: an `Autoencoder`.
        groups: float32 array `(n, streamlines, points, 3)`, in [-1, 1].

    Returns:
        Float32 NumPy array `(n, *grid, dim)`.
    """
    parts = [
        keras.ops.convert_to_numpy(model.encoder(groups[start : start + BATCH], training=False))
        for start in range(0, len(groups), BATCH)
    ]
    return np.concatenate(parts)


def through_bottleneck(model, z):
    """Decodes vectors as the model does: through the bottleneck, without noise.

    Args:
        model: an `Autoencoder`.
        z: float array `(n, *grid, dim)`, as `encodings` gives it.

    Returns:
        Float32 NumPy array `(n, streamlines, points, 3)`.
    """
    parts = []
    for start in range(0, len(z), BATCH):
        outputs = model.bottleneck(z[start : start + BATCH].astype("float32"), training=False)
        decoded = model.decoder(outputs["quantized"], training=False)
        parts.append(keras.ops.convert_to_numpy(decoded))
    return np.concatenate(parts)


def cut(groups, counts):
    """The streamlines of groups without those that only fill them.

    Args:
        groups: float array `(groups, streamlines, points, 3)`.
        counts: ints, real streamlines of each group; they come first.

    Returns:
        Array `(sum of counts, points, 3)`.
    """
    pairs = zip(groups, counts, strict=True)
    return np.concatenate([group[:count] for group, count in pairs])


def group_score(originals, restored, counts):
    """BUAN of the real streamlines of groups (see `cut`), mean over the groups."""
    scores = [
        evaluation.buan(a[:count], b[:count])
        for a, b, count in zip(originals, restored, counts, strict=True)
    ]
    return float(np.mean(scores))


def whole_bundles(store, rows):
    """All bundles of the subject of `rows` that has the most of them.

    Args:
        store: a `brainvq.data.UnitStore`.
        rows: int array, sample numbers.

    Returns:
        Dict of bundle to (groups `(n, streamlines, points, 3)`, real streamlines of each `(n,)`).
    """
    table = store.table.iloc[rows]
    subject = table.groupby("subject")["group"].nunique().idxmax()
    bundles = {}
    for name in table["group"].drop_duplicates():
        members = rows[((table["group"] == name) & (table["subject"] == subject)).to_numpy()]
        if len(members):
            bundles[name] = store.read(members), store.table["count"].to_numpy()[members]
    return bundles
