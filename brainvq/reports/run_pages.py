"""What the report and the model card of every run say alike, whatever its samples are.

`slices`, `volumes`, `vector_pages` and `bundle_pages` add what is their own.
"""

import pandas as pd

from brainvq.places import without_places
from brainvq.reports.html import Report, Section
from brainvq.reports.model_card import ModelCard

NAMES = {
    "ssim": "SSIM, whole image",
    "ssim_foreground": "SSIM, foreground",
    "psnr": "PSNR, whole image (dB)",
    "psnr_foreground": "PSNR, foreground (dB)",
    "mse": "mean squared error",
}
PERPLEXITY = (
    "Perplexity is 2 to the power of entropy: the number of codes that would be as hard to guess "
    "if all were equally frequent."
)
NAMES_OF_VOLUMES = {name: label.replace("image", "volume") for name, label in NAMES.items()}
USAGE = "How often each code is used by test subjects, from the most to the least used."
DETAIL_IS_LOST = "Detail finer than the codes can hold is made up or lost: no use for diagnosis."
SAMPLES_ARE_NOBODY = "Samples are no real persons; they follow the ages and scanners trained on."
SIMULATED = "These brains are simulated on a template: nothing here holds for scans of people."


def run_card(about, metrics, data_facts, **fields):
    """A model card with what every run has alike.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        data_facts: dict with any of `data_name`, `data_licence`, `data_attribution`, `licence`.
        **fields: the other fields of `ModelCard`; they may replace the shared ones.

    Returns:
        A `ModelCard`.
    """
    study = about["study"]
    shared = {
        "name": f"{study['name']} {study['variant']}{smoke_of(about)}",
        "simulated": metrics["simulated"],
        "split_rule": f"by subject, seed {study['seed']}",
        "preprocessing": [step_text(step) for step in about["steps"]],
        "training": without_places(about["command"]),
        "versions": {"brainvq": about["brainvq"], "keras": about["keras"]},
    }
    return ModelCard(**(shared | fields), **data_facts)


def smoke_of(about):
    """What the title of a smoke run ends with; "" of any other."""
    return " (smoke run: its results mean nothing)" if about.get("smoke") else ""


def run_report(about, sections, note="", **fields):
    """A report with what every run has alike; sections that are None are left out.

    Args:
        about: dict, the content of the run's `study.json`.
        sections: list of `Section` and None.
        note: str, a line on the cohort; "" for none.
        **fields: the other fields of `Report`.

    Returns:
        A `Report`.
    """
    study = about["study"]
    return Report(
        title=f"Study {study['name']}, variant {study['variant']}{smoke_of(about)}",
        sections=sections,
        notes=[note] if note else [],
        footer=f"brainvq {about['brainvq']}, Keras {about['keras']} on {about['backend']}. "
        f"{about['command']}",
        **fields,
    )


def data_of(about, metrics, what="scans", simulated="simulated brains"):
    """What a run was trained on, in words.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        what: what real data are called.
        simulated: what simulated data are called.

    Returns:
        str, such as "scans (oasis1)".
    """
    return simulated if metrics["simulated"] else f"{what} ({about['study']['data']['source']})"


def warnings_of(metrics, failures=(), *, simulated=SIMULATED):
    """What a reader must know first.

    Args:
        metrics: dict, the content of `metrics.json`.
        failures: list of str, a line for each scan that was left out.
        simulated: what is said of simulated data.

    Returns:
        List of str.
    """
    warnings = []
    if metrics["simulated"]:
        warnings.append(simulated)
    if failures:
        warnings.append(f"{len(failures)} scans were left out: " + "; ".join(failures))
    return warnings


def measure_card(name, measure, note, digits=3):
    """A mean and its standard deviation as a card of the report.

    Args:
        name: label of the card.
        measure: dict with `mean` and `sd`.
        note: str below the value.
        digits: behind the point.

    Returns:
        (label, value, note).
    """
    return (name, f"{measure['mean']:.{digits}f} ± {measure['sd']:.{digits}f}", note)


