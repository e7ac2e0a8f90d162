"""The verbs of `predict.py` for runs whose volumes become vectors: draws, walks, scans and back.

A scan is registered to the template as the study's scans were, and becomes one vector of an
`IntroVAE`. What is decoded from a vector that belongs to no scan lies in the space of the template;
what is decoded from that of a scan goes back through the map that was found for it.
"""

import dataclasses
import math
import time
from pathlib import Path

import brainvq  # noqa: F401 (first: it keeps TensorFlow's start-up lines off the screen)

# isort: split
import numpy as np
import pandas as pd

import dataset
import hyperparameters
from brainvq import data, evaluation
from brainvq.errors import UserError
from brainvq.files import write_array, write_csv, write_json
from brainvq.reports.generation import generated_planes, traversal_grid
from brainvq.reports.planes import reconstruction_planes
from hyperparameters import Sampling
from scans import comes_from_simulation, readable_scans, scan_paths

# New volumes and the standard deviation of their vectors, where nothing else is asked for.
SAMPLES, TEMPERATURE = 8, 1.0
# Dimensions that are traversed where none are named.
TRAVERSED = 3
# Volumes and dimensions that a picture has room for, volumes beneath each other, and steps.
SHOWN_SAMPLES, SHOWN_DIMENSIONS, SHOWN_ROWS, SHOWN_STEPS = 8, 4, 4, 9
# Largest distance between grids that are taken for one, in mm.
SAME_PLACE = 1e-3


def check(trained, options):
    """Refuses verbs and options that a run whose volumes become vectors knows nothing of."""
    if options.verb not in VERBS and options.verb != "export":
        raise UserError(
            f"{options.verb}: {trained.path} is of study {trained.about['study']['name']}, whose "
            "volumes become vectors without codes; expected a run with codes, such as one of study "
            "som3d"
        )
    if options.verb != "sample":
        return
    for name, given, default in (
        ("--top-k", options.top_k, Sampling().top_k),
        ("--top-p", options.top_p, Sampling().top_p),
    ):
        if given != default:
            raise UserError(
                f"{name}: found {given}; expected it with a prior over codes only, and the volumes "
                f"of {trained.path} are drawn as vectors"
            )


def sample(trained, options, log):
    """Draws volumes from N(0, temperature² I): NIfTI, `latents.npy` and a picture."""
    count = SAMPLES if options.samples is None else options.samples
    if count < 1:
        raise UserError(f"-n: found {count}; expected 1 or more")
    if not (math.isfinite(options.temperature) and options.temperature >= 0):
        raise UserError(f"--temperature: found {options.temperature}; expected 0 or more")
    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed: found {options.seed}; expected 0 or more")
    volumes, vectors = trained.sample(
        count,
        batch_size=options.batch_size,
        temperature=options.temperature,
        seed=options.seed,
    )
    write_array(options.out / "latents.npy", vectors)
    names = [f"sample-{number:03d}" for number in range(1, count + 1)]
    save_volumes(trained, options.out, names, volumes)
    shown = min(count, SHOWN_SAMPLES)
    more = f"{shown} of {count}" if count > shown else f"{count}"
    picture_volumes(
        trained,
        volumes,
        options.out / "samples.png",
        title=f"{more} new brains from {network_of(trained)}, temperature {options.temperature:g}",
    )
    log.info("%d new brains in %s: NIfTI, latents.npy, samples.png", count, options.out)


