"""The report and the model card of a study of slices, from its measures alone."""

import pandas as pd

from brainvq.evaluation import anatomy_table
from brainvq.reports.html import Section
from brainvq.reports.run_pages import (
    DETAIL_IS_LOST,
    NAMES,
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
    training_section,
    usage_table,
    warnings_of,
)


def slices_report(about, metrics, subjects, figures, *, note="", failures=(), timings=None):
    """The report of a run on slices.

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
    sections = [
        _reconstruction(metrics, subjects, figures),
        _transfer(metrics, figures),
        _codes(metrics, figures),
        _prior(metrics, figures),
        _samples(metrics, figures),
        _anatomy(metrics, figures),
        training_section(figures, timings),
        settings_section(about),
    ]
    return run_report(
        about,
        sections,
        subtitle=f"Trained and tested on {data_of(about, metrics)}; {metrics['test_subjects']} "
        "test subjects that training never saw.",
        cards=_cards(metrics),
        warnings=warnings_of(metrics, failures),
        note=note,
    )


def slices_card(about, metrics, *, split, data_facts):
    """The model card of a run on slices.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        split: dict of split to its number of subjects.
        data_facts: dict with any of `data_name`, `data_licence`, `data_attribution`, `licence`.

    Returns:
        A `ModelCard`.
    """
    study = about["study"]
    size = study["data"]["size"]
    grid, codes = metrics.get("grid"), ""
    if grid:
        codes = f"{' x '.join(map(str, grid))} codes out of {codebook_size(metrics)} for a slice"
    limitations = [
        "Axial slices only; neighbouring slices are coded apart and need not agree.",
        DETAIL_IS_LOST,
    ]
    if "prior" in metrics:
        limitations.append(SAMPLES_ARE_NOBODY)
    return run_card(
        about,
        metrics,
        data_facts,
        intended_use="Research on discrete codes of brain images: reconstruction, code maps, "
        "sampling. Not for diagnosis, nor for any decision about a person.",
        split=split,
        intensity_range=(0.0, 1.0),
        input_shape=f"({size}, {size}, 1)",
        shape_rule=_shape_rule(study, metrics) if grid else "",
        channels="intensity; rows from anterior to posterior, columns from the subject's right to "
        "left",
        codes=codes,
        bits=metrics["bits_per_slice"],
        measures=measures_table(metrics),
        ssim_parameters=metrics["ssim_settings"],
        limitations=limitations,
    )


def _shape_rule(study, metrics):
    if study["data"].get("spacing", 0) is None:
        return f"any size; padded to multiples of {metrics['stride']} and cropped back"
    return f"this size, {metrics['stride']} pixels for a code"


def _cards(metrics):
    measures = metrics["reconstruction"]
    cards = [
        measure_card("SSIM", measures["ssim"], "unseen subjects, whole image"),
        measure_card("SSIM, foreground", measures["ssim_foreground"], "unseen subjects"),
        measure_card("PSNR", measures["psnr"], "dB, whole image", 1),
    ]
    if "codes" in metrics:
        bits = metrics["bits_per_slice"]
        cards.append(("Bits a slice", "none" if bits is None else f"{bits:.0f}"))
    return cards + codes_card(metrics) + prior_card(metrics)


def _reconstruction(metrics, subjects, figures):
    text = (
        f"Mean and standard deviation over {metrics['test_subjects']} test subjects "
        f"({metrics['test_slices']} slices). SSIM settings: {ssim_settings(metrics)}."
    )
    if "patch_kmeans" in metrics:
        text += (
            " Beside the model: k-means on image patches, as many codes of as many bits, which "
            "needs no network."
        )
    return Section(
        "Reconstruction of unseen subjects",
        text,
        tables=[("Similarity", measures_table(metrics)), ("Each test subject", subjects)],
        figures=pictures(
            figures,
            reconstructions="Slices of test subjects, what their codes decode to, and the error.",
            subjects="SSIM of each test subject.",
        ),
    )


def _transfer(metrics, figures):
    if "transfer" not in metrics:
        return None
    rows = []
    for measures in metrics["transfer"]:
        row = {"matrix": measures["matrix"], "model": measures["model"]}
        for name in ("ssim", "ssim_foreground", "psnr"):
            row[NAMES[name]], row[f"sd of {name}"] = (measures[name][k] for k in ("mean", "sd"))
        rows.append(row)
    return Section(
        "Other matrix sizes",
        "The same test subjects on matrices that training never used: the network takes any size. "
        "`native`: each scan as the scanner made it, neither cut nor filled, with less black "
        "around it, which flatters less. Others are resampled to a field of view of 250 mm.",
        tables=[("Similarity by matrix, mean and sd over test subjects", pd.DataFrame(rows))],
        figures=pictures(figures, planes="A test subject, slice by slice through the codes."),
    )


def _codes(metrics, figures):
    if "codes" not in metrics:
        return None
    return Section(
        "Codes",
        f"Codes are counted over all slices of a split. {PERPLEXITY}",
        tables=[("Use of the codebook", usage_table(metrics))],
        figures=pictures(
            figures,
            codes="Code maps: alike codes have alike colours.",
            usage=USAGE,
            codebook="The codebook on its first two principal components.",
        ),
    )


def _prior(metrics, figures):
    if "prior" not in metrics:
        return None
    bits = metrics["prior"]
    return prior_section(
        metrics,
        figures,
        "left, upper and position tables, mixed",
        f"{bits['bits_per_slice']:.0f} bits a slice.{_paid(bits)}",
    )


def _paid(bits):
    """What the prior is given beside the codes, and its share of the bits."""
    if "of_which_plan" in bits:
        return (
            " The prior is given the plan of the brain, a coarse picture of all of it; its bits "
            f"are in the figure ({bits['of_which_plan']:.3f} a code)."
        )
    if not bits.get("of_which_level"):
        return ""
    return (
        " The prior is told how high in the brain a slice lies; those bits are in its figure "
        f"({bits['of_which_level']:.3f} a code)."
    )


def _samples(metrics, figures):
    if "samples" not in metrics:
        return None
    return samples_section(metrics, figures, "Code maps", "slice", "slices of unseen subjects")


def _anatomy(metrics, figures):
    samples = metrics.get("samples", {})
    if "anatomy" not in samples:
        return None
    found, answers = samples["anatomy"], samples["lineup"]
    numbers = ", ".join(map(str, answers["drawn"]))
    folded = [("Which were drawn?", f"Drawn: {numbers}. All others are of unseen people.")]
    missing = [f"{name.replace('_', ' ')}: {why}" for name, why in found["left_out"].items()]
    left_out = f"\n\nNot measured: {'; '.join(missing)}." if missing else ""
    return Section(
        "Do new brains pass for real ones?",
        f"{found['drawn']} new slices beside {found['slices']} of {found['people']} unseen people, "
        "both as the decoder gives them. Real against real: one half of the people against the "
        "other, what chance allows. Shuffled halves: left and right halves of different people "
        f"joined, a control that must fail.{left_out}",
        tables=[("Anatomy of new slices", anatomy_table(found).round(3))],
        figures=pictures(
            figures,
            lineup=f"{answers['pictures']} slices in a random order: {len(answers['drawn'])} were "
            "drawn, the others are of unseen people through their codes. Which are which?",
        ),
        folded=folded if "lineup" in figures else [],
    )
