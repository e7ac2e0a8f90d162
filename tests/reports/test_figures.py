"""Figures: written, not blank, sides marked where they belong, scales shared."""

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from brainvq.reports import figures

RNG = np.random.default_rng(0)
K = 16
PICTURES = RNG.random((4, 20, 16, 1)).astype("float32")
OTHERS = np.clip(PICTURES + 0.1, 0, 1)
CODES = RNG.integers(0, K, (4, 5, 4))
BOOK = RNG.normal(size=(K, 6))
COUNTS = np.r_[np.arange(K - 2), 0, 0]
HISTORY = pd.DataFrame(
    {
        "epoch": [0, 1, 2],
        "loss": [1.0, 0.4, 0.05],
        "reconstruction_loss": [0.6, 0.2, 0.02],
        "commitment_loss": [0.3, 0.1, 0.01],
        "codebook_loss": [0.1, 0.1, 0.02],
        "val_loss": [1.1, 0.5, 0.1],
        "val_reconstruction_loss": [0.7, 0.3, 0.05],
        "val_commitment_loss": [0.3, 0.1, 0.03],
        "val_codebook_loss": [0.1, 0.1, 0.02],
        "val_ssim": [0.5, np.nan, 0.8],
        "val_ssim_foreground": [0.3, np.nan, 0.6],
    }
)
SUBJECTS = pd.DataFrame(
    {"subject": ["a", "b"], "ssim": [0.8, 0.9], "ssim_foreground": [0.7, np.nan]}
)
RUNS = pd.DataFrame({"run": ["one", "two"], "ssim": [0.8, 0.9], "ssim_sd": [0.1, np.nan]})

PICTURE_FIGURES = {
    "reconstruction_grid": (PICTURES, OTHERS),
    "code_map_grid": (PICTURES, CODES, K),
    "sample_grid": (PICTURES, OTHERS),
    "image_grid": (PICTURES,),
    "numbered_pictures": (PICTURES,),
    "nearest_neighbours": (PICTURES, OTHERS),
}
PANELS = {"image_grid": 1, "numbered_pictures": 1}  # the others show two things side by side
PLOTS = {
    "loss_curves": (HISTORY,),
    "prior_curve": (HISTORY,),
    "ssim_curve": (HISTORY,),
    "buan_curve": (HISTORY.assign(val_buan=HISTORY["val_ssim"]),),
    "code_usage_bars": (COUNTS,),
    "subject_scores": (SUBJECTS,),
    "comparison_bars": (RUNS,),
    "codebook_projection": (BOOK, COUNTS),
}
ALL = {**PICTURE_FIGURES, **PLOTS}


def draw(name, **options):
    return getattr(figures, name)(*ALL[name], None, **options)


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_every_figure_is_tested():
    public = {
        name
        for name, function in inspect.getmembers(figures, inspect.isfunction)
        if not name.startswith("_") and "path" in inspect.signature(function).parameters
    }
    assert public - {"atomic_path"} == set(ALL)


@pytest.mark.parametrize("name", ALL)
class TestAll:
    def test_written_and_not_blank(self, name, tmp_path):
        before = dict(matplotlib.rcParams)
        path = tmp_path / "deep" / f"{name}.png"
        assert getattr(figures, name)(*ALL[name], path) == path
        pixels = imread(path)[..., :3]
        colours = np.unique((pixels * 255).astype("uint8").reshape(-1, 3), axis=0)
        assert len(colours) > 20
        assert min(pixels.shape[:2]) >= 200
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert dict(matplotlib.rcParams) == before

    def test_simulated_is_said(self, name):
        assert not any("simulated" in text for text in words(draw(name)))
        assert any("simulated brains" in text for text in words(draw(name, simulated=True)))


