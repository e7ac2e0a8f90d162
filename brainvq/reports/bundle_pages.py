"""The report and the model card of a study of bundles, from its measures alone."""

import numpy as np
import pandas as pd

from brainvq.evaluation.bundles import CLUSTERS_MM, THRESHOLD, THRESHOLD_MM
from brainvq.reports.html import Section, format_cell
from brainvq.reports.run_pages import (
    PERPLEXITY,
    data_of,
    pictures,
    prior_card,
    prior_section,
    run_card,
    run_report,
    settings_section,
    step_text,
    thousands,
    training_section,
    warnings_of,
)

# Measure → label, and how its numbers are written.
_MEASURES = {
    "buan": ("BUAN", ".4f"),
    "buan_mm": (f"BUAN, {THRESHOLD_MM:g} mm", ".4f"),
    "mse": ("squared error", ".2e"),
    "distance": ("distance", ".4f"),
    "distance_mm": ("distance (mm)", ".2f"),
    "closest": ("closest", ".4f"),
    "closest_mm": ("closest (mm)", ".2f"),
}
# The same in the model card, where no text explains them.
_CARD = {
    "buan": f"BUAN, threshold {THRESHOLD:g} units",
    "buan_mm": f"BUAN, threshold {THRESHOLD_MM:g} mm after clustering",
    "mse": "mean squared error (units²)",
    "distance": "mean distance of points (units)",
    "distance_mm": "mean distance of points (mm)",
    "closest": "mean distance to the closest point (units)",
    "closest_mm": "mean distance to the closest point (mm)",
}
_ONE_PERSON = (
    "All streamlines are of one person, and test groups are of the very bundles that were trained "
    "on. That flatters: what another person's bundles would give is not known."
)
_SPACE = "\u00a0"  # at which tables break no line
_FEATURES = {
    "coordinates": "coordinates of the streamlines",
    "latents": "vectors of the encoder",
    "codes": "codes, how often each occurs",
    "chance": "nothing: always the most frequent bundle",
}


def bundles_report(about, metrics, subjects, figures, *, note="", failures=(), timings=None):
    """The report of a run on bundles.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        subjects: `pandas.DataFrame`, measures per test subject.
        figures: dict of figure name to PNG path; absent figures are left out.
        note: str, a line on the cohort.
        failures: list of str, a line for each file that was left out.
        timings: dict of stage to seconds.

    Returns:
        A `Report`.
    """
    study = about["study"]
    sections = [
        _reconstruction(study, metrics, subjects, figures),
        _latents(metrics, figures),
        _disturbed(study, metrics, figures),
        _codes(metrics, figures),
        _prior(metrics, figures),
        _samples(metrics, figures),
        training_section(figures, timings),
        settings_section(about),
    ]
    return run_report(
        about,
        sections,
        subtitle=f"Bundles of white matter. {_tested_on(about, metrics)}",
        cards=_cards(study, metrics),
        warnings=_warnings(study, metrics, failures),
        note=note,
    )


def bundles_card(about, metrics, *, split, data_facts):
    """The model card of a run on bundles.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        split: dict of split to its number of subjects, or of groups where there is one person.
        data_facts: dict with any of `data_name`, `data_licence`, `data_attribution`, `licence`.

    Returns:
        A `ModelCard`.
    """
    study = about["study"]
    size, points, scale = metrics["streamlines"], metrics["points"], metrics["scale_mm"]
    bits = metrics["bits_per_streamline"]
    rule = f"by subject, seed {study['seed']}"
    if metrics["one_person"]:
        groups = ", ".join(f"{count} {name}" for name, count in split.items())
        rule = (
            f"by group of streamlines, seed {study['seed']}: all are of one person ({groups}; "
            "those of rare bundles train more than once)"
        )
    if scale is None:
        scaling = "coordinates stay in the units of the files, [-1, 1] for the whole brain"
        unit = "one of the files; what it is in mm is not known"
    else:
        scaling = (
            f"coordinates (RAS+ mm) less the centre in scale.json, divided by {scale:.4g} mm: one "
            "scale for all axes, by the extremes of the training bundles"
        )
        unit = f"{scale:.4g} mm; with scale.json coordinates become mm again"
    return run_card(
        about,
        metrics,
        data_facts,
        intended_use="Research on codes of white-matter streamlines: reconstruction, latents by "
        "bundle, sampling. Not for diagnosis or the planning of operations, nor for any decision "
        "about a person.",
        split={} if metrics["one_person"] else split,
        split_rule=rule,
        preprocessing=[*(step_text(step) for step in about["steps"]), scaling],
        input_shape=f"({size}, {points}, 3): streamlines of one bundle, points evenly spaced along "
        "each, coordinates",
        shape_rule="this shape; where a bundle's last group lacks streamlines it is filled up by "
        "repeating them, and the count of real ones is kept beside it",
        channels=f"x, y and z to the patient's right, front and top (RAS+); a unit is {unit}",
        codes=_codes_of_group(metrics) if metrics.get("codes") else "",
        bits=None if bits is None else bits * size,
        measures=_means(metrics),
        limitations=_limitations(study, metrics),
    )


