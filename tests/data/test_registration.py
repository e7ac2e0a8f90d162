"""Registration to the template: known maps, places that are kept, scans that do not fit."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from brainvq.data import registration
from brainvq.data.brain_mask import head_brain
from brainvq.data.prepared import PreparedVolume
from brainvq.data.registration import is_stripped, register, template_volumes
from brainvq.data.remarks import collected
from brainvq.data.scans import ScanError, save_nifti, to_original_grid
from brainvq.data.simulation import simulate
from brainvq.data.skull import BY_TISSUE
from brainvq.data.steps import (
    BlockMean,
    Canonical,
    ClipIntensity,
    CropOrPad,
    RegisterToTemplate,
    Resample,
    ScaleIntensity,
    SelectSlices,
    apply_steps,
    steps_from_config,
    steps_to_config,
)
from brainvq.data.template import load_template, resampled, template_grid
from brainvq.errors import UserError

CODES = [
    "".join(code)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for code in itertools.product(*order)
]
CORNERS = np.array(list(itertools.product((-70, 70), (-105, 70), (-65, 80))), float)
STEPS = (RegisterToTemplate(shape=(160, 192, 160), finest=4.0), BlockMean(4))


def turned(image, affine, axcodes):
    """The same scan stored with other axes."""
    change = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes)
    )
    back = nib.orientations.inv_ornt_aff(change, image.shape)
    return nib.apply_orientation(image, change), affine @ back


def dice(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def head_around(scan, noise=0.02):
    """Fluid, dark bone, bright skin, a neck and noise around a simulated brain, and that brain."""
    mm = np.linalg.norm(scan.affine[:3, 0])
    pad = int(32 / mm)
    brain, image = np.pad(scan.image > 0, pad), np.pad(scan.image, pad)
    closed = ndimage.binary_closing(brain, iterations=int(8 / mm))
    distance = ndimage.distance_transform_edt(~closed) * mm
    white = np.median(scan.image[scan.labels == 3])
    image[~brain & (distance <= 5)] = 0.25 * white
    image[(distance > 10) & (distance <= 18)] = 1.3 * white
    low, middle = np.argwhere(brain)[:, 2].min(), np.argwhere(brain).mean(axis=0)
    x, y, _ = np.indices(brain.shape)
    neck = np.hypot(x - middle[0], y - middle[1]) < 56 / mm
    below = np.s_[:, :, : low - int(8 / mm)]
    image[below][neck[below]] = 0.8 * white
    air = np.random.default_rng(0).standard_normal((2, *brain.shape)) * noise * white
    affine = scan.affine @ from_matvec(np.eye(3), [-pad] * 3)
    return np.hypot(image + air[0], air[1]).astype(np.float32), affine, brain


@pytest.fixture(scope="module")
def coarse():
    """The template as a scan of 4 mm, and its affine."""
    own = load_template()
    return Resample(4.0)(own.t1, own.affine)


@pytest.fixture(scope="module")
def scan():
    """A simulated brain as it lies in a scanner, of another shape than the template."""
    return simulate({"spacing": 4.0, "number": 3, "modality": "FLAIR"})


@pytest.fixture(scope="module")
def moved(scan):
    """The scan in an oblique, flipped grid with a far origin, and what the steps make of it."""
    tilt = from_matvec(registration._turn(np.radians([14, -9, 11])), [130, -60, 400])
    image, affine = turned(scan.image, tilt @ scan.affine, "PSR")
    return image, affine, *apply_steps(STEPS, image, affine)


@given(
    degrees=st.tuples(*[st.floats(-20, 20)] * 3),
    shift=st.tuples(*[st.floats(-200, 200)] * 3),
    scales=st.tuples(*[st.floats(0.85, 1.12)] * 3),
    axcodes=st.sampled_from(CODES),
)
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes
)
def test_known_maps_are_found(coarse, degrees, shift, scales, axcodes):
    # The world of the scan is moved; its voxels are those of the template, so the map is known.
    matrix = registration._turn(np.radians(degrees)) @ np.diag(scales)
    known = from_matvec(matrix, shift)
    image, affine = turned(coarse[0], known @ coarse[1], axcodes)
    place = register(image, affine, stripped=True, finest=4.0)
    away = np.linalg.norm(apply_affine(np.linalg.inv(known) @ place, CORNERS) - CORNERS, axis=1)
    assert away.max() < 2.5


@given(
    start=st.tuples(*[st.integers(-9, 9)] * 3),
    size=st.tuples(*[st.integers(1, 12)] * 3),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_voxels_that_lie_on_voxels_are_copied(start, size):
    image = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    affine = from_matvec(np.diag([2.0, -1.0, 0.5]), [3, 4, 5])
    grid = affine @ from_matvec(np.eye(3), start)
    wanted = ndimage.affine_transform(image, np.eye(3), start, output_shape=size, order=1)
    np.testing.assert_array_equal(resampled(image, affine, size, grid), wanted)


def test_other_contrasts_are_found(coarse):
    own = load_template()
    flair = 0.1 * own.csf + 0.56 * own.gm + 0.46 * own.wm
    image, affine = Resample(4.0)(np.float32(900) * flair, own.affine)
    known = from_matvec(registration._turn(np.radians([12, -6, 8])), [20, -9, 31])
    place = register(image, known @ affine, stripped=True, finest=4.0)
    away = np.linalg.norm(apply_affine(np.linalg.inv(known) @ place, CORNERS) - CORNERS, axis=1)
    assert away.max() < 2.0
    again = register(image, known @ affine, stripped=True, finest=4.0)
    np.testing.assert_array_equal(again, place)


def test_a_rigid_map_keeps_lengths(coarse):
    image, affine = coarse
    stretched = np.diag([1.06, 1, 1, 1]) @ affine
    place = register(image, stretched, stripped=True, transform="rigid", finest=4.0)
    scales = np.linalg.svd(place[:3, :3], compute_uv=False)
    # A rigid search starts at the scan's size, and turns and shifts it alone.
    np.testing.assert_allclose(scales, scales.mean(), rtol=1e-6)


class TestGrid:
    def test_the_standard_grid(self):
        shape, affine = template_grid((182, 218, 182))
        assert shape == (182, 218, 182)
        np.testing.assert_allclose(apply_affine(affine, [0, 0, 0]), [-91, -126, -72])
        np.testing.assert_allclose(apply_affine(affine, [181, 217, 181]), [90, 91, 109])

    def test_other_orientations_hold_the_same_voxels(self):
        _, ras = template_grid((160, 192, 160))
        shape, lps = template_grid((160, 192, 160), "LPS")
        assert nib.aff2axcodes(lps) == ("L", "P", "S")
        np.testing.assert_allclose(apply_affine(lps, [159, 191, 0]), apply_affine(ras, [0, 0, 0]))
        shape, sla = template_grid((160, 192, 150), "SLA")
        assert shape == (150, 160, 192)
        assert nib.aff2axcodes(sla) == ("S", "L", "A")

    def test_the_cut_grid_holds_the_whole_brain(self):
        own = load_template()
        shape, affine = template_grid((160, 192, 160), "LPS")
        places = apply_affine(
            np.linalg.inv(affine) @ own.affine, np.argwhere(own.mask)[::97].astype(float)
        )
        assert places.min() >= 0
        assert (places <= np.array(shape) - 1).all()

    def test_template_beside_the_scans(self):
        template = template_volumes((*STEPS, ClipIntensity(), ScaleIntensity()))
        assert template.t1.shape == template.mask.shape == (40, 48, 40)
        assert nib.aff2axcodes(template.affine) == ("L", "P", "S")
        np.testing.assert_allclose(nib.affines.voxel_sizes(template.affine), 4)
        total = (template.gm + template.wm + template.csf)[template.mask]
        assert np.abs(total - 1).mean() < 0.06
        middle = apply_affine(template.affine, np.argwhere(template.mask).mean(axis=0))
        assert np.abs(middle - [0, -22, 9]).max() < 2
        # The same as cutting and averaging the template's own voxels.
        own = load_template()
        first = np.rint(apply_affine(np.linalg.inv(own.affine), [-80, -113, -72])).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(first, (160, 192, 155), strict=True))
        block = own.t1[box][:, :, :152].reshape(40, 4, 48, 4, 38, 4).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(template.t1[::-1, ::-1, :38], block, atol=1e-4)

    @pytest.mark.parametrize(
        ("steps", "message"),
        [
            ((BlockMean(4),), "found BlockMean; expected one RegisterToTemplate"),
            ((), "found none"),
            ((*STEPS, CropOrPad((32, 32, 32))), "expected none that looks for the foreground"),
            ((*STEPS, SelectSlices()), "expected none that looks for the foreground"),
        ],
    )
    def test_steps_that_do_not_stay_aligned(self, steps, message):
        with pytest.raises(UserError, match=message):
            template_volumes(steps)


class TestStep:
    def test_the_result_lies_on_the_template(self, moved):
        image, _, result, _ = moved
        template = template_volumes(STEPS)
        assert result.shape == (40, 48, 40)
        brain = result > 0.1 * np.median(image[image > 0])
        assert dice(brain, template.mask) > 0.92
        white, fluid = result[template.wm > 0.9], result[template.csf > 0.9]
        assert np.median(fluid) < 0.6 * np.median(white)

    def test_the_affine_leads_back_to_the_scan(self, moved):
        image, affine, result, grid = moved
        back = to_original_grid(result, grid, image.shape, affine)
        inside = ndimage.binary_erosion(image > 0, iterations=2)
        assert np.corrcoef(back[inside], image[inside])[0, 1] > 0.8
        assert dice(back > 0.3 * np.median(back[inside]), image > 0) > 0.95

    def test_the_template_is_carried_back_to_the_scan(self, moved):
        image, affine, _, grid = moved
        mask = template_volumes(STEPS).mask.astype(np.uint8)
        carried = to_original_grid(mask, grid, image.shape, affine, order=0)
        assert dice(carried > 0, image > 0) > 0.92

    def test_prepared_volumes_know_the_way_back(self, moved, tmp_path):
        image, affine, result, _ = moved
        file = save_nifti(tmp_path / "scan.nii.gz", image, affine)
        prepared = PreparedVolume.read(str(file), steps_to_config((*STEPS, ScaleIntensity())))
        assert prepared.volume.shape == (40, 48, 40, 1)
        np.testing.assert_allclose(prepared.volume[..., 0], result / result.max(), atol=1e-3)
        back = prepared.to_scan(prepared.volume)
        assert back.shape == image.shape
        inside = ndimage.binary_erosion(image > 0, iterations=2)
        assert np.corrcoef(back[inside], image[inside])[0, 1] > 0.8

    def test_a_scan_in_mni_space_stays_where_it_is(self):
        scan = simulate({"spacing": 4.0, "space": "mni"})
        image, affine = turned(scan.image, scan.affine, "LPS")
        step = RegisterToTemplate(shape=(160, 192, 160), transform="none")
        result, grid = apply_steps((step, BlockMean(4)), image, affine)
        np.testing.assert_allclose(grid, affine, atol=1e-9)
        inside = ndimage.binary_erosion(image > 0, iterations=2)
        assert np.corrcoef(result[inside], image[inside])[0, 1] > 0.97

    def test_a_head_loses_its_skull(self, scan):
        image, affine, brain = head_around(scan)
        assert not is_stripped(image, affine)
        tilt = from_matvec(registration._turn(np.radians([-10, 4, 7])), [5, 30, -20])
        with collected() as remarks:
            result, grid = apply_steps(STEPS, image, tilt @ affine)
        assert BY_TISSUE in remarks
        back = to_original_grid(result, grid, image.shape, tilt @ affine)
        assert dice(back > 0.1 * image[brain].max(), brain) > 0.92
        whole, _ = apply_steps(
            (RegisterToTemplate(brain="keep", finest=4.0),), image, tilt @ affine
        )
        assert np.mean(whole > 0) > 2 * np.mean(np.repeat(result, 4, axis=0) > 0)

    @pytest.mark.parametrize("modality", ["T1w", "FLAIR"])
    def test_the_brain_of_a_head_by_tissue(self, modality):
        scan = simulate({"spacing": 4.0, "number": 5, "modality": modality, "space": "mni"})
        # Another size than the template's, shaded by a coil to a third.
        move = from_matvec(np.diag([1.05, 0.96, 1.03]), [0, 2, -1])
        image, affine, brain = head_around(scan)
        place = np.indices(brain.shape) / np.array(brain.shape)[:, None, None, None]
        image = image * np.float32(0.35 + 0.65 * place[1])
        found = head_brain(image, affine, move, image.shape, np.linalg.inv(move) @ affine)
        own = load_template()
        mask = to_original_grid(np.float32(own.mask), move @ own.affine, image.shape, affine) > 0.5
        assert dice(mask, brain) + 0.01 < dice(found, brain) > 0.95
        grown = head_brain(image, affine, move, image.shape, np.linalg.inv(move) @ affine, 3.0)
        assert grown[found].all()
        assert grown.sum() > 1.05 * found.sum()

    def test_exact_zeros_around_a_brain_are_known(self, scan):
        assert is_stripped(scan.image, scan.affine)
        assert is_stripped(-scan.image, np.diag([-1, 1, 1, 1]) @ scan.affine)
        assert not is_stripped(scan.image + 1, scan.affine)
        # A head in air that was set to 0 is larger than a brain.
        assert not is_stripped(scan.image, np.diag([1.4, 1.4, 1.4, 1]) @ scan.affine)

    def test_scans_that_do_not_fit(self, scan):
        affine = scan.affine
        inside = scan.image > 0
        scored = np.where(inside, scan.image - scan.image[inside].mean(), 0)
        with pytest.raises(ScanError, match="% of the intensities are below 0; expected"):
            STEPS[0](scored, affine)
        far = from_matvec(np.eye(3), [300, 0, 0]) @ affine
        step = RegisterToTemplate(transform="none")
        with pytest.raises(ScanError, match=r"covers 0 % of the template's brain.*in MNI space\?"):
            step(scan.image, far)
        with pytest.raises(ScanError, match="no foreground"):
            STEPS[0](np.zeros_like(scan.image), affine)
        for wrong in (np.diag([-1, 1, 1, 1]), np.diag([0.4, 1, 1, 1]), np.diag([np.nan] * 4)):
            with pytest.raises(ScanError, match="does not fit the template: scales"):
                registration._check_map(wrong)

    def test_undershoot_becomes_zero(self):
        scan = simulate({"spacing": 4.0, "space": "mni"})
        image = scan.image.copy()
        edge = ndimage.binary_dilation(image > 0) & (image == 0)
        image[np.where(edge)[0][:20], np.where(edge)[1][:20], np.where(edge)[2][:20]] = -5
        result, _ = RegisterToTemplate(transform="none")(image, scan.affine)
        assert result.min() == 0

    def test_settings_survive_a_config(self):
        steps = (RegisterToTemplate((160, 192, 160), "RAS", "rigid", "keep", 0.0, 2.0), *STEPS)
        assert steps_from_config(steps_to_config(steps)) == steps
        assert Canonical("RAS") in steps_from_config(steps_to_config((*steps, Canonical("RAS"))))
