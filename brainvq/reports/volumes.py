"""The report and the model card of a study of volumes, from its measures alone."""

import math

import pandas as pd

from brainvq.evaluation import tissue_table, volume_anatomy_table, whole_table
from brainvq.reports.html import Section, format_cell
from brainvq.reports.run_pages import (
    DETAIL_IS_LOST,
    NAMES_OF_VOLUMES,
    PERPLEXITY,
    SAMPLES_ARE_NOBODY,
    USAGE,
    codebook_size,
    codes_card,
    data_of,
    measure_card,
    measures_table,
    pictures,
    prior_card,
    prior_section,
    run_card,
    run_report,
    samples_section,
    settings_section,
    ssim_settings,
    thousands,
    training_section,
    usage_table,
    warnings_of,
)

_FIT = {
    "quantization_error": "mean distance of a vector to its nearest code",
    "quantization_mse": "mean squared distance, per channel",
    "topographic_error": "topographic error",
    "nodes_used": "nodes nearest to a vector",
    "vectors": "vectors",
}
MOSAICS_SHOW_PLACES = (
    "Samples are no real persons, but mosaics: a place of one, some 12 voxels wide, looks like "
    "that place in one of the training people. Hand the prior on only where their scans may be."
)
_CORRELATION = {
    "mean": "mean r of neighbours",
    "median": "median",
    "min": "smallest",
    "share_above": "share of pairs above 0.95",
    "all_pairs": "mean r of any two nodes",
    "pairs": "pairs of neighbours",
}


def volumes_report(about, metrics, subjects, figures, *, note="", failures=(), timings=None):
    """The report of a run on volumes.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        subjects: `pandas.DataFrame`, measures per test subject.
        figures: dict of figure name to PNG path; absent figures are left out.
        note: str, a line on the cohort.
        failures: list of str, a line for each scan that was left out.
        timings: dict of stage to seconds.

    Returns:
        A `Report`.
    """
    study = about["study"]
    warnings = warnings_of(metrics, failures)
    if "codes" in metrics and not _decoded(metrics):
        warnings.insert(0, _not_from_codes(study))
    sections = [
        _reconstruction(study, metrics, subjects, figures),
        _codes(metrics, figures),
        _map(metrics, figures),
        _anatomy(metrics, figures),
        _prior(metrics, figures),
        _samples(metrics, figures),
        _drawn_anatomy(metrics, figures),
        training_section(figures, timings, "SSIM of validation subjects."),
        settings_section(about),
    ]
    return run_report(
        about,
        sections,
        subtitle=f"Whole volumes. Trained and tested on {data_of(about, metrics)}; "
        f"{metrics['test_subjects']} test subjects that training never saw.",
        cards=_cards(metrics),
        warnings=warnings,
        note=note,
    )


def volumes_card(about, metrics, *, split, data_facts):
    """The model card of a run on volumes.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        split: dict of split to its number of subjects.
        data_facts: dict with any of `data_name`, `data_licence`, `data_attribution`, `licence`.

    Returns:
        A `ModelCard`.
    """
    study = about["study"]
    zscored = study["data"].get("scale") == "zscore"
    shape_rule = ""
    if metrics.get("grid"):
        shape_rule = f"this shape, {metrics['stride']} voxels along each axis for a code"
    codes = ""
    if "codes" in metrics:
        codes = f"{_grid(metrics)} out of {codebook_size(metrics)} for a volume"
        codes += "" if _decoded(metrics) else "; the decoder does not read them"
    limitations = [
        DETAIL_IS_LOST,
        f"Voxels of {study['data']['spacing']:g} mm, cut or filled to one shape around the brain.",
    ]
    if "codes" in metrics and not _decoded(metrics):
        limitations.insert(0, _not_from_codes(study))
    if "samples" in metrics:
        limitations.append(SAMPLES_ARE_NOBODY if "prior" in metrics else MOSAICS_SHOW_PLACES)
    return run_card(
        about,
        metrics,
        data_facts,
        intended_use="Research on discrete codes of brain volumes: reconstruction, maps of codes, "
        "sampling. Not for diagnosis, nor for any decision about a person.",
        split=split,
        intensity_range=None if zscored else (0.0, 1.0),
        input_shape=f"({', '.join(map(str, study['data']['shape']))}, 1), voxels of "
        f"{study['data']['spacing']:g} mm",
        shape_rule=shape_rule,
        channels="intensity"
        + (", of mean 0 and standard deviation 1 over the volume" if zscored else "")
        + "; axes from the subject's right to left, front to back, bottom to top",
        codes=codes,
        bits=metrics.get("bits_per_volume"),
        measures=measures_table(metrics, NAMES_OF_VOLUMES),
        ssim_parameters=metrics["ssim_settings"],
        limitations=limitations,
    )


