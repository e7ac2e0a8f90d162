"""Figures of bundles: the right way round, on one scale, in the right colours."""

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from skimage.color import rgb2lab

from brainvq.reports import bundle_pictures, bundle_plots, bundles
from brainvq.reports.bundle_pictures import VIEWS, direction_colours, project
from brainvq.reports.bundle_plots import BUNDLE_COLOURS

RNG = np.random.default_rng(0)


def tract(n=6, seed=0, points=9):
    """Streamlines from low, left and back to high, right and front; units of [-1, 1]."""
    rng = np.random.default_rng(seed)
    line = np.linspace(-0.6, 0.6, points)[:, None] * [0.5, 1.0, 0.8]
    return line + rng.normal(0, 0.05, (n, 1, 3)) + rng.normal(0, 0.01, (n, points, 3))


MODELS = ("ae", "vqvae")
NAMES = np.array(["PYT_L", "PYT_R", "MCP"] * 5)
TABLE = pd.DataFrame(
    {
        "bundle": ["MCP", "PYT_L", "PYT_R"],
        "buan": [0.9, 0.8, 0.7],
        "buan_sd": [0.05, np.nan, 0.4],
        "mse": [1e-3, 2e-3, 3e-3],
        "mse_sd": [1e-4, 1e-4, 1e-4],
    }
)
CURVE = pd.DataFrame(
    {
        "epsilon": [0.0, 0.5, 1.0],
        "buan": [1.0, 0.5, 0.0],
        "buan_sd": [0.0, 0.1, np.nan],
        "mse": [0.0, 0.01, 0.1],
        "mse_sd": [0.0, 0.001, 0.01],
    }
)
RATES = pd.DataFrame(
    {
        "codec": ["a 9", "a 18", "float16", "exact"],
        "bits": [9.0, 18.0, 3072.0, 6144.0],
        "mse": [1e-2, 1e-3, 1e-8, 0.0],
        "buan": [0.5, 0.9, 1.0, 1.0],
        "family": ["a", "a", "float16", "exact"],
    }
)
ALL = {
    "bundle_views": ({"PYT_L": tract(), "PYT_R": tract(seed=1) * [-1, 1, 1]},),
    "bundle_grid": ({"original": tract(), "ae": tract(seed=1), "vqvae": tract(seed=2)},),
    "perturbation": ({m: {e: tract(seed=i) for i, e in enumerate((0.0, 0.5))} for m in MODELS},),
    "generated": ({"MCP": tract(), "PYT_L": tract()}, {"MCP": tract(), "PYT_L": tract()}),
    "tsne": ({m: RNG.normal(size=(15, 4, 3)) for m in MODELS}, NAMES),
    "buan_table_figure": (dict.fromkeys(MODELS, TABLE),),
    "robustness_figure": (dict.fromkeys(MODELS, CURVE),),
    "rate_distortion_figure": (RATES,),
}


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def panels(figure):
    return [ax for ax in figure.axes if any(isinstance(c, LineCollection) for c in ax.collections)]


def lines_of(ax):
    return next(c for c in ax.collections if isinstance(c, LineCollection))


def test_every_figure_is_tested():
    public = {
        name
        for module in (bundle_pictures, bundle_plots)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and "path" in inspect.signature(function).parameters
    }
    assert public == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_written_and_simulated_is_said(name, tmp_path):
    before = dict(matplotlib.rcParams)
    path = tmp_path / "deep" / f"{name}.png"
    draw = getattr(bundles, name)
    assert draw(*ALL[name], path) == path
    pixels = imread(path)[..., :3]
    assert len(np.unique((pixels * 255).astype("uint8").reshape(-1, 3), axis=0)) > 20
    assert dict(matplotlib.rcParams) == before
    assert not any("simulated" in text for text in words(draw(*ALL[name], None)))
    figure = draw(*ALL[name], None, simulated=True)
    assert any("simulated brains" in text for text in words(figure))


class TestProjection:
    # A point at the patient's left, in front and at the top.
    POINT = np.array([-3.0, 5.0, 7.0])

    def test_radiological(self):
        np.testing.assert_array_equal(project(self.POINT, "sagittal"), [-5, 7, 3])
        np.testing.assert_array_equal(project(self.POINT, "coronal"), [3, 7, 5])
        np.testing.assert_array_equal(project(self.POINT, "axial"), [3, 5, -7])

    @pytest.mark.parametrize("view", VIEWS)
    def test_seen_from_where_it_is_said(self, view):
        # Right, up and towards the viewer are right-handed, or the picture would be a mirror's.
        assert np.linalg.det(project(np.eye(3), view)) == 1

    def test_refused(self):
        with pytest.raises(ValueError, match="view must be"):
            project(self.POINT, "oblique")


