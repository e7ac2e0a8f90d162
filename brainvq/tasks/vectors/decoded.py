"""Volumes and their vectors: scans are read and encoded, vectors decoded, written and drawn.

A scan is registered to the template as the study's scans were, and becomes one vector of an
`IntroVAE`. What is decoded from a vector that belongs to no scan lies in the space of the template;
what is decoded from that of a scan goes back through the map that was found for it.
"""

import dataclasses
import time

import numpy as np

from brainvq import data
from brainvq.reports.generation import generated_planes
from brainvq.tasks.names import readable_scans
from brainvq.tasks.volumes.registration import grid_affine, registered_steps

# Volumes that a picture has room for, and volumes beneath each other.
SHOWN, SHOWN_ROWS = 8, 4
# Largest distance between grids that are taken for one, in mm.
SAME_PLACE = 1e-3


def read_scans(trained, names, log, out=None, wanted=None):
    """Yields (path, `Input`, `PreparedVolume`) of each scan; bad ones are reported and counted.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        names: paths of scans, or of folders of them.
        log: `logging.Logger`.
        out: folder of the results.
        wanted: dict, which files of folders are taken, see `brainvq.data.inputs.scan_paths`.
    """

    def read(path):
        started = time.perf_counter()
        steps = steps_for(trained, path)
        if any(step["name"] == "RegisterToTemplate" for step in steps):
            log.info("%s: registering to the template", path)
        scan = data.PreparedVolume.read(str(path), steps, trained.usual)
        log.info("%s: read (%.1f s)", path, time.perf_counter() - started)
        return scan

    wanted = wanted or {"contrast": trained.study.data.suffix}
    return readable_scans(names, read, log, out=out, run=trained.path.name, **wanted)


def steps_for(trained, path):
    """The steps that bring a scan onto the study's grid.

    Simulated cohorts may be made on it, so that their study registers nothing; a scan of a file
    that lies elsewhere is registered all the same.
    """
    registers = any(step["name"] == "RegisterToTemplate" for step in trained.steps)
    if registers or not trained.in_template_space:
        return trained.steps
    image, affine = data.Canonical("LPS")(*data.load_scan((str(path),)))
    shape = trained.study.data.sample_shape[:3]
    if image.shape == shape and np.allclose(affine, grid_of(trained), atol=SAME_PLACE):
        return trained.steps
    options = dataclasses.replace(trained.study.data, source="bids")
    return data.steps_to_config(registered_steps(options))


def vectors_of(trained, scans):
    """Vectors of `PreparedVolume`s, float32 `(n, latent_size)`."""
    return trained.model.encode(np.stack([scan.volume for scan in scans]), batch_size=1)


def decoded(trained, vectors, batch_size):
    """Volumes `(..., x, y, z, 1)` of vectors `(..., latent_size)`, in [0, 1]."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    volumes = trained.model.decode(flat, batch_size=batch_size)
    return np.clip(volumes, 0, 1).reshape(*vectors.shape[:-1], *volumes.shape[1:])


def save_volumes(trained, folder, names, volumes, sources=(), what="decoded from a vector"):
    """Writes volumes that belong to no scan as NIfTI, each with a note on what they are.

    Args:
        trained: `brainvq.tasks.trained.Trained`.
        folder: `pathlib.Path` of the results.
        names: list of (start of the name, description), as `Derivatives.file` takes them.
        volumes: arrays `(x, y, z, 1)`.
        sources: paths of the scans that they lie between.
        what: what they are, in words.
    """
    for name, volume in zip(names, volumes, strict=True):
        note = {"Description": what}
        save_nifti(trained, folder, name, volume[..., 0], note, sources)


def save_nifti(trained, folder, name, volume, note, sources=(), suffix=""):
    """Writes `(x, y, z[, n])` on the grid of the study; see `save_volumes`."""
    results, mni = trained.results(folder), trained.in_template_space
    file = results.file(*name, suffix, mni=mni)
    note = {**note, **about_volumes(trained)}
    results.save(file, volume, grid_of(trained), note, sources=sources, grid="study", mni=mni)


def grid_of(trained):
    """Voxel index to mm of volumes of a run that belong to no scan."""
    return grid_affine(trained.study.data)


def about_volumes(trained):
    """What all volumes of a run that belong to no scan have in common, for their `.json`."""
    units = "shares of the scan's range, from 0 to 1"
    return {"Units": units, "Simulated": trained.simulated}


def picture_volumes(trained, volumes, path, title):
    """A picture of volumes that belong to no scan, in three planes, beneath and beside others."""
    volumes = volumes[:SHOWN]
    blocks = {}
    for start in range(0, len(volumes), SHOWN_ROWS):
        part = volumes[start : start + SHOWN_ROWS]
        last = start + len(part)
        name = f"{start + 1} to {last}" if len(part) > 1 else f"{last}"
        blocks[name if len(volumes) > 1 else ""] = part
    generated_planes(
        blocks,
        grid_of(trained),
        path=path,
        reference=next(iter(blocks)),
        title=title,
        simulated=trained.simulated,
    )
