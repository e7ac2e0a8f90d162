"""The model card that stands beside trained weights: what they are, from what, for what."""

import dataclasses
from pathlib import Path

import pandas as pd

from brainvq.files import write_text
from brainvq.reports.html import format_cell


@dataclasses.dataclass
class ModelCard:
    """What a user of trained weights must know. Empty fields are said to be unknown or left out.

    Attributes:
        name: name of the model or run.
        intended_use: what it is for, and what it is not for.
        simulated: True when trained on simulated brains; the card opens with it.
        data_name: name and version of the data set.
        data_licence: its licence.
        data_attribution: who is to be named, with a reference.
        split: dict of split name → number of subjects, such as `{"train": 14, "test": 3}`.
        split_rule: how subjects were assigned, with the seed.
        preprocessing: the steps in order, one line each.
        intensity_range: (low, high) of the input.
        input_shape: the shape, such as "(128, 128, 1)".
        shape_rule: which other sizes work, such as "height and width divisible by 8".
        channels: meaning of each channel, and the orientation.
        codes: what one input becomes, such as "16×16 codes of 512".
        bits: bits per input, or None.
        measures: `pandas.DataFrame` such as `evaluation.summary` gives, on unseen subjects.
        ssim_parameters: dict of `evaluation.ssim_parameters`.
        training: command that trained it, as typed.
        versions: dict of package → version.
        limitations: one line each.
        citation: how to cite the model, as text.
        licence: licence of the weights.
    """

    name: str
    intended_use: str = ""
    simulated: bool = False
    data_name: str = ""
    data_licence: str = ""
    data_attribution: str = ""
    split: dict = dataclasses.field(default_factory=dict)
    split_rule: str = ""
    preprocessing: list = dataclasses.field(default_factory=list)
    intensity_range: tuple | None = None
    input_shape: str = ""
    shape_rule: str = ""
    channels: str = ""
    codes: str = ""
    bits: float | None = None
    measures: pd.DataFrame | None = None
    ssim_parameters: dict = dataclasses.field(default_factory=dict)
    training: str = ""
    versions: dict = dataclasses.field(default_factory=dict)
    limitations: list = dataclasses.field(default_factory=list)
    citation: str = ""
    licence: str = ""


def write_model_card(path, card):
    """Writes a model card as Markdown, atomically.

    Args:
        path: the file to write, usually `MODEL_CARD.md`.
        card: `ModelCard`, or a dict of its fields.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ValueError: the dict has a field that a card has not.
    """
    if isinstance(card, dict):
        known = {field.name for field in dataclasses.fields(ModelCard)}
        unknown = sorted(set(card) - known)
        if unknown or "name" not in card:
            raise ValueError(
                "a model card needs `name` and takes the fields of ModelCard. "
                f"Received: {unknown or sorted(card)}"
            )
        card = ModelCard(**card)
    write_text(path, _markdown(card))
    return Path(path)


def _markdown(card):
    brains = "**simulated** brains: not for any statement about people" if card.simulated else ""
    data = [
        ("Name", card.data_name),
        ("Licence", card.data_licence),
        ("Attribution", card.data_attribution),
        ("Kind", brains or "real scans"),
        ("Subjects", _counts(card.split)),
        ("Split", card.split_rule),
    ]
    low_high = card.intensity_range
    shape = [
        ("Input", card.input_shape),
        ("Sizes", card.shape_rule),
        ("Channels", card.channels),
        ("Intensity", f"{low_high[0]:g} to {low_high[1]:g}" if low_high else ""),
        ("Codes", card.codes),
        ("Bits per input", f"{card.bits:g}" if card.bits is not None else ""),
    ]
    ssim = "; ".join(f"{key} {value}" for key, value in card.ssim_parameters.items())
    measures = [] if card.measures is None else [markdown_table(card.measures)]
    if ssim:
        measures.append(f"SSIM: {ssim}.")
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    training = f"```\n{card.training}\n```" if card.training else ""
    sections = [
        ("Intended use", card.intended_use or "Not stated."),
        ("Data", _facts(data)),
        ("Preprocessing", "\n".join(f"{i}. {s}" for i, s in enumerate(card.preprocessing, 1))),
        ("Input and codes", _facts(shape)),
        ("Measures on unseen subjects", "\n\n".join(measures)),
        ("Training", "\n\n".join(part for part in (training, versions) if part)),
        ("Limitations", "\n".join(f"- {line}" for line in card.limitations)),
        ("Licence", card.licence),
        ("Citation", card.citation),
    ]
    lines = [f"# {card.name}{' (simulated brains)' if card.simulated else ''}"]
    if card.simulated:
        lines.append("> Trained on simulated brains, not on scans of people.")
    lines += [f"## {title}\n\n{body}" for title, body in sections if body]
    return "\n\n".join(lines) + "\n"


def markdown_table(table):
    """A `pandas.DataFrame` as a Markdown table, numbers to the right.

    Args:
        table: the DataFrame; its index is not shown.

    Returns:
        str, without a newline at its end.
    """

    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if pd.api.types.is_numeric_dtype(dtype) else "---" for dtype in table.dtypes]
    rows = zip(*([format_cell(value) for value in table[name]] for name in table), strict=True)
    return "\n".join([line(table.columns), line(rule), *map(line, rows)])


def _facts(pairs):
    return "\n".join(f"- {name}: {value}" for name, value in pairs if value)


def _counts(split):
    if not split:
        return ""
    parts = ", ".join(f"{count} {name}" for name, count in split.items())
    return f"{sum(split.values())} ({parts})"