@pytest.mark.parametrize("name", PICTURE_FIGURES)
class TestPictures:
    @pytest.mark.parametrize(
        ("plane", "left", "right"),
        [("axial", "R", "L"), ("coronal", "R", "L"), ("sagittal", "A", "P")],
    )
    def test_sides(self, name, plane, left, right):
        figure = draw(name, plane=plane)
        figure.draw_without_rendering()
        marked = 0
        for ax in figure.axes:
            marks = {t.get_text(): t for t in ax.texts if t.get_text() in "RLAP"}
            if not marks:
                continue
            assert set(marks) == {left, right}
            # On the screen: the first mark at the left edge of the picture, inside the axes.
            x = {side: mark.get_window_extent() for side, mark in marks.items()}
            assert x[left].x1 < x[right].x0
            assert ax.get_window_extent().x0 - 1 <= x[left].x0
            assert x[right].x1 <= ax.get_window_extent().x1 + 1
            marked += 1
        assert marked >= PANELS.get(name, 2)
        assert any(f"{plane} plane" in text for text in words(figure))

    def test_aspect_and_row_order(self, name):
        for ax in draw(name, spacing=(3.0, 1.5)).axes:
            if ax.images:
                assert ax.get_aspect() == 2.0
                top, bottom = ax.get_ylim()[::-1]
                assert top < bottom  # row 0 above
                assert ax.get_xlim()[0] < ax.get_xlim()[1]  # column 0 on the left

    def test_one_intensity_scale(self, name):
        grey = [i for ax in draw(name).axes for i in ax.images if i.get_cmap().name == "gray"]
        assert len(grey) >= PANELS.get(name, 2)
        assert len({i.get_clim() for i in grey}) == 1
        assert grey[0].get_clim()[0] == 0
        fixed = [
            i.get_clim()
            for ax in draw(name, intensity=(0.2, 0.7)).axes
            for i in ax.images
            if i.get_cmap().name == "gray"
        ]
        assert set(fixed) == {(0.2, 0.7)}

    def test_black_ground(self, name):
        assert draw(name).get_facecolor()[:3] == (0, 0, 0)

    def test_bad_shape(self, name):
        with pytest.raises(ValueError, match="pictures must be"):
            getattr(figures, name)(np.zeros((20, 16)), *ALL[name][1:], None)


class TestReconstructionGrid:
    def test_rows_and_labels(self):
        figure = draw(
            "reconstruction_grid",
            titles=["s1", "s2", "s3", "s4"],
            ssim=[0.1, 0.2, 0.3, 0.4],
            code_maps=CODES,
            num_codes=K,
            codebook=BOOK,
        )
        texts = words(figure)
        assert {"original", "codes", "reconstruction", "|error|", "s3"} <= set(texts)
        assert "SSIM 0.400" in texts

    def test_error_row_has_one_scale_and_the_right_values(self):
        errors = [
            i
            for ax in draw("reconstruction_grid").axes
            for i in ax.images
            if i.get_cmap().name == "inferno"
        ]
        assert len(errors) == 4
        assert len({i.get_clim() for i in errors}) == 1
        np.testing.assert_allclose(
            errors[2].get_array(), np.abs(PICTURES - OTHERS)[2, ..., 0], atol=1e-6
        )

    def test_code_map_lies_over_its_picture(self):
        figure = draw("code_map_grid")
        images = [ax.images[0] for ax in figure.axes if ax.images]
        assert images[0].get_extent() == images[-1].get_extent()

    def test_errors(self):
        with pytest.raises(ValueError, match="one shape"):
            figures.reconstruction_grid(PICTURES, OTHERS[:3], None)
        with pytest.raises(ValueError, match="num_codes is needed"):
            figures.reconstruction_grid(PICTURES, OTHERS, None, code_maps=CODES)


class TestSampleGrid:
    def test_sixty_four_of_each_in_reading_order(self):
        many = np.arange(70, dtype="float32")[:, None, None] * np.ones((1, 6, 5), "float32")
        figure = figures.sample_grid(many, many[::-1], None)
        ours, real = (ax for ax in figure.axes if ax.images)
        assert ours.get_title() == "64 generated"
        assert real.get_title() == "64 real"
        mosaic = np.ma.filled(ours.images[0].get_array(), np.nan)
        assert mosaic[0, 0] == 0
        assert mosaic[0, 7] == 1  # 5 columns and a gap of 2: the second picture
        assert mosaic[-1, -1] == 63
        assert np.isnan(mosaic[0, 5])

    def test_simulated_pictures_are_not_called_real(self):
        titles = [ax.get_title() for ax in draw("sample_grid", simulated=True).axes]
        assert titles == ["4 generated", "4 simulated"]


class TestImageGrid:
    def test_five_pictures_fill_two_rows_of_three(self):
        many = np.arange(5, dtype="float32")[:, None, None] * np.ones((1, 6, 5), "float32")
        (ax,) = figures.image_grid(many, None, plane="coronal").axes
        mosaic = np.ma.filled(ax.images[0].get_array(), np.nan)
        assert mosaic.shape == (2 * 8 - 2, 3 * 7 - 2)
        assert [mosaic[0, 0], mosaic[0, 7], mosaic[8, 0], mosaic[8, 7]] == [0, 1, 3, 4]
        assert np.isnan(mosaic[8, 14])
        assert [t.get_text() for t in ax.texts] == ["R", "L"]
        assert ax.images[0].get_clim() == (0, 4)