def _limitations(study, metrics):
    limitations = [
        "Detail finer than the model can hold is smoothed away: no use for diagnosis.",
        f"Trained on {', '.join(study['data']['bundles'])}; of other bundles nothing is known.",
    ]
    if metrics["bits_per_streamline"] is None:
        limitations.insert(0, _not_compressed(study, metrics))
    if metrics["one_person"]:
        limitations.insert(0, _ONE_PERSON)
    if "prior" in metrics:
        limitations.append("Samples are bundles of no person.")
    return limitations


def _warnings(study, metrics, failures):
    warnings = warnings_of(
        metrics,
        failures,
        simulated="These bundles are simulated, smooth curves around centre lines: nothing here "
        "holds for people.",
    )
    if metrics["one_person"]:
        warnings.insert(0, _ONE_PERSON)
    if metrics["bits_per_streamline"] is None:
        warnings.append(_not_compressed(study, metrics))
    return warnings


def _not_compressed(study, metrics):
    """That nothing is discrete, and how many numbers stand for how many."""
    numbers, input_numbers = metrics["numbers_per_streamline"], 3 * metrics["points"]
    why = {
        "gumbel": "What is decoded are sums of all codes, each with its weight: no discrete code. ",
        "identity": "An autoencoder has no codes. ",
        "gaussian": "A variational autoencoder has no codes. ",
    }.get(study["model"].get("bottleneck"), "")
    if not why and metrics.get("codes"):
        why = "The decoder reads the encoder's vectors, not their codes. "
    return (
        f"Nothing is compressed into bits. {why}A streamline becomes {numbers:g} float numbers, "
        f"and has {input_numbers} itself ({metrics['points']} points of 3)"
        + (": more than went in." if numbers > input_numbers else ".")
    )


def _tested_on(about, metrics):
    groups = f"{metrics['test_samples']} groups ({thousands(metrics['test_streamlines'])} "
    groups += "streamlines)"
    data = data_of(about, metrics, "tracts", "simulated bundles")
    if metrics["one_person"]:
        return (
            f"Trained and tested on {data} of one person; {groups} that training never saw, of "
            "bundles that it saw."
        )
    people = metrics["test_subjects"]
    return (
        f"Trained and tested on {data}; {people} test {'subject' if people == 1 else 'subjects'} "
        f"that training never saw, {groups}."
    )


def _cards(study, metrics):
    measures, bits = metrics["reconstruction"], metrics["bits_per_streamline"]
    scale = metrics["scale_mm"]
    distance = f"{measures['distance']:.3f} units"
    squared = f"squared error {_scientific(measures['mse'])} units²"
    if scale is not None:
        distance = f"{measures['distance_mm']:.2f} mm"
        squared += f"; a unit is {scale:.0f} mm"
    cards = [
        (
            "BUAN",
            _with_sd(measures["buan"], _sd(metrics, "buan"), ".3f").replace(_SPACE, " "),
            f"mean ± sd of {len(metrics['bundles'])} bundles",
        ),
        ("Mean distance", distance, squared),
    ]
    numbers = metrics["numbers_per_streamline"]
    if bits is not None:
        note = f"of a streamline, {_per_streamline(metrics)}"
        cards.append(("Bits", f"{bits:g}", note))
    else:
        note = f"a streamline is {numbers:g} floats; it has {3 * metrics['points']}"
        cards.append(("Bits", "none", note))
    cards.append(
        ("Robustness", f"{metrics['robustness']['area']:.3f}", "mean BUAN while noise grows")
    )
    if metrics.get("codes"):
        stages = pd.DataFrame(metrics["codes"])
        note = f"perplexity {stages['perplexity'].mean():.1f}"
        note += f", mean of {len(stages)} stages" if len(stages) > 1 else ""
        cards.append(("Codes used", f"{stages['used'].mean():.0f} of {metrics['num_codes']}", note))
    return cards + prior_card(metrics)


