"""Figures of maps: colours that wrap, nodes and patients the right way round."""

import inspect
import itertools

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from nibabel.affines import apply_affine, from_matvec
from scipy.spatial.distance import pdist
from skimage.color import rgb2lab

from brainvq.reports import locations, som
from brainvq.reports.planes import PLANES

RNG = np.random.default_rng(0)
TOPOLOGIES = ("toroid", "rectangular")
H, W, DIM = 4, 5, 3
BOOK = RNG.normal(size=(H * W, DIM))
COUNTS = np.r_[0, np.arange(1, H * W)]
# LPS, as volumes are prepared: axis 0 runs to the left, 1 to the back, 2 to the top.
GRID, BLOCK = (5, 4, 3), 4
SHAPE = tuple(BLOCK * n for n in GRID)
LPS = from_matvec(np.diag([-1.0, -1.0, 2.0]), [9.5, 30.0, -7.0])
BRAIN = np.full(SHAPE, -1.0, "float32")
BRAIN[1:-1, 1:-1, 1:-1] = 1.0 + 0.2 * RNG.random((18, 14, 10))
CODES = RNG.integers(0, H * W, GRID)
VECTORS = BOOK[RNG.integers(0, 10, (2, 4, 5))] + 0.1 * RNG.normal(size=(2, 4, 5, DIM))
PLACES = np.stack([k == CODES for k in range(H * W)]).astype("int64")  # one volume
TABLE = pd.DataFrame(
    {
        "variant": ["ae", "vqvae", "somvae"],
        "ssim": [0.9, 0.6, 0.8],
        "ssim_sd": [0.01, np.nan, 0.02],
        "ssim_foreground": [0.8, 0.5, 0.7],
        "ssim_foreground_sd": [0.01, 0.02, 0.03],
        "psnr": [25.0, 20.0, 24.0],
        "psnr_sd": [0.5, 0.5, 0.5],
        "codes_used": [np.nan, 7, 100],
        "num_codes": [np.nan, 256, 256],
        "published_ssim": [0.87, 0.61, np.nan],
        "published_codes": [np.nan, 3, np.nan],
    }
)


def blocks(grid):
    """Each position as the voxels that it covers."""
    for axis in range(3):
        grid = grid.repeat(BLOCK, axis)
    return grid


ALL = {
    "som_grid": (BOOK, H, W, "toroid"),
    "brain_on_grid": (BRAIN, blocks(CODES), LPS, H, W, "toroid"),
    "encodings_tsne": (VECTORS, BOOK, COUNTS),
    "code_locations": (PLACES[:3], BRAIN, LPS),
    "variants_table_figure": (TABLE,),
}


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def distances(colours):
    """CIELAB distances: between rows, between columns, and of the wraps of both."""
    lab = rgb2lab(colours)
    apart = [np.linalg.norm(lab - np.roll(lab, -1, axis), axis=-1) for axis in (0, 1)]
    return (apart[0][:-1], apart[1][:, :-1]), (apart[0][-1:], apart[1][:, -1:])


