import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine

from brainvq.data import steps as steps_module
from brainvq.data.foreground import foreground_mask
from brainvq.data.scans import ScanError
from brainvq.data.steps import (
    STEPS,
    BlockMean,
    Canonical,
    ClipIntensity,
    CropOrPad,
    FitInside,
    RegisterToTemplate,
    Resample,
    ScaleIntensity,
    SelectSlices,
    ZScore,
    apply_steps,
    steps_from_config,
    steps_to_config,
)
from brainvq.errors import UserError

ORIENTATIONS = [
    tuple(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]


def rotation(degrees, axis):
    turn = np.eye(3)
    i, j = [(1, 2), (0, 2), (0, 1)][axis]
    turn[[i, j], [i, j]] = np.cos(np.radians(degrees))
    turn[i, j], turn[j, i] = -np.sin(np.radians(degrees)), np.sin(np.radians(degrees))
    return turn


def ball(shape=(40, 44, 48), radius_mm=14.0, affine=None, center=None):
    """A smooth bright ball on exact zeros, and its affine."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
    world = apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    center = apply_affine(affine, (np.array(shape) - 1) / 2) if center is None else center
    distance = np.linalg.norm(world - center, axis=-1)
    image = np.where(distance < radius_mm, 100 + 50 * np.cos(distance / 5), 0)
    return image.astype(np.float32), affine, center


def center_of_mass(image, affine):
    index = np.stack(np.indices(image.shape), axis=-1).reshape(-1, 3)
    return np.average(apply_affine(affine, index), axis=0, weights=image.ravel())


def test_the_orientations_are_all_of_them():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("target", ["RAS", "LPS", "SLA"])
@pytest.mark.parametrize("oblique", [0, 25])
def test_canonical_keeps_the_world(target, oblique):
    for codes in ORIENTATIONS:
        affine = nib.orientations.inv_ornt_aff(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
            ),
            (5, 6, 7),
        )
        turn = np.eye(4)
        turn[:3, :3] = rotation(oblique, 2) @ rotation(oblique / 2, 0) @ np.diag([1, 2, 3])
        turn[:3, 3] = [3, -8, 2]
        affine = turn @ affine
        image = np.zeros((5, 6, 7), np.float32)
        image[1, 2, 5] = 1
        moved, new = Canonical(target)(image, affine)
        marked = np.argwhere(moved)[0]
        np.testing.assert_allclose(apply_affine(new, marked), apply_affine(affine, [1, 2, 5]))
        assert nib.aff2axcodes(new) == tuple(target)


@given(
    spacing=st.tuples(*[st.floats(0.7, 4.0)] * 3),
    voxel=st.tuples(*[st.floats(0.8, 2.0)] * 3),
    degrees=st.floats(-40, 40),
    order=st.sampled_from([0, 1, 3]),
)
@settings(max_examples=25, deadline=None)
def test_resampling_keeps_the_world(spacing, voxel, degrees, order):
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees, 1) @ np.diag(voxel)
    affine[:3, 3] = [-5, 7, 11]
    # A linear ramp in world coordinates: its interpolation is exact wherever no edge is near.
    shape = (24, 26, 28)
    direction = np.array([0.3, -1.0, 0.5])
    world = apply_affine(affine, np.stack(np.indices(shape), axis=-1))
    image = (world @ direction).astype(np.float32)
    new_image, new = Resample(spacing, order=order, antialias=order == 1)(image, affine)
    np.testing.assert_allclose(np.sqrt((new[:3, :3] ** 2).sum(0)), spacing, rtol=1e-6)
    middle = tuple(slice(n // 2, n // 2 + 1) for n in new_image.shape)
    index = [n // 2 for n in new_image.shape]
    expected = apply_affine(new, index) @ direction
    # A nearest voxel is off by half a voxel at most.
    tolerance = 0.02 if order else np.abs(direction) @ np.full(3, 0.51 * max(voxel)) * 2
    assert abs(float(new_image[middle].item()) - expected) < tolerance
    np.testing.assert_allclose(
        apply_affine(new, (np.array(new_image.shape) - 1) / 2),
        apply_affine(affine, (np.array(shape) - 1) / 2),
        atol=1e-9,
    )


def test_resampling_agrees_with_interpolation_by_hand():
    image = np.random.default_rng(0).normal(size=(6, 4, 5)).astype(np.float32)
    new, affine = Resample((0.5, 1, 1))(image, np.eye(4))
    assert new.shape == (12, 4, 5)
    # New centres lie at −0.25, 0.25, 0.75, …
    np.testing.assert_allclose(affine[0], [0.5, 0, 0, -0.25])
    np.testing.assert_allclose(new[0], image[0])
    np.testing.assert_allclose(new[3], 0.75 * image[1] + 0.25 * image[2], rtol=1e-5, atol=1e-6)


def test_antialiasing_removes_what_the_new_grid_cannot_show():
    image = np.tile(np.float32([0, 1]), 32)[:, None, None] * np.ones((64, 4, 4), np.float32)
    blurred, _ = Resample((4, 1, 1))(image, np.eye(4))
    aliased, _ = Resample((4, 1, 1), antialias=False)(image[:63], np.eye(4))
    inner = blurred[2:-2]
    assert np.abs(inner - 0.5).max() < 0.02
    assert np.abs(aliased - 0.5).max() > 0.4


def test_resampling_to_the_same_spacing_changes_nothing():
    image, affine, _ = ball()
    new, same = Resample(1.0)(image, affine)
    np.testing.assert_array_equal(new, image)
    np.testing.assert_array_equal(same, affine)


def test_nearest_resampling_makes_no_new_labels():
    labels = np.random.default_rng(0).integers(0, 4, (9, 8, 7)).astype(np.float32)
    new, _ = Resample(1.7, order=0)(labels, np.eye(4))
    assert set(np.unique(new)) <= {0, 1, 2, 3}


@given(
    shape=st.tuples(*[st.one_of(st.none(), st.integers(1, 60))] * 3),
    offset=st.tuples(*[st.integers(-6, 6)] * 3),
    center=st.sampled_from(["foreground", "volume"]),
)
@settings(max_examples=30, deadline=None)
def test_crop_or_pad_keeps_the_world_and_gives_the_shape(shape, offset, center):
    affine = np.diag([1.0, 2.0, 1.0, 1.0])
    affine[:3, 3] = [9, 9, -9]
    image = np.zeros((30, 31, 32), np.float32)
    place = np.array([15, 15, 16]) + offset
    image[tuple(slice(p - 3, p + 4) for p in place)] = 5
    image[tuple(place)] = 9
    new, new_affine = CropOrPad(shape, center)(image, affine)
    assert new.shape == tuple(
        o if n is None else n for n, o in zip(shape, image.shape, strict=True)
    )
    marked = np.argwhere(new == 9)
    if center == "foreground":
        assert len(marked) == 1
        for axis, n in enumerate(shape):
            if n is not None:
                assert marked[0][axis] in ((n - 1) // 2, n // 2)
    for index in marked:
        np.testing.assert_allclose(apply_affine(new_affine, index), apply_affine(affine, place))


def test_crop_or_pad_of_two_axes():
    image = np.ones((10, 11, 12), np.float32)
    new, affine = CropOrPad((4, 20), "volume", axes=(0, 1), fill=-1)(image, np.eye(4))
    assert new.shape == (4, 20, 12)
    assert (new == -1).sum() == 4 * 9 * 12
    np.testing.assert_array_equal(affine[:3, 3], [3, -4, 0])


def test_a_crop_that_is_bigger_then_smaller_is_the_same_image():
    image, affine, _ = ball()
    once, a = CropOrPad((60, 60, 60), "volume")(image, affine)
    back, b = CropOrPad(image.shape, "volume")(once, a)
    np.testing.assert_array_equal(back, image)
    np.testing.assert_allclose(b, affine)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "AIR"])
def test_slices_lie_where_their_affine_says(plane, axcodes):
    # Intensity is the world coordinate across the plane, plus 200: readable off any voxel.
    image, affine, center = ball(affine=nib.affines.from_matvec(np.diag([1, 1.5, 2]), [4, -30, 7]))
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    world = apply_affine(affine, np.stack(np.indices(image.shape), axis=-1))
    inside = image > 0
    image = np.where(inside, 200 + world[..., axis], 0).astype(np.float32)
    image, affine = Canonical(axcodes)(image, affine)
    stack, new = SelectSlices(plane, spacing=2.3, margin=(3, 5))(image, affine)
    index = np.stack(np.indices(stack.shape), axis=-1)
    coordinate = apply_affine(new, index)[..., axis]
    middle = (stack.shape[0] // 2, stack.shape[1] // 2)
    np.testing.assert_allclose(stack[middle], 200 + coordinate[middle], atol=1e-3)
    # Evenly spaced, first slice at the bottom margin, none in the top margin.
    positions = np.sort(coordinate[middle])
    np.testing.assert_allclose(np.diff(positions), 2.3)
    covered = np.sort(world[..., axis][inside])[[0, -1]]
    np.testing.assert_allclose(positions[0], covered[0] + 3, atol=1e-6)
    assert covered[1] - 5 - 2.3 < positions[-1] <= covered[1] - 5
    # The axes that stay are in their order.
    assert nib.aff2axcodes(new)[2] in {0: "RL", 1: "AP", 2: "SI"}[axis]


def test_a_count_of_slices_is_spread_evenly():
    image, affine, _ = ball()
    stack, new = SelectSlices("axial", count=5, margin=(2, 4))(image, affine)
    assert stack.shape == (40, 44, 5)
    z = np.flatnonzero(image.any(axis=(0, 1)))[[0, -1]] + [2, -4]
    np.testing.assert_allclose(new[2, 3] + new[2, 2] * np.arange(5), np.linspace(*z, 5))
    single, new = SelectSlices("axial", count=1, margin=(2, 4))(image, affine)
    assert single.shape[2] == 1
    assert new[2, 3] == pytest.approx(z.mean())


def test_too_little_foreground_for_the_margins():
    image, affine, _ = ball()
    with pytest.raises(ScanError, match=r"foreground of 27.0 mm .* margins of 20 \+ 20 mm"):
        SelectSlices(margin=(20, 20))(image, affine)


def test_clip_at_a_percentile_of_the_foreground():
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8, 2:8, 2:8] = np.arange(1, 217).reshape(6, 6, 6)
    clipped, _ = ClipIntensity(upper=50)(image, np.eye(4))
    assert clipped.max() == np.percentile(np.arange(1, 217), 50)
    assert clipped.min() == 0
    clipped, _ = ClipIntensity(lower=10, upper=100, over="all")(image, np.eye(4))
    np.testing.assert_array_equal(clipped, image)  # the 10th percentile of all is 0
    clipped, _ = ClipIntensity(lower=25, upper=100)(image, np.eye(4))
    assert clipped.min() == np.float32(np.percentile(np.arange(1, 217), 25))


@pytest.mark.parametrize("method", ["minmax", "max", "percentile"])
@given(offset=st.floats(-50, 50), factor=st.floats(1e-3, 1e4))
@settings(max_examples=10, deadline=None)
def test_scaled_intensities_lie_in_0_to_1(method, offset, factor):
    image, affine, _ = ball((20, 20, 20), 7)
    new, _ = ScaleIntensity(method)(np.float32(factor) * (image + np.float32(offset)), affine)
    assert new.min() >= 0
    assert new.max() == pytest.approx(1, abs=1e-5)
    if method == "minmax":
        assert new.min() == 0
        np.testing.assert_allclose(new, image / image.max(), atol=1e-3)


def test_z_scores():
    image, affine, _ = ball()
    new, _ = ZScore()(image, affine)
    inside = new[image > 0]
    assert abs(inside.mean()) < 1e-4
    assert abs(inside.std() - 1) < 1e-4
    new, _ = ZScore("all")(image, affine)
    assert abs(new.mean()) < 1e-4
    assert abs(new.std() - 1) < 1e-4


@pytest.mark.parametrize("step", [ScaleIntensity(), ScaleIntensity("max"), ZScore("all")])
def test_constant_images_cannot_be_scaled(step):
    with pytest.raises(ScanError, match="expected more than one value"):
        step(np.zeros((4, 4, 4), np.float32), np.eye(4))


@pytest.mark.parametrize(
    "step", [CropOrPad((3, 3, 3)), SelectSlices(), ZScore(), ClipIntensity(upper=99)]
)
def test_an_empty_foreground_is_reported(step):
    with pytest.raises(ScanError, match="no foreground"):
        step(np.zeros((8, 8, 8), np.float32), np.eye(4))


def test_foreground_of_a_stripped_scan_is_what_is_above_zero():
    image, _, _ = ball()
    image[image > 0] -= 49.9  # down to nearly zero in places
    np.testing.assert_array_equal(foreground_mask(image), image > 0)


def test_foreground_of_a_whole_head_in_noise():
    rng = np.random.default_rng(0)
    image, _, _ = ball()
    head = image > 0
    noisy = np.hypot(image + rng.normal(0, 6, image.shape), rng.normal(0, 6, image.shape))
    noisy[2, 2, 2] = 150  # a spark in the air must not stretch the bounding box
    mask = foreground_mask(noisy.astype(np.float32))
    assert (mask & head).sum() / (mask | head).sum() > 0.98
    # The same with a frame of exact zeros, as defaced or padded scans have.
    framed = np.pad(noisy, 8).astype(np.float32)
    mask = foreground_mask(framed)[8:-8, 8:-8, 8:-8]
    assert (mask & head).sum() / (mask | head).sum() > 0.98


def test_foreground_of_a_few_voxels():
    image = np.zeros((70, 70, 70), np.float32)
    image[33, 35, 37] = 4
    np.testing.assert_array_equal(np.argwhere(foreground_mask(image)), [[33, 35, 37]])


def one_voxel(value):
    def change(image):
        image = image.copy()
        image[3, 4, 5] = value
        return image

    return change


def biased(image):
    """As a corrected bias leaves it: 7 of 10,000 voxels of the rim below 0."""
    image, rng = image.copy(), np.random.default_rng(1)
    rim = rng.choice(np.flatnonzero(image == 0), round(7e-4 * image.size), replace=False)
    image.ravel()[rim] = rng.uniform(-20, 0, len(rim))
    return image


@pytest.mark.parametrize(
    "change",
    [
        one_voxel(-1),
        one_voxel(-1e5),
        biased,
        lambda image: one_voxel(0)(image + 1000),
        lambda image: image / 100 - 7,  # no background of 0, as scaled integers leave it
        lambda image: image + np.random.default_rng(0).normal(0, 1e-3, image.shape),
    ],
)
def test_a_few_dark_voxels_change_neither_scale_nor_foreground(change):
    image, affine, _ = ball()
    brain = image > 0
    changed = np.asarray(change(image), np.float32)
    np.testing.assert_array_equal(foreground_mask(changed), brain)
    for lower in (ScaleIntensity(), ClipIntensity(upper=100)):
        low = lower(changed, affine)[0]
        assert np.ptp(low[~brain]) < 1e-3 * np.ptp(low)
    scaled = ScaleIntensity()(changed, affine)[0]
    np.testing.assert_allclose(scaled, ScaleIntensity()(image, affine)[0], atol=1e-3)


def test_cubic_resampling_leaves_black_black():
    image, affine, _ = ball()
    new, affine = Resample(1.3, order=3, antialias=False)(image, affine)
    assert new.min() < -5
    scaled, _ = ScaleIntensity()(new, affine)
    assert np.median(scaled) < 1e-3
    linear = Resample(1.3, antialias=False)(image, np.eye(4))[0] > 10
    mask = foreground_mask(new)
    assert (mask & linear).sum() / (mask | linear).sum() > 0.9


def test_a_z_scored_brain_keeps_its_dark_half():
    image, affine, _ = ball()
    brain = image > 0
    scored = np.random.default_rng(0).normal(0, 1, image.shape).astype(np.float32) * brain
    assert (foreground_mask(scored) == brain).mean() > 0.99
    scaled, _ = ScaleIntensity()(scored, affine)
    assert 0.3 < np.median(scaled) < 0.7


def test_the_whole_chain_of_a_study_keeps_the_world():
    affine = np.eye(4)
    affine[:3, :3] = rotation(12, 0) @ np.diag([-0.9, 0.9, 1.2])
    affine[:3, 3] = [20, -13, 5]
    image, _, center = ball((50, 50, 40), 15, affine)
    chain = [
        Canonical("LPS"),
        Resample(1.5),
        CropOrPad((32, 32), axes=(0, 1)),
        SelectSlices(spacing=2, margin=(0, 0)),
        ClipIntensity(),
        ScaleIntensity(),
    ]
    stack, new = apply_steps(chain, image, affine)
    assert stack.shape[:2] == (32, 32)
    assert stack.dtype == np.float32
    assert stack.flags.c_contiguous
    assert 0 <= stack.min() < stack.max() <= 1
    np.testing.assert_allclose(center_of_mass(stack, new), center, atol=0.5)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2), (0, 3, 3)])
def test_images_of_other_dimensions_are_refused(shape):
    with pytest.raises(ScanError, match="expected three axes"):
        apply_steps([], np.zeros(shape), np.eye(4))


def test_affines_that_are_none_are_refused():
    with pytest.raises(ScanError, match="finite"):
        apply_steps([], np.ones((3, 3, 3)), np.full((4, 4), np.nan))
    with pytest.raises(ScanError, match="voxel size"):
        Resample(2)(np.ones((3, 3, 3), np.float32), np.diag([0.0, 1, 1, 1]))


def test_config_round_trip():
    chain = (
        FitInside(size=40),
        Canonical("LPS"),
        Resample((1, 2, 3.5), order=3, antialias=False),
        CropOrPad((128, None), "volume", (1, 2), -1.0),
        SelectSlices("coronal", 3.0, (1.0, 2.0), 12),
        BlockMean(2),
        RegisterToTemplate((160, 192, 160), "RAS", "rigid", "keep", 0.0, 4.0),
        ClipIntensity(1, 99, "all"),
        ScaleIntensity("percentile", 1, 98),
        ZScore("all"),
    )
    assert {type(step).__name__ for step in chain} == set(STEPS)
    config = json.loads(json.dumps(steps_to_config(chain)))
    assert steps_from_config(config) == chain
    assert steps_from_config([{"name": name} for name in STEPS]) == tuple(
        step() for step in STEPS.values()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Canonical("RAP"), "axcodes is 'RAP'"),
        (lambda: Canonical("XYZ"), "axcodes is 'XYZ'"),
        (lambda: Resample(0), "spacing is 0"),
        (lambda: Resample((1, 2)), "spacing is"),
        (lambda: Resample(1, order=2), "order is 2"),
        (lambda: CropOrPad((1, 2)), "2 entries"),
        (lambda: CropOrPad((0, 1, 1)), "whole numbers"),
        (lambda: CropOrPad((1, 1), axes=(0, 0)), "axes is"),
        (lambda: CropOrPad((1, 1, 1), "nose"), "center is 'nose'"),
        (lambda: SelectSlices("oblique"), "plane is 'oblique'"),
        (lambda: SelectSlices(spacing=-1), "spacing is -1"),
        (lambda: SelectSlices(margin=(1, -1)), "margin is"),
        (lambda: SelectSlices(count=0), "count is 0"),
        (lambda: ClipIntensity(50, 20), "percentiles 50 to 20"),
        (lambda: ClipIntensity(over="skull"), "over is 'skull'"),
        (lambda: ScaleIntensity("median"), "method is 'median'"),
        (lambda: ZScore("skull"), "over is 'skull'"),
        (lambda: BlockMean(0), "size is 0"),
        (lambda: RegisterToTemplate((160, 192)), "expected three whole numbers"),
        (lambda: RegisterToTemplate(axcodes="RRS"), "axcodes is 'RRS'"),
        (lambda: RegisterToTemplate(transform="warp"), "transform is 'warp'"),
        (lambda: RegisterToTemplate(brain="bet"), "brain is 'bet'; expected one of auto"),
        (lambda: RegisterToTemplate(margin=-1), "margin is -1; expected 0 to 20 mm"),
        (lambda: RegisterToTemplate(finest=8), "finest is 8; expected 1 to 4 mm"),
        (lambda: FitInside(0), "size is 0"),
        (lambda: FitInside(8, axes=(0, 0)), "axes is"),
        (lambda: FitInside(8, axes=()), "axes is"),
        (lambda: steps_from_config([{"name": "Blur"}]), "step 'Blur' is not known"),
        (lambda: steps_from_config([{"name": "ZScore", "x": 1}]), "setting 'x' is not known"),
    ],
)
def test_wrong_settings_are_one_line_errors(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_every_setting_is_explained():
    for name, step in STEPS.items():
        for setting in step.__dataclass_fields__:
            assert f"{setting}:" in step.__doc__, f"{name}.{setting}"
    assert steps_module.__doc__


@pytest.mark.parametrize("shape", [(30, 20, 1), (7, 50, 1), (16, 16, 3)])
def test_fit_inside_makes_the_longest_side_fit(shape):
    image = np.random.default_rng(0).random(shape).astype("float32")
    fitted, affine = FitInside(size=16)(image, np.eye(4))
    assert max(fitted.shape[:2]) == 16
    assert fitted.shape[2] == shape[2]
    ratio = max(shape[:2]) / 16
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :2], axis=0), ratio)
    assert abs(fitted.shape[0] * ratio - shape[0]) <= ratio


def test_blocks_are_averaged_where_they_lie():
    image = np.random.default_rng(0).random((9, 8, 13)).astype("float32")
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [10, 20, 30]
    blocks, new = BlockMean(4)(image, affine)
    assert blocks.shape == (2, 2, 3)
    np.testing.assert_allclose(blocks[1, 0, 2], image[4:8, :4, 8:12].mean(), rtol=1e-6)
    np.testing.assert_allclose(apply_affine(new, [1, 0, 2]), apply_affine(affine, [5.5, 1.5, 9.5]))
    same, unmoved = BlockMean(1)(image, affine)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(unmoved, affine)
    with pytest.raises(ScanError, match="expected 10 voxels or more"):
        BlockMean(10)(image, affine)
