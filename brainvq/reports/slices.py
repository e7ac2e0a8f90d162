"""The report and the model card of a study of slices, from its measures alone.

What the report of volumes (`volumes.py`) also says has a public name here.
"""

import pandas as pd

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
SIMULATED = "These brains are simulated on a template: nothing here holds for scans of people."


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
    study = about["study"]
    data = "simulated brains" if metrics["simulated"] else f"scans ({study['data']['source']})"
    sections = [
        _reconstruction(metrics, subjects, figures),
        _transfer(metrics, figures),
        _codes(metrics, figures),
        _prior(metrics, figures),
        _samples(metrics, figures),
        training_section(figures, timings),
        settings_section(about),
    ]
    return run_report(
        about,
        sections,
        subtitle=f"Trained and tested on {data}; {metrics['test_subjects']} test subjects that "
        f"training never saw.",
        cards=_cards(metrics),
        warnings=warnings_of(metrics, note, failures),
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
    grid = metrics.get("grid")
    codes = (
        f"{' x '.join(map(str, grid))} codes out of {study['model']['num_codes']} for a slice"
        if grid
        else ""
    )
    limitations = [
        "Axial slices only; neighbouring slices are coded apart and need not agree.",
        "Detail finer than the codes can hold is made up or lost: no use for diagnosis.",
    ]
    if "prior" in metrics:
        limitations.append(
            "Samples are no real persons; they follow the ages and scanners trained on."
        )
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


def run_card(about, metrics, data_facts, **fields):
    """A model card with what is told alike of every run.

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
        "name": f"{study['name']} {study['variant']}",
        "simulated": metrics["simulated"],
        "split_rule": f"by subject, seed {study['seed']}",
        "preprocessing": [step_text(step) for step in about["steps"]],
        "training": about["command"],
        "versions": {"brainvq": about["brainvq"], "keras": about["keras"]},
    }
    return ModelCard(**(shared | fields), **data_facts)


def run_report(about, sections, **fields):
    """A report with what is told alike of every run; sections that are None are left out.

    Args:
        about: dict, the content of the run's `study.json`.
        sections: list of `Section` and None.
        **fields: the other fields of `Report`.

    Returns:
        A `Report`.
    """
    study = about["study"]
    return Report(
        title=f"Study {study['name']}, variant {study['variant']}",
        sections=[section for section in sections if section is not None],
        footer=footer(about),
        **fields,
    )


def _shape_rule(study, metrics):
    if study["data"].get("spacing", 0) is None:
        return f"any size; padded to multiples of {metrics['stride']} and cropped back"
    return f"this size, {metrics['stride']} pixels for a code"


def _cards(metrics):
    found = metrics["reconstruction"]
    cards = [
        measure_card("SSIM", found["ssim"], "unseen subjects, whole image"),
        measure_card("SSIM, foreground", found["ssim_foreground"], "unseen subjects"),
        measure_card("PSNR", found["psnr"], "dB, whole image", 1),
    ]
    if "codes" in metrics:
        usage = metrics["codes"]["test"]
        bits = metrics["bits_per_slice"]
        cards += [
            ("Bits a slice", "none" if bits is None else f"{bits:.0f}"),
            (
                "Codes used",
                f"{usage['used']} of {round(usage['used'] / usage['fraction'])}",
                f"perplexity {usage['perplexity']:.1f}, test subjects",
            ),
        ]
    if "prior" in metrics:
        cards.append(
            (
                "Prior",
                f"{metrics['prior']['bits_per_code']:.2f} bits",
                f"a code; tables need {metrics['prior']['neighbour_tables']:.2f}",
            )
        )
    return cards


def warnings_of(metrics, note="", failures=(), *, simulated=SIMULATED):
    """What a reader must know first.

    Args:
        metrics: dict, the content of `metrics.json`.
        note: str, a line on the cohort.
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
    if note:
        warnings.append(note)
    return warnings


def footer(about):
    """The last line of a report: program, versions and command.

    Args:
        about: dict, the content of the run's `study.json`.

    Returns:
        str.
    """
    return (
        f"brainvq {about['brainvq']}, Keras {about['keras']} on {about['backend']}. "
        f"{about['command']}"
    )


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


def _reconstruction(metrics, subjects, figures):
    settings = "; ".join(f"{key} {value}" for key, value in metrics["ssim_settings"].items())
    text = (
        f"Mean and standard deviation over {metrics['test_subjects']} test subjects "
        f"({metrics['test_slices']} slices). SSIM settings: {settings}."
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
    for found in metrics["transfer"]:
        row = {"matrix": found["matrix"], "model": found["model"]}
        for name in ("ssim", "ssim_foreground", "psnr"):
            row[NAMES[name]], row[f"sd of {name}"] = found[name]["mean"], found[name]["sd"]
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
            usage="How often each code is used by test subjects, from the most to the least used.",
            codebook="The codebook on its first two principal components.",
        ),
    )