def test_every_figure_is_tested():
    public = {
        name
        for module in (som, locations)
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
    draw = getattr(som, name)
    assert draw(*ALL[name], path) == path
    pixels = imread(path)[..., :3]
    assert len(np.unique((pixels * 255).astype("uint8").reshape(-1, 3), axis=0)) > 20
    assert dict(matplotlib.rcParams) == before
    assert not any("simulated" in text for text in words(draw(*ALL[name], None)))
    figure = draw(*ALL[name], None, simulated=True)
    assert any("simulated brains" in text for text in words(figure))


class TestColours:
    @pytest.mark.parametrize("topology", TOPOLOGIES)
    def test_distinct_and_unclipped(self, topology):
        colours = som.grid_colours(16, 16, topology)
        assert colours.shape == (256, 3)
        assert colours.min() > 0
        assert colours.max() < 1
        assert pdist(rgb2lab(colours[None])[0]).min() > 4.5  # 2.3 is just noticeable

    def test_toroids_have_no_seam(self):
        inner, wraps = distances(som.grid_colours(16, 16, "toroid").reshape(16, 16, 3))
        for along, across in zip(inner, wraps, strict=True):
            assert across.max() <= along.max() + 1e-6
            assert across.mean() == pytest.approx(along.mean(), rel=0.5)

    @pytest.mark.parametrize("topology", TOPOLOGIES)
    def test_neighbours_are_similar(self, topology):
        colours = som.grid_colours(16, 16, topology)
        inner, _ = distances(colours.reshape(16, 16, 3))
        far = pdist(rgb2lab(colours[None])[0]).max()
        assert max(apart.max() for apart in inner) < far / 4

    def test_opposite_borders_of_rectangles_differ(self):
        inner, wraps = distances(som.grid_colours(16, 16, "rectangular").reshape(16, 16, 3))
        for along, across in zip(inner, wraps, strict=True):
            assert across.min() > 3 * along.max()

    def test_rows_come_first(self):
        colours = som.grid_colours(2, 9, "rectangular").reshape(2, 9, 3)
        np.testing.assert_allclose(colours[1], som.grid_colours(3, 9, "rectangular")[18:])

    @settings(deadline=None, max_examples=30)
    @given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(TOPOLOGIES))
    def test_any_size(self, height, width, topology):
        colours = som.grid_colours(height, width, topology)
        assert colours.shape == (height * width, 3)
        assert colours.min() >= 0
        assert colours.max() <= 1
        assert len(np.unique(colours.round(5), axis=0)) == height * width

    @pytest.mark.parametrize("wrong", [(0, 4, "toroid"), (4, 4, "torus")])
    def test_refused(self, wrong):
        with pytest.raises(ValueError, match="Received"):
            som.grid_colours(*wrong)


class TestGrid:
    @pytest.mark.parametrize("topology", TOPOLOGIES)
    @pytest.mark.parametrize(("height", "width"), [(4, 5), (2, 3), (1, 4), (2, 2)])
    def test_distance_to_neighbours(self, height, width, topology):
        book = RNG.normal(size=(height * width, DIM))
        expected = np.zeros((height, width))
        for i, j in itertools.product(range(height), range(width)):
            beside = {(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)}
            if topology == "toroid":
                beside = {(a % height, b % width) for a, b in beside} - {(i, j)}
            beside = [(a, b) for a, b in beside if 0 <= a < height and 0 <= b < width]
            own = book[i * width + j]
            expected[i, j] = np.mean([np.linalg.norm(own - book[a * width + b]) for a, b in beside])
        figure = som.som_grid(book, height, width, topology, None)
        sums, apart, key = (ax.images[0].get_array() for ax in figure.axes[:3])
        np.testing.assert_allclose(sums, book.sum(axis=1).reshape(height, width))
        np.testing.assert_allclose(apart, expected)
        np.testing.assert_allclose(
            key, som.grid_colours(height, width, topology).reshape(height, width, 3)
        )

    def test_use(self):
        figure = som.som_grid(BOOK, H, W, "toroid", None, counts=COUNTS)
        use = figure.axes[2].images[0].get_array()
        expected = 100 * COUNTS / COUNTS.sum()
        np.testing.assert_allclose(np.ma.filled(use, 0).ravel(), expected)
        assert use.mask.sum() == 1
        text = " ".join(words(figure))
        assert "Use: 19 of 20" in text
        assert "4 × 5 nodes of 3 channels" in text
        assert {"row", "column"} <= set(words(figure))
        for ax in figure.axes[:4]:
            assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 at the top

    def test_all_alike(self):
        som.som_grid(np.ones((4, 2)), 2, 2, "toroid", None, counts=[5, 0, 0, 0])
        som.som_grid(np.ones((1, 2)), 1, 1, "toroid", None)

    def test_refused(self):
        with pytest.raises(ValueError, match=r"codebook must be \(16, dim\)"):
            som.som_grid(BOOK, 4, 4, "toroid", None)
        with pytest.raises(ValueError, match=r"counts must be \(20,\)"):
            som.som_grid(BOOK, H, W, "toroid", None, counts=[1, 2])