def traverse(trained, options, log):
    """Writes what becomes of zeros, or of a scan, while one dimension of its vector changes."""
    size, values = trained.model.latent_size, list(options.values)
    if len(values) < 2 or not np.isfinite(values).all():
        found = " ".join(f"{value:g}" for value in values)
        raise UserError(f"--values: found {found}; expected two or more numbers")
    dimensions, why = chosen_dimensions(trained, options)
    for number in dimensions:
        if not 0 <= number < size:
            raise UserError(
                f"--dimensions: found {number}; expected numbers from 0 to {size - 1}, because the "
                f"vectors of {trained.path} have {size}"
            )
    if len(set(dimensions)) < len(dimensions):
        found = " ".join(map(str, dimensions))
        raise UserError(f"--dimensions: found {found}; expected each number once")
    base, whose, stem = np.zeros(size), "zeros", ""
    if options.scan is not None:
        ((path, name),) = single(options.scan).items()
        ((_, _, scan),) = prepared(trained, [str(path)], log)
        base, whose, stem = vectors_of(trained, [scan])[0], name, f"{name}_"
    log.info("dimensions %s: %s", ", ".join(map(str, dimensions)), why)
    vectors = evaluation.traverse(base, dimensions, values).astype("float32")
    volumes = decoded(trained, vectors, options.batch_size)
    write_array(options.out / f"{stem}latents.npy", vectors)
    for number, found in zip(dimensions, volumes, strict=True):
        file = options.out / f"{stem}dimension-{number:03d}"
        save_nifti(trained, f"{file}.nii.gz", np.moveaxis(found[..., 0], 0, -1))
        note = {"Description": f"decoded from {whose}, with other values of one dimension"}
        write_json(f"{file}.json", about(trained) | note | {"Dimension": number, "Values": values})
    shown = slice(0, SHOWN_DIMENSIONS)
    steps = spread(len(values))
    few = f", {SHOWN_DIMENSIONS} of {len(dimensions)}" if len(dimensions) > SHOWN_DIMENSIONS else ""
    traversal_grid(
        volumes[shown][:, steps],
        grid_of(trained),
        options.out / f"{stem}traversal.png",
        values=[values[step] for step in steps],
        dimensions=dimensions[shown],
        title=f"Around {whose}, one dimension at a time{few}",
        simulated=trained.simulated,
    )
    log.info(
        "%d dimensions of %d volumes each in %s: NIfTI, %slatents.npy, %straversal.png",
        *(len(dimensions), len(values), options.out, stem, stem),
    )


def interpolate(trained, options, log):
    """Writes the volumes on the way from one scan to another."""
    if options.steps < 2:
        raise UserError(f"--steps: found {options.steps}; expected 2 or more")
    for name in options.files:
        single(name)
    if len(scan_paths(options.files)) < 2:
        raise UserError(f"interpolate: found {options.files[0]} twice; expected two scans")
    # Not `readable` over both: there is no way with one end.
    found = [
        (name, *prepared(trained, [str(path)], log))
        for path, name in scan_paths(options.files).items()
    ]
    (first, (_, _, one)), (last, (_, _, other)) = found
    ends = vectors_of(trained, [one, other])
    try:
        way = evaluation.interpolate(*ends, options.steps, spherical=options.spherical)
    except ValueError as error:
        raise UserError(
            f"--spherical: no way from {first} to {last} ({' '.join(str(error).split())}); "
            "expected two scans whose vectors differ in direction"
        ) from None
    vectors = way.astype("float32")
    volumes = decoded(trained, vectors, options.batch_size)
    write_array(options.out / "latents.npy", vectors)
    names = [f"step-{number:03d}" for number in range(1, options.steps + 1)]
    save_volumes(trained, options.out, names, volumes)
    steps = spread(options.steps)
    kind = "along a great circle" if options.spherical else "along a straight line"
    shares = [f"{100 * step / (options.steps - 1):.0f} %" for step in steps]
    traversal_grid(
        volumes[None, steps],
        grid_of(trained),
        options.out / "interpolation.png",
        values=[first, *shares[1:-1], last],
        dimensions=[""],
        row="{}",
        column="decoded from vectors on the way",
        title=f"From {first} to {last}, {kind} of vectors",
        simulated=trained.simulated,
    )
    log.info(
        "%d volumes from %s to %s in %s: NIfTI, latents.npy, interpolation.png",
        *(options.steps, first, last, options.out),
    )


