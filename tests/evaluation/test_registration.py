"""Scores of registered scans: values known by hand, and simulated scans that lie wrong."""

import numpy as np
import pytest

from brainvq.data.registration import template_volumes
from brainvq.data.simulation import simulate
from brainvq.data.steps import BlockMean, RegisterToTemplate
from brainvq.errors import UserError
from brainvq.evaluation.registration import RegistrationQuality, mutual_information, robust_z

RNG = np.random.default_rng(0)
SHAPE = (12, 10, 8)
MASK = np.pad(np.ones((8, 6, 4), bool), 2)
TISSUES = [RNG.random(SHAPE) * MASK for _ in range(3)]
TEMPLATE = 0.2 * TISSUES[0] + 0.4 * TISSUES[1] + 0.9 * TISSUES[2]


def quality():
    return RegistrationQuality(TEMPLATE, TISSUES, MASK, rim=0)


def scores(*volumes):
    registered = quality()
    registered.update(np.stack(volumes))
    return registered.table([str(i) for i in range(len(volumes))])


def test_any_contrast_of_the_tissues_fits():
    flair = 5 - 3 * TISSUES[0] + 9 * TISSUES[1] + 2 * TISSUES[2]
    table = scores(TEMPLATE, 70 * TEMPLATE + 3, -TEMPLATE, flair, RNG.random(SHAPE))
    np.testing.assert_allclose(table["fit"][:4], 1, atol=1e-9)
    assert table["fit"][4] < 0.3
    np.testing.assert_allclose(table["correlation"][:3], [1, 1, -1], atol=1e-9)
    expected = np.corrcoef(flair[MASK], TEMPLATE[MASK])[0, 1]
    assert table["correlation"][3] == pytest.approx(expected)


def test_the_fit_is_the_correlation_with_the_least_squares_picture():
    volume = RNG.random(SHAPE) + TEMPLATE
    design = np.stack([*(t[MASK] for t in TISSUES), np.ones(MASK.sum())], axis=1)
    fitted = design @ np.linalg.lstsq(design, volume[MASK], rcond=None)[0]
    expected = np.corrcoef(fitted, volume[MASK])[0, 1]
    assert scores(volume)["fit"][0] == pytest.approx(expected)


def test_the_rim_counts_for_the_fit():
    volume = np.where(MASK, TEMPLATE, 0.8)  # as a skull that was left
    within = quality()
    around = RegistrationQuality(TEMPLATE, TISSUES, MASK, rim=2)
    for registered in (within, around):
        registered.update(volume[None])
    assert within.table(["a"])["fit"][0] == pytest.approx(1)
    assert around.table(["a"])["fit"][0] < 0.9
    assert around.table(["a"])["correlation"][0] == pytest.approx(1)


def test_mutual_information_of_known_tables():
    x = np.repeat([0.0, 1.0, 2.0, 3.0], 100)
    assert mutual_information(x, 7 - 2 * x) == pytest.approx(2)  # four equal classes: 2 bits
    assert mutual_information(x, np.tile([0.0, 1.0], 200)) == pytest.approx(0, abs=1e-12)
    assert mutual_information(x, (x > 1) * 1.0) == pytest.approx(1)
    assert mutual_information(x, np.ones(400)) == 0


def test_robust_z_by_hand():
    # median 0.5, deviations 0.2 0.1 0 0.1 0.4: median 0.1
    z = robust_z([0.3, 0.4, 0.5, 0.6, 0.9])
    np.testing.assert_allclose(z, np.array([-0.2, -0.1, 0, 0.1, 0.4]) * 0.6745 / 0.1)
    np.testing.assert_allclose(robust_z([0.5, 0.5, 0.52]), [0, 0, 2])  # counts as 0.01 at least
    np.testing.assert_array_equal(robust_z([0.7]), [0])


def test_the_mean_image_is_sharp_where_scans_agree():
    same = quality()
    same.update(np.stack([TEMPLATE, 300 * TEMPLATE])[..., None])
    assert same.sharpness == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(same.mean, TEMPLATE / np.median(TEMPLATE[MASK]), rtol=1e-5)
    apart = quality()
    for axis in range(3):
        apart.update(np.roll(TEMPLATE, 1, axis)[None])
        apart.update(np.roll(TEMPLATE, -1, axis)[None])
    assert apart.sharpness < 0.7


def test_scans_without_contrast_have_no_fit():
    table = scores(TEMPLATE, np.zeros(SHAPE), np.full(SHAPE, 3.0))
    assert table["fit"][1:].tolist() == [0, 0]
    assert table["correlation"][1:].tolist() == [0, 0]
    assert table["mutual_information"][1:].tolist() == [0, 0]


def test_misplaced_scans_are_outliers():
    steps = (RegisterToTemplate((160, 192, 160)), BlockMean(4))
    template = template_volumes(steps)
    volumes = []
    for number in range(12):
        simulated = simulate(
            {"spacing": 4.0, "space": "mni", "modality": "FLAIR", "number": number, "age": 30.0}
        )
        volumes.append(simulated.image[::-1, ::-1])  # LPS, as the steps make it
    good = len(volumes)
    volumes += [volumes[0][:, :, ::-1], volumes[1][:, ::-1], np.roll(volumes[2], 4, axis=2)]
    registered = RegistrationQuality(
        template.t1, [template.gm, template.wm, template.csf], template.mask
    )
    for volume in volumes:
        registered.update(volume[None])
    table = registered.table([f"s{i}" for i in range(len(volumes))])
    assert table["outlier"].tolist() == [False] * good + [True] * 3
    assert (table["z"][good:] < -3.5).all()
    assert table["mutual_information"][:good].min() > table["mutual_information"][good:].max()
    # A symmetric template cannot tell left from right.
    mirrored = RegistrationQuality(template.t1, [template.gm], template.mask)
    mirrored.update(np.stack([volumes[0], volumes[0][::-1]]))
    assert abs(np.diff(mirrored.table(["a", "b"])["fit"])[0]) < 0.1


def test_wrong_input():
    with pytest.raises(ValueError, match="of one shape, the mask not empty"):
        RegistrationQuality(TEMPLATE[1:], TISSUES, MASK)
    with pytest.raises(ValueError, match="with 0 voxels"):
        RegistrationQuality(TEMPLATE, TISSUES, np.zeros(SHAPE, bool))
    with pytest.raises(ValueError, match="scans must be"):
        quality().update(np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match="no scans; expected one or more"):
        quality().table([])
    registered = quality()
    registered.update(TEMPLATE[None])
    with pytest.raises(ValueError, match="Received: 0"):
        registered.table([])