class TestBrain:
    COLOURS = som.grid_colours(H, W, "toroid")

    def brain(self, axcodes="LPS", codes=CODES, **options):
        change = nib.orientations.ornt_transform(
            nib.io_orientation(LPS), nib.orientations.axcodes2ornt(axcodes)
        )
        volume, codes = (nib.apply_orientation(a, change) for a in (BRAIN, blocks(codes)))
        affine = LPS @ nib.orientations.inv_ornt_aff(change, BRAIN.shape)
        return som.brain_on_grid(
            volume, codes, affine, H, W, "toroid", None, intensity=(-1.0, 1.0), **options
        )

    @pytest.mark.parametrize("axcodes", ["LPS", "RAS", "SLA"])
    def test_colours_are_where_the_codes_are(self, axcodes):
        codes = np.full(GRID, 7)
        codes[-1, 0, -1] = 11  # left, front, top
        position = apply_affine(LPS, (18, 1, 10))
        figure = self.brain(axcodes, codes, position=position)
        axes = [ax for ax in figure.axes if ax.images]
        pictures = dict(zip(PLANES, (ax.images[0].get_array() for ax in axes[3:6]), strict=True))
        # Bright voxels have the pure colour. Radiological: left of the patient at the right.
        np.testing.assert_allclose(pictures["axial"][2, -3], self.COLOURS[11])
        np.testing.assert_allclose(pictures["axial"][2, 2], self.COLOURS[7])
        np.testing.assert_allclose(pictures["axial"][-3, -3], self.COLOURS[7])
        np.testing.assert_allclose(pictures["coronal"][2, -3], self.COLOURS[11])
        np.testing.assert_allclose(pictures["coronal"][-3, -3], self.COLOURS[7])
        np.testing.assert_allclose(pictures["sagittal"][2, 2], self.COLOURS[11])
        np.testing.assert_allclose(pictures["sagittal"][2, -3], self.COLOURS[7])
        assert "axial" in axes[0].get_title()
        np.testing.assert_allclose([ax.get_aspect() for ax in axes[3:6]], [1, 2, 2])
        for ax, sides in zip(axes[:6], ("RLAP", "RLSI", "APSI") * 2, strict=True):
            assert {text.get_text() for text in ax.texts} == set(sides)

    def test_brightness_is_the_scan(self):
        volume = BRAIN.copy()
        volume[10, 8, 6] = -1.0  # a ventricle: dark, but within the head
        codes = blocks(np.full(GRID, 7))
        position = apply_affine(LPS, (10, 8, 6))
        figure = som.brain_on_grid(
            volume, codes, LPS, H, W, "toroid", None, intensity=(-1, 1), position=position
        )
        picture = figure.axes[3].images[0].get_array()  # axial, rows to the back
        np.testing.assert_allclose(picture[8, 10], som._SHADE * self.COLOURS[7])
        np.testing.assert_allclose(picture[8, 11], self.COLOURS[7])
        assert not picture[0, 0].any()  # the background stays black

    def test_no_code_stays_grey(self):
        codes = np.full(GRID, 7)
        codes[:3] = -1
        picture = self.brain(codes=codes).axes[3].images[0].get_array()
        grey = np.ptp(picture, axis=-1) == 0
        assert grey[:, :12].all()
        assert not grey[1:-1, 12:-1].any()
        assert picture[5, 5].max() == 1

    def test_background_is_black_though_noise_goes_below(self):
        noisy = BRAIN.copy()
        noisy[0, 0, 0] = -1.05
        codes = np.full(SHAPE, -1)
        figure = som.brain_on_grid(noisy, codes, LPS, H, W, "toroid", None)
        assert figure.axes[0].images[0].get_clim()[0] == -1

    def test_the_key_darkens_nodes_that_are_not_there(self):
        codes = np.where(np.arange(60).reshape(GRID) % 2, 7, 11)
        figure = self.brain(codes=codes)
        key = figure.axes[-1].images[0].get_array().reshape(-1, 3)
        bright = [k for k in range(H * W) if np.allclose(key[k], self.COLOURS[k])]
        assert bright == [7, 11]
        assert any("2 nodes in this brain" in text for text in words(figure))

    def test_refused(self):
        options = (LPS, H, W, "toroid", None)
        with pytest.raises(ValueError, match="of the volume's shape"):
            som.brain_on_grid(BRAIN, CODES, *options)
        with pytest.raises(ValueError, match="of the volume's shape"):
            som.brain_on_grid(BRAIN, blocks(CODES) / 2, *options)
        with pytest.raises(ValueError, match="from -1 to 19. Received: 0 to 20"):
            som.brain_on_grid(BRAIN, blocks(np.full(GRID, 20)).clip(0) * (BRAIN > 0), *options)


