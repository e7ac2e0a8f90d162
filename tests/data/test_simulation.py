import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from brainvq.data import (
    simulation,
    simulation_anatomy,
    simulation_fields,
    simulation_lesions,
    simulation_parameters,
)
from brainvq.data.registration import template_volumes
from brainvq.data.scans import load_scan
from brainvq.data.simulation import GROUPS, LABELS, SITES, simulate, simulated_cohort
from brainvq.data.steps import BlockMean, RegisterToTemplate
from brainvq.errors import UserError

SPACING = 3.0


def volume_ml(mask, spacing=SPACING):
    return mask.sum() * spacing**3 / 1000


def ventricle_ml(scan):
    """Fluid deep inside the brain, in mL."""
    inside = ndimage.binary_fill_holes(scan.labels > 0)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] * SPACING
    parts, _ = ndimage.label((scan.labels == LABELS["csf"]) & (depth > 21))
    sizes = np.bincount(parts.ravel())[1:]
    return volume_ml(sizes[sizes * SPACING**3 > 500])


def ring_ratio(scan):
    """Mean of the lesions over the mean of the white matter around them."""
    ring = ndimage.binary_dilation(scan.lesion_mask, iterations=3)
    ring &= ~ndimage.binary_dilation(scan.lesion_mask) & (scan.labels == LABELS["wm"])
    core = ndimage.binary_erosion(scan.lesion_mask)
    core = core if core.sum() > 20 else scan.lesion_mask
    return scan.image[core].mean() / scan.image[ring].mean()


@pytest.fixture(scope="module")
def healthy():
    return simulate({"spacing": SPACING, "seed": 3})


def test_a_scan_looks_like_one(healthy):
    assert healthy.image.dtype == np.float32
    assert healthy.image.shape == healthy.labels.shape == healthy.lesion_mask.shape
    brain = healthy.labels > 0
    assert (healthy.image[~brain] == 0).all()
    assert (healthy.image[brain] > 0).mean() > 0.999
    assert not healthy.lesion_mask.any()
    assert 1100 < volume_ml(brain) < 2000
    # Nothing is cut off at the border of the volume.
    inner = np.zeros_like(brain)
    inner[1:-1, 1:-1, 1:-1] = True
    assert not (brain & ~inner).any()
    csf, gm, wm = (np.median(healthy.image[healthy.labels == k]) for k in (1, 2, 3))
    assert csf < gm < wm
    assert 0.55 < gm / wm < 0.85
    assert np.diag(healthy.affine).tolist() == [SPACING, SPACING, SPACING, 1]
    middle = np.argwhere(brain).mean(axis=0)
    assert np.linalg.norm(apply_affine(healthy.affine, middle) - [0, -20, 10]) < 20


def test_flair_has_dark_fluid_and_brighter_grey_matter():
    scan = simulate({"spacing": SPACING, "modality": "FLAIR"})
    csf, gm, wm = (np.median(scan.image[scan.labels == k]) for k in (1, 2, 3))
    assert csf < 0.6 * wm
    assert gm > wm


