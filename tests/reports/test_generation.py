"""Figures of generated volumes: sides, order, one scale, and every figure of the tables."""

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from nibabel.affines import from_matvec

from brainvq.errors import UserError
from brainvq.evaluation.generation import SHARPNESS
from brainvq.reports.generation import generated_planes, generation_figure, traversal_grid

RNG = np.random.default_rng(0)
GRID = (10, 12, 8)
# LPS, as volumes are prepared: axis 0 runs to the left, 1 to the back, 2 to the top.
LPS = from_matvec(np.diag([-4.0, -4.0, 5.0]), [18.0, 22.0, -17.0])


def brains(n, high=1.0):
    x = np.zeros((n, *GRID), "float32")
    x[:, 2:-2, 2:-2, 1:-1] = high * (0.5 + 0.5 * RNG.random((n, 6, 8, 6)))
    return x


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def pictures(figure, cmap="gray"):
    return [i for ax in figure.axes for i in ax.images if i.get_cmap().name == cmap]


def tables(ratio, alike, distance):
    sharp = pd.DataFrame(
        {
            "measure": list(SHARPNESS),
            "ratio": ratio,
            "low": ratio - 0.1,
            "high": ratio + 0.1,
        }
    )
    diverse = pd.DataFrame(
        {
            "of": ["samples", "real", "samples minus real"],
            "ms_ssim": [alike, 0.8, alike - 0.8],
            "low": [alike - 0.02, 0.78, alike - 0.83],
            "high": [alike + 0.02, 0.82, alike - 0.77],
        }
    )
    far = pd.DataFrame(
        {
            "space": ["pca", "pca", "wavelet", "wavelet"],
            "measure": ["frechet", "kernel"] * 2,
            "corrected": distance,
            "low": 0.5 * distance,
            "high": 2 * distance,
            "reference": 1.5,
            "mean_volume": 900.0,
        }
    )
    return sharp, diverse, far


class TestPlanes:
    def test_every_volume_has_three_planes_on_one_scale(self):
        figure = generated_planes(
            {"VAE": brains(3), "real": brains(2, high=0.8)}, LPS, None, simulated=True
        )
        assert len(pictures(figure)) == 3 * (3 + 2)
        scales = {image.get_clim() for image in pictures(figure)}
        assert len(scales) == 1
        low, high = scales.pop()
        assert low == 0
        assert 0.7 < high <= 0.8  # of the real ones
        shown = words(figure)
        assert "Generated brains beside real ones (simulated brains)" in shown
        for word in ("VAE", "real", "axial", "coronal", "sagittal", "R", "L", "A", "P", "3"):
            assert word in shown
        assert any("R = patient's right" in text for text in shown)
        assert any("axial at z = " in text for text in shown)

    def test_the_right_is_at_the_left(self):
        volume = brains(1)
        volume[0, 2, :, :] = 5.0  # the first voxels of an LPS axis are the patient's right
        figure = generated_planes({"one": volume}, LPS, None)
        axial, coronal, sagittal = pictures(figure)
        for image in (axial, coronal):
            bright = np.flatnonzero((image.get_array() == 5).any(axis=0))
            assert bright.max() < image.get_array().shape[1] / 2
        assert not (sagittal.get_array() == 5).any()
        volume[0] = brains(1)[0]
        volume[0, :, 2, :] = 5.0  # the front
        axial, _, sagittal = pictures(generated_planes({"one": volume}, LPS, None))
        assert np.flatnonzero((axial.get_array() == 5).any(axis=1)).max() < 6
        assert np.flatnonzero((sagittal.get_array() == 5).any(axis=0)).max() < 6

    def test_a_voxel_keeps_its_aspect(self):
        figure = generated_planes({"one": brains(1)}, LPS, None)
        aspects = [image.axes.get_aspect() for image in pictures(figure)]
        np.testing.assert_allclose(aspects, [1.0, 1.25, 1.25])

    def test_pictures_of_a_row_are_equally_high(self):
        figure = generated_planes({"one": brains(1)}, LPS, None)
        heights = [
            image.get_array().shape[0] * image.axes.get_aspect() for image in pictures(figure)
        ]
        assert np.ptp(heights) <= 1.25

    def test_the_reference_and_the_intensity(self):
        blocks = {"real": brains(1, 0.5), "made": brains(1, 9.0)}
        image = pictures(generated_planes(blocks, LPS, None, reference="real"))[0]
        assert image.get_clim()[1] < 0.6
        image = pictures(generated_planes(blocks, LPS, None, intensity=(0, 2)))[0]
        assert image.get_clim() == (0, 2)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="on one grid"):
            generated_planes({"a": brains(1), "b": brains(1)[:, :5]}, LPS, None)
        with pytest.raises(ValueError, match="on one grid"):
            generated_planes({"a": brains(0)}, LPS, None)
        with pytest.raises(ValueError, match="reference must be one of"):
            generated_planes({"a": brains(1)}, LPS, None, reference="b")
        with pytest.raises(ValueError, match="volumes must be"):
            generated_planes({"a": brains(1)[0]}, LPS, None)
        with pytest.raises(UserError, match="position"):
            generated_planes({"a": brains(1)}, LPS, None, position=(900, 0, 0))