def _reconstruction(study, metrics, subjects, figures):
    size, points, scale = metrics["streamlines"], metrics["points"], metrics["scale_mm"]
    unit = "Units are those of the files; what one is in mm is not known."
    near, clusters = f"{THRESHOLD:g} units", ""
    if scale is not None:
        unit = f"Units: the training bundles reach from -1 to 1; a unit is {scale:.4g} mm."
        near += f" ({THRESHOLD * scale:.1f} mm)"
        sizes = ", ".join(f"{size:g}" for size in CLUSTERS_MM)
        clusters = (
            f" BUAN, {THRESHOLD_MM:g} mm: the same with dipy's defaults, nearer than "
            f"{THRESHOLD_MM:g} mm after clustering at {sizes} mm."
        )
    text = (
        f"A sample is a group of {size} streamlines of {points} points; measures are means over "
        "the groups of a bundle, and then over bundles, each counting alike.\n\n"
        "BUAN, bundle shape similarity: the share of streamlines, original and decoded, that have "
        f"one of the other bundle at a mean distance below {near}, each its own cluster; 1 is "
        f"best.{clusters} Squared error: mean over coordinates, in units². Distance: mean, from "
        f"each point to the same point of the decoded streamline; closest: to its closest point. "
        f"{unit}"
    )
    tables = [("Measures, mean over bundles", _compared(study, metrics))]
    tables.append(("Each bundle, mean ± standard deviation over its groups", _bundles(metrics)))
    if not metrics["one_person"]:
        tables.append(("Each test subject, mean over groups", _people(metrics, subjects)))
    text += f"\n\n{_how_decoded(study, metrics)}\n\n{_about_codecs(metrics)}"
    return Section(
        "Reconstruction of unseen bundles",
        text,
        tables=tables,
        figures=pictures(
            figures,
            originals="All bundles of a subject as they are."
            if not metrics["one_person"]
            else "Test groups of all bundles as they are.",
            restored="The same after encoding and decoding.",
            bundle="The bundle that is restored worst, before and after.",
            scores="BUAN of each bundle: mean and standard deviation over groups. Hollow dots, "
            "where there are any: what Lizarraga et al. (2023) published for this model, trained "
            "and tested on all people of TractoInferno.",
        ),
    )


def _how_decoded(study, metrics):
    weights = metrics.get("parameters", {}).get("autoencoder")
    end = f" The network has {thousands(weights)} weights." if weights else ""
    if metrics["bits_per_streamline"] is None:
        return _not_compressed(study, metrics) + end
    return (
        f"A streamline is {_per_streamline(metrics)}, {metrics['bits_per_streamline']:g} bits; the "
        f"reconstruction is made from these alone.{end}"
    )


def _about_codecs(metrics):
    text = (
        "Beside the model, codecs that need no network, fitted on training streamlines and given "
        "one streamline at a time"
    )
    bits = metrics["bits_per_streamline"]
    if bits is None:
        return (
            f"{text}. These have bits and the model has none: they show what so few bits hold, "
            "and are no match on equal terms."
        )
    codec_bits = {_bits_of(name) for name in metrics["codecs"]}
    return f"{text}, at {'the same' if codec_bits <= {bits} else 'about as many'} bits."


def _compared(study, metrics):
    """The model beside the classical codecs: a row each."""
    rows = [(study["variant"], metrics["bits_per_streamline"], metrics["reconstruction"])]
    rows += [
        (name.rsplit(", ", 1)[0], _bits_of(name), measures)
        for name, measures in metrics["codecs"].items()
    ]
    return pd.DataFrame(
        [
            {
                "": name.replace(" ", _SPACE),
                "bits per streamline": "none" if bits is None else f"{bits:g}",
                **{
                    label: _text(measures[key], form)
                    for key, (label, form) in _shown(metrics).items()
                    if key in measures
                },
            }
            for name, bits, measures in rows
        ]
    )


def _bits_of(codec):
    """Bits in the name of a codec, such as 36 of "residual k-means, 36 bits"."""
    return float(codec.rsplit(", ", 1)[1].split()[0])


def _bundles(metrics):
    rows = [
        {
            "bundle": row["bundle"],
            "groups": row["samples"],
            "streamlines": row["streamlines"],
            **{
                label: _with_sd(row[key], row.get(f"{key}_sd"), form)
                for key, (label, form) in _shown(metrics).items()
                if key in row
            },
        }
        for row in metrics["bundles"]
    ]
    return pd.DataFrame(rows)