def test_the_same_parameters_give_the_same_bits(healthy):
    again = simulate({"spacing": SPACING, "seed": 3})
    for array, expected in zip(again, healthy, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_subject_is_the_same_alone_in_a_cohort_and_in_another_process(tmp_path):
    long = simulated_cohort(6, spacing=4, seed=5).table
    short = simulated_cohort(3, spacing=4, seed=5).table
    assert long["paths"].tolist()[:3] == short["paths"].tolist()
    (path,) = long["paths"][2]
    image, affine = load_scan((path,))
    scan = simulate(path)
    np.testing.assert_array_equal(image, scan.image)
    np.testing.assert_array_equal(affine, scan.affine)
    code = (
        "import sys, numpy as np; from brainvq.data.scans import load_scan;"
        "np.save(sys.argv[2], load_scan((sys.argv[1],))[0])"
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(simulation.__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    other = tmp_path / "other.npy"
    subprocess.run([sys.executable, "-c", code, path, str(other)], env=environment, check=True)
    np.testing.assert_array_equal(np.load(other), image)


def test_subjects_differ(healthy):
    other = simulate({"spacing": SPACING, "seed": 4})
    a, b = (scan.labels == LABELS["gm"] for scan in (healthy, other))
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert 0.3 < dice < 0.8  # gyri lie elsewhere
    scans = [simulate({"spacing": SPACING, "seed": s}) for s in range(5)]
    brains = [volume_ml(scan.labels > 0) for scan in scans]
    assert np.std(brains) / np.mean(brains) > 0.03
    ventricles = [ventricle_ml(scan) for scan in scans]
    assert np.std(ventricles) / np.mean(ventricles) > 0.05


@pytest.mark.parametrize("number", range(2))
def test_age_widens_ventricles_and_sulci(number):
    scans = [simulate({"spacing": SPACING, "number": number, "age": a}) for a in (20, 55, 85)]
    ventricles = [ventricle_ml(scan) for scan in scans]
    assert ventricles[0] < ventricles[1] < ventricles[2]
    assert ventricles[2] > 1.4 * ventricles[0]
    fluid = [(scan.labels == LABELS["csf"]).sum() / (scan.labels > 0).sum() for scan in scans]
    assert fluid[0] < fluid[1] < fluid[2]


def test_anatomy_does_not_depend_on_the_modality_or_the_scanner():
    params = {"spacing": 4.0, "group": "MS", "number": 7}
    scans = [
        simulate(params | extra)
        for extra in ({}, {"modality": "FLAIR"}, {"site": "site-C", "modality": "FLAIR"})
    ]
    for scan in scans[1:]:
        np.testing.assert_array_equal(scan.labels, scans[0].labels)
        np.testing.assert_array_equal(scan.lesion_mask, scans[0].lesion_mask)
    assert not np.array_equal(scans[1].image, scans[2].image)


def test_lesion_loads_lie_in_their_ranges():
    loads = []
    for number in range(6):
        scan = simulate({"spacing": SPACING, "group": "MS", "number": number})
        assert (scan.labels[scan.lesion_mask] == LABELS["wm"]).all()
        loads.append(volume_ml(scan.lesion_mask))
    assert min(loads) >= 1
    assert max(loads) <= 50
    assert max(loads) > 3 * min(loads)
    shares = []
    for group in ("leuko1", "leuko2", "leuko3"):
        scans = [simulate({"spacing": SPACING, "group": group, "number": n}) for n in range(2)]
        shares += [s.lesion_mask.sum() / (s.labels == LABELS["wm"]).sum() for s in scans]
    assert min(shares) > 0.04
    assert max(shares) < 0.62
    assert max(shares[:2]) < min(shares[2:4])
    assert max(shares[2:4]) < min(shares[4:])


@pytest.mark.parametrize(("modality", "low", "high"), [("FLAIR", 1.3, 1.5), ("T1w", 0.75, 0.9)])
@pytest.mark.parametrize("group", ["MS", "leuko2"])
def test_lesion_contrast_is_that_of_patients(modality, low, high, group):
    ratios = []
    for number in range(2):
        params = {"spacing": 2.0, "group": group, "number": number, "modality": modality}
        ratios.append(ring_ratio(simulate(params)))
    assert low <= np.mean(ratios) <= high, ratios
    assert low - 0.08 <= min(ratios)
    assert max(ratios) <= high + 0.08


def test_leukoencephalopathy_is_symmetric_and_starts_at_the_ventricles():
    template = simulation_anatomy.brain_maps()
    rng = np.random.default_rng(0)
    lesions = simulation_lesions._confluent(template, rng, "leuko2") > 0.5
    center = (template.center - template.affine[:3, 3])[0]
    mirrored = np.round(2 * center - np.arange(lesions.shape[0])).astype(int)
    inside = (mirrored >= 0) & (mirrored < lesions.shape[0])
    mirror = lesions[mirrored[inside]]
    overlap = 2 * (mirror & lesions[inside]).sum() / (mirror.sum() + lesions[inside].sum())
    assert overlap > 0.7
    distance = template.ventricle_mm.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    white = (template.wm > 0.5) & ~lesions
    assert distance[lesions].mean() < 0.5 * distance[white].mean()


def test_plaques_point_away_from_the_ventricles():
    distance = np.broadcast_to(np.arange(21.0)[:, None, None], (21, 21, 21)).astype(np.float32)
    direction = simulation_lesions._outwards(distance, np.array([10, 10, 10]))
    np.testing.assert_allclose(direction, [1, 0, 0], atol=1e-4)
    total = np.zeros((41, 41, 41), np.float32)
    simulation_lesions._add_ellipsoid(total, np.array([20, 20, 20]), direction, 4.1, 9.1)
    extent = [np.ptp(np.flatnonzero((total > 0.5).any(axis=o))) for o in ((1, 2), (0, 2), (0, 1))]
    assert extent == [18, 8, 8]
    assert (total > 0.5).sum() == pytest.approx(4 / 3 * np.pi * 4.1 * 4.1 * 9.1, rel=0.05)


@pytest.mark.parametrize("number", range(4))
def test_the_deformation_folds_nowhere(number):
    template = simulation_anatomy.brain_maps()
    params = simulation_parameters.checked({"number": number, "age": 30.0 * number})
    deformation = simulation_anatomy.Deformation(template, params, np.random.default_rng(number))
    gradients = np.stack(
        [np.stack(np.gradient(d, simulation_anatomy.COARSE_MM)) for d in deformation.displacement]
    )  # (component, axis, x, y, z)
    jacobian = np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1)) + np.eye(3))
    assert jacobian.min() > 0.05
    assert jacobian.max() < 8
    assert np.abs(deformation.displacement).max() > 3
    scales = np.linalg.svd(np.linalg.inv(deformation.matrix), compute_uv=False)
    assert 0.88 < scales.min() <= scales.max() < 1.12


