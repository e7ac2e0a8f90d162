"""Three planes: every orientation shown alike, sides where the letters say, scales shared."""

import itertools
import warnings

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.affines import apply_affine, from_matvec

from brainvq.errors import UserError
from brainvq.evaluation import foreground
from brainvq.reports import planes
from brainvq.reports.planes import PLANES, centre_of_mass, plane_slices, three_planes

RNG = np.random.default_rng(0)
SIZES = (1.0, 1.5, 2.5)  # mm along x, y and z
SHAPE = (11, 9, 7)
ORIENTATIONS = [
    "".join(code)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for code in itertools.product(*order)
]
RAS = from_matvec(np.diag(SIZES), [-20.0, 5.0, 40.0])


def phantom():
    """RAS+ noise with a bright voxel in a corner of each plane through (5, 4, 3)."""
    volume = RNG.random(SHAPE).astype("float32")
    # Each marker lies in one plane, towards two sides of the patient.
    volume[-1, -1, 3] = 10  # axial: right and anterior
    volume[-1, 4, -1] = 20  # coronal: right and superior
    volume[5, -1, -1] = 30  # sagittal: anterior and superior
    return volume


def turned(volume, axcodes, affine=RAS):
    """The same brain stored with other axes."""
    target = nib.orientations.axcodes2ornt(axcodes)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), target)
    back = nib.orientations.inv_ornt_aff(change, volume.shape)
    return nib.apply_orientation(volume, change), affine @ back


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def pictures(figure, cmap="gray"):
    return [i for ax in figure.axes for i in ax.images if i.get_cmap().name == cmap]


class TestSlices:
    POSITION = tuple(apply_affine(RAS, (5, 4, 3)))

    def test_there_are_48_orientations(self):
        assert len(set(ORIENTATIONS)) == 48

    @pytest.mark.parametrize("axcodes", ORIENTATIONS)
    def test_markers_are_in_the_right_corners(self, axcodes):
        volume = phantom()
        stored, affine = turned(volume, axcodes)
        assert "".join(nib.aff2axcodes(affine)) == axcodes
        cut = plane_slices(stored, affine, self.POSITION)
        # Right is at the left of the picture, anterior at its top or left, superior at its top.
        for name, marker in (("axial", 10), ("coronal", 20), ("sagittal", 30)):
            assert cut[name].picture[0, 0] == marker, name
            assert (cut[name].picture == marker).sum() == 1
        np.testing.assert_array_equal(cut["axial"].picture, volume[::-1, ::-1, 3].T)
        np.testing.assert_array_equal(cut["coronal"].picture, volume[::-1, 4, ::-1].T)
        np.testing.assert_array_equal(cut["sagittal"].picture, volume[5, ::-1, ::-1].T)
        spacing = {name: cut[name].spacing for name in PLANES}
        expected = {"axial": (1.5, 1.0), "coronal": (2.5, 1.0), "sagittal": (2.5, 1.5)}
        for name in PLANES:
            np.testing.assert_allclose(spacing[name], expected[name])
        mm = [cut[name].mm for name in ("sagittal", "coronal", "axial")]
        np.testing.assert_allclose(mm, self.POSITION)

    def test_oblique_grids_keep_their_own_planes(self):
        angle = np.deg2rad(20)
        turn = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
        volume, tilt = phantom(), from_matvec(turn)
        stored, affine = turned(volume, "LPI")
        position = apply_affine(tilt, self.POSITION)
        cut = plane_slices(stored, tilt @ affine, position)
        np.testing.assert_array_equal(cut["coronal"].picture, volume[::-1, 4, ::-1].T)
        assert cut["coronal"].mm == pytest.approx(position[1])
        np.testing.assert_allclose(cut["coronal"].spacing, (2.5, 1.0))
        assert any(
            "turned 20°" in text for text in words(three_planes(stored, tilt @ affine, None))
        )

    def test_positions_are_rounded_to_voxels(self):
        near = np.add(self.POSITION, (0.4, -0.7, 1.2))
        cut, exact = (plane_slices(phantom(), RAS, p) for p in (near, self.POSITION))
        assert [cut[n].mm for n in PLANES] == [exact[n].mm for n in PLANES]

    def test_positions_outside_are_refused(self):
        with pytest.raises(UserError, match=r"x, y, z within -20 to -10, 5 to 17, 40 to 55 mm"):
            plane_slices(phantom(), RAS, (0, 5, 40))
        with pytest.raises(UserError, match="three numbers"):
            plane_slices(phantom(), RAS, (0, 5))

    @pytest.mark.parametrize(
        ("volume", "affine", "message"),
        [
            (np.zeros((4, 4)), RAS, r"a volume must be \(x, y, z\)"),
            (np.zeros((4, 0, 4)), RAS, r"a volume must be \(x, y, z\)"),
            (np.zeros(SHAPE), np.eye(3), r"affine must be \(4, 4\)"),
            (np.zeros(SHAPE), np.zeros((4, 4)), "invertible"),
        ],
    )
    def test_bad_arrays(self, volume, affine, message):
        with pytest.raises(ValueError, match=message):
            plane_slices(volume, affine, (0, 0, 0))

    @pytest.mark.parametrize("axcodes", ["RAS", "PIR", "SLA"])
    def test_the_centre_of_mass_is_that_of_the_foreground(self, axcodes):
        volume = np.zeros(SHAPE, "float32")
        volume[2:5, 3:8, 1:2] = 7.0
        volume[0, 0, 0] = np.nan
        stored, affine = turned(volume, axcodes)
        np.testing.assert_allclose(centre_of_mass(stored, affine), apply_affine(RAS, (3, 5, 1)))

    def test_without_contrast_it_is_the_middle(self):
        np.testing.assert_allclose(
            centre_of_mass(np.ones(SHAPE), RAS), apply_affine(RAS, (5, 4, 3))
        )


