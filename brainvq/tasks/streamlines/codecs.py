"""Codecs of streamlines without a network, measured on the samples of a run."""

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.files import finite, write_csv
from brainvq.tasks.base import spread
from brainvq.tasks.streamlines.groups import BATCH, scale_mm

# Training groups that codecs are fitted on, and test groups that their curves are measured on.
FITTED, MEASURED = 2000, 240
# Bits per streamline at which they are drawn.
RATES = (9, 18, 36, 72)
# What `codecs_at` has measured in this process.
_MEASURES = {}


def table_of(reconstruct, store, rows):
    """Measures of every sample in `rows`, read and reconstructed in batches.

    Args:
        reconstruct: function of groups `(n, streamlines, points, 3)` to groups.
        store: a `brainvq.data.UnitStore`.
        rows: int array, sample numbers.

    Returns:
        `pandas.DataFrame` as of `brainvq.evaluation.sample_table`, with `subject` in front.
    """
    tables = []
    about = store.table[["group", "subject", "count"]]
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        groups, originals = about.iloc[batch], store.read(batch)
        table = evaluation.sample_table(
            originals,
            reconstruct(originals),
            groups["group"].to_numpy(),
            groups["count"].to_numpy(),
            scale_mm=scale_mm(store),
        )
        table.insert(0, "subject", groups["subject"].to_numpy())
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def means(per_bundle):
    """Means over bundles as a dict: numbers of Python, None for what is not finite."""
    row = evaluation.mean_over_bundles(per_bundle)
    return {key: finite(value) for key, value in row.items()}


def codecs_at(bits, store, rows):
    """Measures of classical codecs at about so many bits, fitted on training streamlines.

    They are the same for all variants of so many bits, and are measured once in a process.

    Args:
        bits: float, bits per streamline; rounded to a multiple of 9.
        store: a `brainvq.data.UnitStore`.
        rows: dict of split to sample numbers.

    Returns:
        Dict of the codec's name to its `means`.
    """
    bits = max(9, 9 * round(bits / 9))
    key = (str(store.path), bits, *map(tuple, rows.values()))
    if key not in _MEASURES:
        curves = _training_curves(store, rows)
        _MEASURES[key] = {}
        for name, codec in (
            (f"residual k-means, {bits} bits", evaluation.ResidualKMeans(bits // 9)),
            (f"local PCA and scalar, {bits} bits", evaluation.TransformCodec(bits, clusters=32)),
        ):
            codec.fit(curves)
            table = table_of(_by_groups(codec), store, rows["test"]).drop(columns="subject")
            _MEASURES[key][name] = means(evaluation.per_bundle(table))
    return _MEASURES[key]


def _training_curves(store, rows):
    train = store.read(spread(np.unique(rows["train"]), FITTED))
    return train.reshape(-1, *train.shape[2:])


def _by_groups(codec):
    """A codec of streamlines as a function of groups of them."""

    def reconstruct(groups):
        curves = codec.reconstruct(groups.reshape(-1, *groups.shape[2:]))
        return np.asarray(curves).reshape(groups.shape)

    return reconstruct


def classical_rates(run, log):
    """Bits and errors of codecs without a network, and of files, on a run's test streamlines.

    They are fitted on the training streamlines of that run and kept in its folder.

    Args:
        run: a `LoadedRun`.
        log: a `logging.Logger`.

    Returns:
        `pandas.DataFrame` with the columns codec, family, bits, mse, buan and distance.
    """
    if run.has("rate_distortion.csv"):
        return pd.read_csv(run.file("rate_distortion.csv"))
    log.info("fitting classical codecs at %s bits", ", ".join(map(str, RATES)))
    curves = _training_curves(run.store, run.rows)
    codecs, families = {}, {}
    for bits in RATES:
        for family, codec in (
            ("residual k-means", evaluation.ResidualKMeans(bits // 9)),
            ("PCA and k-means", evaluation.PCAKMeans(bits // 9)),
            ("local PCA and scalar", evaluation.TransformCodec(bits, clusters=32)),
        ):
            name = f"{family}, {bits} bits"
            codecs[name], families[name] = codec.fit(curves), family
    codecs["float16"] = evaluation.HalfPrecision().fit(curves)
    picked = run.some("test", MEASURED)
    about = run.store.table.iloc[picked]
    table = evaluation.rate_distortion(
        codecs, run.store.read(picked), about["group"].to_numpy(), about["count"].to_numpy()
    )
    table = _with_files(table, run.study.data)
    table.insert(1, "family", [families.get(name, name) for name in table["codec"]])
    table = table[["codec", "family", "bits", "mse", "buan", "distance"]]
    write_csv(run.file("rate_distortion.csv"), table)
    return table


def _with_files(table, options):
    """The table with what a file of one group takes; a .trk file keeps every digit."""
    half = table.index[-1]
    sizes = evaluation.stored_bits(options.streamlines, options.points)
    sizes = sizes.set_index("format")["bits"]
    table.loc[half, ["codec", "bits"]] = [".trx file, float16", sizes[".trx, float16"]]
    whole = {"codec": ".trk file", "bits": sizes[".trk, float32"], "mse": 0.0, "buan": 1.0}
    return pd.concat([table, pd.DataFrame([whole | {"distance": 0.0}])], ignore_index=True)
