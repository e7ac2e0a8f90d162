"""A trained model as a folder for a hub of models, with a card that says where it comes from."""

import re
from pathlib import Path

from brainvq.errors import UserError
from brainvq.files import read_json, write_text
from brainvq.tasks.trained import Trained, export, load
from brainvq.training.shipped import CARD, card_facts, hub

# Measures of a card, by the word that hubs have for them.
_METRICS = ("ssim", "ssim_foreground", "psnr", "psnr_foreground", "mse", "buan")
_USE = """\
## Use

```python
import brainvq

trained = brainvq.load("hf://USER/{name}")  # or the path of this folder
trained.model.summary()
```

`pip install brainvq[app,tensorflow,hub]`. Loading runs no code of these files.
"""


def save_pretrained(run, folder, *, licence=None, datasets=None, tags=()):
    """Writes a trained model as a folder to hand on, with a model card for Hugging Face.

    Beside what `brainvq predict RUN export` writes there is `README.md`: the run's model card below
    a header of licence, tags, data sets and measures. No path of this machine is in it.
    `huggingface_hub.upload_folder(repo_id="USER/NAME", folder_path=folder)` hands it on, and
    `brainvq.load("hf://USER/NAME")` loads it.

    Args:
        run: a `Trained`, or the name or folder that `load` takes.
        folder: folder to write; it must be new or empty.
        licence: identifier of the licence of the weights, such as "apache-2.0"; by default none is
            stated.
        datasets: names of the data sets that it was trained on; by default as the run's card names
            them.
        tags: words beside those that say study, variant and kind.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        UserError: huggingface_hub is not installed, the run is none, `folder` holds something
            already, or a study of codes has no prior.
    """
    package, folder = hub("save_pretrained"), Path(folder)
    trained = run if isinstance(run, Trained) else load(run)
    export(trained, folder)
    study, card = trained.study, folder / CARD
    text = card.read_text(encoding="utf-8") if card.exists() else f"# {study.name}\n"
    facts = card_facts(text)
    name = re.sub(r"[^\w.-]", "-", f"{study.name}-{study.variant}")
    kind = "simulated" if trained.simulated else "real-scans"
    data = package.ModelCardData(
        license=licence,
        library_name="brainvq",
        pipeline_tag="image-feature-extraction",
        tags=["brainvq", "neuroimaging", study.kind, study.name, study.variant, kind, *tags],
        datasets=list(datasets) if datasets is not None else dataset_names(facts, trained),
        metrics=sorted({metric.partition("_")[0] for metric in measured(folder)}) or None,
        model_name=name,
        eval_results=results(package, facts, trained, folder) or None,
    )
    try:
        content = f"---\n{data.to_yaml()}\n---\n\n{text.rstrip()}\n\n{_USE.format(name=name)}"
        page = package.ModelCard(content)
    except ValueError as error:
        raise UserError(f"save_pretrained: {' '.join(str(error).split())}") from None
    write_text(folder / "README.md", str(page))
    return folder


def dataset_names(facts, trained):
    """The data sets of a run as a hub names them: list of str."""
    if trained.simulated:
        return ["brainvq-simulated"]
    known = re.findall(r"\bds\d{6}\b", facts.get("Name", ""))
    return [f"openneuro/{one}" for one in known] or [trained.study.data.source]


def measured(folder):
    """Means over unseen subjects in the `metrics.json` of a folder: dict of measure to number."""
    path = folder / "metrics.json"
    found = read_json(path).get("reconstruction", {}) if path.exists() else {}
    rows = {name: found.get(name) for name in _METRICS}
    means = {name: row.get("mean") if isinstance(row, dict) else row for name, row in rows.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def results(package, facts, trained, folder):
    """The measures as a hub's card has them: list of `huggingface_hub.EvalResult`."""
    return [
        package.EvalResult(
            task_type="image-feature-extraction",
            task_name="reconstruction",
            dataset_type=dataset_names(facts, trained)[0],
            dataset_name=facts.get("Name", trained.study.data.source),
            dataset_split="test",
            metric_type=name.partition("_")[0],
            metric_name=name.replace("_", ", "),
            metric_value=round(mean, 4),
        )
        for name, mean in measured(folder).items()
    ]