class TestEncodings:
    def test_points_and_words(self):
        figure = som.encodings_tsne(
            VECTORS, BOOK, COUNTS, None, height=H, width=W, topology="toroid"
        )
        vectors, used, unused = figure.axes[0].collections
        assert [len(c.get_offsets()) for c in (vectors, used, unused)] == [40, 19, 1]
        colours = som.grid_colours(H, W, "toroid")
        flat = VECTORS.reshape(-1, DIM)
        nearest = np.linalg.norm(flat[:, None] - BOOK, axis=-1).argmin(axis=1)
        np.testing.assert_allclose(vectors.get_facecolors()[:, :3], colours[nearest])
        np.testing.assert_allclose(used.get_facecolors()[:, :3], colours[1:])
        sizes = used.get_sizes()
        assert (np.diff(sizes) > 0).all()  # by use
        left = np.mean((flat - BOOK[nearest]) ** 2) / np.mean((flat - flat.mean(axis=0)) ** 2)
        text = " ".join(words(figure))
        assert f"lies {100 * left:.0f} % of the encodings' variance" in text
        assert "40 of 40 encodings and all 20 codes" in text
        assert "1 codes not in use" in text

    def test_same_seed_same_figure(self):
        a, b = (
            som.encodings_tsne(VECTORS, BOOK, None, None, most=15, seed=3).axes[0].collections
            for _ in range(2)
        )
        assert len(a) == 2
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())
        assert len(a[0].get_offsets()) == 15
        assert len(np.unique(a[0].get_facecolors(), axis=0)) == 1  # grey: there is no map

    def test_near_encodings_are_near(self):
        centres = 50.0 * np.eye(3)
        vectors = centres.repeat(20, axis=0) + RNG.normal(size=(60, 3))
        figure = som.encodings_tsne(vectors, centres, None, None, perplexity=10)
        points, nodes = (c.get_offsets() for c in figure.axes[0].collections)
        apart = np.linalg.norm(points[:, None] - nodes, axis=-1)
        np.testing.assert_array_equal(apart.argmin(axis=1), np.arange(3).repeat(20))

    def test_all_alike(self):
        figure = som.encodings_tsne(np.ones((9, 2)), np.ones((4, 2)), None, None)
        assert not figure.axes[0].collections[0].get_offsets().any()

    def test_refused(self):
        with pytest.raises(ValueError, match=r"Received: \(2, 4, 5, 3\), \(20, 2\)"):
            som.encodings_tsne(VECTORS, BOOK[:, :2], COUNTS, None)
        with pytest.raises(ValueError, match="must be finite"):
            som.encodings_tsne(VECTORS * np.nan, BOOK, COUNTS, None)


class TestPlaces:
    def counts(self, **places):
        counts = np.zeros((4, *GRID))
        for i, place in enumerate(places.values()):
            counts[(i, *place)] = 3
        return counts

    @pytest.mark.parametrize("axcodes", ["LPS", "RAS", "SLA"])
    def test_sides_and_middles(self, axcodes):
        change = nib.orientations.ornt_transform(
            nib.io_orientation(LPS), nib.orientations.axcodes2ornt(axcodes)
        )
        affine = LPS @ nib.orientations.inv_ornt_aff(change, SHAPE)
        counts = self.counts(left=(4, 0, 1), right=(0, 3, 1), middle=(slice(None), 1, 1))
        turned = np.stack([nib.apply_orientation(c, change) for c in counts])
        table = som.code_places(turned, nib.apply_orientation(BRAIN, change), affine)
        np.testing.assert_allclose(table["left"][:3], [1, 0, 0.5], atol=1e-6)
        np.testing.assert_allclose(table["right"][:3], [0, 1, 0.5], atol=1e-6)
        # A block's middle lies between its second and its third voxel.
        np.testing.assert_allclose(
            table.loc[0, ["x", "y", "z"]].astype(float), apply_affine(LPS, (17.5, 1.5, 5.5))
        )
        np.testing.assert_allclose(table["spread"][:2], 0, atol=1e-4)
        middle = np.array([4 * (i - 2) for i in range(5)])
        weight = np.array([3, 4, 4, 4, 3])  # the outer blocks are in part air
        expected = np.sqrt((weight * middle**2).sum() / weight.sum())
        assert table["spread"][2] == pytest.approx(expected)
        assert table["share"].sum() == pytest.approx(1)
        assert table["share"][2] > 5 * table["share"][0]

    def test_codes_of_the_air_and_codes_that_are_not_there(self):
        brain = np.zeros(SHAPE)
        brain[4:16, 4:12, 4:8] = 1
        table = som.code_places(self.counts(air=(0, 0, 0), brain=(2, 1, 1)), brain, LPS)
        assert list(table["share"]) == [0, 1, 0, 0]
        assert table["left"].isna().tolist() == [True, False, True, True]

    def test_a_midline_through_a_block(self):
        counts = self.counts(middle=(2, 1, 1))
        x = apply_affine(LPS, (8, 0, 0))[0]  # the first voxel of the block, the most right one
        table = som.code_places(counts, BRAIN, LPS, midline=x)
        assert table["left"][0] == pytest.approx(3.5 / 4)

    def test_refused(self):
        with pytest.raises(ValueError, match=r"Received: \(20, 5, 4, 3\) and \(19, 16, 12\)"):
            som.code_places(PLACES, BRAIN[1:], LPS)


