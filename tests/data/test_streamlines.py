import contextlib
import json
import struct
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.streamlines import ArraySequence, TckFile

from brainvq.data import tractograms as module
from brainvq.data.streamlines import (
    BundleScale,
    GroupStreamlines,
    align_directions,
    align_groups,
    group,
    load_bundle,
    resample,
    restore_directions,
    ungroup,
    usable,
)
from brainvq.data.tractograms import (
    Tractogram,
    load_tractogram,
    new_tractogram,
    save_tractogram,
)
from brainvq.errors import UserError

FORMATS = (".trk", ".tck", ".trx")


def curves(n=7, seed=0):
    """Streamlines of different lengths, about 50 mm long, away from the origin."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(n):
        t = np.linspace(0, 1, rng.integers(5, 20))[:, None]
        bend = rng.normal(0, 3, (2, 3))
        curve = [20.0, -30.0, 10.0] + t * [5, 50, 8] + np.sin(3 * t) * bend[0] + t**2 * bend[1]
        lines.append(curve.astype(np.float32))
    return lines


def rotated_affine():
    """Oblique, flipped (LPS) and of three voxel sizes."""
    angle = 0.2
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, -2.0, 2.5])
    affine[:3, 3] = (90.0, 70.0, -60.0)
    return affine


@pytest.fixture
def trk(tmp_path):
    """A .trk with an oblique affine, data per streamline and data per point."""
    lines = curves()
    content = nib.streamlines.Tractogram(
        lines,
        data_per_streamline={"weight": np.arange(7, dtype=np.float32)[:, None]},
        data_per_point={
            "fa": [np.linspace(0, 1, len(s), dtype=np.float32)[:, None] for s in lines]
        },
        affine_to_rasmm=np.eye(4),
    )
    header = {
        "voxel_to_rasmm": rotated_affine().astype(np.float32),
        "voxel_sizes": (1.5, 2.0, 2.5),
        "dimensions": (80, 70, 60),
        "voxel_order": "LPS",
    }
    path = tmp_path / "in.trk"
    nib.streamlines.TrkFile(content, header=header).save(str(path))
    return path


def assert_same_streamlines(actual, expected, atol=1e-4):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


# --- files ---


def test_a_trk_comes_back_as_it_was(trk, tmp_path):
    loaded = load_tractogram(trk)
    assert_same_streamlines(loaded.streamlines, curves())
    assert loaded.streamlines.get_data().dtype == np.float32
    assert loaded.shape == (80, 70, 60)
    np.testing.assert_allclose(loaded.affine, rotated_affine(), atol=1e-5)
    path = save_tractogram(loaded, loaded.streamlines, tmp_path / "deep" / "out.trk")
    assert [file.name for file in path.parent.iterdir()] == ["out.trk"]
    before, after = nib.streamlines.load(trk), nib.streamlines.load(path)
    for name in before.header:
        np.testing.assert_array_equal(before.header[name], after.header[name])
    assert after.header["voxel_order"] == b"LPS"
    assert_same_streamlines(after.streamlines, before.streamlines, atol=1e-5)
    weights = after.tractogram.data_per_streamline["weight"]
    np.testing.assert_array_equal(weights, np.arange(7)[:, None])
    for one, other in zip(
        after.tractogram.data_per_point["fa"],
        before.tractogram.data_per_point["fa"],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_new_coordinates_keep_header_and_order_and_drop_data_per_point(trk, tmp_path):
    loaded = load_tractogram(trk)
    path = save_tractogram(loaded, resample(loaded.streamlines, 64) + 1, tmp_path / "out.trk")
    again = load_tractogram(path)
    assert_same_streamlines(again.streamlines, resample(curves(), 64) + 1)
    np.testing.assert_array_equal(again.data_per_streamline["weight"][:, 0], np.arange(7))
    assert again.data_per_point == {}
    np.testing.assert_array_equal(again.affine, loaded.affine)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_keeps_the_coordinates(tmp_path, suffix):
    new = new_tractogram(curves())
    path = save_tractogram(new, new.streamlines, tmp_path / f"a{suffix}")
    loaded = load_tractogram(path)
    assert loaded.format == suffix
    assert_same_streamlines(loaded.streamlines, curves())
    again = save_tractogram(loaded, loaded.streamlines, tmp_path / f"b{suffix}")
    assert_same_streamlines(load_tractogram(again).streamlines, curves())
    if suffix != ".tck":
        np.testing.assert_allclose(loaded.affine, module.MNI_AFFINE)
        assert loaded.shape == module.MNI_SHAPE


def test_trx_keeps_its_data_and_is_what_the_reference_software_reads(trk, tmp_path):
    import trx.trx_file_memmap as reference

    loaded = load_tractogram(trk)
    loaded.groups["left"] = np.array([0, 2, 5], np.uint32)
    path = save_tractogram(loaded, loaded.streamlines, tmp_path / "a.trx")
    by_reference = reference.load(str(path))
    np.testing.assert_array_equal(by_reference.data_per_streamline["weight"].ravel(), np.arange(7))
    np.testing.assert_array_equal(by_reference.groups["left"], [0, 2, 5])
    np.testing.assert_allclose(by_reference.data_per_vertex["fa"][3].ravel()[-1], 1)
    np.testing.assert_allclose(by_reference.header["VOXEL_TO_RASMM"], loaded.affine, atol=1e-6)
    assert_same_streamlines(by_reference.streamlines, curves())
    by_reference.close()
    again = load_tractogram(path)
    assert_same_streamlines(again.data_per_point["fa"], loaded.data_per_point["fa"])
    np.testing.assert_array_equal(again.groups["left"], [0, 2, 5])


def test_trx_keeps_data_of_groups_and_other_formats_say_what_they_lose(trk, tmp_path, caplog):
    import trx.trx_file_memmap as reference

    loaded = load_tractogram(trk)
    loaded.groups["left"] = np.array([0, 2, 5], np.uint32)
    loaded.data_per_group["left"] = {"volume": np.array([12.5], np.float32), "rgb": np.arange(3)}
    path = save_tractogram(loaded, loaded.streamlines, tmp_path / "a.trx")
    by_reference = reference.load(str(path))
    assert by_reference.data_per_group["left"]["volume"].ravel() == [12.5]
    by_reference.close()
    again = load_tractogram(path)
    np.testing.assert_array_equal(np.ravel(again.data_per_group["left"]["rgb"]), [0, 1, 2])
    twice = load_tractogram(save_tractogram(again, again.streamlines, tmp_path / "b.trx"))
    assert np.ravel(twice.data_per_group["left"]["volume"]) == [12.5]
    assert not caplog.messages
    save_tractogram(again, again.streamlines, tmp_path / "c.tck")
    assert "groups, data per streamline, data per point of" in caplog.text


def test_compressed_trx(tmp_path):
    new = new_tractogram(curves())
    path = save_tractogram(new, new.streamlines, tmp_path / "a.trx")
    with (
        zipfile.ZipFile(path) as stored,
        zipfile.ZipFile(tmp_path / "b.trx", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert_same_streamlines(load_tractogram(tmp_path / "b.trx").streamlines, curves())


def test_a_tck_needs_a_reference_to_become_a_trk(tmp_path):
    new = new_tractogram(curves())
    tck = save_tractogram(new, new.streamlines, tmp_path / "a.tck")
    loaded = load_tractogram(tck)
    with pytest.raises(UserError, match=r"a\.tck has no voxel space, which \.trk needs"):
        save_tractogram(loaded, loaded.streamlines, tmp_path / "a.trk")
    image = nib.Nifti1Image(np.zeros((40, 50, 60), np.uint8), rotated_affine())
    nib.save(image, tmp_path / "t1.nii")
    loaded = load_tractogram(tck, reference=tmp_path / "t1.nii")
    loaded_again = load_tractogram(save_tractogram(loaded, loaded.streamlines, tmp_path / "a.trk"))
    assert_same_streamlines(loaded_again.streamlines, curves())
    np.testing.assert_allclose(loaded_again.affine, rotated_affine(), atol=1e-5)
    assert loaded_again.shape == (40, 50, 60)
    (tmp_path / "no.nii").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as a reference image"):
        load_tractogram(tck, reference=tmp_path / "no.nii")


def test_streamlines_outside_the_image_are_kept(tmp_path):
    lines = [curve + 5000 for curve in curves()]
    new = new_tractogram(lines, shape=(2, 2, 2))
    for suffix in FORMATS:
        path = save_tractogram(new, lines, tmp_path / f"a{suffix}")
        assert_same_streamlines(load_tractogram(path).streamlines, lines, atol=1e-2)


def test_the_real_streamlines_of_dipy(tmp_path):
    from dipy.data import get_fnames

    path = get_fnames(name="fornix")
    loaded = load_tractogram(path)
    assert len(loaded) == 300
    copy = save_tractogram(loaded, loaded.streamlines, tmp_path / "fornix.trk")
    assert copy.read_bytes() == Path(path).read_bytes()


def test_saving_refuses_other_counts_and_suffixes(trk, tmp_path):
    loaded = load_tractogram(trk)
    with pytest.raises(
        UserError, match=r"found 6 streamlines to write; expected the 7 of .*in\.trk"
    ):
        save_tractogram(loaded, loaded.streamlines[:6], tmp_path / "out.trk")
    with pytest.raises(UserError, match="another suffix"):
        save_tractogram(loaded, loaded.streamlines, tmp_path / "out.vtk")
    assert not list(tmp_path.glob("out*"))


# --- bad files ---


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"a\.trk: no such file"):
        load_tractogram(tmp_path / "a.trk")
    with pytest.raises(UserError, match=r"expected one of \.trk, \.tck, \.trx"):
        load_tractogram(tmp_path / "a.vtk")
    for suffix in FORMATS:
        path = tmp_path / f"bad{suffix}"
        for content in (b"", b"nothing at all", bytes(2000)):
            path.write_bytes(content)
            with pytest.raises(UserError, match=rf"bad\{suffix}") as caught:
                load_tractogram(path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files(tmp_path, suffix):
    new = new_tractogram(curves())
    whole = save_tractogram(new, new.streamlines, tmp_path / f"whole{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    first = 4 + 12 * len(curves()[0])  # of a .trk: ends with a whole streamline
    for length in (*range(10, len(whole), 97), 1000 + first, len(whole) - 1, len(whole) - 12):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"cut\{suffix}"):
            load_tractogram(cut)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from(FORMATS))
def test_damaged_files_raise_nothing_else(tmp_path_factory, data, suffix):
    folder = tmp_path_factory.mktemp("damaged")
    new = new_tractogram(curves(3))
    path = save_tractogram(new, new.streamlines, folder / f"a{suffix}")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 4))
    content[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert len(load_tractogram(path)) >= 1


def test_empty_bundles(tmp_path):
    empty = Tractogram(ArraySequence(), affine=np.eye(4), shape=(2, 2, 2))
    for suffix in FORMATS:
        path = save_tractogram(empty, [], tmp_path / f"empty{suffix}")
        with pytest.raises(UserError, match=rf"empty\{suffix}: .*"):
            load_tractogram(path)


def test_a_trk_of_version_1(trk):
    content = bytearray(trk.read_bytes())
    content[440:504] = bytes(64)  # vox_to_ras
    content[992:996] = struct.pack("<i", 1)
    trk.write_bytes(content)
    assert len(load_tractogram(trk)) == 7


# --- resampling ---


def test_resampling_keeps_the_ends_and_spaces_evenly():
    lines = curves()
    resampled = resample(lines, 64)
    assert resampled.shape == (7, 64, 3)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled[:, 0], [line[0] for line in lines], atol=1e-5)
    np.testing.assert_allclose(resampled[:, -1], [line[-1] for line in lines], atol=1e-5)
    steps = np.linalg.norm(np.diff(resampled, axis=1), axis=2)
    assert (steps.std(axis=1) < 0.05 * steps.mean(axis=1)).all()
    np.testing.assert_allclose(resample([[[0, 0, 0], [2, 0, 0]]], 3)[0, :, 0], [0, 1, 2])
    np.testing.assert_array_equal(resample(ArraySequence(lines), 64), resampled)
    np.testing.assert_array_equal(resample(ArraySequence(lines)[2:5], 64), resampled[2:5])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((1, 3)), "1 of 8 streamlines with fewer than two points, the first is number 3"),
        (np.zeros((0, 3)), "fewer than two points"),
        (np.ones((4, 3)), "no length"),
        ([[0, 0, 0], [np.nan, 0, 0]], "not finite"),
        ([[0, 0, 0], [np.inf, 0, 0]], "not finite"),
    ],
)
def test_streamlines_that_cannot_be_resampled(bad, message):
    lines = curves()
    lines.insert(3, np.asarray(bad, np.float32))
    with pytest.raises(UserError, match=rf"a\.trk: .*{message}"):
        resample(lines, 64, source="a.trk")


def test_streamlines_that_are_no_curves_are_left_out_of_a_bundle(tmp_path, caplog):
    lines = curves()
    odd = [np.zeros((1, 3)), np.ones((4, 3)), [[0, 0, 0], [np.nan, 0, 0]]]
    mixed = [*lines[:3], *(np.asarray(line, np.float32) for line in odd), *lines[3:]]
    path = tmp_path / "a.trk"
    save_tractogram(new_tractogram(mixed), mixed, path)
    np.testing.assert_array_equal(usable(mixed), [True] * 3 + [False] * 3 + [True] * 4)
    np.testing.assert_allclose(load_bundle(path), resample(lines), atol=1e-3)
    assert "3 of 10 streamlines left out" in caplog.text


def test_resampling_of_nothing():
    with pytest.raises(UserError, match="holds no streamlines"):
        resample([])
    with pytest.raises(UserError, match="points: found 1"):
        resample(curves(), 1)


# --- directions ---


def bundle(n=40, seed=0):
    """Curves that begin at low y, with noise."""
    return resample(curves(n, seed), 32)


@settings(max_examples=40, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=1, max_size=40), seed=st.integers(0, 5))
def test_directions_do_not_depend_on_those_of_the_file(mask, seed):
    mask = np.array(mask)
    expected = bundle(len(mask), seed)
    given_ = restore_directions(expected, mask)
    aligned, flipped = align_directions(given_)
    np.testing.assert_array_equal(flipped, mask)
    np.testing.assert_array_equal(aligned, expected)
    np.testing.assert_array_equal(restore_directions(aligned, flipped), given_)


def test_a_u_across_the_midline_begins_at_the_left():
    t = np.linspace(0, np.pi, 64)
    rng = np.random.default_rng(0)
    size = rng.uniform(15, 25, (50, 1))
    lines = np.stack([size * np.cos(t), 40 + size * np.sin(t), 0 * t + size], axis=-1)
    mask = rng.random(50) < 0.5
    aligned, _ = align_directions(restore_directions(lines, mask))
    assert (aligned[:, 0, 0] < -14).all()
    assert (aligned[:, -1, 0] > 14).all()


def test_loops_have_a_direction_too():
    t = np.linspace(0, 2 * np.pi, 33)
    loop = np.stack([np.cos(t), np.sin(t), 0 * t], axis=-1)[None]
    lines = np.repeat(loop, 6, axis=0) + np.random.default_rng(0).normal(0, 0.01, (6, 33, 3))
    mask = np.array([0, 1, 1, 0, 0, 1], bool)
    aligned, flipped = align_directions(restore_directions(lines, mask))
    assert (flipped == mask).all() or (flipped == ~mask).all()
    assert np.isfinite(aligned).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_groups_are_aligned_each_on_its_own(seed, share):
    aligned = np.stack([bundle(12, 0), bundle(12, 1)[..., [1, 0, 2]]])
    mask = np.random.default_rng(seed).random((2, 12)) < share
    found, flipped = align_groups(restore_directions(aligned, mask))
    np.testing.assert_array_equal(flipped, mask)
    np.testing.assert_array_equal(found, aligned)


def test_what_only_others_of_its_bundle_would_tell_leaves_a_group_alone():
    line = np.linspace([0, 0, 0], [10, -9.5, 0], 16)  # begins left, and anterior
    rng = np.random.default_rng(0)
    lines = line + rng.normal(0, 0.2, (8, 1, 3))
    lines[0] = np.linspace([0, 0, -8], [0, 0, 8], 16)  # across the others
    for group_ in (lines, lines[:, ::-1], np.full_like(lines, np.nan), np.zeros_like(lines)):
        assert not align_groups(group_[None])[1].any()
    mixed = restore_directions(lines, np.arange(8) == 3)
    assert np.flatnonzero(align_groups(mixed[None])[1][0, 1:]) == [2]
    assert align_groups(np.stack([lines[1], lines[1, ::-1]])[None])[1].sum() == 1


# --- groups ---


@given(n=st.integers(1, 200), size=st.integers(1, 70))
def test_no_streamline_is_lost(n, size):
    lines = np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3)
    groups, counts = group(lines, size)
    assert groups.shape == (-(-n // size), size, 2, 3)
    assert counts.sum() == n
    assert (counts[:-1] == size).all()
    np.testing.assert_array_equal(ungroup(groups, counts), lines)
    for i in range(n):
        np.testing.assert_array_equal(groups[i // size, i % size], lines[i])
    last = groups[-1]
    np.testing.assert_array_equal(last, last[np.arange(size) % counts[-1]])


def test_groups_of_nothing():
    with pytest.raises(UserError, match="found no streamlines"):
        group(np.zeros((0, 64, 3)))
    with pytest.raises(UserError, match="size is 0"):
        group(np.zeros((1, 64, 3)), 0)


def test_the_step_draws_groups_and_keeps_their_order(tmp_path):
    new = new_tractogram(curves(30))
    path = str(save_tractogram(new, new.streamlines, tmp_path / "a.trk"))
    groups, count = GroupStreamlines(16, 4, align=False)((path,))
    assert (groups.shape, count) == ((8, 4, 16, 3), 30)
    whole = resample(load_tractogram(path).streamlines, 16)
    np.testing.assert_array_equal(ungroup(groups, [4] * 7 + [2]), whole)
    some, some_count = GroupStreamlines(16, 4, align=False, most=5, seed=1)((path,))
    assert len(some) == 5
    places = [int(np.flatnonzero((groups == one).all(axis=(1, 2, 3)))[0]) for one in some]
    assert places == sorted(set(places))
    assert some_count == sum(2 if place == 7 else 4 for place in places)
    others = GroupStreamlines(16, 4, align=False, most=5, seed=2)((path,))[0]
    assert not np.array_equal(some, others)
    for name, value in (("points", 1), ("size", 0), ("most", 0), ("seed", -1), ("size", 2.5)):
        with pytest.raises(UserError, match=f"{name} is"):
            GroupStreamlines(**{name: value})


# --- published groups ---


def test_published_groups(tmp_path):
    lines = np.random.default_rng(0).uniform(-1, 1, (3, 8, 16, 3)).astype(np.float32)
    np.save(tmp_path / "MCP.npy", lines.transpose(0, 1, 3, 2))
    loaded = load_bundle((str(tmp_path / "MCP.npy"),), 16)
    np.testing.assert_array_equal(loaded, lines.reshape(24, 16, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 8, 16, 3)), r"found shape \(2, 8, 16, 3\); expected float .* 3, 16\)"),
        (np.zeros((0, 8, 3, 16)), "found shape"),
        (np.zeros((8, 3, 16)), "found shape"),
        (np.zeros((2, 8, 3, 16), int), "no floating-point numbers"),
        (np.full((2, 8, 3, 16), np.nan), "16 of 16 streamlines with coordinates that are not"),
        (np.random.default_rng(0).normal(0, 40, (2, 8, 3, 16)), "values up to"),
    ],
)
def test_wrong_groups(tmp_path, content, message):
    np.save(tmp_path / "MCP.npy", content)
    with pytest.raises(UserError, match=rf"MCP\.npy: .*{message}"):
        load_bundle(tmp_path / "MCP.npy", 16)


def test_groups_that_are_no_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_bundle(tmp_path / "MCP.npy")
    (tmp_path / "MCP.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(
        UserError, match=r"cannot be read \(.*\); expected groups of streamlines \(\.npy\)"
    ):
        load_bundle(tmp_path / "MCP.npy")


# --- scale ---


@given(
    low=st.tuples(*[st.floats(-200, 0)] * 3),
    size=st.tuples(*[st.floats(0.5, 300)] * 3),
)
def test_the_scale_fills_the_range_and_comes_back(low, size):
    low = np.array(low)
    high = low + size
    scale = BundleScale.from_points(low, high)
    corners = scale.to_unit(np.stack([low, high]))
    assert corners.dtype == np.float32
    np.testing.assert_allclose(np.abs(corners).max(), 1, atol=1e-6)
    ratios = (corners[1] - corners[0]) / (high - low)
    np.testing.assert_allclose(ratios, 1 / scale.half, rtol=1e-3)  # isotropic
    np.testing.assert_allclose(scale.to_mm(corners), [low, high], atol=1e-4)
    assert BundleScale.from_config(json.loads(json.dumps(scale.to_config()))) == scale


def test_scales_that_are_none():
    for center, half in (((0, 0, 0), 0), ((0, 0), 1), ((0, 0, np.nan), 1), ((0, 0, 0), np.inf)):
        with pytest.raises(UserError, match="bundle scale"):
            BundleScale(center, half)
    with pytest.raises(UserError, match="bundle scale"):
        BundleScale.from_points([1, 1, 1], [1, 1, 1])
    for config in ({}, {"center": 3, "half": 1}, {"center": [0, 0, 0]}, None):
        with pytest.raises(UserError, match="bundle scale"):
            BundleScale.from_config(config)


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_free_text_of_a_header_is_not_copied(tmp_path, suffix):
    lines = [np.cumsum(np.ones((5, 3), "f4"), 0) * k for k in (1, 2)]
    path = save_tractogram(new_tractogram(lines), lines, tmp_path / f"a{suffix}")
    content, name = path.read_bytes(), b"Anna Example"
    if suffix == ".trk":
        content = content[:600] + name + content[600 + len(name) :]
    elif suffix == ".tck":
        made = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
        TckFile(made, header={"command_history": f"track /home/{name.decode()}"}).save(str(path))
        content = path.read_bytes()
    else:
        with zipfile.ZipFile(path, "a") as archive:
            header = json.loads(archive.read("header.json")) | {"PATIENT": name.decode()}
        with zipfile.ZipFile(path) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for member, inner in (members | {"header.json": json.dumps(header)}).items():
                archive.writestr(member, inner)
        content = path.read_bytes()
    path.write_bytes(content)
    assert name in content
    found = load_tractogram(path)
    assert len(found) == 2
    copy = save_tractogram(found, found.streamlines, tmp_path / f"b{suffix}")
    assert name not in copy.read_bytes()
    np.testing.assert_array_equal(load_tractogram(copy).streamlines[1], lines[1])
