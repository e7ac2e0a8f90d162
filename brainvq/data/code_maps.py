"""Scans whose voxels have codes, as label maps with a list of their labels."""

import numpy as np
import pandas as pd

_OUTSIDE = "0: outside the foreground of the scan, or beyond what the model was shown."


def label_maps(labels, num_codes, som=None):
    """The maps of a scan's codes, and of their rows and columns on a self-organising map.

    Args:
        labels: int array of any shape: 1 + the code of each voxel, 0 where there is none, as
            `PreparedVolume.code_map` gives them.
        num_codes: size of the codebook.
        som: the map as a `brainvq.layers.som_grid.SOMGrid`, or anything that has its `height`,
            `width`, `topology` and `coordinates`; None for a codebook without one.

    Returns:
        Dict of name ("codes"; with `som` also "somrow" and "somcolumn") to (int array of the shape
        of `labels`, dict that says what its numbers mean, for a JSON file). Rows and columns are
        counted from 1 in the arrays; 0 is background there too.
    """
    about = {
        "Description": f"1 + the code of the voxel, 1 to {num_codes}. {_OUTSIDE} "
        "desc-codes_dseg.tsv lists the labels.",
        "Codes": int(num_codes),
    }
    if som is None:
        return {"codes": (labels, about)}
    where = {"MapShape": [som.height, som.width], "Topology": som.topology}
    maps = {"codes": (labels, about | where)}
    for axis, (name, count) in enumerate((("row", som.height), ("column", som.width))):
        positions = np.append(0, 1 + np.asarray(som.coordinates)[:, axis]).astype("int16")
        text = f"1 + the {name} of the voxel's code on the self-organising map, 1 to {count} "
        text += "(pictures and desc-codes_dseg.tsv count from 0). "
        maps[f"som{name}"] = (positions[labels], {"Description": text + _OUTSIDE} | where)
    return maps


def label_table(colours, som=None):
    """The labels of a code map, as BIDS lists those of a segmentation.

    Args:
        colours: `(num_codes, 3)`, red, green and blue in [0, 1].
        som: as in `label_maps`.

    Returns:
        `pandas.DataFrame` with `index` (the label), `name` and `color` (as #rrggbb); with `som`
        also `row` and `column` of the code on the map, counted from 0 as in pictures.
    """
    codes = np.arange(len(colours))
    table = {"index": codes + 1, "name": [f"code {code}" for code in codes]}
    if som is not None:
        rows, columns = np.asarray(som.coordinates).T
        names = zip(rows, columns, strict=True)
        table["name"] = [f"row {row}, column {column}" for row, column in names]
        table |= {"row": rows, "column": columns}
    whole = np.rint(255 * np.clip(colours, 0, 1)).astype(int)
    table["color"] = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in whole]
    return pd.DataFrame(table)