class TestThreePlanes:
    def test_written_and_styles_left_alone(self, tmp_path):
        before = dict(matplotlib.rcParams)
        for draw, volumes in (
            (three_planes, ({"a": phantom(), "b": phantom()},)),
            (planes.reconstruction_planes, (phantom(), phantom())),
        ):
            path = tmp_path / "deep" / f"{draw.__name__}.png"
            assert draw(*volumes, RAS, path) == path
            pixels = imread(path)[..., :3]
            assert len(np.unique(pixels[::3, ::3, 0])) > 20
            assert tuple(pixels[0, 0]) == (0, 0, 0)
        assert dict(matplotlib.rcParams) == before

    @pytest.mark.parametrize("axcodes", ["RAS", "LAS", "PIR", "SLA"])
    def test_letters_stand_at_their_edges(self, axcodes):
        stored, affine = turned(phantom(), axcodes)
        figure = three_planes({"first": stored}, affine, None)
        figure.draw_without_rendering()
        panels = [ax for ax in figure.axes if ax.images]
        assert len(panels) == 3
        for ax, name in zip(panels, PLANES, strict=True):
            assert ax.get_title().startswith(f"{name}, ")
            place = {text.get_text(): text.get_window_extent() for text in ax.texts}
            left, right, top, bottom = planes.EDGES[name]
            assert place[left].x1 < place[top].x0 < place[right].x0
            assert place[bottom].y1 < place[left].y0 < place[top].y0
            assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 above
            assert ax.get_xlim()[0] < ax.get_xlim()[1]  # column 0 on the left

    def test_aspect_and_millimetres(self):
        figure = three_planes(phantom(), RAS, None, position=(-15.0, 11.0, 47.5))
        panels = [ax for ax in figure.axes if ax.images]
        np.testing.assert_allclose([ax.get_aspect() for ax in panels], [1.5, 2.5, 2.5 / 1.5])
        titles = [ax.get_title() for ax in panels]
        assert titles == ["axial, z = 47.5 mm", "coronal, y = 11.0 mm", "sagittal, x = −15.0 mm"]
        figure.draw_without_rendering()
        width = [ax.get_window_extent().width for ax in panels]
        np.testing.assert_allclose(width, np.array([11, 11, 13.5]) * width[0] / 11, rtol=0.02)

    def test_one_scale_for_all_rows(self):
        volumes = {"dim": phantom() / 3, "bright": phantom()}
        grey = pictures(three_planes(volumes, RAS, None))
        assert len(grey) == 6
        assert len({image.get_clim() for image in grey}) == 1
        low, high = grey[0].get_clim()
        inside = volumes["bright"][foreground(volumes["bright"][None], ndim=3)[0]]
        assert low == 0
        assert high == pytest.approx(np.quantile(inside, 0.999))
        fixed = pictures(three_planes(volumes, RAS, None, intensity=(0.2, 0.7)))
        assert {image.get_clim() for image in fixed} == {(0.2, 0.7)}

    def test_signed_volumes_have_black_at_zero(self):
        figure = three_planes(phantom() - 3, RAS, None, symmetric=True)
        signed = pictures(figure, "signed")
        assert len(signed) == 3
        low, high = signed[0].get_clim()
        assert low == -high
        assert signed[0].get_cmap()(0.5)[:3] == pytest.approx((0, 0, 0), abs=0.02)

    def test_overlays_are_transparent_at_zero(self):
        scores = np.zeros(SHAPE, "float32")
        scores[4:7, 3:6, 2:5] = 2.0
        scores[5, 4, 0] = np.nan
        figure = three_planes(
            {"a": phantom(), "b": phantom()},
            RAS,
            None,
            overlay=scores,
            overlay_label="surprise",
            position=TestSlices.POSITION,
        )
        laid = pictures(figure, "overlay")
        assert len(laid) == 6
        assert {image.get_clim() for image in laid} == {(0, 2.0)}
        colours = laid[0].to_rgba(laid[0].get_array())
        np.testing.assert_array_equal(colours[..., 3] > 0, np.ma.filled(laid[0].get_array(), 0) > 0)
        assert (colours[..., 3] > 0).sum() == 9
        assert "surprise" in words(figure)
        with pytest.raises(ValueError, match=r"must not be negative. Received: -1"):
            three_planes(phantom(), RAS, None, overlay=scores - 1)

    def test_overlays_of_single_rows_have_their_own_scales(self):
        scores = np.ones(SHAPE)
        figure = three_planes(
            {"input": phantom(), "error": phantom(), "surprise": phantom()},
            RAS,
            None,
            overlay={"error": scores, "surprise": 5 * scores},
            overlay_label={"error": "|x − y|", "surprise": "nats"},
        )
        laid = pictures(figure, "overlay")
        assert [image.get_clim()[1] for image in laid] == [1, 1, 1, 5, 5, 5]
        assert {"|x − y|", "nats"} <= set(words(figure))
        with pytest.raises(ValueError, match="Received: 'other'"):
            three_planes({"a": phantom()}, RAS, None, overlay={"other": scores})

    def test_outlines_surround_the_mask(self):
        mask = np.zeros(SHAPE, bool)
        mask[2:5, 3:6, 3] = True
        position = apply_affine(RAS, (3, 4, 3))
        figure = three_planes(
            phantom(), RAS, None, position=position, contour=mask, contour_label="lesion"
        )
        axial = next(ax for ax in figure.axes if ax.images)
        (outline,) = axial.collections
        corners = np.concatenate([path.vertices for path in outline.get_paths()])
        # Column 0 is x = 10, row 0 is y = 8; the border lies half a voxel outside.
        np.testing.assert_allclose(corners.min(axis=0), (10 - 4 - 0.5, 8 - 5 - 0.5))
        np.testing.assert_allclose(corners.max(axis=0), (10 - 2 + 0.5, 8 - 3 + 0.5))
        assert any("lesion" in text for text in words(figure))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty mask has no outline to warn about
            three_planes(phantom(), RAS, None, contour=np.zeros(SHAPE, bool))

    def test_empty_background_is_cut(self):
        big = np.zeros((60, 60, 60), "float32")
        big[25:35, 20:30, 40:45] = 1.0
        affine = from_matvec(np.diag([2.0, 2.0, 2.0]))
        figure = three_planes(big, affine, None)
        shapes = [image.get_array().shape for image in pictures(figure)]
        assert shapes == [(16, 16), (11, 16), (11, 16)]  # three voxels are 6 mm
        whole, cut = plane_slices(big, affine)["axial"].picture, pictures(figure)[0].get_array()
        assert cut.sum() == whole.sum() == 100
        # A place far from the brain stays in the picture.
        figure = three_planes(big, affine, None, position=(0, 58, 84))
        assert pictures(figure)[0].get_array().shape == (16, 3 + 35)

    def test_titles(self):
        volumes = {"a": phantom(), "b": phantom()}
        figure = three_planes(volumes, RAS, None, titles=["one", "two"], title="T1", simulated=True)
        assert {"one", "two", "T1 (simulated brains)"} <= set(words(figure))
        assert any("R = patient's right" in text for text in words(figure))
        with pytest.raises(ValueError, match="Received: 1 for 2 volumes"):
            three_planes(volumes, RAS, None, titles=["one"])
        with pytest.raises(ValueError, match="Received: 'b'"):
            three_planes({"a": phantom(), "b": phantom()[1:]}, RAS, None)
        with pytest.raises(ValueError, match="Received: none"):
            three_planes({}, RAS, None)