def test_the_exponential_of_opposite_fields_is_the_inverse():
    rng = np.random.default_rng(0)
    world = [4.0 * np.arange(24)] * 3
    velocity = np.stack([simulation_fields.random_field(rng, world, 26.0, 2.0) for _ in range(3)])
    forward = simulation_fields.exponential(velocity, 4.0)
    backward = simulation_fields.exponential(-velocity, 4.0)
    grid = np.stack(np.indices(velocity.shape[1:])).astype(np.float32)
    composed = forward + np.stack(
        [simulation_fields.sample(d, grid + forward / 4) for d in backward]
    )
    inner = (slice(None), *[slice(4, -4)] * 3)
    assert np.abs(forward[inner]).max() > 3
    assert np.abs(composed[inner]).max() < 0.15


def test_random_fields_have_their_deviation():
    rng = np.random.default_rng(0)
    world = [2.0 * np.arange(90)] * 3
    field = simulation_fields.random_field(rng, world, 8.0, 0.7)
    assert field.std() == pytest.approx(0.7, rel=0.06)
    neighbours = np.corrcoef(field[1:].ravel(), field[:-1].ravel())[0, 1]
    assert neighbours > 0.9


def test_cohort_table():
    groups = {"healthy": 2, "MS": 1, "leuko1": 1, "leuko3": 1}
    cohort = simulated_cohort(20, "FLAIR", groups=groups, seed=1)
    table = cohort.table
    assert cohort.simulated is True
    assert "simulated" in cohort.note
    assert table["group"].value_counts().to_dict() == {
        "healthy": 8,
        "MS": 4,
        "leuko1": 4,
        "leuko3": 4,
    }
    assert table["scan_id"].is_unique
    assert set(table["sex"]) == {"M", "F"}
    assert table["age"].between(18, 90).all()
    assert set(table["site"]) <= set(SITES)
    assert (table["manufacturer"] == [SITES[s].manufacturer for s in table["site"]]).all()
    assert table[["tr", "te", "pixel_bandwidth"]].gt(0).all(axis=None)
    for row in table.itertuples():
        params = json.loads(row.paths[0].removeprefix("simulated:"))
        assert (params["group"], params["age"], params["site"]) == (row.group, row.age, row.site)
    assert simulated_cohort(20, "FLAIR", groups=groups, seed=2).table["age"].ne(table["age"]).any()


def dependence(table):
    """Share by which knowing the site improves on guessing the commonest kind of subject."""
    patient = table["group"] != "healthy"
    base = max(patient.mean(), 1 - patient.mean())
    by_site = patient.groupby(table["site"]).agg(lambda p: max(p.mean(), 1 - p.mean()) * len(p))
    return by_site.sum() / len(table) - base


def test_the_confound_is_there_only_when_asked_for():
    groups = {"healthy": 1, "MS": 1}
    honest = simulated_cohort(400, groups=groups).table
    planted = simulated_cohort(400, groups=groups, confound=True).table
    assert dependence(honest) < 0.07
    assert dependence(planted) > 0.35
    bandwidth = planted.groupby(planted["group"])["pixel_bandwidth"].mean()
    assert abs(bandwidth["MS"] - bandwidth["healthy"]) > 30


STUDY = {"healthy": 1855, "MS": 616, "leuko1": 384, "leuko2": 40, "leuko3": 201}
STUDY_SCANS = {"MS": 2910 / 616, "leuko1": 393 / 384, "leuko2": 41 / 40, "leuko3": 205 / 201}


