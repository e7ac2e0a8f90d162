"""The report of a run: one HTML file that opens offline, pictures included."""

import base64
import dataclasses
import mimetypes
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from brainvq.errors import UserError
from brainvq.files import write_text

PIXELS = 1.3  # pixels of a PNG per pixel of the page
TEMPLATES = Path(__file__).parent / "templates"


@dataclasses.dataclass
class Section:
    """A titled part of a report.

    Attributes:
        title: heading, also in the table of contents.
        text: plain text; blank lines separate paragraphs. It is escaped: markup shows as typed.
        tables: `(caption, pandas.DataFrame)` pairs. Indexes are not shown.
        figures: `(path, caption)` pairs of PNG, JPEG, GIF or SVG files. Of `NAME.png` the viewer
            `NAME.html` is shown too, where there is one: see `brainvq.reports.viewer`.
        links: `(path, text)` pairs of files that lie beside the report, relative to its folder.
        folded: `(summary, text)` pairs at the end, each text hidden until the summary is clicked.
    """

    title: str
    text: str = ""
    tables: list = dataclasses.field(default_factory=list)
    figures: list = dataclasses.field(default_factory=list)
    links: list = dataclasses.field(default_factory=list)
    folded: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """What `write_report` writes.

    Attributes:
        title: heading of the page.
        subtitle: one line below it: study, variant, data, date.
        cards: `(label, value)` or `(label, value, note)`: the few numbers to see first.
        warnings: plain lines, shown above all else: simulated data, scans left out.
        notes: plain lines below them, of what is no cause for alarm.
        sections: `Section` objects, in order; None stands for one that is left out.
        footer: one line: program and versions.
    """

    title: str
    subtitle: str = ""
    cards: list = dataclasses.field(default_factory=list)
    warnings: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    sections: list = dataclasses.field(default_factory=list)
    footer: str = ""

    def __post_init__(self):
        self.sections = [section for section in self.sections if section is not None]


def write_report(path, report):
    """Writes `report` as one HTML file, atomically.

    Args:
        path: the file to write. Figures are read now and embedded; nothing is loaded later.
        report: `Report`.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        UserError: a figure cannot be read or is no picture.
    """
    report = dataclasses.replace(report, cards=[(*card, "")[:3] for card in report.cards])
    write_text(path, environment().get_template("report.html.j2").render(report=report))
    return Path(path)


def write_index(path, title, studies, folder):
    """Writes a page over several runs, with links to their reports, atomically.

    Args:
        path: the file to write, beside the folder that holds those of the runs.
        title: heading of the page.
        studies: dict of study to a list of rows, each a dict of `run` (name of its folder),
            `report` and `picture` (files in it, or None), `variant`, `began`, `data`, `seed`,
            `state` (a note, or "") and `measures`, a dict of label to value.
        folder: name of the folder of the runs.

    Returns:
        `pathlib.Path` of the file.
    """
    template = environment().get_template("index.html.j2")
    write_text(path, template.render(title=title, studies=studies, folder=folder))
    return Path(path)


def format_cell(value):
    """A value as people read it in a table.

    Args:
        value: number, string or None. Floats get four significant digits (whole numbers of five
            and more digits are kept), missing values a dash.

    Returns:
        str.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return "–"
        if np.isinf(value):
            return "∞" if value > 0 else "−∞"
        if value == 0:
            return "0"
        if 1e-3 <= abs(value) < 1e4:
            digits = max(0, 3 - int(np.floor(np.log10(abs(value)))))
            return f"{value:.{digits}f}".replace("-", "−")
        if 1e4 <= abs(value) < 1e9:
            return f"{value:,.0f}".replace(",", "\u202f").replace("-", "−")
        return f"{value:.3g}".replace("-", "−")
    return str(value)


def environment():
    """The templates' `jinja2.Environment`, its filters included."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        cell=format_cell,
        paragraphs=lambda text: [part.strip() for part in text.split("\n\n") if part.strip()],
        numeric=lambda table: [
            pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
            for dtype in table.dtypes
        ],
        rows=_rows,
        # Of all rows, in the order in which they come first.
        measures=lambda rows: list(dict.fromkeys(name for row in rows for name in row["measures"])),
        embedded=_embedded,
    )
    return environment


def _rows(table):
    # Column by column: a row of a mixed table would turn its integers into floats.
    return zip(*([format_cell(value) for value in table[name]] for name in table), strict=True)


def _embedded(path):
    kind = mimetypes.guess_type(str(path))[0]
    if kind not in ("image/png", "image/jpeg", "image/gif", "image/svg+xml"):
        raise UserError(f"{path}: found {kind or 'an unknown type'}, expected a picture")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}), expected a figure of the report"
        ) from error
    data = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    # Our figures have 130 pixels an inch and a page 100: a little smaller is sharp on any screen.
    width = int.from_bytes(content[16:20], "big") if kind == "image/png" else 0
    viewer = Path(path).with_suffix(".html")
    return {
        "data": data,
        "width": round(width / PIXELS),
        "viewer": viewer.read_text("utf-8") if viewer.exists() else "",
    }