class TestColours:
    def test_of_directions(self):
        x, y, z = np.eye(3)
        line = np.cumsum([[0, 0, 0], x, -2 * y, 0.1 * z, x - y, [0, 0, 0]], axis=0)
        half = np.sqrt(0.5)
        expected = [x, y, z, [half, half, 0], [0, 0, 0]]
        np.testing.assert_allclose(direction_colours(line[None])[0], expected, atol=1e-12)

    def test_bundles_are_distinguishable_and_pairs_related(self):
        lab = {k: rgb2lab([[to_rgb(v)]])[0, 0] for k, v in BUNDLE_COLOURS.items()}
        assert len(lab) == 12
        for a in lab:
            for b in lab:
                if a < b:
                    assert np.linalg.norm(lab[a] - lab[b]) > 15
        for name in [k[:-2] for k in lab if k.endswith("_L")]:
            left, right = lab[f"{name}_L"], lab[f"{name}_R"]
            assert left[0] < right[0]
            hues = [np.arctan2(c[2], c[1]) for c in (left, right)]
            assert abs(np.angle(np.exp(1j * (hues[0] - hues[1])))) < 0.6


class TestViews:
    def test_the_patient_the_right_way_round(self):
        left = tract() * 0.1 + [-0.5, 0.3, 0.2]
        figure = bundles.bundle_views({"PYT_L": left, "MCP": tract() * 0.1}, None)
        axes = dict(zip(VIEWS, panels(figure), strict=True))
        colour = to_rgb(BUNDLE_COLOURS["PYT_L"])
        middles = {}
        for view, ax in axes.items():
            lines = lines_of(ax)
            own = np.isclose(lines.get_colors()[:, :3], colour).all(axis=1)
            assert own.sum() == 6
            own = np.concatenate([lines.get_segments()[i] for i in np.flatnonzero(own)])
            frame = np.mean([ax.get_xlim(), ax.get_ylim()], axis=1)
            middles[view] = own.mean(axis=0) > frame
        assert middles["axial"].tolist() == [True, True]  # left at the right, front at the top
        assert middles["coronal"].tolist() == [True, True]
        assert middles["sagittal"].tolist() == [False, True]  # front at the left
        for ax, sides in zip(axes.values(), ("APSI", "RLSI", "RLAP"), strict=True):
            assert set(sides) <= {text.get_text() for text in ax.texts}

    def test_nearest_on_top(self):
        near, far = tract(1), tract(1)
        near[..., 1] += 1
        figure = bundles.bundle_views({"MCP": near, "PYT_L": far}, None)
        colours = lines_of(panels(figure)[1]).get_colors()  # coronal, from the front
        np.testing.assert_allclose(colours[-1, :3], to_rgb(BUNDLE_COLOURS["MCP"]))

    def test_counts_and_thinning(self):
        figure = bundles.bundle_views({"MCP": tract(50)}, None, most=7)
        assert len(lines_of(panels(figure)[0]).get_segments()) == 7
        assert any("MCP (50)" in text for text in words(figure))


class TestGrid:
    def test_one_scale(self):
        models = {"original": tract(), "far": 9 * tract(), "nan": tract() * np.nan}
        figure = bundles.bundle_grid(models, None, scores={"far": 0.25}, scale_mm=90)
        axes = np.array(panels(figure) + [ax for ax in figure.axes if ax not in panels(figure)])
        rows = axes[:6].reshape(2, 3)
        for a, b in rows.T:
            assert a.get_xlim() == b.get_xlim()
            assert a.get_ylim() == b.get_ylim()
            assert a.get_aspect() == 1
        texts = words(figure)
        assert any(text == "far\nBUAN 0.250" for text in texts)
        assert any(text.endswith(" mm") for text in texts)
        assert any("red left-right" in text for text in texts)
        figure.canvas.draw()
        scales = [ax.get_window_extent().width / np.diff(ax.get_xlim())[0] for ax in figure.axes]
        np.testing.assert_allclose(scales, scales[0], rtol=0.02)

    def test_bar_is_as_long_as_it_says(self):
        for scale, unit in ((90, "mm"), (None, "units")):
            figure = bundles.bundle_grid({"original": tract()}, None, scale_mm=scale)
            ax = figure.axes[0]
            bar = np.ptp(ax.lines[0].get_xdata()) * (scale or 1)
            text = next(t.get_text() for t in ax.texts if unit in t.get_text())
            assert float(text.split()[0]) == pytest.approx(bar)

    def test_refused(self):
        for wrong in ({}, {"a": np.zeros((3, 4))}, {"a": np.zeros((0, 5, 3))}):
            with pytest.raises(ValueError, match="Received"):
                bundles.bundle_grid(wrong, None)


