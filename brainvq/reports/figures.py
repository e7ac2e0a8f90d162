"""The figures of a study, drawn from plain arrays and tables to PNG files.

Pictures of brains follow the radiological convention: they come ready to show, `(n, rows, cols)`
or `(n, rows, cols, 1)`, with row 0 anterior (axial plane) or superior (coronal, sagittal) and
column 0 at the patient's right (axial, coronal) or front (sagittal). Every figure states the plane
and marks the sides, keeps the pixel aspect, and shows all pictures that are to be compared on one
intensity scale.

Every function writes `path` and returns it as a `pathlib.Path`; with `None` it returns the
`matplotlib.figure.Figure` instead, for a notebook: see `drawing.png_figure`, which adds `path` and
`simulated` to the parameters. No global state of Matplotlib is touched.
"""

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

from brainvq.reports.curves import (  # noqa: F401  # figures of a run like those below
    buan_curve,
    loss_curves,
    prior_curve,
    ssim_curve,
)
from brainvq.reports.drawing import (
    COLOURS,
    SIDES,
    as_pictures,
    mark_sides,
    new_figure,
    picture_axes,
    png_figure,
    show_picture,
    title_with_plane,
    without_axes,
    write_on_picture,
)


@png_figure(dark=True)
def reconstruction_grid(
    originals,
    reconstructions,
    *,
    titles=None,
    ssim=None,
    code_maps=None,
    num_codes=None,
    codebook=None,
    title="Originals and reconstructions",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
):
    """Originals, reconstructions and their absolute error, a column per picture.

    Args:
        originals: `(n, rows, cols[, 1])`, ready to show; 4 to 10 read well.
        reconstructions: of the shape of `originals`.
        titles: n column titles, such as subject names.
        ssim: n figures of SSIM written below the reconstructions.
        code_maps: integers `(n, h, w)`: adds a row of coloured codes.
        num_codes: size of the codebook; needed with `code_maps`.
        codebook: `(num_codes, dim)`: similar codes then look alike, see `code_colours`.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white) for all pictures. Default: 0 (or the minimum, if that is below)
            to the maximum of the originals.

    Raises:
        ValueError: the shapes do not agree.
    """
    originals, reconstructions = as_pictures(originals), as_pictures(reconstructions)
    if originals.shape != reconstructions.shape or len(originals) == 0:
        raise ValueError(
            "originals and reconstructions must be of one shape and not empty. "
            f"Received: {originals.shape} and {reconstructions.shape}"
        )
    low_high = _intensity(intensity, originals)
    errors = np.abs(reconstructions - originals)
    # One scale for all errors; the few largest may clip, or a single pixel would darken the row.
    worst = max(float(np.nanquantile(errors, 0.998)), 1e-6)
    rows = ["original", "reconstruction", "|error|"]
    if code_maps is not None:
        rows.insert(1, "codes")
    figure, axes = picture_axes(originals.shape, spacing, len(rows), len(originals), bar=True)
    shown = _show_row(axes[0], rows[0], originals, plane, spacing, low_high)
    _head(axes[0], titles)
    if code_maps is not None:
        size = originals.shape[1:]
        _show_codes(axes[1], rows[1], code_maps, num_codes, codebook, plane, spacing, size)
    _show_row(axes[-2], rows[-2], reconstructions, plane, spacing, low_high)
    _caption(axes[-2], "SSIM {:.3f}", ssim)
    error = _show_row(axes[-1], rows[-1], errors, plane, spacing, (0, worst), cmap="inferno")
    _bar(figure, axes[0, -1], shown, "intensity")
    _bar(figure, axes[-1, -1], error, "|error|", extend="max")
    title_with_plane(figure, title, plane)
    return figure