def reconstruct(trained, options, log):
    """Writes each scan's reconstruction on the scan's own grid, and how alike the two are.

    Measures and picture are of what the network takes and gives: brains on the study's grid.
    """
    rows = []
    for path, name, scan in prepared(trained, options.files, log):
        started = time.perf_counter()
        images = scan.volume[None]
        restored = decoded(trained, vectors_of(trained, [scan]), options.batch_size)
        measured = evaluation.per_subject(images, restored, [str(path)], ndim=3).iloc[0]
        row = {"file": str(path), "voxels": "x".join(map(str, scan.size))} | {
            key: measured[key] for key in ("ssim", "ssim_foreground", "psnr", "psnr_foreground")
        }
        rows.append(row)
        file = options.out / f"{name}_desc-reconstruction.nii.gz"
        image = scan.to_intensities(scan.to_scan(restored[0]))
        data.save_nifti(file, image, scan.original_affine, like=path)
        reconstruction_planes(
            images[0, ..., 0],
            restored[0, ..., 0],
            grid_of(trained),
            options.out / f"{name}_reconstruction.png",
            title=f"{name} through {trained.model.latent_size} numbers",
            simulated=comes_from_simulation(path),
        )
        log.info(
            "%s: SSIM %.3f, foreground %.3f, PSNR %.1f dB (%.1f s)",
            *(path, row["ssim"], row["ssim_foreground"], row["psnr"]),
            time.perf_counter() - started,
        )
    write_csv(options.out / "similarity.csv", pd.DataFrame(rows))
    log.info(
        "%d rows in %s (SSIM: 3D, 7x7x7 window, data range 1; on the study's grid)",
        *(len(rows), options.out),
    )


def encode(trained, options, log):
    """Writes each scan's vector as `NAME.npy`, and all of them as `latents.csv`."""
    rows, columns = [], [f"z{number:03d}" for number in range(trained.model.latent_size)]
    for path, name, scan in prepared(trained, options.files, log):
        vector = vectors_of(trained, [scan])[0]
        write_array(options.out / f"{name}.npy", vector)
        rows.append({"scan": name, **dict(zip(columns, vector, strict=True))})
        log.info("%s: %d numbers", path, len(vector))
    write_csv(options.out / "latents.csv", pd.DataFrame(rows))
    log.info("%d vectors (float32) and latents.csv in %s", len(rows), options.out)


def decode(trained, options, log):
    """Writes the volumes that vectors of files decode to, and a picture for each file."""
    files = {Path(name): read_vectors(Path(name), trained) for name in options.files}
    stems = [path.name.removesuffix(".npy") for path in files]
    for path, stem in zip(files, stems, strict=True):
        if stems.count(stem) > 1:
            raise UserError(f"{path}: found another {path.name}; expected different names")
    for (path, vectors), stem in zip(files.items(), stems, strict=True):
        volumes = decoded(trained, vectors, options.batch_size)
        names = [f"{stem}-{number:03d}_decoded" for number in range(1, len(volumes) + 1)]
        save_volumes(
            trained, options.out, names if len(names) > 1 else [f"{stem}_decoded"], volumes
        )
        shown = min(len(volumes), SHOWN_SAMPLES)
        few = f", {shown} of {len(volumes)}" if shown < len(volumes) else ""
        picture = options.out / f"{stem}_decoded.png"
        picture_volumes(trained, volumes, picture, title=f"decoded from {path.name}{few}")
        plural = "s" if len(volumes) > 1 else ""
        log.info("%s: %d volume%s in %s", path, len(volumes), plural, options.out)


VERBS = {
    "sample": sample,
    "traverse": traverse,
    "interpolate": interpolate,
    "reconstruct": reconstruct,
    "encode": encode,
    "decode": decode,
}


def chosen_dimensions(trained, options):
    """Numbers of the dimensions to traverse, and why those."""
    if options.dimensions is not None:
        return list(options.dimensions), "as chosen"
    table, latents = (trained.path / "latents" / name for name in ("dimensions.csv", "train.npy"))
    if table.exists():
        found = pd.read_csv(table)["dimension"].head(TRAVERSED)
        return [int(number) for number in found], "those that differ most between classes"
    if latents.exists():
        deviations = np.load(latents).std(axis=0)
        found = np.argsort(-deviations, kind="stable")[:TRAVERSED]
        return found.tolist(), "those that vary most among training scans"
    raise UserError(
        f"--dimensions: found none, and {trained.path} has no latents/dimensions.csv or "
        "latents/train.npy that would name some; expected numbers from 0 to "
        f"{trained.model.latent_size - 1}"
    )


def prepared(trained, names, log):
    """Yields (path, name, `PreparedVolume`) of each scan; bad ones are reported and counted."""

    def read(path):
        started = time.perf_counter()
        steps = steps_for(trained, path)
        if any(step["name"] == "RegisterToTemplate" for step in steps):
            log.info("%s: registering to the template", path)
        scan = data.PreparedVolume.read(str(path), steps)
        log.info("%s: read (%.1f s)", path, time.perf_counter() - started)
        return scan

    return readable_scans(names, read, log)


