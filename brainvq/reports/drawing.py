"""What all figures share: the style, the PNG and its title, and pictures whose sides are marked.

A figure is a function that returns a `matplotlib.figure.Figure`, made public by `png_figure`, which
adds what every figure takes: `path`, the PNG to write, and `simulated`, which the title states.
"""

import functools
import inspect
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from brainvq.files import atomic_path

DPI = 130
# What stands at the left and right edge of a picture, by plane.
SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
# Okabe and Ito 2008, "Color universal design": colour-blind people tell them apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a949e",
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "grid.color": "#e3e7eb",
    "xtick.color": "#4a545e",
    "ytick.color": "#4a545e",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
}
DARK = {  # pictures of brains: black ground, so that the edge of the head is not outlined
    "figure.facecolor": "black",
    "axes.facecolor": "black",
    "text.color": "#e8ecef",
    "axes.labelcolor": "#e8ecef",
    "axes.titlecolor": "#e8ecef",
    "axes.edgecolor": "#59636d",
    "xtick.color": "#b9c2ca",
    "ytick.color": "#b9c2ca",
}
# The mark of what others published, beside what was measured here.
PUBLISHED = {"marker": "D", "markerfacecolor": "none", "markeredgecolor": "#1d252c"}
_PATH = "\n    path: the PNG to write; None returns the Figure."
_SIMULATED = (
    "\n    simulated: True when the brains are simulated; the title then says so. Default False."
)
_RETURNS = """Returns:
    `pathlib.Path` of the PNG, or the Figure.

"""


