"""Simulated subjects with their lesion and tissue masks, as a BIDS folder."""

from brainvq.options import parse_fields
from brainvq.options.verbs import Simulation


def main(arguments, prog):
    """Writes simulated subjects as a BIDS folder: scans, sidecars, lesion and tissue masks."""
    options = parse_fields(Simulation(), arguments, prog, Simulation.__doc__)
    from brainvq import data

    scans = data.open_cohort(
        "simulated",
        n_subjects=options.subjects,
        modality=options.suffix,
        spacing=options.spacing,
        groups={group: 1.0 for group in options.groups},
        confound=options.confound,
        lesion_shapes=options.lesion_shapes,
        seed=options.seed,
    )
    data.write_simulated_bids(scans, options.out, workers=options.workers)
    print(scans.describe())
    print(f"simulated scans in {options.out}, lesion masks in {options.out}/derivatives/lesions")
