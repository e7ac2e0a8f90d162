"""The report and the model card of a study whose volumes become vectors, from its measures."""

import pandas as pd

from brainvq.reports.html import Section, format_cell
from brainvq.reports.run_pages import (
    NAMES_OF_VOLUMES,
    data_of,
    pictures,
    run_card,
    run_report,
    settings_section,
    ssim_settings,
    thousands,
    training_section,
    warnings_of,
)

_SHARPNESS = {
    "gradient": "gradient, whole volume",
    "laplacian": "Laplacian, whole volume",
    "gradient_foreground": "gradient, foreground",
    "laplacian_foreground": "Laplacian, foreground",
}
# Test subjects that the page lists; cohorts of this study have hundreds.
_LISTED = 20
_SPACES = {"pca": "principal components", "wavelet": "wavelets"}
_MEASURES = {"frechet": "Fréchet distance", "kernel": "kernel distance"}


def vectors_report(about, metrics, subjects, figures, *, note="", failures=(), timings=None):
    """The report of a run whose volumes become vectors.

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
    warnings = warnings_of(metrics, failures)
    audit = metrics.get("audit")
    if audit and audit["alarm"]:
        alarms = [finding["words"] for finding in audit["findings"] if finding["alarm"]]
        warnings.insert(0, f"A scanner may pass for a disease here: {'; '.join(alarms)}.")
    sections = [
        _reconstruction(metrics, subjects, figures),
        _generation(metrics, figures),
        _walks(metrics, figures),
        _classes(metrics, figures),
        _age(metrics, figures),
        _audit(metrics, figures),
        _registration(metrics, figures),
        _training(about, figures, timings),
        settings_section(about),
    ]
    return run_report(
        about,
        sections,
        subtitle=f"Whole volumes to {metrics['latent_size']} numbers. Trained and tested on "
        f"{data_of(about, metrics)}; {metrics['test_subjects']} test subjects "
        f"({metrics['test_scans']} scans) that training never saw.",
        cards=_cards(metrics),
        warnings=warnings,
        note=note,
    )


def vectors_card(about, metrics, *, split, data_facts):
    """The model card of a run whose volumes become vectors.

    Args:
        about: dict, the content of the run's `study.json`.
        metrics: dict, the content of `metrics.json`.
        split: dict of split to its number of subjects.
        data_facts: dict with any of `data_name`, `data_licence`, `data_attribution`, `licence`.

    Returns:
        A `ModelCard`.
    """
    options = about["study"]["data"]
    shape = [size // options["block"] for size in options["shape"]]
    limitations = [
        "What is drawn or walked through is made up: no real person, and no use for diagnosis.",
        f"Voxels of {options['block']:g} mm: small lesions are not seen, let alone encoded.",
        "Latents hold what tells persons, diseases and scanners apart, all mixed: see the audit in "
        "the report before a class is read from them.",
    ]
    if about["study"]["model"].get("fitted_draws"):
        limitations.append(
            "The model holds what training volumes are made of, for its draws: where scans may not "
            "be handed on, it may not either."
        )
    return run_card(
        about,
        metrics,
        data_facts,
        intended_use="Research on generative models of brain volumes: sampling, latent analysis. "
        "Not for diagnosis, nor for any decision about a person.",
        split=split,
        intensity_range=(0.0, 1.0),
        input_shape=f"({', '.join(map(str, shape))}, 1), voxels of {options['block']:g} mm in the "
        "space of the ICBM152 template",
        shape_rule="",
        channels="intensity; axes from the subject's right to left, front to back, bottom to top",
        codes=f"none: a vector of {metrics['latent_size']} numbers for a volume",
        bits=None,
        measures=_similarity(metrics),
        ssim_parameters=metrics["ssim_settings"],
        limitations=limitations,
    )


def _table(rows, columns):
    """The columns of a list of dicts that are there, with their names for people."""
    table = pd.DataFrame(rows)
    known = [name for name in columns if name in table]
    return table[known].rename(columns=columns)


def _row(rows, **where):
    return next(row for row in rows if all(row[key] == value for key, value in where.items()))


def _cards(metrics):
    similarity, drawn = metrics["reconstruction"], metrics["generation"]["model"]
    sharp = _row(drawn["sharpness"], measure="laplacian_foreground")
    near = _row(drawn["memorisation"], measure="relative")
    cards = [
        (
            "SSIM",
            f"{similarity['ssim']['mean']:.3f}",
            f"foreground {similarity['ssim_foreground']['mean']:.3f}",
        ),
        (
            "Samples",
            f"{100 * sharp['ratio']:.0f} % as sharp",
            "as unseen scans, Laplacian",
        ),
        (
            "Copies",
            f"{100 * near['share_nearer']:.0f} %",
            "of samples nearer to training than 95 % of unseen scans",
        ),
    ]
    classes = metrics["latents"].get("classes")
    if classes:
        balanced = _row(classes["summary"], measure="balanced_accuracy")
        cards.append(
            (
                "Classes",
                f"{balanced['value']:.2f}",
                f"balanced accuracy; chance {balanced['chance']:.2f}",
            )
        )
    if "audit" in metrics:
        cards.append(("Bias audit", "alarm" if metrics["audit"]["alarm"] else "quiet", "see below"))
    return cards


def _similarity(metrics):
    """Similarity of the model beside that of as many principal components."""
    beside = metrics["components"]
    rows = []
    for name, label in NAMES_OF_VOLUMES.items():
        ours, theirs = metrics["reconstruction"][name], beside["reconstruction"][name]
        rows.append(
            {
                "measure": label,
                "mean": ours["mean"],
                "sd over subjects": ours["sd"],
                f"{beside['count']} principal components": theirs["mean"],
                "their sd": theirs["sd"],
            }
        )
    return pd.DataFrame(rows)


def _reconstruction(metrics, subjects, figures):
    weights = thousands(metrics["parameters"]["autoencoder"])
    sharpness = _sharpness(metrics["reconstruction_sharpness"], "reconstructions")
    listed = ("Each test subject", subjects)
    if len(subjects) > _LISTED:
        title = f"The {_LISTED} test subjects with the lowest SSIM (all: subjects.csv)"
        listed = (title, subjects.nsmallest(_LISTED, "ssim"))
    return Section(
        "Reconstruction of unseen subjects",
        f"Mean and standard deviation over {metrics['test_subjects']} test subjects. SSIM "
        f"settings: {ssim_settings(metrics)}. The network has {weights} weights. Beside it: "
        "principal components of the training volumes, as many as the network has numbers, which "
        "need no network."
        "\n\nSharpness is the mean squared gradient or Laplacian of volumes, as a share of that of "
        "the unseen scans themselves: 1 is as sharp.",
        tables=[
            ("Similarity", _similarity(metrics)),
            ("Sharpness", sharpness),
            listed,
        ],
        figures=pictures(
            figures,
            reconstructions="Unseen scans and what is decoded from their vectors.",
            subjects="SSIM of each test subject, 3D.",
        ),
    )


def _sharpness(rows, name):
    named = [row | {"measure": _SHARPNESS.get(row["measure"], row["measure"])} for row in rows]
    return _table(
        named,
        {
            "measure": "measure",
            "samples": name,
            "real": "unseen scans",
            "ratio": "share",
            "low": "from",
            "high": "to",
        },
    )


def _generation(metrics, figures):
    generation = metrics["generation"]
    parts = {
        "this model": generation["model"],
        f"{metrics['components']['count']} principal components": generation["components"],
    }
    sharpness = pd.concat(
        [
            _sharpness(measures["sharpness"], "samples").assign(of=of)
            for of, measures in parts.items()
        ]
    )
    sharpness.insert(0, "of", sharpness.pop("of"))
    return Section(
        "New brains",
        f"{generation['count']} volumes drawn, beside "
        f"{generation['real']} unseen scans. Distances are between distributions, in principal "
        "components of the training volumes (shape and brightness) and in fixed wavelet features "
        "(texture); smaller is nearer. Two figures say what one is worth: that of training "
        "volumes, than which no model can expect to be nearer, and that of a model which gives "
        "nothing but the mean."
        "\n\nLikeness is the mean MS-SSIM of pairs: samples more alike than scans are few brains "
        "again and again. Copies: a sample far nearer to one training volume than to the next ones "
        "(relative distance) repeats it; by chance 5 % lie below the 5th percentile of unseen "
        "scans.",
        tables=[
            ("Sharpness", sharpness),
            ("Likeness of pairs", _likeness(parts)),
            ("Distance from unseen scans", _distances(parts)),
            ("Distance from the nearest training scans", _copies(parts)),
        ],
        figures=pictures(
            figures,
            samples="Draws from the prior, and unseen scans, in three planes.",
            nearest="Draws, and the training scan nearest to each.",
            generation="Sharpness, likeness and distances, with intervals.",
        ),
    )


def _likeness(parts):
    pairs = {of: _row(measures["diversity"], of="samples") for of, measures in parts.items()}
    pairs["unseen scans"] = _row(parts["this model"]["diversity"], of="real")
    columns = {"MS-SSIM": "ms_ssim", "from": "low", "to": "high", "pairs": "pairs"}
    return pd.DataFrame(
        [{"of": of, **{n: row[k] for n, k in columns.items()}} for of, row in pairs.items()]
    )


def _distances(parts):
    return pd.DataFrame(
        [
            {
                "of": of,
                "measure": f"{_MEASURES[row['measure']]}, {_SPACES[row['space']]}",
                "distance": row["corrected"],
                "from": row["low"],
                "to": row["high"],
                "training volumes": row["reference"],
                "mean volume": row["mean_volume"],
                "dimensions": row["dim"],
            }
            for of, measures in parts.items()
            for row in measures["fidelity"]
        ]
    )


def _copies(parts):
    return pd.DataFrame(
        [
            {
                "of": of,
                "measure": row["measure"],
                "samples, median": row["samples"],
                "unseen, median": row["unseen"],
                "share below the 5th percentile of unseen": row["share_nearer"],
            }
            for of, measures in parts.items()
            for row in measures["memorisation"]
        ]
    )


def _walks(metrics, figures):
    drawn = pictures(
        figures,
        traversal="The middle of the prior with one number changed. Which numbers differ most "
        "between classes was chosen on training scans.",
        interpolation="Vectors on the straight way between those of two unseen scans.",
    )
    rows = metrics["latents"].get("dimensions")
    if not drawn and not rows:
        return None
    tables = []
    if rows:
        table = pd.DataFrame(rows).rename(columns={"eta2": "share between classes"})
        table.columns = [name.replace("mean_", "mean, ") for name in table.columns]
        tables.append(("Most class-dependent numbers, training scans", table))
    return Section(
        "Walks through the latents",
        f"{metrics['latents']['active']} of {metrics['latent_size']} numbers vary between training "
        "scans (standard deviation above 0.1).",
        tables=tables,
        figures=drawn,
    )


_COUNTS = {
    "class": "class",
    "scans": "scans",
    **{name: name for name in ("TP", "FP", "FN", "TN", "precision", "recall")},
    "precision_low": "precision from",
    "precision_high": "to",
    "recall_low": "recall from",
    "recall_high": "to ",
}


def _classes(metrics, figures):
    latents = metrics["latents"]
    if "classes" not in latents:
        return None
    tables = [
        ("Classes of unseen scans, from latents", _table(latents["classes"]["table"], _COUNTS))
    ]
    summary = []
    for name, label in (
        ("classes", "latents"),
        ("classes_of_components", f"{metrics['components']['count']} principal components"),
        ("classes_without_metadata", "latents without what metadata explain"),
    ):
        summary += [
            {**row, "of": label, "measure": row["measure"].replace("_", " ")}
            for row in latents.get(name, {}).get("summary", [])
        ]
    columns = {
        "of": "of",
        "measure": "measure",
        "value": "value",
        "low": "from",
        "high": "to",
        "chance": "chance",
    }
    tables.append(("All classes", _table(summary, columns)))
    tables.append(
        (
            "Classes of unseen scans, from principal components",
            _table(latents["classes_of_components"]["table"], _COUNTS),
        )
    )
    return Section(
        "Classes",
        "Linear discriminants of the latents of training scans, applied to test scans. Intervals "
        "come from a bootstrap over subjects. A precision depends on how frequent the classes are: "
        "compare with figures of other cohorts only where these are alike.",
        tables=tables,
        figures=pictures(
            figures,
            classes="Counts, precision and recall; diamonds: the paper (Vogelsanger and Federau "
            "2021), on its own test scans.",
            lda="Unseen scans on the first discriminants; grades of leukoencephalopathy together, "
            "as in the paper (Vogelsanger and Federau 2021).",
        ),
    )


def _age(metrics, figures):
    measures = metrics["latents"].get("age")
    if not measures:
        return None
    rows = [
        {
            "measure": {"mae": "mean absolute error (years)", "r2": "R²"}[row["measure"]],
            "value": row["value"],
            "from": row["low"],
            "to": row["high"],
            "mean age predicted": row["mean_age"],
            "scans": row["scans"],
            "subjects": row["subjects"],
        }
        for row in measures
    ]
    return Section(
        "Age",
        "Ridge regression on the latents of validation and test scans, cross-validated by subject.",
        tables=[("Age of unseen subjects", pd.DataFrame(rows))],
        figures=pictures(figures, age="Predicted against true age."),
    )


def _audit(metrics, figures):
    audit = metrics.get("audit")
    if not audit:
        return None
    words = "\n\n".join(
        f"{'ALARM: ' if finding['alarm'] else ''}{finding['words']}."
        for finding in audit["findings"]
    )
    without = metrics["latents"].get("explained_by_metadata")
    text = (
        f"Could the scanner pass for the disease? {audit['subjects']} subjects, all splits. "
        "Tested is whether the acquisition differs between classes, whether it alone tells the "
        "class of an unseen subject, and whether latents tell the acquisition; p are corrected for "
        f"all tests.\n\n{words or 'Nothing was found.'}"
    )
    if without is not None:
        text += (
            f"\n\nMetadata explain {format_cell(100 * without)} % of the variance of test latents; "
            "the table of classes above says what can be told without that part."
        )
    if audit["notes"]:
        text += f"\n\nLeft out: {'; '.join(audit['notes'])}."
    tables = [
        (
            "Tests",
            _table(
                audit["tests"],
                {
                    "test": "test",
                    "effect": "effect",
                    "measure": "measure",
                    "p": "p",
                    "p_corrected": "p, corrected",
                    "found": "found",
                },
            ),
        ),
        ("Cross-validated predictions", pd.DataFrame(audit["predictions"])),
        ("People", pd.DataFrame(audit["people"])),
    ]
    return Section(
        "Bias audit",
        text,
        tables=tables,
        figures=pictures(figures, metadata="Acquisition of each class, all scans."),
    )


def _registration(metrics, figures):
    quality = metrics.get("registration")
    if not quality:
        return None
    outliers = ", ".join(quality["outliers"]) or "none"
    return Section(
        "Registration",
        f"{quality['scans']} scans beside the template: multiple correlation with its tissue maps, "
        f"median {quality['fit']:.3f}, smallest {quality['smallest']:.3f}. Outliers: {outliers}. "
        f"The mean image keeps {100 * quality['sharpness']:.0f} % of the steepness of its scans.",
        figures=pictures(figures, registration="The template and the mean image."),
    )


def _training(about, figures, timings):
    section = training_section(figures, timings, "SSIM of validation subjects.")
    section.figures += pictures(
        figures,
        divergence="Divergence from the prior."
        if about["study"]["model"].get("form", "vae") == "vae"
        else "Divergence from the prior, of real and generated volumes: while the line of "
        "generated ones lies above, the encoder tells them apart.",
    )
    return section
