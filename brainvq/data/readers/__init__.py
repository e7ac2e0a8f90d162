"""Readers: from a folder as it is published to a `Cohort`; one module per source."""

import difflib
import importlib
import inspect

from brainvq.errors import UserError

# source → "module:function", imported on use. A reader is `f(root, **options) -> Cohort` and checks
# its root itself; one that makes its own data has no `root` parameter.
SOURCES = {
    "simulated": "brainvq.data.simulation:simulated_cohort",
    "bids": "brainvq.data.readers.bids:read_bids",
    "oasis1": "brainvq.data.readers.oasis1:read_oasis1",
    "oasis2": "brainvq.data.readers.oasis2:read_oasis2",
    "png": "brainvq.data.readers.png:read_png_slices",
    "ixi": "brainvq.data.readers.ixi:read_ixi",
    "images": "brainvq.data.readers.images:read_images",
    "tractoinferno": "brainvq.data.readers.bundles:read_tractoinferno",
    "tracts": "brainvq.data.readers.bundles:read_tracts",
    "groups": "brainvq.data.readers.bundles:read_groups",
    "simulated-bundles": "brainvq.data.simulation_bundles:simulated_bundles",
}


def open_cohort(source, root=None, **options):
    """Reads the cohort of a source.

    Args:
        source: a key of `SOURCES`.
        root: folder of the data ("ixi" takes the archive too); not used by sources that make their
            own.
        **options: options of that reader, e.g. `suffix="FLAIR"` for "bids".

    Returns:
        `brainvq.data.Cohort`.

    Raises:
        UserError: on an unknown source or option, a root that is missing or not a folder, or a
            folder without scans of the expected layout.
    """
    if source not in SOURCES:
        close = difflib.get_close_matches(str(source), SOURCES, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(
            f"data source {source!r} is unknown{hint}; sources are {', '.join(SOURCES)}"
        )
    module, _, function = SOURCES[source].partition(":")
    reader = getattr(importlib.import_module(module), function)
    parameters = dict(inspect.signature(reader).parameters)
    rooted = parameters.pop("root", None) is not None
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [] if open_ended else [name for name in options if name not in parameters]
    if unknown:
        raise UserError(
            f"data source {source!r} has no option {', '.join(unknown)}; "
            f"options are {', '.join(parameters)}"
        )
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    missing = [name for name in required if name not in options]
    if missing:
        raise UserError(f"data source {source!r} needs the option {', '.join(missing)}")
    if not rooted:
        return reader(**options)
    if root is None:
        raise UserError(f"data source {source!r} needs the folder of its data (root), found none")
    return reader(root, **options)