def _people(metrics, subjects):
    shown = {key: label for key, (label, _) in _shown(metrics).items() if key in subjects}
    return subjects[["subject", *shown]].rename(columns=shown)


def _means(metrics):
    """Mean and standard deviation of each measure over bundles, for the model card."""
    rows = [
        {
            "measure": _CARD[key],
            "mean over bundles": metrics["reconstruction"][key],
            "sd over bundles": _sd(metrics, key),
        }
        for key in _MEASURES
        if key in metrics["reconstruction"]
    ]
    return pd.DataFrame(rows)


def _latents(metrics, figures):
    drawn = pictures(
        figures,
        tsne="The encoder's vectors of test groups in a plane: a point is a group, near points are "
        "alike.",
    )
    if not metrics["classification"]:
        if not drawn:
            return None
        text = (
            "The vectors that the encoder makes of groups. Whether they tell the bundle's name is "
            "not measured: a bundle has too few test groups to train on some and test on others."
        )
        return Section("Latents", text, figures=drawn)
    rows = metrics["classification"]
    chance = next(row for row in rows if row["features"] == "chance")
    by = (
        "Folds are made of people: none both trains and tests."
        if chance["groups"] < chance["samples"]
        else "Folds are made of groups of streamlines, because test groups are of one person: "
        "groups of one bundle are on both sides, which flatters."
    )
    text = (
        "Can the name of a bundle be told from what the model makes of a group? A logistic "
        f"regression, tried on what it was not fitted on: {chance['folds']} folds, "
        f"{chance['samples']} test groups. {by} Chance: naming the most frequent bundle each time; "
        "of the mean over bundles it is one in as many as there are bundles. The coordinates "
        "themselves say what can be told without any model."
    )
    table = pd.DataFrame(
        [
            {
                "told from": _FEATURES.get(row["features"], row["features"]),
                "numbers of a group": row["numbers"],
                "share right": row["accuracy"],
                "mean over bundles": row["balanced_accuracy"],
            }
            for row in rows
        ]
    )
    return Section("Latents", text, tables=[("Naming the bundle", table)], figures=drawn)


def _disturbed(study, metrics, figures):
    robustness = metrics["robustness"]
    curve = pd.DataFrame(robustness["curve"])
    largest = curve["epsilon"].max()
    again = ""
    if metrics["bits_per_streamline"] is not None:
        again = ", through codes"
    elif study["model"].get("bottleneck") == "gumbel":
        again = ", through sums of codes"
    text = (
        f"Noise is added to the encoder's vectors, which are then decoded as ever{again}. ε is its "
        "size in standard deviations of each channel over training groups, so that it means the "
        "same for every model: at 1 noise is as strong as what the vectors say. Robustness is the "
        f"mean of BUAN from ε 0 to {largest:g}, the area under its curve: {robustness['area']:.3f}."
    )
    table = pd.DataFrame(
        {
            "ε": [f"{value:g}" for value in curve["epsilon"]],
            "BUAN": [
                _with_sd(*pair, ".3f") for pair in zip(curve["buan"], curve["buan_sd"], strict=True)
            ],
            "squared error": [_scientific(value) for value in curve["mse"]],
        }
    )
    return Section(
        "Disturbed latents",
        text,
        tables=[("Mean ± standard deviation over test groups", table)],
        figures=pictures(
            figures,
            robustness="BUAN and squared error as noise grows.",
            perturbation="A bundle decoded from its vectors with noise.",
        ),
    )


def _codes(metrics, figures):
    if not metrics.get("codes"):
        return None
    deep = len(metrics["codes"]) > 1
    text = f"A group is {_codes_of_group(metrics)}. Codes are counted over all test groups. "
    if deep:
        text += "Each stage codes what the stages before it left over, from a codebook of its own. "
    if metrics["bits_per_streamline"] is None:
        text += "The decoder does not read them. "
    table = pd.DataFrame(
        [
            {
                "stage": row["depth"],
                "codes used": row["used"],
                "share": row["fraction"],
                "entropy (bits)": row["entropy_bits"],
                "perplexity": row["perplexity"],
            }
            for row in metrics["codes"]
        ]
    )
    return Section(
        "Codes",
        text + PERPLEXITY,
        tables=[("Use of the codebooks" if deep else "Use of the codebook", table)],
        figures=pictures(
            figures,
            usage="How often each code is used by test groups, from the most to the least used"
            + (", in the first stage." if deep else "."),
        ),
    )