class TestPerturbation:
    def test_words(self):
        rows = {m: {0.0: tract(), 0.5: tract(seed=1)} for m in MODELS}
        figure = bundles.perturbation(
            rows, None, scores={"ae": {0.5: 0.123}}, view="axial", original=tract()
        )
        texts = words(figure)
        assert {"no noise", "ε = 0.5", "ae", "vqvae", "BUAN 0.12"} <= set(texts)
        assert any("axial view, from below" in text for text in texts)
        assert len(panels(figure)) == 4

    def test_refused(self):
        rows = {"ae": {0.0: tract()}, "vae": {0.5: tract()}}
        with pytest.raises(ValueError, match="same epsilons"):
            bundles.perturbation(rows, None)


class TestGenerated:
    def test_new_above_real(self):
        samples, real = {"MCP": tract() + 0.1}, {"MCP": tract() - 0.1}
        figure = bundles.generated(samples, real, None, views=("coronal",))
        above, below = panels(figure)
        for ax, lines in ((above, samples["MCP"]), (below, real["MCP"])):
            drawn = np.concatenate(lines_of(ax).get_segments())
            assert drawn[:, 1].max() == pytest.approx(lines[..., 2].max())
        assert [ax.get_ylabel() for ax in (above, below)] == ["generated\ncoronal", "real\ncoronal"]

    def test_many_in_bands(self):
        many = {f"T{i}": tract(2) for i in range(7)}
        figure = bundles.generated(many, many, None, views=("axial",))
        titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
        assert titles == list(many)
        assert len(panels(figure)) == 14

    def test_refused(self):
        with pytest.raises(ValueError, match="names must be the same"):
            bundles.generated({"MCP": tract()}, {"PYT_L": tract()}, None)


class TestLatents:
    def test_clusters_stay_together(self):
        centres = {"PYT_L": 0.0, "PYT_R": 40.0, "MCP": 80.0}
        names = NAMES.repeat(4)
        latents = (
            RNG.normal(size=(60, 5, 30)) + np.array([centres[n] for n in names])[:, None, None]
        )
        figure = bundles.tsne({"ae": latents}, names, None, perplexity=8)
        dots = {c.get_label(): np.asarray(c.get_offsets()) for c in figure.axes[0].collections}
        assert list(dots) == ["MCP", "PYT_L", "PYT_R"]  # in the order of the study
        assert all(len(points) == 20 for points in dots.values())
        middles = np.stack([points.mean(axis=0) for points in dots.values()])
        for i, points in enumerate(dots.values()):
            apart = np.linalg.norm(points[:, None] - middles, axis=-1)
            assert (apart.argmin(axis=1) == i).all()

    def test_fewer(self):
        figure = bundles.tsne({"ae": RNG.normal(size=(15, 2))}, NAMES, None, most=6)
        assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 6
        assert any("6 of 15 samples" in text for text in words(figure))

    def test_refused(self):
        with pytest.raises(ValueError, match="as many as names"):
            bundles.tsne({"ae": np.zeros((3, 2))}, NAMES, None)


class TestTables:
    def test_dots(self):
        figure = bundles.buan_table_figure(
            {"ae": TABLE, "vqvae": TABLE[:2]}, None, published={"vqvae": {"MCP": 0.5}}
        )
        ax = figure.axes[0]
        np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), TABLE["buan"])
        bars = ax.containers[0].lines[2][0].get_segments()
        np.testing.assert_allclose(bars[2][:, 0], [0.3, 1.0])  # BUAN ends at 1
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ["ae: 0.8000", "vqvae: 0.8500", "vqvae, published: 0.5000"]
        assert [t.get_text() for t in ax.get_yticklabels()] == list(TABLE["bundle"])
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first bundle at the top

    def test_other_measure(self):
        figure = bundles.buan_table_figure({"ae": TABLE}, None, measure="mse")
        assert "mean squared error" in figure.axes[0].get_xlabel()
        with pytest.raises(ValueError, match="closest"):
            bundles.buan_table_figure({"ae": TABLE}, None, measure="closest")

    def test_area_in_the_legend(self):
        figure = bundles.robustness_figure({"ae": CURVE}, None)
        assert any(text == "ae: 0.500" for text in words(figure))
        assert figure.axes[1].get_ylim()[0] >= 1e-8
        with pytest.raises(ValueError, match="one or more"):
            bundles.robustness_figure({}, None)

    def test_families_are_joined(self):
        figure = bundles.rate_distortion_figure(RATES, None)
        left, right = figure.axes
        assert [len(line.get_xdata()) for line in right.lines] == [2]
        assert left.get_yscale() == "log"
        # Files are a hundred times as large: told, for they would press the curves together.
        texts = words(figure)
        assert "float16:\n3,072 bits, error 1e-08" in texts
        assert "exact:\n6,144 bits, no error" in texts
        alone = bundles.rate_distortion_figure(RATES.drop(columns="family"), None)
        assert len(alone.axes[0].lines) == 4
        with pytest.raises(ValueError, match="mse"):
            bundles.rate_distortion_figure(RATES.drop(columns="mse"), None)
