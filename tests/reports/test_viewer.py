import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from brainvq.reports import viewer
from brainvq.reports.html import Report, Section, write_report

# Voxel index to mm: axes to the left, front and top; and to the back, top and right.
AFFINES = {
    "LAS": np.array([[-2, 0, 0, 30], [0, 3, 0, -20], [0, 0, 2, -10], [0, 0, 0, 1.0]]),
    "PSR": np.array([[0, 0, 2, -8], [-3, 0, 0, 31], [0, 2, 0, -10], [0, 0, 0, 1.0]]),
}


def brain(order):
    """A brain of a grey level that rises to the front, and a bright spot at (12, -2, 4) mm."""
    volume = np.zeros((20, 18, 16), "float32")  # LAS
    volume[3:17, 3:15, 3:13] = np.linspace(0.3, 0.6, 12)[:, None]
    volume[8:10, 5:7, 6:8] = 1
    if order == "PSR":
        volume = volume.transpose(1, 2, 0)[::-1, :, ::-1]
    return volume, AFFINES[order]


def page(tmp_path, order, **options):
    volume, affine = brain(order)
    path = viewer.reconstruction_viewer(
        volume, 0.9 * volume, affine, tmp_path / "brain.html", title="A brain", **options
    )
    return path.read_text("utf-8")


def pictures(text):
    """The tiles of each sprite, `(x, z from the top, y)`, and size and affine of the page."""
    size = json.loads(re.search(r"const size = (\{.*?\})", text).group(1))
    affine = np.array(json.loads(re.search(r"affine: (\[\[.*?\]\])", text).group(1)))
    sprites = []
    for data in re.findall(r"base64,([^\"]+)\"", text):
        mosaic = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), float)
        tiles = mosaic.reshape(-1, size["Z"], mosaic.shape[1] // size["Y"], size["Y"])
        sprites.append(tiles.swapaxes(1, 2).reshape(-1, size["Z"], size["Y"])[: size["X"]])
    return sprites, size, affine


@pytest.mark.parametrize("order", list(AFFINES))
def test_slices_go_from_the_right_and_the_cross_is_in_mm(tmp_path, order):
    (scan, restored, error), size, affine = pictures(page(tmp_path, order))
    x, top, y = np.unravel_index(scan.argmax(), scan.shape)
    at = affine @ [x + 1, y + 1, size["Z"] - top, 1]
    np.testing.assert_allclose(at[:3], [12, -2, 4], atol=2.1)  # the spot is two voxels wide
    assert affine[0, 0] < 0 < affine[1, 1]
    rising = scan[size["X"] // 2, size["Z"] // 3]
    inside = rising[rising > 60]
    assert inside[-1] > inside[0] + 40
    assert restored.max() < scan.max()
    assert 0 < error.mean() < scan.mean()


def test_the_page_is_whole_and_says_what_is_simulated(tmp_path):
    text = page(tmp_path, "LAS", simulated=True)
    assert "<h1>A brain (simulated)</h1>" in text
    assert "function brainsprite(" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert 'title="A brain' not in text


def test_large_volumes_are_shrunk(tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "LONGEST", 12)
    (scan, *_), size, affine = pictures(page(tmp_path, "PSR"))
    assert max(size.values()) <= 12
    x, top, y = np.unravel_index(scan.argmax(), scan.shape)
    at = affine @ [x + 1, y + 1, size["Z"] - top, 1]
    np.testing.assert_allclose(at[:3], [12, -2, 4], atol=4)


def test_an_empty_volume_has_a_page(tmp_path):
    empty = np.zeros((4, 5, 6))
    path = viewer.reconstruction_viewer(empty, empty, np.eye(4), tmp_path / "v.html", title="None")
    assert "brainsprite(" in path.read_text("utf-8")


def test_a_report_shows_the_viewer_of_a_picture(tmp_path):
    volume, affine = brain("LAS")
    picture = viewer.walkable_planes(
        volume, 0.9 * volume, affine, tmp_path / "planes.png", title="A brain & its codes"
    )
    section = Section("Planes", figures=[(picture, "A scan.")])
    text = write_report(tmp_path / "report.html", Report("R", sections=[section])).read_text(
        "utf-8"
    )
    assert text.count("<iframe") == 1
    assert "A brain &amp;amp; its codes" in text  # escaped once more, within the attribute
    (tmp_path / "planes.html").unlink()
    text = write_report(tmp_path / "report.html", Report("R", sections=[section])).read_text(
        "utf-8"
    )
    assert "<iframe" not in text