def test_several_scans_a_patient_in_the_proportions_of_a_study():
    cohort = simulated_cohort(
        3096, "FLAIR", 4.0, STUDY, scans=STUDY_SCANS, space="mni", confound="echo"
    )
    table = cohort.table
    assert table.drop_duplicates("subject")["group"].value_counts().to_dict() == STUDY
    expected = {"healthy": 1855, "MS": 2910, "leuko1": 393, "leuko2": 41, "leuko3": 205}
    assert table["group"].value_counts().to_dict() == expected
    counts = table[table["group"] == "MS"].groupby("subject").size()
    assert counts.min() == 1
    assert counts.max() > 10
    assert table["scan_id"].is_unique
    for _, visits in table.groupby("subject"):
        assert visits["session"].tolist() == [str(i + 1) for i in range(len(visits))]
        assert visits["site"].nunique() == visits["sex"].nunique() == 1
        years = np.diff(visits["age"])
        assert ((years >= 0.4) & (years <= 1.6)).all()
    params = [json.loads(paths[0].removeprefix("simulated:")) for paths in table["paths"]]
    assert [p.get("visit", 0) + 1 for p in params] == table["session"].astype(int).tolist()
    assert {p["space"] for p in params} == {"mni"}


def test_a_part_of_the_study_keeps_its_proportions_and_is_the_same_by_its_seed():
    options = {"modality": "FLAIR", "spacing": 4.0, "groups": STUDY, "scans": STUDY_SCANS}
    table = simulated_cohort(200, **options, seed=3).table
    counts = table.drop_duplicates("subject")["group"].value_counts()
    for group, count in STUDY.items():
        assert abs(counts[group] - 200 * count / 3096) < 1
    assert len(table[table["group"] == "MS"]) == round(counts["MS"] * STUDY_SCANS["MS"])
    again = simulated_cohort(200, **options, seed=3).table
    assert table.equals(again)
    other = simulated_cohort(200, **options, seed=4).table
    assert table["paths"].tolist() != other["paths"].tolist()
    # First visits are those of a cohort without further ones.
    single = simulated_cohort(200, "FLAIR", 4.0, STUDY, seed=3).table
    first = table[table["session"] == "1"].reset_index(drop=True)
    columns = ["subject", "group", "age", "sex", "site", "paths", "tr", "te"]
    assert single[columns].equals(first[columns])
    assert set(single["session"]) == {""}


def test_an_echo_time_that_goes_with_the_disease():
    groups = {"healthy": 1, "MS": 1, "leuko1": 1}
    planted = simulated_cohort(300, "FLAIR", groups=groups, confound="echo")
    honest = simulated_cohort(300, "FLAIR", groups=groups)
    assert "echo time is confounded" in planted.note
    ratio = (planted.table["te"] / honest.table["te"]).round(2)
    longer = ratio.groupby(planted.table["group"]).apply(lambda r: (r == 1.25).mean())
    assert longer["MS"] > 0.8
    assert max(longer["healthy"], longer["leuko1"]) < 0.2
    assert dependence(planted.table) < 0.12
    same = [column for column in honest.table if column not in ("te", "paths")]
    assert planted.table[same].equals(honest.table[same])


def test_a_longer_echo_changes_the_contrast_and_nothing_else():
    params = {"spacing": 4.0, "group": "MS", "number": 2, "modality": "FLAIR"}
    short, long = simulate(params), simulate(params | {"echo": 1.25})
    np.testing.assert_array_equal(short.labels, long.labels)
    np.testing.assert_array_equal(short.lesion_mask, long.lesion_mask)

    def contrast(scan):
        gm, wm = (np.median(scan.image[scan.labels == k]) for k in (2, 3))
        return gm / wm

    # T2 decay over 23 ms more: exp(0.023 (1/0.069 - 1/0.099)) = 1.106 of grey over white.
    assert contrast(long) / contrast(short) == pytest.approx(1.106, abs=0.03)


def test_lesions_grow_from_visit_to_visit_in_the_same_brain():
    for group in ("MS", "leuko1"):
        params = {"spacing": 2.0, "space": "mni", "group": group, "modality": "FLAIR", "number": 1}
        first, later = simulate(params), simulate(params | {"visit": 4})
        np.testing.assert_array_equal(first.labels, later.labels)
        assert later.lesion_mask.sum() > first.lesion_mask.sum()
        assert (later.lesion_mask[first.lesion_mask]).mean() > 0.99
        assert not np.array_equal(first.image, later.image)  # another scan: other noise
    capped = simulate(params | {"visit": 30})
    share = capped.lesion_mask.sum() / (capped.labels == LABELS["wm"]).sum()
    assert share < 0.2  # a grade stays a grade


