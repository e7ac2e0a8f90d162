"""The brain mask of a head: the one way to it, for every step that needs one.

A skull stripper on PATH is used where there is one: SynthStrip (Hoopes et al. 2022), HD-BET
(Isensee et al. 2019) or FSL's BET (Smith 2002), the first that is found. Where there is none,
`brainvq.data.brain_mask` finds the brain once the head is registered.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from brainvq.data.remarks import remark

# Volume of a brain with its ventricles, mm³, with room for children and for generous masks.
BRAIN_MM3 = (0.3e6, 2.3e6)
_SECONDS = 1800
BY_TISSUE = (
    "a head: its skull was taken off by tissue near the template's brain; a skull stripper on PATH "
    "(mri_synthstrip, hd-bet or bet) would be used"
)

# Program: its arguments, and the name of the mask that it writes.
TOOLS = {
    "mri_synthstrip": (("-i", "{input}", "-m", "{folder}/mask.nii.gz"), "mask.nii.gz"),
    "hd-bet": (
        ("-i", "{input}", "-o", "{folder}/out.nii.gz", "--save_bet_mask", "-device", "cpu"),
        "out_bet.nii.gz",
    ),
    "bet": (("{input}", "{folder}/out", "-m", "-n"), "out_mask.nii.gz"),
}


def brain_of_head(image, affine):
    """Finds the brain of a head by a skull stripper on PATH.

    Args:
        image: `(x, y, z)` of a head.
        affine: `(4, 4)`, voxel index to mm.

    Returns:
        bool `(x, y, z)`; None where there is no program, or it gave no mask of a brain's size: a
        remark says why.
    """
    for name in TOOLS:
        program = shutil.which(name)
        if program is None:
            continue
        mask, problem = _mask_by(name, program, image, affine)
        volume = 0 if mask is None else mask.sum() * abs(np.linalg.det(affine[:3, :3]))
        if mask is not None and BRAIN_MM3[0] <= volume <= BRAIN_MM3[1]:
            remark(f"a head: its skull was taken off by {name} ({program})")
            return mask
        problem = problem or f"a mask of {volume / 1000:.0f} ml, which is no brain"
        remark(f"a head: {name} ({program}) failed: {problem}; other ways are taken")
    return None


def stripper():
    """Which way skulls are taken off here: the name of a program on PATH, or that of our own way.

    Returns:
        str; what is prepared by one way is not what another would make.
    """
    return next((name for name in TOOLS if shutil.which(name)), "tissue")


def _mask_by(name, program, image, affine):
    """(bool mask or None, what went wrong or None) of a program."""
    arguments, written = TOOLS[name]
    with tempfile.TemporaryDirectory(prefix="brainvq-") as folder:
        file = Path(folder) / "head.nii.gz"
        nib.Nifti1Image(np.asarray(image, np.float32), affine).to_filename(file)
        command = [program, *(word.format(input=file, folder=folder) for word in arguments)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS,
                check=False,
            )
            if done.returncode:
                lines = done.stdout.decode(errors="replace").strip().splitlines()
                return None, f"status {done.returncode}, {lines[-1] if lines else 'no output'}"
            found = _written(Path(folder), written)
            mask = np.asarray(nib.load(found).dataobj)
        except subprocess.TimeoutExpired:
            return None, f"not ready after {_SECONDS} s"
        except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as error:
            return None, " ".join(str(error).split())
    if mask.shape != image.shape:
        return None, f"a mask of shape {mask.shape}; expected {image.shape}"
    return mask > 0, None


def _written(folder, name):
    """The mask of a program; BET writes .nii where FSLOUTPUTTYPE says so, older HD-BET `_mask`."""
    stem = name.removesuffix(".nii.gz")
    for file in (f"{stem}.nii.gz", f"{stem}.nii", "out_mask.nii.gz"):
        if (folder / file).exists():
            return folder / file
    raise OSError(f"no {name} was written")
