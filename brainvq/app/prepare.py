"""Prepare the arrays of a study, and no more; with a score and a picture of the registration, where
there is one.

    {prog} [STUDY] [--data.source ... --data.root DIR]
"""

from brainvq import studies


def main(arguments, prog):
    """Prepares the arrays of a study and says what there is."""
    study = studies.parse(arguments, prog, __doc__.replace("{prog}", prog))
    from brainvq.tasks import of

    task = of(study)
    scans = task.cohort(study)
    store = task.arrays(study, scans)
    print(scans.describe())
    print(f"{len(store)} {store.layout} of {store.sample_shape} in {store.path}")
    lines = task.describe_preparation(study, scans, store)
    if lines:
        print(lines)
