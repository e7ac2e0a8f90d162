"""The report and the model card of a study whose volumes become vectors, from its measures."""

import pandas as pd

from brainvq.reports.html import Section, format_cell
from brainvq.reports.slices import (
    NAMES,
    pictures,
    run_card,
    run_report,
    settings_section,
    training_section,
    warnings_of,
)

_NAMES = {name: label.replace("image", "volume") for name, label in NAMES.items()}
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
    study = about["study"]
    data = "simulated brains" if metrics["simulated"] else f"scans ({study['data']['source']})"
    warnings = warnings_of(metrics, note, failures)
    audit = metrics.get("audit")
    if audit and audit["alarm"]:
        alarms = [found["words"] for found in audit["findings"] if found["alarm"]]
        warnings.insert(0, f"A scanner may pass for a disease here: {'; '.join(alarms)}.")
    sections = [
        _reconstruction(study, metrics, subjects, figures),
        _generation(metrics, figures),
        _walks(metrics, figures),
        _classes(metrics, figures),
        _age(metrics, figures),
        _audit(metrics, figures),
        _registration(metrics, figures),
        _training(study, figures, timings),
        settings_section(about),
    ]
    return run_report(
        about,
        sections,
        subtitle=f"Whole volumes to {metrics['latent_size']} numbers. Trained and tested on "
        f"{data}; {metrics['test_subjects']} test subjects ({metrics['test_scans']} scans) that "
        "training never saw.",
        cards=_cards(metrics),
        warnings=warnings,
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
    found, made = metrics["reconstruction"], metrics["generation"]["model"]
    sharp = _row(made["sharpness"], measure="laplacian_foreground")
    near = _row(made["memorisation"], measure="relative")
    cards = [
        (
            "SSIM",
            f"{found['ssim']['mean']:.3f}",
            f"foreground {found['ssim_foreground']['mean']:.3f}",
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
    for name, label in _NAMES.items():
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


def _reconstruction(study, metrics, subjects, figures):
    settings = "; ".join(f"{key} {value}" for key, value in metrics["ssim_settings"].items())
    weights = f"{metrics['parameters']['autoencoder']:,}".replace(",", "\u202f")
    sharpness = _sharpness(metrics["reconstruction_sharpness"], "reconstructions")
    listed = ("Each test subject", subjects)
    if len(subjects) > _LISTED:
        title = f"The {_LISTED} test subjects with the lowest SSIM (all: subjects.csv)"
        listed = (title, subjects.nsmallest(_LISTED, "ssim"))
    return Section(
        "Reconstruction of unseen subjects",
        f"Mean and standard deviation over {metrics['test_subjects']} test subjects. SSIM "
        f"settings: {settings}. The network has {weights} weights. Beside it: principal components "
        "of the training volumes, as many as the network has numbers, which need no network."
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
    kept = [row | {"measure": _SHARPNESS.get(row["measure"], row["measure"])} for row in rows]
    return _table(
        kept,
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
    made = metrics["generation"]
    count = metrics["components"]["count"]
    parts = {"model": "this model", "components": f"{count} principal components"}
    distances, diversity, copies, sharp = [], [], [], []
    for key, label in parts.items():
        found = made[key]
        distances += [
            {
                "of": label,
                "measure": f"{_MEASURES[row['measure']]}, {_SPACES[row['space']]}",
                "distance": row["corrected"],
                "from": row["low"],
                "to": row["high"],
                "training volumes": row["reference"],
                "mean volume": row["mean_volume"],
                "dimensions": row["dim"],
            }
            for row in found["fidelity"]
        ]
        diversity.append({"of": label, **_pairs(_row(found["diversity"], of="samples"))})
        copies += [
            {
                "of": label,
                "measure": row["measure"],
                "samples, median": row["samples"],
                "unseen, median": row["unseen"],
                "share below the 5th percentile of unseen": row["share_nearer"],
            }
            for row in found["memorisation"]
        ]
        sharp.append(_sharpness(found["sharpness"], "samples").assign(of=label))
    diversity.append({"of": "unseen scans", **_pairs(_row(made["model"]["diversity"], of="real"))})
    sharpness = pd.concat(sharp)
    sharpness.insert(0, "of", sharpness.pop("of"))
    return Section(
        "New brains",
        f"{made['count']} volumes decoded from draws of N(0, I), beside {made['real']} unseen "
        "scans. Distances are between distributions, in principal components of the training "
        "volumes (shape and brightness) and in fixed wavelet features (texture); smaller is "
        "nearer. Two figures say what one is worth: that of training volumes, than which no "
        "model can expect to be nearer, and that of a model which gives nothing but the mean."
        "\n\nLikeness is the mean MS-SSIM of pairs: samples more alike than scans are few brains "
        "again and again. Copies: a sample far nearer to one training volume than to the next ones "
        "(relative distance) repeats it; by chance 5 % lie below the 5th percentile of unseen "
        "scans.",
        tables=[
            ("Sharpness", sharpness),
            ("Likeness of pairs", pd.DataFrame(diversity)),
            ("Distance from unseen scans", pd.DataFrame(distances)),
            ("Distance from the nearest training scans", pd.DataFrame(copies)),
        ],
        figures=pictures(
            figures,
            samples="Draws from the prior, and unseen scans, in three planes.",
            nearest="Draws, and the training scan nearest to each.",
            generation="Sharpness, likeness and distances, with intervals.",
        ),
    )


def _pairs(row):
    return {"MS-SSIM": row["ms_ssim"], "from": row["low"], "to": row["high"], "pairs": row["pairs"]}


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
    found = metrics["latents"]
    if "classes" not in found:
        return None
    tables = [("Classes of unseen scans, from latents", _table(found["classes"]["table"], _COUNTS))]
    summary = []
    for name, label in (
        ("classes", "latents"),
        ("classes_of_components", f"{metrics['components']['count']} principal components"),
        ("classes_without_metadata", "latents without what metadata explain"),
    ):
        summary += [
            {**row, "of": label, "measure": row["measure"].replace("_", " ")}
            for row in found.get(name, {}).get("summary", [])
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
            _table(found["classes_of_components"]["table"], _COUNTS),
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
            classes="Counts, precision and recall; diamonds: the source, on its own test scans.",
            lda="Unseen scans on the first discriminants; grades of leukoencephalopathy together, "
            "as in the source.",
        ),
    )


def _age(metrics, figures):
    found = metrics["latents"].get("age")
    if not found:
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
        for row in found
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
        f"{'ALARM: ' if found['alarm'] else ''}{found['words']}." for found in audit["findings"]
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
    found = metrics.get("registration")
    if not found:
        return None
    outliers = ", ".join(found["outliers"]) or "none"
    return Section(
        "Registration",
        f"{found['scans']} scans beside the template: multiple correlation with its tissue maps, "
        f"median {found['fit']:.3f}, smallest {found['smallest']:.3f}. Outliers: {outliers}. The "
        f"mean image keeps {100 * found['sharpness']:.0f} % of the steepness of its scans.",
        figures=pictures(figures, registration="The template and the mean image."),
    )


def _training(study, figures, timings):
    section = training_section(figures, timings, "SSIM of validation subjects.")
    section.figures += pictures(
        figures,
        divergence="Divergence from the prior."
        if study["model"]["form"] == "vae"
        else "Divergence from the prior, of real and generated volumes: while the line of "
        "generated ones lies above, the encoder tells them apart.",
    )
    return section
