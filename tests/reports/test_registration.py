"""The figure of the mean image: rows, planes and sides are named, on a black ground."""

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from brainvq.reports.registration import registration_planes

SHAPE = (20, 24, 18)
AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])
AFFINE[:3, 3] = [40, 48, -36]
MASK = np.pad(np.ones((12, 16, 10), bool), 4)
TEMPLATE = np.random.default_rng(0).random(SHAPE) * MASK


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def draw(path=None, **options):
    return registration_planes(TEMPLATE, 40 * TEMPLATE, MASK, AFFINE, path, count=7, **options)


def test_rows_planes_and_sides_are_named():
    texts = words(draw(outliers={f"s{i}": TEMPLATE for i in range(5)}, simulated=True))
    for text in ("template", "mean of 7 scans", "outlier: s0", "outlier: s2", "R", "L"):
        assert text in texts
    assert "outlier: s3" not in texts
    assert any("Registration to the template (simulated brains)" in text for text in texts)
    assert any("outline: brain of the template" in text for text in texts)
    for plane in ("axial", "coronal", "sagittal"):
        assert any(plane in text for text in texts)


def test_rows_have_their_own_brightness():
    figure = draw()
    pictures = [i for ax in figure.axes for i in ax.images if i.get_cmap().name == "gray"]
    first, second = (np.asarray(pictures[i].get_array()) for i in (0, 3))
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert pictures[0].get_clim() == pictures[3].get_clim() == (0, 1)


def test_the_ground_is_black(tmp_path):
    picture = imread(draw(tmp_path / "mean.png"))
    assert picture[0, 0, :3].max() == 0
    assert picture[-1, -1, :3].max() == 0


def test_wrong_shapes():
    with pytest.raises(ValueError, match="'outlier: s1'"):
        draw(outliers={"s1": TEMPLATE[1:]})
