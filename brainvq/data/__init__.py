"""Cohorts, readers, downloads, preprocessing, simulation and the array store; no Keras.

Names are loaded on first use, so that `import brainvq.data` costs nothing and a part that needs a
heavy package (nilearn, scipy) asks for it only when it is called.
"""

import importlib

# name → module that defines it.
_EXPORTS = {
    "Cohort": "cohort",
    "ScanError": "scans",
    "load_scan": "scans",
    "oriented_affine": "scans",
    "save_nifti": "scans",
    "scan_files": "scans",
    "to_original_grid": "scans",
    "SOURCES": "readers",
    "open_cohort": "readers",
    "is_simulated": "readers.bids",
    "read_bids": "readers.bids",
    "read_images": "readers.images",
    "read_ixi": "readers.ixi",
    "read_oasis1": "readers.oasis1",
    "read_oasis2": "readers.oasis2",
    "read_png_slices": "readers.png",
    "DATASETS": "download",
    "download_file": "download",
    "fetch": "download",
    "extract": "archives",
    "with_mask_tool": "masks",
    "with_masks": "masks",
    "BlockMean": "steps",
    "Canonical": "steps",
    "ClipIntensity": "steps",
    "CropOrPad": "steps",
    "FitInside": "steps",
    "RegisterToTemplate": "steps",
    "Resample": "steps",
    "ScaleIntensity": "steps",
    "SelectSlices": "steps",
    "ZScore": "steps",
    "apply_steps": "steps",
    "foreground_mask": "steps",
    "steps_from_config": "steps",
    "steps_to_config": "steps",
    "template_volumes": "registration",
    "ArrayStore": "store",
    "prepare": "store",
    "PreparedScan": "prepared",
    "PreparedVolume": "prepared_volume",
    "above_background": "prepared_volume",
    "SimulatedScan": "simulation",
    "simulate": "simulation",
    "simulated_cohort": "simulation",
    "tissue_labels": "simulation_bids",
    "write_simulated_bids": "simulation_bids",
    "BundleScale": "streamlines",
    "GroupStreamlines": "streamlines",
    "Tractogram": "streamlines",
    "align_directions": "streamlines",
    "group": "streamlines",
    "load_bundle": "streamlines",
    "load_tractogram": "streamlines",
    "new_tractogram": "streamlines",
    "resample": "streamlines",
    "restore_directions": "streamlines",
    "save_tractogram": "streamlines",
    "ungroup": "streamlines",
    "BUNDLES": "bundles",
    "balanced_rows": "bundles",
    "prepare_bundles": "bundles",
    "read_groups": "bundles",
    "read_tractoinferno": "bundles",
    "read_tracts": "bundles",
    "scale_of": "bundles",
    "split_groups": "bundles",
    "simulate_bundle": "simulation_bundles",
    "simulated_bundles": "simulation_bundles",
    "write_simulated_bundles": "simulation_bundles",
    "download_tractoinferno": "tractoinferno",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_EXPORTS[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_EXPORTS})