class TestMNI:
    PARAMS = {"space": "mni", "modality": "FLAIR", "group": "leuko2", "number": 5}

    def test_a_scan_lies_on_the_grid_of_registered_ones(self):
        steps = (RegisterToTemplate((160, 192, 160), "RAS"), BlockMean(4))
        template = template_volumes(steps)
        scan = simulate(self.PARAMS | {"spacing": 4.0})
        assert scan.image.shape == scan.labels.shape == scan.lesion_mask.shape == (40, 48, 40)
        np.testing.assert_allclose(scan.affine, template.affine)
        brain = scan.labels > 0
        overlap = 2 * (brain & template.mask).sum() / (brain.sum() + template.mask.sum())
        assert overlap > 0.93
        assert (scan.image[~brain] > 0).mean() < 0.1  # blocks that are brain by less than half
        assert scan.lesion_mask.any()
        assert (scan.labels[scan.lesion_mask] == LABELS["wm"]).all()

    def test_coarse_voxels_are_means_of_finer_ones(self):
        fine = simulate(self.PARAMS | {"spacing": 2.0})
        coarse = simulate(self.PARAMS | {"spacing": 4.0})
        means, affine = BlockMean(2)(fine.image, fine.affine)
        np.testing.assert_allclose(coarse.image, means, rtol=1e-6)
        np.testing.assert_allclose(coarse.affine, affine)
        load = [scan.lesion_mask.sum() * s**3 for scan, s in ((fine, 2), (coarse, 4))]
        assert load[1] == pytest.approx(load[0], rel=0.2)

    def test_the_brain_is_that_of_the_scanner(self):
        posed = simulate({"spacing": 4.0, "number": 5})
        registered = simulate({"spacing": 4.0, "number": 5, "space": "mni"})
        # Grown to the template, so larger; the same share of fluid.
        volumes = [(scan.labels > 0).sum() for scan in (posed, registered)]
        assert 1.05 < volumes[1] / volumes[0] < 1.5
        fluid = [(s.labels == 1).sum() / (s.labels > 0).sum() for s in (posed, registered)]
        assert fluid[1] == pytest.approx(fluid[0], abs=0.05)


def test_numbers_of_subjects_are_exact():
    parts = simulation._whole_parts(np.array([1.0, 1.0, 1.0]), 10)
    assert sorted(parts) == [3, 3, 4]
    assert simulation._whole_parts(np.array([0.5, 0.0, 0.5]), 3).tolist()[1] == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{", "expected a JSON object"),
        ("[1]", "expected a JSON object"),
        ({"colour": 1}, "'colour' is not known"),
        ({"modality": "T2"}, "modality is 'T2'; expected one of T1w, FLAIR"),
        ({"group": "ms"}, "group is 'ms'"),
        ({"sex": "X"}, "sex is 'X'"),
        ({"site": "moon"}, "site is 'moon'"),
        ({"spacing": 0.2}, "spacing is 0.2; expected 1 to 8"),
        ({"age": "old"}, "age is 'old'"),
        ({"seed": -1}, "seed is -1"),
        ({"number": 1.5}, "number is 1.5"),
        ({"visit": -1}, "visit is -1"),
        ({"space": "talairach"}, "space is 'talairach'; expected one of scanner, mni"),
        ({"space": "mni", "spacing": 3.0}, "spacing is 3.0; expected 1, 2, 4 or 8 in MNI space"),
        ({"echo": 5}, "echo is 5; expected 0.5 to 2"),
    ],
)
def test_wrong_parameters(params, message):
    with pytest.raises(UserError, match=message):
        simulate(params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_subjects": 0}, "n_subjects is 0"),
        ({"n_subjects": 2, "groups": {"cats": 1}}, "group 'cats' is not known"),
        ({"n_subjects": 2, "groups": {"MS": -1}}, "expected numbers from 0"),
        ({"n_subjects": 2, "modality": "CT"}, "modality is 'CT'"),
        ({"n_subjects": 2, "spacing": 100}, "spacing is 100"),
        ({"n_subjects": 2, "seed": -3}, "seed is -3"),
        ({"n_subjects": 2, "space": "mni", "spacing": 1.5}, "in MNI space"),
        ({"n_subjects": 2, "scans": {"MS": 0.5}}, "expected means from 1 to 50"),
        ({"n_subjects": 2, "scans": {"cats": 2}}, "group 'cats' is not known"),
        ({"n_subjects": 2, "confound": "moon"}, "confound is 'moon'; expected one of site, echo"),
        ({"n_subjects": 2, "confound": "echo"}, "'echo' with a group MS"),
    ],
)
def test_wrong_cohorts(options, message):
    with pytest.raises(UserError, match=message):
        simulated_cohort(**options)


def test_every_group_has_ages():
    assert set(GROUPS) == set(simulation._AGES)