def _decoded(metrics):
    """Whether the reconstruction is made from codes."""
    return metrics.get("bits_per_volume") is not None


def _not_from_codes(study):
    if study["model"].get("skips"):
        why = "the decoder also reads the encoder's finer levels"
    else:
        why = "the decoder reads the encoder's vectors as they are"
    return (
        f"The reconstruction is not made from codes: {why}. Its similarity says nothing of what "
        "the codes hold."
    )


def _grid(metrics):
    """The codes of a volume in words."""
    stages = metrics.get("codes_per_cell", 1)
    deep = f" of {stages}" if stages > 1 else ""
    return f"{_times(metrics['grid'])}{' cells' if deep else ''}{deep} codes"


def _count(metrics):
    """Number of codes of a volume."""
    return math.prod(metrics["grid"]) * metrics.get("codes_per_cell", 1)


def _times(sizes):
    return " x ".join(map(str, sizes))


def _cards(metrics):
    measures = metrics["reconstruction"]
    cards = [
        measure_card("SSIM, 3D", measures["ssim"], "unseen subjects, whole volume"),
        measure_card("SSIM, 3D, foreground", measures["ssim_foreground"], "unseen subjects"),
        measure_card("PSNR", measures["psnr"], "dB, whole volume", 1),
    ]
    if _decoded(metrics):
        bits = metrics["bits_per_volume"]
        cards.append(("Bits a volume", f"{bits:.0f}", _grid(metrics)))
    cards += codes_card(metrics)
    neighbours = metrics.get("som", {}).get("neighbour_correlation")
    if neighbours:
        cards.append(
            (
                "Neighbours on the map",
                f"r {neighbours['mean']:.2f}",
                f"any two nodes: {neighbours['all_pairs']:.2f}",
            )
        )
    if "tissue" in metrics:
        tissue = metrics["tissue"]
        cards.append(
            (
                "Code and tissue",
                f"NMI {tissue['nmi']:.2f}",
                f"place alone: {tissue['position']['nmi']:.2f}" if "position" in tissue else "",
            )
        )
    return cards + prior_card(metrics)


def _reconstruction(study, metrics, subjects, figures):
    text = (
        f"Mean and standard deviation over {metrics['test_subjects']} test subjects, after each "
        f"volume and its reconstruction were put on the volume's own scale from 0 to 1. SSIM "
        f"settings: {ssim_settings(metrics)}."
    )
    weights = metrics.get("parameters", {}).get("autoencoder")
    if weights:
        text += f" The network has {thousands(weights)} weights."
    if "codes" in metrics and not _decoded(metrics):
        text += f"\n\n{_not_from_codes(study)}"
        caption = "A test subject, what the decoder makes of its vectors, and the error."
    elif "codes" in metrics:
        text += (
            f"\n\nA volume is {_count(metrics)} codes out of {codebook_size(metrics)}, "
            f"{metrics['bits_per_volume']:.0f} bits; the reconstruction is made from these alone."
        )
        caption = "A test subject, what its codes decode to, and the error."
    else:
        text += "\n\nThis variant has no codes: its vectors are decoded as they are."
        caption = "A test subject, its reconstruction, and the error."
    if "continuous_reconstruction" in metrics:
        text += (
            " Not quantised: what the same decoder makes of the vectors before they become "
            "codes, which is what the codes cost."
        )
    if "patch_kmeans" in metrics:
        text += (
            " Patch k-means: k-means on blocks of the volume, as many codes of as many bits, "
            "which needs no network."
        )
    return Section(
        "Reconstruction of unseen subjects",
        text,
        tables=[
            ("Similarity", measures_table(metrics, NAMES_OF_VOLUMES)),
            ("Each test subject", subjects),
        ],
        figures=pictures(
            figures,
            reconstructions=caption,
            continuous="The same subject from its codes and from the vectors before they become "
            "codes.",
            subjects="SSIM of each test subject, 3D.",
        ),
    )


def _codes(metrics, figures):
    if "codes" not in metrics:
        return None
    return Section(
        "Codes",
        f"Codes are counted over all volumes of a split. {PERPLEXITY} Much of a volume is air, and "
        "a few codes stand for it."
        + (
            " Where a cell has several, it is the first."
            if metrics.get("codes_per_cell", 1) > 1
            else ""
        ),
        tables=[("Use of the codebook", usage_table(metrics))],
        figures=pictures(
            figures,
            usage=USAGE,
        ),
    )


