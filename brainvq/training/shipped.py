"""Runs by name: the presets that come with brainvq, folders of runs, and models on a hub; no Keras.

A model on a hub, `hf://USER/NAME`, is downloaded by huggingface_hub into its own cache, from the
server that the environment variable HF_ENDPOINT names, by default huggingface.co.
"""

import os
import re
from pathlib import Path

from brainvq.errors import UserError
from brainvq.training.runs import RunFolder

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
HUB = "hf://"
# What an exported model consists of: nothing else is asked for.
FILES = ("study.json", "model.zip", "prior.zip", "metrics.json", "looks.json", "scale.json")
CARD = "MODEL_CARD.md"
_FORM = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def shipped():
    """Names of the weights that come with brainvq."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/study.json"))


def list_presets():
    """The presets that `load` gives without any training.

    Returns:
        Dict of name to a line on it: what the model does, the data that it was trained on, and
        the terms of those. The whole card is `MODEL_CARD.md` in `brainvq/weights/NAME`.
    """
    return {name: _line(SHIPPED / name) for name in shipped()}


def _line(folder):
    about = RunFolder(folder).study["study"]
    facts = card_facts((folder / CARD).read_text(encoding="utf-8"))
    data = facts.get("Name", "unknown data")
    terms = f" ({facts['Licence']})" if "Licence" in facts else ""
    made = f"study {about['name']}, variant {about['variant']}"
    codes = f": {facts['Codes'].removeprefix('none: ')}" if "Codes" in facts else ""
    return f"{made}{codes}; trained on {data}{terms}"


def card_facts(text):
    """The facts of a `MODEL_CARD.md`, its lines "- name: value": dict."""
    return dict(re.findall(r"^- ([A-Z][\w ]*): (.+)$", text, re.MULTILINE))


def open_run(name):
    """The run, preset or model of a hub called `name`.

    Args:
        name: one of `shipped()`, the folder of a run, or "hf://USER/NAME" with or without
            "@REVISION".

    Returns:
        A `RunFolder`.

    Raises:
        UserError: there is none, or it was made by another version.
    """
    if str(name) in shipped():
        return RunFolder.open(SHIPPED / str(name))
    if str(name).startswith(HUB):
        return _downloaded(str(name))
    if not Path(name).is_dir():
        raise UserError(
            f"{name}: found neither such a folder nor such a preset; expected the folder of a run, "
            f"{HUB}USER/NAME or one of {', '.join(shipped())}"
        )
    return RunFolder.open(name)


def name_of(path):
    """The name of a run's folder; of a model of a hub its name there, with its revision's start."""
    path = Path(path)
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return f"{repository.removeprefix('models--').replace('--', '/')}@{path.name[:8]}"
    return path.name


def hub(what):
    """The package huggingface_hub.

    Args:
        what: what needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{what}: needs huggingface_hub, which is not installed; expected it "
            "(pip install brainvq[hub])"
        ) from None
    return huggingface_hub


def _downloaded(name):
    """The files of a model on a hub, as far as they are not there yet: `RunFolder`."""
    if not _FORM.fullmatch(name.removeprefix(HUB)):
        raise UserError(f"{name}: found no name of a hub; expected {HUB}USER/NAME[@REVISION]")
    package = hub(name)
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = package.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[*FILES, CARD],
            endpoint=os.environ.get("HF_ENDPOINT"),
            library_name="brainvq",
        )
    except Exception as error:  # of a library, a network and a server that may say anything
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: cannot be downloaded ({reason[:300]}); expected a public model, or access to "
            "it and to the network"
        ) from None
    if not (Path(folder) / "study.json").exists() or not (Path(folder) / "model.zip").exists():
        raise UserError(
            f"{name}: found no study.json and model.zip; expected a model that "
            "brainvq.save_pretrained wrote"
        )
    return RunFolder.open(folder)