def steps_for(trained, path):
    """The steps that bring a scan onto the study's grid.

    Simulated cohorts may be made on it, so that their study registers nothing; a scan of a file
    that lies elsewhere is registered all the same.
    """
    registers = any(step["name"] == "RegisterToTemplate" for step in trained.steps)
    if registers or not trained.in_template_space:
        return trained.steps
    image, affine = data.Canonical("LPS")(*data.load_scan((str(path),)))
    if image.shape == trained.volume_shape and np.allclose(
        affine, grid_of(trained), atol=SAME_PLACE
    ):
        return trained.steps
    return registering_steps(trained)


def registering_steps(trained):
    """The steps that the study of a run would have for scans of files."""
    options = hyperparameters.from_dict(trained.about["study"]).data
    options = dataclasses.replace(options, source="bids")
    return data.steps_to_config(dataset.registered_steps(options))


def single(name):
    """The one scan of a name, as `scan_paths` gives it."""
    found = scan_paths([name])
    if len(found) > 1:
        raise UserError(f"{name}: found {len(found)} scans; expected one")
    return found


def vectors_of(trained, scans):
    """Vectors of `PreparedVolume`s, float32 `(n, latent_size)`."""
    return trained.model.encode(np.stack([scan.volume for scan in scans]), batch_size=1)


def decoded(trained, vectors, batch_size):
    """Volumes `(..., x, y, z, 1)` of vectors `(..., latent_size)`, in [0, 1]."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    volumes = trained.model.decode(flat, batch_size=batch_size)
    return np.clip(volumes, 0, 1).reshape(*vectors.shape[:-1], *volumes.shape[1:])


def read_vectors(path, trained):
    """Vectors `(n, latent_size)` of a `.npy` file, checked against the model."""
    size = trained.model.latent_size
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected what encode writes (.npy)") from None
    except (ValueError, OSError, EOFError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({line}); expected .npy") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path}: found several arrays; expected one, as .npy has it")
    if found.dtype.kind not in "iuf" or found.ndim < 1 or found.shape[-1] != size or not found.size:
        raise UserError(
            f"{path}: found {found.dtype} of shape {found.shape}; expected numbers of shape "
            f"({size},) or (n, {size})"
        )
    if not np.isfinite(found).all():
        raise UserError(f"{path}: found numbers that are not finite; expected latents")
    return found.reshape(-1, size).astype("float32")


def save_volumes(trained, folder, names, volumes):
    """Writes volumes that belong to no scan as NIfTI, each with a note on what they are."""
    for name, volume in zip(names, volumes, strict=True):
        save_nifti(trained, folder / f"{name}.nii.gz", volume[..., 0])
        write_json(
            folder / f"{name}.json", about(trained) | {"Description": "decoded from a vector"}
        )


def save_nifti(trained, path, volume):
    """Writes `(x, y, z[, n])` on the grid of the study."""
    data.save_nifti(path, volume, grid_of(trained), mni=trained.in_template_space)


def grid_of(trained):
    """Voxel index to mm of volumes of a run that belong to no scan."""
    return dataset.grid_affine(trained.about["study"]["data"])


def about(trained):
    """What all volumes of a run that belong to no scan have in common."""
    space = {"Space": "MNI152NLin2009aSym"} if trained.in_template_space else {}
    units = "shares of the scan's range, from 0 to 1"
    return {"Units": units, "Run": trained.path.name, "Simulated": trained.simulated, **space}


def picture_volumes(trained, volumes, path, title):
    """A picture of volumes that belong to no scan, in three planes, beneath and beside others."""
    volumes = volumes[:SHOWN_SAMPLES]
    blocks = {}
    for start in range(0, len(volumes), SHOWN_ROWS):
        part = volumes[start : start + SHOWN_ROWS]
        last = start + len(part)
        name = f"{start + 1} to {last}" if len(part) > 1 else f"{last}"
        blocks[name if len(volumes) > 1 else ""] = part
    first = next(iter(blocks))
    generated_planes(
        blocks, grid_of(trained), path, reference=first, title=title, simulated=trained.simulated
    )


def network_of(trained):
    """The variant of a run as it is written: ivae-256."""
    return trained.about["study"]["variant"]


def spread(count):
    """Numbers of at most `SHOWN_STEPS` of so many volumes, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SHOWN_STEPS)).round().astype(int))