class TestLocations:
    def test_pictures_show_the_side(self):
        counts = np.zeros((3, *GRID))
        counts[2, 4, 0, 2] = 1  # left, front, top
        counts[1] = 3
        counts[1, 4, 0, 2] = 2  # of three volumes
        figure = som.code_locations(counts, BRAIN, LPS, None, height=1, width=3, topology="toroid")
        pairs = [ax for ax in figure.axes if len(ax.images) == 2]
        assert len(pairs) == 4  # two codes are found, each axial and coronal
        axial, coronal = (ax.images[1].get_array() for ax in (pairs[1], pairs[3]))
        for picture in (axial, coronal):
            # Front or top is above, the patient's left at the right; all else is empty.
            assert picture[0, -1] == pytest.approx(1 / 3)
            assert (picture > 0).sum() == 16
            assert (picture[:4, -4:] > 0).all()
        for ax in pairs:
            assert {text.get_text() for text in ax.texts} == {"R", "L"}
        titles = [ax.get_title() for ax in pairs if ax.get_title()]
        assert titles[0].startswith("row 0, column 1\n")
        assert titles[1].startswith("row 0, column 2\n")
        assert titles[1].endswith("L 100, R 0")
        assert [ax.get_aspect() for ax in pairs] == pytest.approx([1, 1, 2, 2])

    def test_the_most_used_are_shown(self):
        figure = som.code_locations(PLACES, BRAIN, LPS, None, most=3, columns=2)
        titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
        table = som.code_places(PLACES, BRAIN, LPS).sort_values(
            "share", ascending=False, kind="stable"
        )
        assert [title.split("\n")[0] for title in titles] == [
            f"code {code}" for code in table["code"][:3]
        ]
        with pytest.raises(ValueError, match="no code is found"):
            som.code_locations(np.zeros((2, *GRID)), BRAIN, LPS, None)


class TestVariants:
    def test_marks(self):
        figure = som.variants_table_figure(TABLE, None)
        similarity, psnr, codes = figure.axes
        labels = [text.get_text() for text in similarity.get_yticklabels()]
        assert labels == list(TABLE["variant"])
        assert similarity.get_ylim()[0] > similarity.get_ylim()[1]  # the first row at the top
        whole, foreground = (container.lines[0] for container in similarity.containers)
        np.testing.assert_array_equal(whole.get_xdata(), TABLE["ssim"])
        np.testing.assert_array_equal(foreground.get_xdata(), TABLE["ssim_foreground"])
        np.testing.assert_array_equal(psnr.containers[0].lines[0].get_xdata(), TABLE["psnr"])
        published = next(line for line in similarity.lines if "published" in str(line.get_label()))
        np.testing.assert_array_equal(published.get_xdata(), TABLE["published_ssim"])
        assert published.get_markerfacecolor() == "none"
        drawn = {line.get_label(): line.get_xdata() for line in codes.lines}
        np.testing.assert_array_equal(drawn["codes used"], [np.nan, 7, 100])
        np.testing.assert_array_equal(drawn["codes there are"], [np.nan, 256, 256])

    def test_without_what_was_published(self):
        table = TABLE.drop(columns=["published_ssim", "published_codes", "ssim_foreground"])
        figure = som.variants_table_figure(table.assign(psnr_sd=None), None)
        assert not any("published" in text for text in words(figure))
        with pytest.raises(ValueError, match="needs rows"):
            som.variants_table_figure(TABLE[:0], None)
