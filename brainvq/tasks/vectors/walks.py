"""New vectors and ways through their space: while one number changes, or from scan to scan."""

import numpy as np
import pandas as pd

from brainvq import evaluation
from brainvq.data.derivatives import label
from brainvq.data.inputs import scan_paths
from brainvq.errors import UserError
from brainvq.files import write_array
from brainvq.reports.generation import traversal_grid
from brainvq.tasks.names import bids_name, inputs
from brainvq.tasks.vectors.decoded import (
    SHOWN,
    decoded,
    grid_of,
    picture_volumes,
    read_scans,
    save_nifti,
    save_volumes,
    vectors_of,
)
from brainvq.tasks.vectors.latents import TRAVERSED

# Dimensions and steps that a picture has room for.
SHOWN_DIMENSIONS, SHOWN_STEPS = 4, 9


def sample(trained, options, log):
    """Draws volumes as `IntroVAE.sample` does: NIfTI, `latents.npy` and a picture.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.VectorSample`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    count, folder = options.samples, options.out
    volumes, vectors = trained.sample(count, batch_size=options.batch_size, **options.drawing)
    write_array(folder / "latents.npy", vectors)
    names = [(f"sub-sample{number:03d}", "drawn") for number in range(1, count + 1)]
    detail = ", with detail that it does not hold" if trained.model.fitted_draws else ""
    save_volumes(trained, folder, names, volumes, what=f"decoded from a vector{detail}")
    more = f"{SHOWN} of {count}" if count > SHOWN else f"{count}"
    picture_volumes(
        trained,
        volumes,
        folder / "samples.png",
        title=f"{more} new brains from {trained.study.variant}, temperature "
        f"{options.temperature:g}",
    )
    log.info("%d new brains in %s: NIfTI, latents.npy, samples.png", count, folder)


def traverse(trained, options, log):
    """Writes what becomes of zeros, or of a scan, while one dimension of its vector changes.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.Traverse`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.
    """
    dimensions, why = chosen_dimensions(trained, options)
    base, whose, stem = np.zeros(trained.model.latent_size), "zeros", ""
    start, sources = "sub-zeros", []
    if options.scan is not None:
        name, scan = single(trained, options.scan, log, options.out)
        base, whose, stem = vectors_of(trained, [scan])[0], name, f"{name}_"
        start, sources = bids_name(name, options.scan)[0], [options.scan]
    log.info("dimensions %s: %s", ", ".join(map(str, dimensions)), why)
    folder, values = options.out, list(options.values)
    vectors = evaluation.traverse(base, dimensions, values).astype("float32")
    volumes = decoded(trained, vectors, options.batch_size)
    write_array(folder / f"{stem}latents.npy", vectors)
    for number, series in zip(dimensions, volumes, strict=True):
        note = {"Description": f"decoded from {whose}, with other values of one dimension"}
        note |= {"Dimension": number, "Values": values}
        name, series = (start, f"dimension{number:03d}"), np.moveaxis(series[..., 0], 0, -1)
        save_nifti(trained, folder, name, series, note, sources, suffix="series")
    shown, steps = slice(0, SHOWN_DIMENSIONS), shown_steps(len(values))
    few = f", {SHOWN_DIMENSIONS} of {len(dimensions)}" if len(dimensions) > SHOWN_DIMENSIONS else ""
    traversal_grid(
        volumes[shown][:, steps],
        grid_of(trained),
        path=folder / f"{stem}traversal.png",
        values=[values[step] for step in steps],
        dimensions=dimensions[shown],
        title=f"Around {whose}, one dimension at a time{few}",
        simulated=trained.simulated,
    )
    log.info(
        "%d dimensions of %d volumes each in %s: NIfTI, %slatents.npy, %straversal.png",
        *(len(dimensions), len(values), folder, stem, stem),
    )


def interpolate(trained, options, log):
    """Writes the volumes on the way from one scan to another.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        options: `brainvq.options.verbs.Interpolate`; `out` is a `pathlib.Path`.
        log: `logging.Logger`.

    Raises:
        UserError: there are not two scans, or no great circle through their vectors.
    """
    for name in options.files:
        single_path(name)
    given = inputs(scan_paths(options.files)).values()
    if len(given) < 2:
        raise UserError(f"interpolate: found {options.files[0]} twice; expected two scans")
    names = [scan.name for scan in given]
    # One by one, because there is no way with one end.
    scans = [single(trained, name, log)[1] for name in options.files]
    vectors = way(vectors_of(trained, scans), names, options)
    volumes = decoded(trained, vectors, options.batch_size)
    folder, count = options.out, options.steps
    write_array(folder / "latents.npy", vectors)
    ends = "to".join(label(name.removeprefix("sub-")) for name in names)
    files = [(f"sub-{ends}", f"step{number:03d}") for number in range(1, count + 1)]
    save_volumes(trained, folder, files, volumes, options.files)
    steps = shown_steps(count)
    kind = "along a great circle" if options.spherical else "along a straight line"
    shares = [f"{100 * step / (count - 1):.0f} %" for step in steps]
    traversal_grid(
        volumes[None, steps],
        grid_of(trained),
        path=folder / "interpolation.png",
        values=[names[0], *shares[1:-1], names[1]],
        dimensions=[""],
        row="{}",
        column="decoded from vectors on the way",
        title=f"From {names[0]} to {names[1]}, {kind} of vectors",
        simulated=trained.simulated,
    )
    log.info(
        "%d volumes from %s to %s in %s: NIfTI, latents.npy, interpolation.png",
        *(count, *names, folder),
    )


def way(ends, names, options):
    """Vectors from one end to the other, float32 `(steps, latent_size)`."""
    try:
        vectors = evaluation.interpolate(*ends, options.steps, spherical=options.spherical)
    except ValueError as error:
        raise UserError(
            f"--spherical: no way from {names[0]} to {names[1]} ({' '.join(str(error).split())}); "
            "expected two scans whose vectors differ in direction"
        ) from None
    return vectors.astype("float32")


def chosen_dimensions(trained, options):
    """Numbers of the dimensions to traverse, and why those."""
    if options.dimensions is not None:
        return list(options.dimensions), "as chosen"
    table, latents = (trained.path / "latents" / name for name in ("dimensions.csv", "train.npy"))
    if table.exists():
        numbers = pd.read_csv(table)["dimension"].head(TRAVERSED)
        return [int(number) for number in numbers], "those that differ most between classes"
    if latents.exists():
        deviations = np.load(latents).std(axis=0)
        numbers = np.argsort(-deviations, kind="stable")[:TRAVERSED]
        return numbers.tolist(), "those that vary most among training scans"
    raise UserError(
        f"--dimensions: found none, and {trained.path} has no latents/dimensions.csv or "
        "latents/train.npy that would name some; expected numbers from 0 to "
        f"{trained.model.latent_size - 1}"
    )


def single(trained, name, log, out=None):
    """The one scan of a path: (name of its results, `brainvq.data.PreparedVolume`)."""
    single_path(name)
    ((_, given, scan),) = read_scans(trained, [name], log, out)
    return given.name, scan


def single_path(name):
    """Refuses a folder of several scans where one is meant."""
    paths = scan_paths([name])
    if len(paths) > 1:
        raise UserError(f"{name}: found {len(paths)} scans; expected one")


def shown_steps(count):
    """Numbers of at most `SHOWN_STEPS` of so many volumes, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SHOWN_STEPS)).round().astype(int))
