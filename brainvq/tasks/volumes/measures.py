"""Measures of runs on volumes: reconstruction, use of the codes, order of the map, tissue."""

import functools

import keras
import numpy as np

from brainvq import data, evaluation
from brainvq.data.simulation import LABELS
from brainvq.errors import UserError
from brainvq.evaluation.som import TissueOverlap, TopologyCounter, neighbour_correlation
from brainvq.files import write_array
from brainvq.layers.som_grid import GridQuantizer
from brainvq.tasks.base import plain

# What `measure_patches` has measured in this process.
_PATCHES = {}


def measure_volumes(run):
    """The measures of a run on volumes; writes `subjects.csv` and `codes/locations.npy`.

    Args:
        run: a `LoadedRun`.

    Returns:
        Dict, the content of `metrics.json` without prior and samples.
    """
    model, shape = run.model, run.store.sample_shape
    grid = model.code_shape(shape)[:3]
    metrics = run.task.measure_reconstruction(run) | {
        "bits_per_volume": bits_per_volume(run),
        "grid": list(grid),
        "codes_per_cell": model.depth or 1,
        "stride": shape[0] // grid[0],
    }
    if model.decodes_codes:
        metrics["patch_kmeans"] = measure_patches(run)
    if model.continuous_weight:
        reconstruct = functools.partial(model.reconstruct, continuous=True)
        table = run.task.similarity(reconstruct, run).table()
        metrics["continuous_reconstruction"] = plain(evaluation.summary(table))
    return metrics | (measure_codes(run) if model.num_codes else {})


def bits_per_volume(run):
    """Mean bits of the codes of test volumes; None where the decoder reads more than codes."""
    if not run.model.decodes_codes:
        return None
    return float(run.model.bottleneck.code_bits(run.codes["test"]).mean())


def measure_codes(run):
    """What the codes are worth apart from the images they decode to; writes `locations.npy`.

    Args:
        run: a `LoadedRun` whose model has codes; of several in a cell the first is measured.

    Returns:
        Dict of codes, som and, where tissues are known, tissue: parts of `metrics.json`.
    """
    # Each volume once, in the order of the splits: training has augmented copies behind it.
    maps = {
        split: run.model.first_codes(np.asarray(run.codes[split][: len(rows)]))
        for split, rows in run.rows.items()
    }
    num_codes = run.model.num_codes
    whole = np.concatenate(list(maps.values()))
    write_array(run.file("codes", "locations.npy"), evaluation.code_locations(whole, num_codes))
    measured = {"validation": maps["validation"], "test": maps["test"], "all": whole}
    metrics = {"codes": {name: usage_of(codes, num_codes) for name, codes in measured.items()}}
    if run.model.first_quantizer.codebook is not None:
        metrics["som"] = measure_map(run)
    tissue = measure_tissue(run, maps["test"], num_codes)
    return metrics if tissue is None else metrics | {"tissue": tissue}


def usage_of(codes, num_codes):
    """Use of the codebook by code maps, and the mean number of codes in a map.

    Args:
        codes: int `(n, *grid)`.
        num_codes: size of the codebook.

    Returns:
        Dict of used, num_codes, perplexity and others of `evaluation.code_usage`, and
        used_per_volume.
    """
    usage = evaluation.code_usage(codes, num_codes)
    del usage["counts"]
    return usage | {"used_per_volume": float(evaluation.codes_per_map(codes).mean())}


def measure_map(run):
    """How near the nodes are to the encodings of test subjects, and how ordered they are.

    Args:
        run: a `LoadedRun` whose model has codes.

    Returns:
        Dict of the measures of `TopologyCounter`, and neighbour_correlation of a map.
    """
    quantizer = run.model.first_quantizer
    codebook = keras.ops.convert_to_numpy(quantizer.codebook)
    grid = grid_of(quantizer)
    neighbours = np.full((len(codebook), 1), -1) if grid is None else grid.neighbours
    counter = TopologyCounter(codebook, neighbours)
    stream = run.stream("test")
    for number in range(len(stream)):
        counter.add(directions(quantizer, run.model.continuous(*stream[number])))
    measures = counter.measures()
    if grid is None:
        del measures["topographic_error"]
        return measures
    return {"neighbour_correlation": neighbour_correlation(codebook, neighbours), **measures}


def grid_of(quantizer):
    """The `SOMGrid` of a quantiser whose codes lie on a map; None for others."""
    return quantizer.som_grid if isinstance(quantizer, GridQuantizer) else None


def directions(quantizer, vectors):
    """Vectors `(..., dim)` as a quantiser compares them: of length 1 where directions count."""
    if quantizer.distance != "cosine":
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def measure_tissue(run, codes, num_codes):
    """How much codes of test subjects tell of the tissue in the brain that they cover.

    Args:
        run: a `LoadedRun`; its cohort, store and rows are used.
        codes: int `(n, *grid)`, those of the test subjects.
        num_codes: size of the codebook.

    Returns:
        Dict of the measures, with those of the place on the grid alone as `position`: what a code
        tells beyond them is more than where it lies. None where tissues are not known.
    """
    if not run.simulated:
        return None
    scans = run.scans.table
    paths = dict(zip(scans["scan_id"], scans["paths"], strict=True))
    grid = codes.shape[1:]
    places = np.arange(np.prod(grid)).reshape(1, *grid)
    by_code = TissueOverlap(num_codes, len(LABELS))
    by_place = TissueOverlap(places.size, len(LABELS))
    for row, code_map in zip(run.rows["test"], codes, strict=True):
        scan = run.store.table["scan_id"].iloc[row]
        try:
            labels = prepared_labels(run.store, scan, paths[scan])
        except UserError:
            return None  # a simulated data set that came without its labels
        by_code.add(code_map[None], labels[None])
        by_place.add(places, labels[None])
    # Background would flatter: half of a volume, and easily told.
    return by_code.measures(background=False) | {"position": by_place.measures(background=False)}


def prepared_labels(store, scan, paths):
    """Tissue labels of a simulated scan on the grid of its volume; kept beside the store.

    Every variant of a study asks for them, and it takes seconds to make them.

    Args:
        store: an `ArrayStore` of volumes.
        scan: scan_id.
        paths: what the cohort's table has as its paths.

    Returns:
        uint8 `(x, y, z)`, see `brainvq.data.simulation.LABELS`.

    Raises:
        UserError: the labels of the scan are not known.
    """
    file = store.path.with_name(f"{store.path.name}-tissue") / f"{scan}.npy"
    if not file.exists():
        labels, affine = data.tissue_labels(paths)
        labels = data.to_original_grid(
            labels, affine, store.sample_shape[:-1], store.affine(scan), order=0
        )
        write_array(file, labels.astype("uint8"))
    return np.load(file)


def measure_patches(run):
    """The reconstruction by a patch codec, which is the same for all variants of so many codes."""
    rows = map(tuple, run.rows.values())
    key = (str(run.store.path), run.model.num_codes, run.codes["test"].shape, *rows)
    if key not in _PATCHES:
        table = run.task.similarity(run.task.fit_patches(run).reconstruct, run).table()
        _PATCHES[key] = plain(evaluation.summary(table))
    return _PATCHES[key]