def _prior(metrics, figures):
    if "prior" not in metrics:
        return None
    bits = metrics["prior"]
    table, compared = prior_table(bits, "left, upper and position tables, mixed")
    return Section(
        "Prior",
        f"Bits per code on test subjects; fewer is better. The prior needs {compared} than the "
        f"mixed tables, {bits['bits_per_slice']:.0f} bits a slice. If the prior is told how high "
        f"in the brain a slice lies, those bits are in its figure "
        f"({bits['of_which_level']:.3f} a code).",
        tables=[("Held-out bits per code", table)],
        figures=pictures(figures, prior="Bits per code while training."),
    )


def prior_table(bits, tables):
    """Bits per code of the prior beside those of models that need no network.

    Args:
        bits: dict, `metrics["prior"]`.
        tables: name of the tables of neighbours.

    Returns:
        `pandas.DataFrame`, a row per model, and how the prior compares with the tables, such as
        "12 % fewer".
    """
    table = pd.DataFrame(
        [
            {"model of the codes": name, "bits per code": bits[key]}
            for name, key in (
                ("all codes alike", "uniform"),
                ("frequency of each code", "marginal"),
                (tables, "neighbour_tables"),
                ("prior", "bits_per_code"),
            )
        ]
    )
    below = 100 * bits["below_neighbour_tables"]
    return table, f"{abs(below):.0f} % {'fewer' if below >= 0 else 'more'}"


def usage_table(metrics):
    """Use of the codebook, a row per split.

    Args:
        metrics: dict, the content of `metrics.json`, with `codes`.

    Returns:
        `pandas.DataFrame`.
    """
    return pd.DataFrame([{"split": split, **usage} for split, usage in metrics["codes"].items()])


def _samples(metrics, figures):
    if "samples" not in metrics:
        return None
    found = metrics["samples"]
    return Section(
        "New brains",
        "Code maps drawn from the prior, then decoded. To see whether they merely repeat training "
        f"slices: the root mean square difference to the nearest training slice is "
        f"{found['distance_to_training']:.4f} for samples and "
        f"{found['distance_of_unseen_to_training']:.4f} for slices of unseen subjects.",
        figures=pictures(
            figures,
            samples="Samples beside slices of test subjects.",
            nearest="Samples and the training slice nearest to each.",
        ),
    )


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
    """Every option of the run and its preprocessing.

    Args:
        about: dict, the content of the run's `study.json`.

    Returns:
        A `Section`.
    """
    rows = [{"option": f"--{path}", "value": str(value)} for path, value in _flat(about["study"])]
    steps = pd.DataFrame({"step": [step_text(step) for step in about["steps"]]})
    return Section(
        "Settings",
        f"Command: {about['command']}",
        tables=[("Preprocessing, in order", steps), ("Options", pd.DataFrame(rows))],
    )


def _flat(content, path=""):
    for key, value in content.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _flat(value, name)
        else:
            yield name.replace("_", "-"), value


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