def _prior(metrics, figures):
    if "prior" not in metrics:
        return None
    bits = metrics["prior"]
    per_streamline = bits["bits_per_bundle"] / metrics["streamlines"]
    costs = (
        f"{bits['bits_per_bundle']:.0f} bits a group: {per_streamline:.1f} bits a streamline "
        f"instead of {metrics['bits_per_streamline']:g}."
    )
    if bits.get("of_which_level"):
        costs += (
            " The prior is told which bundle it is, and the tables are not; what naming it costs "
            f"is in its figure ({bits['of_which_level']:.3f} a code)."
        )
    tables = "neighbour and position tables, mixed"
    return prior_section(metrics, figures, tables, costs, over="test groups")


def _samples(metrics, figures):
    if "samples" not in metrics:
        return None
    samples, scale = metrics["samples"], metrics["scale_mm"]
    near, usual = (
        f"{samples[key]:.4f} units" + ("" if scale is None else f" ({samples[key] * scale:.1f} mm)")
        for key in ("distance_to_training", "distance_of_unseen_to_training")
    )
    text = (
        f"{samples['count']} groups of codes drawn from the prior, of each bundle alike, then "
        "decoded. To see whether they merely repeat training bundles: the mean distance of a "
        f"streamline to the nearest of training is {near} for samples and {usual} for unseen "
        "bundles.\n\n"
        "Shapes of streamlines, new and real. Difference: generated less real, in standard "
        "deviations; 0.2 is small, 0.8 large. Kolmogorov-Smirnov: how far apart the distributions "
        "are, from 0 (alike) to 1. Spread: mean distance to the other streamlines of the group."
    )
    table = pd.DataFrame(
        [
            {
                "measure": row["measure"],
                "unit": row["unit"] if scale else row["unit"].replace("mm", "unit"),
                "real": _with_sd(row["real"], row["real_sd"]),
                "generated": _with_sd(row["generated"], row["generated_sd"]),
                "difference": row["difference"],
                "Kolmogorov-Smirnov": row["ks"],
            }
            for row in samples["shapes"]
        ]
    )
    return Section(
        "New bundles",
        text,
        tables=[("Mean ± standard deviation over streamlines", table)],
        figures=pictures(figures, generated="New bundles above real ones of the test split."),
    )


def _codes_of_group(metrics):
    """The codes of a group in words."""
    grid, stages, size = list(metrics["grid"]), len(metrics["codes"]), metrics["streamlines"]
    if grid[0] == size:  # each streamline has its own
        text = f"{_per_streamline(metrics)} for each of {size} streamlines"
    else:
        shape = " x ".join(map(str, grid[:-1] if stages > 1 else grid))
        cells = f"{shape} cells of {stages}" if stages > 1 else shape
        text = f"{cells} codes out of {metrics['num_codes']} for {size} streamlines"
    return text + ("" if metrics["bits_per_streamline"] is not None else "; they are not decoded")


def _per_streamline(metrics):
    """The codes of a streamline in words."""
    codes = np.prod(metrics["grid"]) / metrics["streamlines"]
    return f"{codes:g} {'code' if codes == 1 else 'codes'} out of {metrics['num_codes']}"


def _shown(metrics):
    """Measures of tables: lengths in mm where mm are known, and in units where not."""
    left_out = ("distance", "closest") if metrics["scale_mm"] is not None else ()
    return {key: text for key, text in _MEASURES.items() if key not in left_out}


def _sd(metrics, measure):
    """Standard deviation of a measure over bundles; NaN for a single one."""
    return pd.Series([row[measure] for row in metrics["bundles"]], dtype="float64").std()


def _with_sd(mean, sd, form=None):
    """`mean ± sd`; the mean alone where there is no spread."""
    if sd is None or pd.isna(sd):
        return _text(mean, form)
    return f"{_text(mean, form)}{_SPACE}± {_text(sd, form)}"


def _text(value, form=None):
    if value is None or pd.isna(value) or form is None:
        return format_cell(value)
    return _scientific(value) if form.endswith("e") else f"{value:{form}}"


def _scientific(value):
    """Such as 6.7e-4; 0 as 0."""
    if not value:
        return "0"
    digits, power = f"{value:.2e}".split("e")
    return f"{digits}e{int(power)}" if int(power) else digits
