"""Cohorts, readers, downloads, preprocessing, simulation and the array store; no Keras.

Names are loaded on first use, so that `import brainvq.data` costs nothing and a part that needs a
heavy package (nilearn, scipy) asks for it only when it is called.
"""

import importlib

# name → module that defines it.
_EXPORTS = {
    "Cohort": "cohort",
    "ScanError": "errors",
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
    "BlockMean": "geometry",
    "Canonical": "geometry",
    "ClipIntensity": "intensity",
    "CropOrPad": "geometry",
    "FitInside": "geometry",
    "RegisterToTemplate": "registration",
    "Resample": "geometry",
    "ScaleIntensity": "intensity",
    "SelectSlices": "geometry",
    "ZScore": "intensity",
    "apply_steps": "steps",
    "foreground_mask": "foreground",
    "steps_from_config": "steps",
    "steps_to_config": "steps",
    "template_volumes": "registration",
    "ArrayStore": "store",
    "prepare": "store",
    "StoredVolumes": "views",
    "UnitStore": "views",
    "comes_from_simulation": "inputs",
    "readable": "inputs",
    "scan_paths": "inputs",
    "tractogram_paths": "inputs",
    "pack_codes": "packed_codes",
    "unpack_codes": "packed_codes",
    "PreparedScan": "prepared",
    "PreparedVolume": "prepared",
    "above_background": "prepared",
    "SimulatedScan": "simulation_scan",
    "simulate": "simulation_scan",
    "simulated_cohort": "simulation",
    "tissue_labels": "simulation_bids",
    "write_simulated_bids": "simulation_bids",
    "BundleScale": "streamlines",
    "GroupStreamlines": "streamlines",
    "Tractogram": "tractograms",
    "align_directions": "streamlines",
    "align_groups": "streamlines",
    "group": "streamlines",
    "load_bundle": "streamlines",
    "load_tractogram": "tractograms",
    "new_tractogram": "tractograms",
    "resample": "streamlines",
    "restore_directions": "streamlines",
    "save_tractogram": "tractograms",
    "ungroup": "streamlines",
    "usable": "streamlines",
    "BUNDLES": "bundles",
    "balanced_rows": "bundles",
    "prepare_bundles": "bundles",
    "read_groups": "readers.bundles",
    "read_tractoinferno": "readers.bundles",
    "read_tracts": "readers.bundles",
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