class TestCurves:
    def test_losses_add_up(self):
        panels = draw("loss_curves").axes
        lines_of = {ax.get_title(): ax.lines for ax in panels}
        assert list(lines_of) == ["Reconstruction", "VQ (commitment + codebook)", "Total"]
        lines = lines_of["VQ (commitment + codebook)"]
        np.testing.assert_allclose(lines[0].get_ydata(), [0.4, 0.2, 0.03])
        np.testing.assert_allclose(lines[1].get_ydata(), [0.4, 0.2, 0.05])
        assert list(lines[0].get_xdata()) == [1, 2, 3]  # epochs are counted from 1
        assert {ax.get_yscale() for ax in panels} == {"log"}

    def test_prior_in_bits(self):
        nats = pd.DataFrame({"loss": [2 * np.log(2)], "val_loss": [3 * np.log(2)]})
        figure = figures.prior_curve(nats, None, baselines={"marginal": 7.94})
        ours, held, baseline = figure.axes[0].lines
        np.testing.assert_allclose([ours.get_ydata()[0], held.get_ydata()[0]], [2, 3])
        assert set(baseline.get_ydata()) == {7.94}
        bits = pd.DataFrame({"bits_per_code": [2.0], "loss": [9.0]})
        assert figures.prior_curve(bits, None).axes[0].lines[0].get_ydata()[0] == 2

    def test_ssim_skips_epochs_without_a_measure(self):
        lines = draw("ssim_curve", references={"published": 0.7039}).axes[0].lines
        assert list(lines[0].get_xdata()) == [1, 3]
        assert list(lines[1].get_ydata()) == [0.3, 0.6]
        assert set(lines[2].get_ydata()) == {0.7039}

    @pytest.mark.parametrize("name", ["loss_curves", "prior_curve", "ssim_curve", "buan_curve"])
    def test_nothing_to_draw(self, name):
        with pytest.raises(ValueError, match="history has no"):
            getattr(figures, name)(pd.DataFrame({"epoch": [0]}), None)


class TestCodes:
    def test_usage_says_what_is_unused(self):
        figure = draw("code_usage_bars")
        assert "13 of 16 used" in figure.axes[0].get_title()
        assert any("3 never used" in text for text in words(figure))
        heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
        assert heights == sorted(heights, reverse=True)
        assert sum(heights) == pytest.approx(100)

    def test_usage_of_one_code_among_many(self):
        counts = np.ones(512)
        counts[100] = 5000
        assert figures.code_usage_bars(counts, None).axes[0].get_yscale() == "log"

    def test_similar_codes_look_alike(self):
        line = RNG.permutation(64)
        book = line[:, None] * np.ones((1, 3)) + RNG.normal(0, 1e-3, (64, 3))
        colours = figures.code_colours(64, book)[np.argsort(line)]
        steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
        assert steps.max() < 0.15
        by_number = figures.code_colours(64)[np.argsort(line)]
        assert np.linalg.norm(np.diff(by_number, axis=0), axis=1).max() > 0.5

    def test_projection_of_a_one_dimensional_book(self):
        figure = figures.codebook_projection(np.arange(5.0)[:, None], np.ones(5), None)
        assert "100 %" in figure.axes[0].get_xlabel()

    def test_errors(self):
        with pytest.raises(ValueError, match="not all zero"):
            figures.code_usage_bars(np.zeros(4), None)
        with pytest.raises(ValueError, match="codebook must be"):
            figures.codebook_projection(BOOK, COUNTS[:3], None)
        with pytest.raises(ValueError, match="none of the measures"):
            figures.comparison_bars(pd.DataFrame({"run": ["a"]}), None)


def test_many_subjects_are_ranked_without_names():
    table = pd.DataFrame(
        {"subject": [f"s{i}" for i in range(50)], "ssim": RNG.random(50), "ssim_foreground": 0.5}
    )
    ax = figures.subject_scores(table, None).axes[0]
    assert ax.get_xlabel() == "50 subjects, by rank"
    assert list(ax.lines[0].get_ydata()) == sorted(table["ssim"], reverse=True)
