"""The report and the model card of a study of slices, from its measures alone."""

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
        _training(figures, timings),
        _settings(about),
    ]
    warnings = []
    if metrics["simulated"]:
        warnings.append(
            "These brains are simulated on a template: nothing here holds for scans of people."
        )
    if failures:
        warnings.append(f"{len(failures)} scans were left out: " + "; ".join(failures))
    if note:
        warnings.append(note)
    return Report(
        title=f"Study {study['name']}, variant {study['variant']}",
        subtitle=f"Trained and tested on {data}; {metrics['test_subjects']} test subjects that "
        f"training never saw.",
        cards=_cards(metrics),
        warnings=warnings,
        sections=[section for section in sections if section is not None],
        footer=f"brainvq {about['brainvq']}, Keras {about['keras']} on {about['backend']}. "
        f"{about['command']}",
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
    return ModelCard(
        name=f"{study['name']} {study['variant']}",
        intended_use="Research on discrete codes of brain images: reconstruction, code maps, "
        "sampling. Not for diagnosis, nor for any decision about a person.",
        simulated=metrics["simulated"],
        split=split,
        split_rule=f"by subject, seed {study['seed']}",
        preprocessing=[_step_text(step) for step in about["steps"]],
        intensity_range=(0.0, 1.0),
        input_shape=f"({size}, {size}, 1)",
        shape_rule=_shape_rule(study, metrics) if grid else "",
        channels="intensity; rows from anterior to posterior, columns from the subject's right to "
        "left",
        codes=codes,
        bits=metrics["bits_per_slice"],
        measures=_table(metrics),
        ssim_parameters=metrics["ssim_settings"],
        training=about["command"],
        versions={"brainvq": about["brainvq"], "keras": about["keras"]},
        limitations=limitations,
        **data_facts,
    )


def _shape_rule(study, metrics):
    if study["data"].get("spacing", 0) is None:
        return f"any size; padded to multiples of {metrics['stride']} and cropped back"
    return f"this size, {metrics['stride']} pixels for a code"


def _cards(metrics):
    found = metrics["reconstruction"]
    cards = [
        _card("SSIM", found["ssim"], "unseen subjects, whole image"),
        _card("SSIM, foreground", found["ssim_foreground"], "unseen subjects"),
        _card("PSNR", found["psnr"], "dB, whole image", 1),
    ]
    if "codes" in metrics:
        usage = metrics["codes"]["test"]
        cards += [
            ("Bits a slice", f"{metrics['bits_per_slice']:.0f}"),
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


def _card(name, measure, note, digits=3):
    return (name, f"{measure['mean']:.{digits}f} ± {measure['sd']:.{digits}f}", note)


def _table(metrics):
    """Measures of the model beside those of the patch codec."""
    rows = []
    for name, label in NAMES.items():
        row = {"measure": label, "mean": metrics["reconstruction"][name]["mean"]}
        row["sd over subjects"] = metrics["reconstruction"][name]["sd"]
        if "patch_kmeans" in metrics:
            row["patch k-means"] = metrics["patch_kmeans"][name]["mean"]
            row["its sd"] = metrics["patch_kmeans"][name]["sd"]
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
        tables=[("Similarity", _table(metrics)), ("Each test subject", subjects)],
        figures=_pictures(
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
        figures=_pictures(figures, planes="A test subject, slice by slice through the codes."),
    )


def _codes(metrics, figures):
    if "codes" not in metrics:
        return None
    table = pd.DataFrame([{"split": split, **usage} for split, usage in metrics["codes"].items()])
    return Section(
        "Codes",
        "Codes are counted over all slices of a split. Perplexity is 2 to the power of entropy: "
        "the number of codes that would be as hard to guess if all were equally frequent.",
        tables=[("Use of the codebook", table)],
        figures=_pictures(
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
    table = pd.DataFrame(
        [
            {"model of the codes": name, "bits per code": bits[key]}
            for name, key in (
                ("all codes alike", "uniform"),
                ("frequency of each code", "marginal"),
                ("left, upper and position tables, mixed", "neighbour_tables"),
                ("prior", "bits_per_code"),
            )
        ]
    )
    below = 100 * bits["below_neighbour_tables"]
    compared = f"{abs(below):.0f} % {'fewer' if below >= 0 else 'more'}"
    return Section(
        "Prior",
        f"Bits per code on test subjects; fewer is better. The prior needs {compared} than the "
        f"mixed tables, {bits['bits_per_slice']:.0f} bits a slice. If the prior is told how high "
        f"in the brain a slice lies, those bits are in its figure "
        f"({bits['of_which_level']:.3f} a code).",
        tables=[("Held-out bits per code", table)],
        figures=_pictures(figures, prior="Bits per code while training."),
    )


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
        figures=_pictures(
            figures,
            samples="Samples beside slices of test subjects.",
            nearest="Samples and the training slice nearest to each.",
        ),
    )


def _training(figures, timings):
    tables = []
    if timings:
        rows = [{"stage": stage, "seconds": seconds} for stage, seconds in timings.items()]
        tables.append(("Time", pd.DataFrame(rows)))
    return Section(
        "Training",
        "",
        tables=tables,
        figures=_pictures(
            figures, losses="Loss per epoch.", ssim="SSIM on slices of validation subjects."
        ),
    )


def _settings(about):
    rows = [{"option": f"--{path}", "value": str(value)} for path, value in _flat(about["study"])]
    steps = pd.DataFrame({"step": [_step_text(step) for step in about["steps"]]})
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


def _step_text(step):
    settings = ", ".join(f"{key}={value}" for key, value in step.items() if key != "name")
    return f"{step['name']}({settings})"


def _pictures(figures, **captions):
    return [(figures[name], caption) for name, caption in captions.items() if name in figures]