@png_figure(dark=True)
def code_map_grid(
    images,
    code_maps,
    num_codes,
    *,
    codebook=None,
    titles=None,
    title="Code maps",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
):
    """Pictures above their maps of codes, each code in its own colour.

    Args:
        images: `(n, rows, cols[, 1])`, ready to show.
        code_maps: integers `(n, h, w)`.
        num_codes: size of the codebook.
        codebook: `(num_codes, dim)`: similar codes then look alike, see `code_colours`.
        titles: n column titles.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default as in `reconstruction_grid`.
    """
    images = as_pictures(images)
    low_high = _intensity(intensity, images)
    figure, axes = picture_axes(images.shape, spacing, 2, len(images), bar=True)
    shown = _show_row(axes[0], "picture", images, plane, spacing, low_high)
    _head(axes[0], titles)
    height, width = np.shape(code_maps)[1:3]
    name = f"codes, {height}×{width} of {num_codes}"
    size = images.shape[1:]
    _show_codes(axes[1], name, code_maps, num_codes, codebook, plane, spacing, size)
    _bar(figure, axes[0, -1], shown, "intensity")
    title_with_plane(figure, title, plane)
    if codebook is not None:
        figure.supxlabel(
            "colour: rank of the code's embedding on the first principal component",
            fontsize=9,
        )
    return figure


@png_figure(dark=True)
def sample_grid(
    samples,
    real,
    *,
    side=8,
    title="Generated brains beside real ones",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
    simulated=False,
):
    """A labelled grid of samples beside a grid of real pictures, on one intensity scale.

    Args:
        samples: `(n, rows, cols[, 1])`; the first `side`² are shown.
        real: `(m, rows, cols[, 1])`; the first `side`² are shown.
        side: pictures along each side of a grid. Default 8.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default: 0 or the minimum, to the maximum of `real`.
        simulated: True when the model learned from simulated brains, as `real` then are.
    """
    samples, real = as_pictures(samples)[: side**2], as_pictures(real)[: side**2]
    low_high = _intensity(intensity, real)
    word = "simulated" if simulated else "real"
    blocks = [(samples, f"{len(samples)} generated"), (real, f"{len(real)} {word}")]
    ratio = real.shape[1] * spacing[0] / (real.shape[2] * spacing[1])
    figure = new_figure((14.0, 6.85 * ratio + 1.0))
    axes = figure.subplots(1, 2)
    for ax, (pictures, label) in zip(axes, blocks, strict=True):
        _mosaic(ax, pictures, side, spacing, low_high, plane)
        ax.set_title(label)
    title_with_plane(figure, title, plane, note="in every picture")
    return figure


@png_figure(dark=True)
def image_grid(
    images,
    *,
    side=8,
    title="Brains",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
):
    """A labelled grid of pictures on one intensity scale.

    Args:
        images: `(n, rows, cols[, 1])`; the first `side`² are shown.
        side: most pictures along each side of the grid. Default 8.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default: 0 or the minimum, to the maximum of `images`.
    """
    images = as_pictures(images)[: side**2]
    side = min(side, int(np.ceil(np.sqrt(len(images)))))
    ratio = images.shape[1] * spacing[0] / (images.shape[2] * spacing[1])
    figure = new_figure((8.0, 7.7 * ratio + 0.8))
    _mosaic(figure.subplots(), images, side, spacing, _intensity(intensity, images), plane)
    title_with_plane(figure, title, plane, note="in every picture")
    return figure