class TestReconstruction:
    def test_rows_and_scales(self):
        original = phantom()
        other = original + RNG.normal(size=SHAPE).astype("float32")
        figure = planes.reconstruction_planes(original, other, RAS, None, simulated=True)
        texts = words(figure)
        assert {"original", "reconstruction", "|error|", "intensity"} <= set(texts)
        assert any("simulated brains" in text for text in texts)
        grey, errors = pictures(figure), pictures(figure, "inferno")
        assert len(grey) == 6
        assert len({image.get_clim() for image in grey}) == 1
        assert len(errors) == 3
        difference = plane_slices(np.abs(other - original), RAS, centre_of_mass(original, RAS))
        for image, name in zip(errors, PLANES, strict=True):
            np.testing.assert_allclose(image.get_array(), difference[name].picture, rtol=1e-5)
        pixels = np.concatenate([difference[name].picture.ravel() for name in PLANES])
        assert errors[0].get_clim() == pytest.approx((0, np.quantile(pixels, 0.998)), rel=1e-4)

    def test_signed(self):
        figure = planes.reconstruction_planes(phantom(), phantom(), RAS, None, signed=True)
        assert len(pictures(figure, "signed")) == 3
        assert "reconstruction − original" in words(figure)

    def test_other_shape(self):
        with pytest.raises(ValueError, match="of one shape"):
            planes.reconstruction_planes(phantom(), phantom()[1:], RAS, None)