def codebook_size(metrics):
    """Number of codes of a codebook, as its use was counted.

    Args:
        metrics: dict, the content of `metrics.json`, with `codes`.

    Returns:
        int.
    """
    usage = metrics["codes"]["test"]
    return round(usage["used"] / usage["fraction"])


def codes_card(metrics):
    """How many codes are used, as a card of the report.

    Args:
        metrics: dict, the content of `metrics.json`.

    Returns:
        List of one (label, value, note); empty for a run without codes.
    """
    if "codes" not in metrics:
        return []
    usage = metrics["codes"]["test"]
    note = f"perplexity {usage['perplexity']:.1f}, test subjects"
    return [("Codes used", f"{usage['used']} of {codebook_size(metrics)}", note)]


def prior_card(metrics):
    """Bits per code of the prior, as a card of the report.

    Args:
        metrics: dict, the content of `metrics.json`.

    Returns:
        List of one (label, value, note); empty for a run without a prior.
    """
    if "prior" not in metrics:
        return []
    bits = metrics["prior"]
    note = f"a code; tables need {bits['neighbour_tables']:.2f}"
    return [("Prior", f"{bits['bits_per_code']:.2f} bits", note)]


def ssim_settings(metrics):
    """The settings of SSIM in one line.

    Args:
        metrics: dict, the content of `metrics.json`.

    Returns:
        str, such as "window uniform; size 7".
    """
    return "; ".join(f"{key} {value}" for key, value in metrics["ssim_settings"].items())


def thousands(number):
    """A whole number with thin spaces between its thousands.

    Args:
        number: int.

    Returns:
        str.
    """
    return f"{number:,}".replace(",", "\u202f")


def measures_table(metrics, names=NAMES):
    """Measures of the model beside those of its vectors before the codes, and of the patch codec.

    Args:
        metrics: dict, the content of `metrics.json`; with any of `continuous_reconstruction` and
            `patch_kmeans`.
        names: dict of measure → label.

    Returns:
        `pandas.DataFrame`, a row per measure.
    """
    beside = (
        ("not quantised", "sd of these", "continuous_reconstruction"),
        ("patch k-means", "its sd", "patch_kmeans"),
    )
    rows = []
    for name, label in names.items():
        row = {"measure": label, "mean": metrics["reconstruction"][name]["mean"]}
        row["sd over subjects"] = metrics["reconstruction"][name]["sd"]
        for column, deviation, other in beside:
            if other in metrics:
                row[column], row[deviation] = (metrics[other][name][key] for key in ("mean", "sd"))
        rows.append(row)
    return pd.DataFrame(rows)


def prior_section(metrics, figures, tables, costs, over="test subjects"):
    """Bits per code of the prior beside those of models that need no network.

    Args:
        metrics: dict, the content of `metrics.json`, with `prior`.
        figures: dict of figure name to PNG path: `prior`, where there.
        tables: name of the tables of neighbours.
        costs: end of the text: what the bits sum to.
        over: what the bits are a mean over.

    Returns:
        A `Section`.
    """
    bits = metrics["prior"]
    models = {
        "all codes alike": "uniform",
        "frequency of each code": "marginal",
        tables: "neighbour_tables",
        "prior": "bits_per_code",
    }
    rows = [{"model of the codes": name, "bits per code": bits[k]} for name, k in models.items()]
    below = 100 * bits["below_neighbour_tables"]
    return Section(
        "Prior",
        f"Bits per code on {over}; fewer is better. The prior needs {abs(below):.0f} % "
        f"{'fewer' if below >= 0 else 'more'} than the mixed tables, {costs}",
        tables=[("Held-out bits per code", pd.DataFrame(rows))],
        figures=pictures(figures, prior="Bits per code while training."),
    )