class TestTraversal:
    def test_a_row_for_each_plane_and_a_column_for_each_value(self):
        volumes = brains(6).reshape(2, 3, *GRID)
        volumes[1, 2, 4:6, 5:7, 3:5] += 1
        figure = traversal_grid(
            volumes[..., None], LPS, None, values=[-2.5, 0, 2.5], dimensions=[175, 76]
        )
        assert len(pictures(figure)) == 2 * 3 * 3
        assert len({image.get_clim() for image in pictures(figure)}) == 1
        changes = pictures(figure, "signed")
        assert len(changes) == 2 * 3
        scales = {image.get_clim() for image in changes}
        assert len(scales) == 1
        low, high = scales.pop()
        assert low == -high
        shown = words(figure)
        for word in ("−2.5", "0", "+2.5", "last − first", "dimension 175\ncoronal", "axial"):
            assert any(word in text for text in shown), word

    def test_the_last_column_is_the_difference(self):
        volumes = np.tile(brains(1), (1, 2, 1, 1, 1))
        volumes[0, 1] *= 0.5
        figure = traversal_grid(volumes, LPS, None, values=[0, 1], dimensions=[0])
        titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
        assert titles[:2] == ["0", "1"]  # a sign only where there are two
        first, second = (image.get_array() for image in pictures(figure)[:2])
        change = pictures(figure, "signed")[0].get_array()
        np.testing.assert_allclose(change, second - first, atol=1e-6)
        assert change.min() < 0

    def test_bad_shapes(self):
        volumes = brains(6).reshape(2, 3, *GRID)
        for changed in ({"values": [0, 1]}, {"dimensions": [0]}, {"dimensions": [], "values": []}):
            options = {"values": [0, 1, 2], "dimensions": [0, 1], **changed}
            with pytest.raises(ValueError, match="for dimensions and values"):
                traversal_grid(volumes, LPS, None, **options)


class TestMeasures:
    def draw(self, **options):
        models = {"VAE-8": (0.6, 0.95, 300.0), "IVAE-32": (1.1, 0.82, 20.0)}
        sharp, diverse, far = (
            {name: tables(*given)[i] for name, given in models.items()} for i in range(3)
        )
        return generation_figure(sharp, diverse, None, distances=far, **options)

    def test_every_value_is_written(self):
        figure = self.draw(simulated=True)
        shown = words(figure)
        for word in ("VAE-8", "IVAE-32", "0.60", "1.10", "0.95", "0.82", "300", "20", "real"):
            assert word in shown
        assert shown.count("training") == shown.count("mean volume") == 2
        assert "Generated volumes, measured (simulated brains)" in shown
        assert len(figure.axes) == 5

    def test_without_distances(self):
        sharp, diverse, _ = tables(0.9, 0.9, 1.0)
        figure = generation_figure({"a": sharp}, {"a": diverse}, None)
        assert len(figure.axes) == 3
        assert "training" not in words(figure)

    def test_a_distance_of_zero_and_measures_that_are_missing(self):
        sharp, diverse, far = tables(np.nan, 0.9, 0.0)
        figure = generation_figure({"a": sharp}, {"a": diverse}, None, distances={"a": far})
        assert "0" in words(figure)
        for ax in figure.axes:
            assert np.isfinite(ax.get_xlim()).all()
        figure.canvas.draw()

    def test_the_models_must_be_the_same(self):
        sharp, diverse, far = tables(0.9, 0.9, 1.0)
        with pytest.raises(ValueError, match="same models"):
            generation_figure({"a": sharp}, {"b": diverse}, None)
        with pytest.raises(ValueError, match="same models"):
            generation_figure({"a": sharp}, {"a": diverse}, None, distances={"b": far})
        with pytest.raises(ValueError, match="same models"):
            generation_figure({}, {}, None)


def test_files_are_written(tmp_path):
    sharp, diverse, _ = tables(0.9, 0.9, 1.0)
    calls = {
        generated_planes: ({"a": brains(2), "real": brains(2)}, LPS),
        traversal_grid: (brains(3)[None], LPS),
        generation_figure: ({"a": sharp}, {"a": diverse}),
    }
    options = {traversal_grid: {"values": [-1, 0, 1], "dimensions": [0]}}
    for draw, args in calls.items():
        path = tmp_path / f"{draw.__name__}.png"
        assert draw(*args, path, **options.get(draw, {})) == path
        assert imread(path).std() > 0.02
        assert "simulated" in inspect.signature(draw).parameters
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png"] * 3