def _map(metrics, figures):
    som = metrics.get("som", {})
    shown = pictures(
        figures,
        som_grid="The map. Distance to neighbours: ridges part groups of alike nodes. The colours "
        "are those of the figures below.",
        tsne="Encodings and the codebook: where codes lie among encodings, the "
        "codebook fits; where they lie apart, it has drifted away.",
    )
    if not som and not shown:
        return None
    text = "Distances are between encodings of test subjects and the vectors of the codebook."
    if "topographic_error" in som:
        text += (
            " Topographic error: the share of vectors whose two nearest nodes are no neighbours "
            "on the map."
        )
    neighbours = som.get("neighbour_correlation")
    if neighbours:
        text += (
            "\n\nNeighbouring nodes may be alike because the map is in order, or because all nodes "
            "are: compare neighbours with any two nodes, and look at the distances too."
        )
    tables = [
        ("Fit of the codebook, test subjects", _facts(som, _FIT)),
        ("Pearson correlation of the nodes' vectors", _facts(neighbours or {}, _CORRELATION)),
    ]
    is_map = neighbours or "topographic_error" in som or "som_grid" in figures
    return Section(
        "The map" if is_map else "The codebook",
        text,
        tables=[(caption, table) for caption, table in tables if len(table)],
        figures=shown,
    )


def _anatomy(metrics, figures):
    shown = pictures(
        figures,
        brain_on_grid="A test subject in the colours of the map: alike colours are near on it.",
        locations="Where in the brain the most used codes are found.",
    )
    if "tissue" not in metrics and not shown:
        return None
    tables, text = [], "Every code covers a block of voxels, each of which is coloured like it."
    if "tissue" in metrics:
        tissue = metrics["tissue"]
        text = (
            "What the code of a voxel's block tells of the voxel's tissue, over "
            f"{thousands(tissue['voxels'])} voxels of tissue of test subjects, known because they "
            "are simulated. Normalised mutual information (NMI) is 0 where one tells nothing "
            "of the other and 1 where it determines it. Places alone tell much of the tissue: "
            "judge the code by what it tells beside its place."
        )
        tables.append(("Tissue", _tissue_table(tissue)))
    return Section("Codes in the brain", text, tables=tables, figures=shown)


def _tissue_table(tissue):
    names = {"nmi": "NMI", "bits": "bits per voxel", "explained": "share of the tissue's entropy"}
    known = {"code": tissue, "place of the code alone": tissue.get("position")}
    rows = [
        {"known": what, **{label: values.get(name) for name, label in names.items()}}
        for what, values in known.items()
        if values is not None
    ]
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def _prior(metrics, figures):
    if "prior" not in metrics:
        return None
    costs = f"{metrics['prior']['bits_per_volume']:.0f} bits a volume."
    return prior_section(metrics, figures, "neighbour and position tables, mixed", costs)


def _samples(metrics, figures):
    if "samples" not in metrics:
        return None
    drawn = f"{metrics['samples']['count']} volumes of codes"
    return samples_section(metrics, figures, drawn, "volume", "unseen subjects")


def _drawn_anatomy(metrics, figures):
    found = metrics.get("samples", {}).get("anatomy")
    shown = pictures(figures, anatomy="A drawn brain beside one of an unseen subject.")
    if found is None:
        return Section("A drawn brain", "", figures=shown) if shown else None
    return Section(
        "Do new brains pass for real ones?",
        f"Slices of {found['drawn']} drawn volumes beside those of {found['people']} unseen "
        "people, both as the decoder gives them. Real: one half of the people against the "
        "other, what chance allows. Tissues are told by intensity alone, as shares of the brain "
        "(the brain as a share of the volume): good for this comparison, not for anything else. "
        "In range is the share of draws within 2.33 standard deviations of the real mean.",
        tables=[
            ("Anatomy of new volumes", volume_anatomy_table(found).round(2)),
            ("Volumes of tissues", tissue_table(found).round(3)),
            # Runs of before do not have it.
            *([("Whole volumes", whole_table(found).round(3))] if "whole" in found else ()),
        ],
        figures=shown,
    )


def _facts(measures, labels):
    # Strings, because one column would turn whole numbers into decimals.
    rows = [
        {"measure": label, "value": format_cell(measures[name])}
        for name, label in labels.items()
        if name in measures
    ]
    return pd.DataFrame(rows, columns=["measure", "value"])