def png_figure(*, dark=False):
    """A decorator: makes a public figure of a function that draws one.

    The public function also takes `path`, its last positional argument, and `simulated`, and its
    docstring describes both; it writes the Figure to `path` and returns that. The function that
    draws gets its `title` as it is to be written, with the note on simulated brains, and
    `simulated` only where it has such a parameter itself. It draws in the common style;
    Matplotlib's rcParams are as before afterwards.

    Args:
        dark: True for pictures of brains, on black ground.

    Returns:
        A decorator of functions with a keyword `title` that return a `matplotlib.figure.Figure`.
    """
    style = {**STYLE, **(DARK if dark else {})}

    def decorate(draw):
        own = inspect.signature(draw).parameters
        simulated = inspect.Parameter("simulated", inspect.Parameter.KEYWORD_ONLY, default=False)
        path = inspect.Parameter("path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        options = {**own, "simulated": simulated}.values()
        signature = inspect.Signature(
            [p for p in options if p.kind is not p.KEYWORD_ONLY]
            + [path]
            + [p for p in options if p.kind is p.KEYWORD_ONLY]
        )

        @functools.wraps(draw)
        def write(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = dict(bound.arguments)
            path, simulated = values.pop("path"), values.pop("simulated")
            if simulated:
                values["title"] = _called_simulated(values["title"])
            if "simulated" in own:
                values["simulated"] = simulated
            with matplotlib.rc_context(style):
                return _finish(draw(**values), path)

        write.__signature__ = signature
        write.__doc__ = _documented(inspect.cleandoc(draw.__doc__))
        return write

    return decorate


def _documented(doc):
    before, heading, after = doc.partition("\nArgs:\n")
    own, _, after = after.partition("\n\n")
    simulated = "" if "\n    simulated: " in own else _SIMULATED
    returns = "" if "Returns:\n" in after else _RETURNS
    return f"{before}{heading}{own}{_PATH}{simulated}\n\n{returns}{after}"


def _called_simulated(title):
    first, newline, rest = title.partition("\n")
    return f"{first} (simulated brains){newline}{rest}"


def _finish(figure, path):
    if path is None:
        return figure
    # `savefig` lays out and draws twice, once only to learn the size.
    figure.set_dpi(DPI)
    with atomic_path(path) as temporary:
        figure.canvas.print_png(temporary)
    return Path(path)


def new_figure(size):
    """An empty Figure that lays out its own panels.

    Args:
        size: (width, height) in inches.

    Returns:
        `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture_axes(shape, spacing, rows, cols, *, bar):
    """A figure whose panels have the aspect of the pictures.

    Args:
        shape: `(n, rows, cols)` of the pictures.
        spacing: (mm per row, mm per column).
        rows: rows of panels.
        cols: columns of panels.
        bar: True leaves room for a colour bar at the right.

    Returns:
        The Figure and its axes `(rows, cols)`.
    """
    ratio = shape[1] * spacing[0] / (shape[2] * spacing[1])
    width = min(2.0, 12.4 / cols)
    figure = new_figure((cols * width + 0.5 + 0.7 * bar, rows * width * ratio + 0.75))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.03, hspace=0.01)
    return figure, figure.subplots(rows, cols, squeeze=False)


def as_pictures(x):
    """Pictures without their channel.

    Args:
        x: `(n, rows, cols[, 1])`.

    Returns:
        float32 `(n, rows, cols)`.

    Raises:
        ValueError: the shape is another.
    """
    x = np.asarray(x)
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim != 3:
        raise ValueError(
            f"pictures must be (n, rows, cols) or (n, rows, cols, 1). Received: shape {x.shape}"
        )
    return x.astype("float32", copy=False)


def show_picture(ax, picture, spacing, low_high, cmap="gray"):
    """Draws one picture with the aspect of its pixels and without axes.

    Args:
        ax: the panel.
        picture: `(rows, cols[, 3])`.
        spacing: (mm per row, mm per column).
        low_high: values of the ends of the colour map.
        cmap: the colour map.

    Returns:
        `matplotlib.image.AxesImage`.
    """
    image = ax.imshow(
        picture,
        cmap=cmap,
        vmin=low_high[0],
        vmax=low_high[1],
        aspect=spacing[0] / spacing[1],
        interpolation="auto",  # smooth when made smaller, or fine lines alias
    )
    without_axes(ax)
    return image


def without_axes(ax):
    """Takes ticks and frame from a panel but leaves its labels and title.

    Args:
        ax: the panel.
    """
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def mark_sides(ax, plane):
    """Writes what is at the left and at the right of a picture.

    Args:
        ax: the panel.
        plane: "axial", "coronal" or "sagittal".
    """
    left, right = SIDES[plane]
    write_on_picture(ax, 0.02, 0.5, left, ha="left")
    write_on_picture(ax, 0.98, 0.5, right, ha="right")


def write_on_picture(ax, x, y, text, *, ha, data=False):
    """Yellow letters with a black rim, legible on any picture.

    Args:
        ax: the panel.
        x: from 0 (left) to 1.
        y: from 0 (bottom) to 1.
        text: str.
        ha: horizontal alignment, "left", "center" or "right".
        data: True where x and y are pixels of the picture.
    """
    ax.text(
        x,
        y,
        text,
        transform=ax.transData if data else ax.transAxes,
        ha=ha,
        va="center",
        fontsize=9,
        color="#ffd479",
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def title_with_plane(figure, title, plane, note=""):
    """Writes the title of pictures of one plane, and which side is which.

    Args:
        figure: the Figure.
        title: its title.
        plane: "axial", "coronal" or "sagittal".
        note: str, behind the sides.
    """
    left, right = SIDES[plane]
    names = {"R": "patient's right", "L": "patient's left", "A": "anterior", "P": "posterior"}
    sides = f"{left} = {names[left]}, {right} = {names[right]}"
    figure.suptitle(f"{title}\n{plane} plane, {sides}{' ' if note else ''}{note}", fontsize=11)


def reference_line(ax, value, label):
    """A dashed upright line with its name at the top.

    Args:
        ax: the panel.
        value: float, where on the x axis.
        label: str.
    """
    ax.axvline(value, color="#59636d", linestyle="--", linewidth=1.2)
    ax.annotate(
        label,
        (value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="#59636d",
    )