@png_figure(dark=True)
def numbered_pictures(
    images,
    *,
    columns=8,
    title="Brains",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
):
    """Pictures in rows, each with its number, from 1 on.

    Args:
        images: `(n, rows, cols[, 1])`.
        columns: pictures side by side. Default 8.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default: 0 or the minimum, to the maximum of `images`.
    """
    images = as_pictures(images)
    low_high = _intensity(intensity, images)
    rows = -(-len(images) // columns)
    figure, axes = picture_axes(images.shape, spacing, rows, columns, bar=False)
    for number, ax in enumerate(axes.flat):
        if number < len(images):
            show_picture(ax, images[number], spacing, low_high)
            write_on_picture(ax, 0.03, 0.94, str(number + 1), ha="left")
        else:
            ax.set_axis_off()
    mark_sides(axes[0, 0], plane)
    title_with_plane(figure, title, plane, note="in every picture")
    return figure


@png_figure(dark=True)
def nearest_neighbours(
    samples,
    nearest_train,
    *,
    distances=None,
    reference=None,
    title="Each sample and the training picture nearest to it",
    plane="axial",
    spacing=(1.0, 1.0),
    intensity=None,
):
    """Samples above their nearest training pictures: has the generator only memorised?

    Args:
        samples: `(n, rows, cols[, 1])`; 6 to 12 read well.
        nearest_train: of the shape of `samples`; see `evaluation.nearest_images`.
        distances: n root mean squared differences, written between the two rows.
        reference: the same distance for real unseen pictures (their mean), stated below. Samples
            much nearer than that are copies.
        title: figure title.
        plane: "axial", "coronal" or "sagittal".
        spacing: (mm per row, mm per column).
        intensity: (black, white). Default as in `sample_grid`.
    """
    samples, nearest = as_pictures(samples), as_pictures(nearest_train)
    low_high = _intensity(intensity, nearest)
    figure, axes = picture_axes(samples.shape, spacing, 2, len(samples), bar=True)
    shown = _show_row(axes[0], "generated", samples, plane, spacing, low_high)
    _caption(axes[0], "rmse {:.3f}", distances)
    _show_row(axes[1], "nearest in training", nearest, plane, spacing, low_high)
    _bar(figure, axes[0, -1], shown, "intensity")
    title_with_plane(figure, title, plane)
    if reference is not None:
        figure.supxlabel(
            f"unseen pictures lie {reference:.3f} (rmse, mean) from their nearest training picture",
            fontsize=9,
        )
    return figure


@png_figure()
def code_usage_bars(counts, *, title="Use of the codebook"):
    """Share of each code, from the most to the least used.

    Args:
        counts: `(num_codes,)`, how often each code was seen.
        title: figure title.

    Raises:
        ValueError: nothing was counted.
    """
    counts = np.asarray(counts, "float64")
    if counts.ndim != 1 or counts.sum() <= 0:
        raise ValueError(f"counts must be (num_codes,) and not all zero. Received: {counts.shape}")
    share = np.sort(counts)[::-1] / counts.sum()
    used = int((share > 0).sum())
    entropy = abs(np.sum(share[:used] * np.log2(share[:used])))
    figure = new_figure((7.6, 3.8))
    ax = figure.subplots()
    few = len(share) <= 64
    ranks = np.arange(1, len(share) + 1)
    ax.bar(ranks, 100 * share, width=0.8 if few else 1.0, color=COLOURS[0])
    ax.axhline(
        100 / len(share),
        color=COLOURS[1],
        linestyle="--",
        linewidth=1.3,
        label="all codes used alike",
    )
    if used < len(share):
        ax.axvspan(
            used + 0.5, len(share) + 0.5, color="#f3d9cc", label=f"{len(share) - used} never used"
        )
    ax.set_xlim(0.5 - 0.01 * len(share), len(share) + 0.5)
    ax.set_xlabel("code, by rank")
    # One code for all background hides the rest on a linear scale.
    skewed = share[0] > 20 / len(share)
    if skewed:
        ax.set_yscale("log")
    ax.set_ylabel("share of all codes (%" + (", log scale)" if skewed else ")"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    ax.set_title(
        f"{title}\n{used} of {len(share)} used, perplexity {2**entropy:.1f}, {entropy:.2f} bits"
    )
    return figure


@png_figure()
def subject_scores(table, *, title="SSIM of each subject"):
    """SSIM of each subject, whole image and foreground, from the best to the worst.

    Args:
        table: `pandas.DataFrame` with `subject`, `ssim` and `ssim_foreground`, as
            `evaluation.per_subject` gives it.
        title: figure title.
    """
    table = table.sort_values("ssim", ascending=False)
    many = len(table) > 30
    figure = new_figure((min(4.5 + 0.28 * len(table), 12.0), 4.2))
    ax = figure.subplots()
    place = np.arange(len(table))
    for i, (name, label) in enumerate((("ssim", "whole image"), ("ssim_foreground", "foreground"))):
        values = table[name].to_numpy()
        known = values[~np.isnan(values)]
        mean = known.mean() if len(known) else np.nan
        sd = known.std(ddof=1) if len(known) > 1 else np.nan
        ax.plot(
            place,
            values,
            linestyle="none",
            marker="os"[i],
            markersize=3 if many else 7,
            color=COLOURS[i],
            label=f"{label}: {mean:.3f} ± {sd:.3f}",
        )
        ax.axhline(mean, color=COLOURS[i], linewidth=1, linestyle=":")
    if many:
        ax.set_xlabel(f"{len(table)} subjects, by rank")
    else:
        ax.set_xticks(place, table["subject"].astype(str), rotation=60, ha="right", fontsize=8)
    ax.margins(x=0.5 / max(len(table), 1))
    ax.grid(axis="y")
    ax.set_ylabel("SSIM")
    ax.set_ylim(top=1.0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
    ax.set_title(title)
    return figure


@png_figure()
def comparison_bars(
    table,
    *,
    measures=("ssim", "ssim_foreground", "psnr"),
    title="Runs side by side",
):
    """Bars of several runs for each measure, with the standard deviation over subjects.

    Args:
        table: `pandas.DataFrame` as `evaluation.compare` gives it: `run`, and for each measure
            `<measure>` and, where known, `<measure>_sd`.
        measures: columns to draw, a panel each; absent ones are left out.
        title: figure title.

    Raises:
        ValueError: the table has none of the measures.
    """
    names = {
        "ssim": "SSIM",
        "ssim_foreground": "SSIM, foreground",
        "psnr": "PSNR (dB)",
        "psnr_foreground": "PSNR, foreground (dB)",
        "mse": "mean squared error",
    }
    measures = [name for name in measures if name in table]
    if not measures:
        raise ValueError(f"table has none of the measures. Received: {list(table.columns)}")
    figure = new_figure((3.4 * len(measures) + 2.2, 0.5 * len(table) + 1.7))
    axes = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    place = np.arange(len(table))
    colours = [COLOURS[i % len(COLOURS)] for i in place]
    for ax, name in zip(axes, measures, strict=True):
        values = table[name].to_numpy("float64")
        sd = table.get(f"{name}_sd")
        sd = np.zeros(len(table)) if sd is None else np.nan_to_num(sd.to_numpy(float))
        ax.barh(place, values, color=colours, height=0.62)
        ax.errorbar(values, place, xerr=sd, fmt="none", ecolor="#333b42", capsize=3)
        reach = np.nanmax(np.where(np.isfinite(values), values + sd, np.nan))
        for i, value in enumerate(values):
            digits = 2 if name.startswith("psnr") else 3
            text = f"{value:.{digits}f}" if name != "mse" else f"{value:.2e}"
            ax.text(value + sd[i] + 0.02 * reach, i, text, va="center", fontsize=9)
        ax.set_xlim(0, reach * 1.22)
        ax.set_title(names.get(name, name))
        ax.grid(axis="x")
    axes[0].set_yticks(place, table["run"].astype(str))
    axes[0].invert_yaxis()
    figure.suptitle(title, fontweight="bold")
    return figure


@png_figure()
def codebook_projection(codebook, counts, *, title="Codebook"):
    """Code vectors on their first two principal components, sized by use.

    Args:
        codebook: `(num_codes, dim)`.
        counts: `(num_codes,)`, how often each code was seen; unused codes are crosses.
        title: figure title.

    Raises:
        ValueError: the two arrays do not agree.
    """
    codebook, counts = np.asarray(codebook, "float64"), np.asarray(counts, "float64")
    if codebook.ndim != 2 or counts.shape != codebook.shape[:1]:
        raise ValueError(
            "codebook must be (num_codes, dim) and counts (num_codes,). "
            f"Received: {codebook.shape} and {counts.shape}"
        )
    points, explained = _principal(codebook, 2)
    used = counts > 0
    figure = new_figure((6.2, 5.2))
    ax = figure.subplots()
    area = 12 + 240 * counts / max(counts.max(), 1)
    colours = code_colours(len(codebook), codebook)
    ax.scatter(
        *points[used].T,
        s=area[used],
        c=colours[used],
        alpha=0.8,
        edgecolors="#333b42",
        linewidths=0.4,
        label=f"{int(used.sum())} used (area: share)",
    )
    if not used.all():
        ax.scatter(
            *points[~used].T, marker="x", s=28, c="#c0392b", label=f"{int((~used).sum())} unused"
        )
    for axis, part, name in zip((ax.xaxis, ax.yaxis), explained, ("first", "second"), strict=True):
        axis.set_label_text(f"{name} principal component ({100 * part:.0f} % of variance)")
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid()
    ax.legend(loc="best", markerscale=0.6)
    ax.set_title(title)
    return figure


def code_colours(num_codes, codebook=None):
    """A colour for each code.

    Args:
        num_codes: size of the codebook.
        codebook: `(num_codes, dim)`. With it the hue follows the rank of the code on the first
            principal component, so that similar codes look alike; without, the code's number.

    Returns:
        float64 `(num_codes, 3)`, red, green and blue in [0, 1].
    """
    rank = np.arange(num_codes)
    if codebook is not None:
        codebook = np.asarray(codebook, "float64")
        rank = np.argsort(np.argsort(_principal(codebook, 1)[0][:, 0], kind="stable"))
    # The ends of the map are too dark to tell from the black ground.
    return colormaps["turbo"](0.06 + 0.88 * rank / max(num_codes - 1, 1))[:, :3]


def _principal(vectors, count):
    """Scores on the first principal components and the variance each explains."""
    known = min(count, *vectors.shape)
    pca = PCA(known, svd_solver="full")
    with np.errstate(invalid="ignore"):  # vectors that are all alike have no variance
        scores = pca.fit_transform(vectors)
    missing = (0, count - known)
    explained = np.nan_to_num(pca.explained_variance_ratio_)
    return np.pad(scores, ((0, 0), missing)), np.pad(explained, missing)


def _mosaic(ax, pictures, side, spacing, low_high, plane):
    """Pictures as one image, columns lettered and rows numbered."""
    gap, (rows, cols) = 2, pictures.shape[1:]
    down = -(-len(pictures) // side)
    mosaic = np.full((down * (rows + gap) - gap, side * (cols + gap) - gap), np.nan, "float32")
    for i, picture in enumerate(pictures):
        top, left = (i // side) * (rows + gap), (i % side) * (cols + gap)
        mosaic[top : top + rows, left : left + cols] = picture
    show_picture(ax, mosaic, spacing, low_high, cmap=colormaps["gray"].with_extremes(bad="#2b3238"))
    ax.set_xticks([j * (cols + gap) + cols / 2 for j in range(side)], _letters(side))
    ax.set_yticks([i * (rows + gap) + rows / 2 for i in range(down)], range(1, down + 1))
    ax.tick_params(length=0, labelsize=9)
    # Marks on all 64 would hide them: the first picture has them, the title says the rest.
    left, right = SIDES[plane]
    for x, text, align in ((2, left, "left"), (cols - 2, right, "right")):
        write_on_picture(ax, x, rows / 2, text, ha=align, data=True)


def _show_row(axes, name, pictures, plane, spacing, low_high, cmap="gray"):
    """Pictures side by side, their sides marked; gives the last image, for a colour bar."""
    for j, ax in enumerate(axes):
        image = show_picture(ax, pictures[j], spacing, low_high, cmap=cmap)
        mark_sides(ax, plane)
    axes[0].set_ylabel(name)
    return image


def _show_codes(axes, name, code_maps, num_codes, codebook, plane, spacing, size):
    """Maps of codes side by side, each stretched over the rows and columns of a picture.

    So a code lies above what it codes.
    """
    if num_codes is None:
        raise ValueError("num_codes is needed to colour code maps. Received: num_codes=None")
    for j, ax in enumerate(axes):
        ax.imshow(
            np.asarray(code_maps[j]),
            cmap=ListedColormap(code_colours(num_codes, codebook)),
            vmin=-0.5,
            vmax=num_codes - 0.5,
            extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5),
            aspect=spacing[0] / spacing[1],
            interpolation="nearest",
        )
        without_axes(ax)
        mark_sides(ax, plane)
    axes[0].set_ylabel(name)


def _head(axes, titles):
    for j, ax in enumerate(axes if titles is not None else ()):
        ax.set_title(str(titles[j]), fontsize=10)


def _caption(axes, form, values):
    """A number at the bottom of each picture, where there are any."""
    for j, ax in enumerate(axes if values is not None else ()):
        ax.text(
            0.5,
            0.01,
            form.format(values[j]),
            transform=ax.transAxes,
            ha="center",
            va="bottom",
            fontsize=9,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
        )


def _bar(figure, ax, shown, label, extend="neither"):
    bar = figure.colorbar(shown, ax=ax, fraction=0.08, pad=0.04, extend=extend)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=9)


def _intensity(intensity, reference):
    if intensity is not None:
        return intensity
    low, high = min(0.0, float(np.nanmin(reference))), float(np.nanmax(reference))
    return low, high if high > low else low + 1.0


def _letters(count):
    return [chr(ord("A") + i) for i in range(count)]