def samples_section(metrics, figures, drawn, what, unseen):
    """Whether samples merely repeat training, and pictures of them.

    Args:
        metrics: dict, the content of `metrics.json`, with `samples`.
        figures: dict of figure name to PNG path: `samples` and `nearest`, where there.
        drawn: beginning of the text: what was drawn.
        what: what a sample is, "slice" or "volume".
        unseen: what unseen samples are called.

    Returns:
        A `Section`.
    """
    samples = metrics["samples"]
    beside = {
        "slice": "Samples beside slices of test subjects.",
        "volume": "Samples in three planes.",
    }
    return Section(
        "New brains",
        f"{drawn} drawn from the prior, then decoded. To see whether they merely repeat training "
        f"{what}s: the root mean square difference to the nearest training {what} is "
        f"{samples['distance_to_training']:.4f} for samples and "
        f"{samples['distance_of_unseen_to_training']:.4f} for {unseen}.",
        figures=pictures(
            figures,
            samples=beside[what],
            nearest=f"Samples and the training {what} nearest to each.",
        ),
    )


def usage_table(metrics):
    """Use of the codebook, a row per split.

    Args:
        metrics: dict, the content of `metrics.json`, with `codes`.

    Returns:
        `pandas.DataFrame`.
    """
    return pd.DataFrame([{"split": split, **usage} for split, usage in metrics["codes"].items()])


def training_section(figures, timings, ssim="SSIM on slices of validation subjects."):
    """How the run was trained.

    Args:
        figures: dict of figure name to PNG path: `losses`, and `ssim` or `buan`, where there.
        timings: dict of stage to seconds, or None.
        ssim: caption of `ssim`.

    Returns:
        A `Section`.
    """
    tables = []
    if timings:
        rows = [{"stage": stage, "seconds": seconds} for stage, seconds in timings.items()]
        tables.append(("Time", pd.DataFrame(rows)))
    return Section(
        "Training",
        "",
        tables=tables,
        figures=pictures(
            figures, losses="Loss per epoch.", ssim=ssim, buan="BUAN of validation bundles."
        ),
    )


def settings_section(about):
    """What differs from the preset, every option of the run, and its preprocessing.

    Args:
        about: dict, the content of the run's `study.json`, with the preset's options as `preset`
            where it is known.

    Returns:
        A `Section`.
    """
    rows = [{"option": f"--{path}", "value": str(value)} for path, value in _flat(about["study"])]
    steps = pd.DataFrame({"step": [step_text(step) for step in about["steps"]]})
    tables = [("Preprocessing, in order", steps), ("All options", pd.DataFrame(rows))]
    text = f"Command: {about['command']}"
    if about.get("preset"):
        usual = {f"--{path}": str(value) for path, value in _flat(about["preset"])}
        other = [
            row | {"preset": usual.get(row["option"], "–")}
            for row in rows
            if row["value"] != usual.get(row["option"])
        ]
        if other:
            tables.insert(0, ("Options that differ from the preset", pd.DataFrame(other)))
        else:
            text += "\n\nAll options are the preset's."
    return Section("Settings", text, tables=tables)


def _flat(content, path=""):
    for key, value in content.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _flat(value, name)
        else:
            # JSON has lists in the place of tuples.
            yield name.replace("_", "-"), list(value) if isinstance(value, tuple) else value


def step_text(step):
    """A step of the preprocessing as one line.

    Args:
        step: dict with `name` and the step's settings.

    Returns:
        str.
    """
    settings = ", ".join(f"{key}={value}" for key, value in step.items() if key != "name")
    return f"{step['name']}({settings})"


def pictures(figures, **captions):
    """The figures that are there, in the order of their captions.

    Args:
        figures: dict of figure name to PNG path.
        **captions: caption by figure name.

    Returns:
        List of (path, caption).
    """
    return [(figures[name], caption) for name, caption in captions.items() if name in figures]
