"""Prepare the arrays of a study, and no more; with a score and a picture of the registration, where
there is one.

    {prog} [STUDY] [--data.source ... --data.root DIR] [--nifti DIR]

--nifti DIR writes what a network reads of each scan as NIfTI too, as BIDS derivatives.
"""

from pathlib import Path

from brainvq import studies
from brainvq.data.derivatives import check_folder
from brainvq.options import take_option


def main(arguments, prog):
    """Prepares the arrays of a study and says what there is."""
    folder, arguments = take_option(arguments, "--nifti")
    study = studies.parse(arguments, prog, __doc__.replace("{prog}", prog))
    from brainvq.tasks import of

    task = of(study)
    if folder is not None:
        check_folder(folder, "--nifti")
        task.check_nifti()
    scans = task.cohort(study)
    store = task.arrays(study, scans)
    print(scans.describe())
    print(f"{len(store)} {store.layout} of {store.sample_shape} in {store.path}")
    if folder is not None:
        count = task.save_nifti(study, scans, store, Path(folder))
        print(f"{count} images in {folder}")
    lines = task.describe_preparation(study, scans, store)
    if lines:
        print(lines)
