"""predict.py on runs of bundles: small untrained networks, and files of simulated streamlines."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import brainvq
from brainvq import data, evaluation, studies, tasks
from brainvq.app import predict
from brainvq.data import BundleScale, load_tractogram, save_tractogram, steps_to_config
from brainvq.data.tractograms import FORMATS
from brainvq.errors import UserError
from brainvq.files import read_csv, read_json, write_json
from brainvq.options import to_dict
from brainvq.tasks.base import prior_grid
from brainvq.tasks.streamlines.groups import encodings
from brainvq.tasks.streamlines.place import Place, with_points
from brainvq.tasks.streamlines.samples import BundleSample
from brainvq.training.codebook_init import kmeans_initialize
from brainvq.training.runs import RunFolder

SCALE = BundleScale((0, -20, 5), 90)
SIZE, POINTS = 16, 16  # of a group, and of a streamline
SMALL = ("--smoke", "--data.streamlines", str(SIZE), "--data.points", str(POINTS))
KINDS = ("MCP", "PYT_L", "CC_Fr_1")
# Nothing is lost: all modes of the cosine transform, and no quantiser.
LOSSLESS = ("--model.bottleneck", "identity", "--model.modes", str(POINTS))


def curves(kind="PYT_L", count=21, seed=3):
    """Streamlines of a simulated bundle in mm, each with points and a direction of its own."""
    return data.simulate_bundle({"seed": seed, "bundle": kind, "low": count, "high": count})


def new_run(folder, variant, *words, source="simulated"):
    """A run as train.py leaves it, but for its training; returns its path."""
    words = ["streamlines", *SMALL, "--variant", variant, "--runs", str(folder), *words]
    study = studies.parse(words, "", "")
    model = study.model.build(study.data.input_shape)
    about = to_dict(study)
    about["data"]["source"] = source
    steps = steps_to_config(tasks.of(study).steps(study))
    made = RunFolder.create(folder, "streamlines", variant, {"study": about, "steps": steps})
    write_json(made.file("scale.json"), SCALE.to_config())
    if model.decodes_codes:
        lines = [data.resample(curves(kind, 64), POINTS) for kind in KINDS]
        groups = [data.group(data.align_directions(found)[0], SIZE)[0] for found in lines]
        kmeans_initialize(model, [SCALE.to_unit(found) for found in groups])
        grid = prior_grid(model.code_shape(study.data.sample_shape))
        prior = study.prior.build(grid, model.num_codes, study.classes)
        prior.save(made.file("prior.keras"))
    model.save(made.file("model.keras"))
    return made.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of several kinds: dict of name to path."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "best": new_run(folder, "best"),
        "vq-diff": new_run(folder, "vq-diff"),
        "lossless": new_run(folder, "best", *LOSSLESS),
        "groups": new_run(folder, "best", source="groups"),
    }


@pytest.mark.parametrize("name", ["best", "vq-diff", "lossless"])
def test_a_loaded_model_takes_streamlines_of_any_direction(runs, name):
    model = brainvq.load(str(runs[name])).model
    lines = [data.align_directions(data.resample(curves(kind, 16), POINTS))[0] for kind in KINDS]
    aligned = SCALE.to_unit(np.stack(lines))
    expected, latents = model.reconstruct(aligned), model.encode(aligned)
    vectors = model.continuous(aligned)
    mask = np.random.default_rng(0).random(aligned.shape[:2]) < 0.5
    mask[0] = True  # a whole group
    given_ = data.restore_directions(aligned, mask)
    restored = data.restore_directions(model.reconstruct(given_), mask)
    np.testing.assert_allclose(restored, expected, atol=1e-6)
    np.testing.assert_array_equal(model.encode(given_), latents)
    np.testing.assert_allclose(model.continuous(given_), vectors, atol=1e-6)
    if model.decodes_codes:
        np.testing.assert_array_equal(model.codes(given_), latents)
    # What is aligned goes through as without it.
    model.arrange = None
    np.testing.assert_array_equal(model.reconstruct(aligned), expected)
    with pytest.raises(ValueError, match="Expected an array"):
        brainvq.load(str(runs[name])).model.reconstruct(aligned[0])


@pytest.fixture
def files(tmp_path):
    """A file of each format in a space of its own, all but .tck with data: suffix to path."""
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [90, -126, -72]
    found = {}
    (tmp_path / "in").mkdir()
    for number, suffix in enumerate(FORMATS):
        lines = curves(KINDS[number], count=SIZE + 5 + number)
        tractogram = dataclasses.replace(
            data.new_tractogram(lines, affine, (91, 109, 91)),
            data_per_streamline={"weight": np.arange(len(lines), dtype="float32")[:, None]},
            data_per_point={}
            if suffix == ".trx"
            else {"fa": [np.arange(len(line), dtype="float32")[:, None] for line in lines]},
        )
        found[suffix] = save_tractogram(tractogram, lines, tmp_path / "in" / f"s{number}{suffix}")
    return found


def use(folder, monkeypatch, *words):
    """`predict.py` in this process: the programs' own start is tested elsewhere."""
    monkeypatch.chdir(folder)
    predict.main([str(word) for word in words])


def same_space(found, original):
    assert found.format == original.format
    assert found.shape == original.shape
    assert len(found) == len(original)
    if original.affine is not None:
        np.testing.assert_array_equal(found.affine, original.affine)


def assert_near(found, expected, **tolerance):
    """Streamlines must be equal number for number and point for point."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


def test_a_perfect_network_gives_the_file_back(runs, files, tmp_path, monkeypatch):
    use(tmp_path, monkeypatch, runs["lossless"], "reconstruct", tmp_path / "in", "--out", "out")
    table = read_csv(tmp_path / "out" / "similarity.tsv").set_index("file")
    for suffix, path in files.items():
        original = load_tractogram(path)
        found = load_tractogram(tmp_path / "out" / f"{path.stem}_desc-reconstruction{suffix}")
        same_space(found, original)
        expected = data.resample(original.streamlines, POINTS)
        if original.data_per_point:  # which fits only if each has as many points as it had
            expected = with_points(expected, [len(line) for line in original.streamlines])
            assert_near(found.data_per_point["fa"], original.data_per_point["fa"])
        assert_near(found.streamlines, expected, atol=2e-3)
        for name, values in original.data_per_streamline.items():
            np.testing.assert_array_equal(found.data_per_streamline[name], values)
        row = table.loc[str(path)]
        assert row["streamlines"] == len(original)
        assert row["buan"] == 1
        assert row["distance_mm"] < 1e-3
        assert np.isnan(row["bits_per_streamline"])
        assert (tmp_path / "out" / f"{path.stem}_reconstruction.png").stat().st_size > 0
    original, found = (
        load_tractogram(path)
        for path in (files[".trk"], tmp_path / "out" / "s0_desc-reconstruction.trk")
    )
    for name in ("voxel_order", "dimensions", "voxel_sizes"):
        np.testing.assert_array_equal(found.header[name], original.header[name])


def test_streamlines_in_another_space_are_pointed_out(runs, files, tmp_path, monkeypatch, capsys):
    found = load_tractogram(files[".trk"])
    moved = [line + np.float32(300) for line in found.streamlines]
    save_tractogram(found, moved, tmp_path / "in" / "moved.trk")
    words = ("reconstruct", tmp_path / "in" / "moved.trk", files[".trk"], "--out", "out")
    use(tmp_path, monkeypatch, runs["lossless"], *words)
    told = capsys.readouterr()
    (line,) = [line for line in (told.out + told.err).splitlines() if "lie outside" in line]
    assert "moved.trk: 100 % of its points lie outside of the box" in line


@pytest.mark.parametrize("points", ["model", "own"])
def test_points_can_be_chosen(runs, files, tmp_path, monkeypatch, points):
    path = files[".tck"]
    words = ("reconstruct", path, "--points", points, "--out", "out")
    use(tmp_path, monkeypatch, runs["lossless"], *words)
    found = load_tractogram(tmp_path / "out" / "s1_desc-reconstruction.tck")
    lengths = [len(line) for line in load_tractogram(path).streamlines]
    wanted = lengths if points == "own" else [POINTS] * len(lengths)
    assert [len(line) for line in found.streamlines] == wanted


def test_measures_of_a_reconstruction(runs, files, tmp_path, monkeypatch):
    path = files[".trx"]
    use(tmp_path, monkeypatch, runs["best"], "reconstruct", path, "--out", "out")
    (row,) = read_csv(tmp_path / "out" / "similarity.tsv").to_dict("records")
    # By hand, from the two files alone: directions and groups are the file's.
    original = data.resample(load_tractogram(path).streamlines, POINTS)
    found = np.array(load_tractogram(tmp_path / "out" / "s2_desc-reconstruction.trx").streamlines)
    one, other = SCALE.to_unit(original), SCALE.to_unit(found)
    scores = [evaluation.buan(one[part], other[part]) for part in (slice(SIZE), slice(SIZE, None))]
    assert row["buan"] == pytest.approx(np.mean(scores))
    assert row["mse"] == pytest.approx(np.mean((one - other) ** 2), rel=1e-3)
    distance = np.linalg.norm(original - found, axis=-1).mean()
    assert row["distance_mm"] == pytest.approx(distance, rel=1e-4)
    model = brainvq.load(runs["best"]).model
    assert row["bits_per_streamline"] == model.depth * model.bits_per_code
    assert 0 < row["distance_mm"] < 20


@pytest.mark.parametrize("kind", ["best", "vq-diff"])
def test_encode_then_decode_equals_reconstruct(runs, files, tmp_path, monkeypatch, kind):
    folder = tmp_path / "in"
    use(tmp_path, monkeypatch, runs[kind], "encode", folder, "--out", "codes")
    use(tmp_path, monkeypatch, runs[kind], "reconstruct", folder, "--out", "whole")
    codes = sorted((tmp_path / "codes").glob("*.npy"))
    use(tmp_path, monkeypatch, runs[kind], "decode", *codes, "--out", "decoded")
    trained = brainvq.load(runs[kind])
    table = read_csv(tmp_path / "codes" / "tractograms.tsv").set_index("name")
    for suffix, path in files.items():
        stem = path.stem if kind == "best" else f"{path.stem}_latents"
        found = np.load(tmp_path / "codes" / f"{stem}.npy")
        if kind == "best":
            assert found.dtype == np.int16
            assert found.shape == (2, *trained.model.code_shape(trained.study.data.sample_shape))
        else:
            assert found.dtype == np.float32
            assert found.shape == (2, *trained.model.decoder.input_shape[1:])
        about = json.loads((tmp_path / "codes" / f"{stem}.json").read_text())
        assert about["tractogram"] == path.name
        assert about["streamlines"] == table.loc[path.stem, "streamlines"]
        assert table.loc[path.stem, "groups"] == 2
        one = load_tractogram(tmp_path / "decoded" / f"{stem}_decoded{suffix}")
        other = load_tractogram(tmp_path / "whole" / f"{path.stem}_desc-reconstruction{suffix}")
        same_space(one, other)
        # Up to rounding: decode makes the header anew, and .trk holds voxels by it.
        assert_near(one.streamlines, other.streamlines, atol=1e-4)
        assert (tmp_path / "decoded" / f"{stem}_decoded.png").stat().st_size > 0
    codebook = tmp_path / "codes" / "codebook" / "codebook.npy"
    assert codebook.exists() == (kind == "best")


def test_the_first_codes_of_each_cell_decode_to_a_coarser_bundle(
    runs, files, tmp_path, monkeypatch
):
    use(tmp_path, monkeypatch, runs["best"], "encode", files[".tck"], "--out", ".")
    np.save("s1.npy", np.load("s1.npy")[..., :1])
    use(tmp_path, monkeypatch, runs["best"], "decode", "s1.npy", "--out", ".")
    found, original = load_tractogram("s1_decoded.tck"), load_tractogram(files[".tck"])
    assert len(found) == len(original)


def test_perturb_adds_noise_to_latents(runs, files, tmp_path, monkeypatch, capsys):
    path = files[".tck"]
    words = ("perturb", path, "--epsilon", "0.5", "2", "--seed", "1", "--out")
    use(tmp_path, monkeypatch, runs["lossless"], *words, "a")
    assert "of the file's latents" in capsys.readouterr().out
    table = read_csv(tmp_path / "a" / "perturbation.tsv")
    assert list(table["epsilon"]) == [0, 0.5, 2]
    assert list(table["buan"])[0] == 1
    assert table["distance_mm"].is_monotonic_increasing
    # The network changes nothing and its transform is orthonormal: so is the noise in mm.
    trained = brainvq.load(runs["lossless"])
    bundle = BundleSample.read(trained, path, "s1")
    spread = evaluation.channel_spread(encodings(trained.model, bundle.groups))
    expected = 0.25 * np.sum(spread**2) / (3 * POINTS)
    assert table["mse"][1] == pytest.approx(expected, rel=0.15)
    names = {file.name for file in (tmp_path / "a").iterdir()}
    assert names == {
        ".bidsignore",
        "README",
        "dataset_description.json",
        "inputs.json",
        "perturbation.tsv",
        "s1_perturbation.png",
        "s1_desc-noise0p5.tck",
        "s1_desc-noise2.tck",
    }
    found = load_tractogram(tmp_path / "a" / "s1_desc-noise2.tck")
    same_space(found, load_tractogram(path))
    # With the spread of training on file, that one counts.
    metrics = runs["lossless"] / "metrics.json"
    write_json(metrics, {"robustness": {"spread": (2 * spread).tolist()}, "simulated": True})
    try:
        use(tmp_path, monkeypatch, runs["lossless"], *words, "b")
    finally:
        metrics.unlink()
    assert "of the training latents" in capsys.readouterr().out
    again = read_csv(tmp_path / "b" / "perturbation.tsv")
    np.testing.assert_allclose(again["mse"][1], 4 * table["mse"][1], rtol=1e-3)


def test_sample_draws_the_bundles_that_are_named(runs, tmp_path, monkeypatch):
    words = ("sample", "--bundle", "MCP", "PYT_L", "-n", "2", "--seed", "4", "--out")
    use(tmp_path, monkeypatch, runs["best"], *words, "a")
    made, codes = (np.load(tmp_path / "a" / f"{name}.npy") for name in ("samples", "codes"))
    trained = brainvq.load(runs["best"])
    assert made.shape == (4, *trained.study.data.sample_shape)
    assert codes.shape == (4, *trained.model.code_shape(trained.study.data.sample_shape))
    np.testing.assert_array_equal(made, trained.model.decode(codes))
    # What a program gets: the same, as no pixel is cut to [0, 1].
    labels = ["MCP", "MCP", "PYT_L", "PYT_L"]
    same, _ = trained.sample(4, bundle=labels, seed=4)
    np.testing.assert_allclose(made, same, atol=1e-5)
    assert made.min() < 0
    table = pd.read_csv(tmp_path / "a" / "samples.csv")
    assert list(table["bundle"]) == labels
    for name, lines in zip(table["name"], made, strict=True):
        found = load_tractogram(tmp_path / "a" / f"{name}.trk")
        assert found.shape == data.new_tractogram([lines[0]]).shape
        assert_near(found.streamlines, SCALE.to_mm(lines), atol=1e-3)
    assert (tmp_path / "a" / "samples.png").stat().st_size > 0
    # The codes on file decode to the same streamlines; without a place to MNI space.
    use(tmp_path, monkeypatch, runs["best"], "decode", "a/codes.npy", "--out", "b")
    found = load_tractogram(tmp_path / "b" / "codes_decoded.trk")
    assert_near(found.streamlines, SCALE.to_mm(made).reshape(-1, POINTS, 3), atol=1e-3)


def test_sample_tells_the_prior_which_bundle(runs, monkeypatch):
    trained = brainvq.load(runs["best"])
    told = []

    def record(n, labels, **options):
        told.append(list(labels))
        return np.zeros((n, *trained.prior.grid_shape), "int32")

    monkeypatch.setattr(trained.prior, "sample", record)
    trained.sample(3, bundle="CC_Fr_1")
    trained.sample(13)
    assert told == [[11] * 3, [*range(12), 0]]
    for options, words in [
        ({"bundle": "nose"}, "bundle: found nose; expected one of MCP"),
        ({"bundle": ["MCP"]}, "bundle: found 1 names"),
        ({"level": 0.5}, "level: found 0.5"),
    ]:
        with pytest.raises(UserError, match=words):
            trained.sample(2, **options)
    with pytest.raises(UserError, match="bundle: found MCP; expected none"):
        brainvq.load("oasis2d").sample(1, bundle="MCP")


def test_where_no_mm_are_known(runs, files, tmp_path, monkeypatch, capsys):
    use(tmp_path, monkeypatch, runs["groups"], "sample", "--bundle", "MCP", "--out", "a")
    assert "whose scale in mm is not known" in capsys.readouterr().out
    assert not list((tmp_path / "a").glob("*.trk"))
    made = np.load(tmp_path / "a" / "samples.npy")
    use(tmp_path, monkeypatch, runs["groups"], "decode", "a/codes.npy", "--out", "b")
    np.testing.assert_array_equal(np.load(tmp_path / "b" / "codes_decoded.npy"), made)
    for verb in ("reconstruct", "encode", "perturb"):
        with pytest.raises(UserError, match="expected a run trained on tractograms"):
            use(tmp_path, monkeypatch, runs["groups"], verb, tmp_path / "in")
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reconstruct", "absent.trk"], "absent.trk: no such file"),
        (["encode", "scan.nii.gz"], "scan.nii.gz: found another suffix; expected one of .trk"),
        (["encode", "empty.trk"], "empty.trk: holds no streamlines"),
        (["perturb", "point.tck"], "point.tck: 1 of 1 streamlines with fewer than two points"),
        (["reconstruct", "text.trk"], "text.trk: cannot be read as .trk"),
        (["reconstruct", "nothing"], "nothing: holds no .trk, .tck, .trx"),
        (["perturb", "FILE", "--epsilon", "-1"], "--epsilon: found"),
        (["perturb", "FILE", "--epsilon", "nan"], "--epsilon: found"),
        (["reconstruct", "FILE", "--points", "9"], "--points"),
        (["reconstruct", "FILE", "--out", "text.trk"], "--out: found text.trk, which is a file"),
        (["decode", "absent.npy"], "absent.npy: no such file"),
        (["decode", "text.npy"], "text.npy: cannot be read"),
        (["decode", "large.npy"], "large.npy: found 99 to 99; expected codes from 0 to 31"),
        (["decode", "floats.npy"], "floats.npy: found float64 of shape (1, 16, 1, 4); expected w"),
        (["decode", "shape.npy"], "shape.npy: found int64 of shape (1, 8, 1, 4); expected whole"),
        (["decode", "flat.npy"], "flat.npy: found int64 of shape (); expected whole numbers of"),
        (["decode", "several.npy"], "several.npy: found 3 groups; expected 2, for the 20 stream"),
        (["decode", "other.npy"], "other.json: has no 'flipped'; expected what encode wrote"),
        (["decode", "list.npy"], "list.json: "),
        (["sample", "-n", "0"], "-n: found 0"),
        (["sample", "--bundle", "nose"], "bundle: found nose; expected one of MCP"),
        (["sample", "--bundle", "MCP", "MCP"], "--bundle: found MCP MCP; expected each name once"),
        (["sample", "--level", "0.5"], "--level: found 0.5"),
        (["encode", "FILE", "--plane", "axial"], "--plane: found axial"),
        (["map", "FILE"], "map: "),
        (["classify", "--labels", "participants.tsv:group"], "classify: "),
        (["anomaly", "FILE"], "anomaly: "),
    ],
)
def test_a_mistake_is_named(runs, files, tmp_path, monkeypatch, words, told):
    (tmp_path / "text.trk").write_text("no streamlines")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "nothing").mkdir()
    none = data.new_tractogram([])
    save_tractogram(none, [], tmp_path / "empty.trk")
    point = [np.zeros((1, 3))]
    save_tractogram(data.new_tractogram(point), point, tmp_path / "point.tck")
    place = Place(".trk", np.zeros(20, bool)).to_config()
    grid = (SIZE, 1, 4)
    for name, codes, about in [
        ("large", np.full((1, *grid), 99), None),
        ("floats", np.zeros((1, *grid)), None),
        ("shape", np.zeros((1, 8, 1, 4), int), None),
        ("flat", np.array(3), None),
        ("several", np.zeros((3, *grid), int), place),
        ("other", np.zeros((2, *grid), int), {"format": ".trk"}),
        ("list", np.zeros((2, *grid), int), [1, 2]),
    ]:
        np.save(tmp_path / f"{name}.npy", codes)
        if about is not None:
            write_json(tmp_path / f"{name}.json", about)
    words = [str(files[".trk"]) if word == "FILE" else word for word in words]
    with pytest.raises(UserError) as caught:
        use(tmp_path, monkeypatch, runs["best"], *words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["perturb", "FILE"], "perturb: .* whose samples are slices; expected a run of a study of"),
        (
            ["sample", "--bundle", "MCP"],
            "--bundle: found MCP; expected it with a study of str",
        ),
        (["encode", "FILE", "--points", "own"], "--points: found own"),
        (["reconstruct", "FILE"], "s0.trk: cannot be read"),
    ],
)
def test_a_run_on_images_takes_no_bundles(files, tmp_path, monkeypatch, words, told):
    words = [str(files[".trk"]) if word == "FILE" else word for word in words]
    with pytest.raises(UserError, match=told) as caught:
        use(tmp_path, monkeypatch, "oasis2d", *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictions").exists()


def test_latents_must_be_finite_and_a_run_whole(runs, tmp_path, monkeypatch):
    trained = brainvq.load(runs["vq-diff"])
    np.save(tmp_path / "z.npy", np.full((1, *trained.model.decoder.input_shape[1:]), np.nan))
    with pytest.raises(UserError, match="numbers that are not finite"):
        use(tmp_path, monkeypatch, runs["vq-diff"], "decode", "z.npy")
    with pytest.raises(UserError, match=r"has no prior\.keras"):
        use(tmp_path, monkeypatch, runs["vq-diff"], "sample")
    about = {**trained.about, "study": {**trained.about["study"]}}
    bare = RunFolder.create(tmp_path / "bare", "streamlines", "bare", about)
    (bare.path / "model.keras").write_bytes((runs["vq-diff"] / "model.keras").read_bytes())
    with pytest.raises(UserError, match=r"scale\.json: no such file"):
        use(tmp_path, monkeypatch, bare.path, "decode", "z.npy")
    assert not (tmp_path / "predictions").exists()


def test_a_bad_file_among_good_ones_is_skipped_and_counted(
    runs, files, tmp_path, monkeypatch, capsys
):
    (tmp_path / "in" / "a.trk").write_bytes(files[".trk"].read_bytes()[:1500])
    use(tmp_path, monkeypatch, runs["lossless"], "encode", tmp_path / "in", "--out", "out")
    told = capsys.readouterr().out
    assert "skipped: " in told
    assert "1 of 4 files were skipped" in told
    assert list(read_csv(tmp_path / "out" / "tractograms.tsv")["name"]) == ["s0", "s1", "s2"]
    only = [tmp_path / "in" / "a.trk"] * 2
    with pytest.raises(UserError, match=r"a\.trk: .* \(the file is truncated\)|a\.trk: cannot"):
        use(tmp_path, monkeypatch, runs["lossless"], "encode", *only)


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    points=st.integers(2, 30),
    seed=st.integers(0, 99),
)
def test_points_of_their_own_undo_resampling(lengths, points, seed):
    rng = np.random.default_rng(seed)
    ends = rng.normal(0, 50, (len(lengths), 2, 3))
    lines = [
        start + np.linspace(0, 1, count)[:, None] * (end - start)
        for count, (start, end) in zip(lengths, ends, strict=True)
    ]
    found = with_points(data.resample(lines, points), np.array(lengths))
    assert_near(found, lines, atol=1e-3)


@given(
    flipped=st.lists(st.booleans(), min_size=1, max_size=50),
    own=st.booleans(),
    space=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_place_is_the_same_from_its_file(tmp_path_factory, flipped, own, space, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 30, len(flipped)) if own else None
    place = Place(".tck", np.array(flipped), lengths)
    if space:
        place = dataclasses.replace(place, affine=rng.normal(size=(4, 4)), shape=(9, 8, 7))
    path = tmp_path_factory.mktemp("place") / "place.json"
    write_json(path, place.to_config())
    found = Place.read(path)
    assert found.to_config() == place.to_config() == read_json(path)
    groups = rng.normal(size=(-(-len(flipped) // 8), 8, 5, 3))
    assert_near(found.streamlines(groups, SCALE), place.streamlines(groups, SCALE))


def test_help_names_the_verbs(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    told = capsys.readouterr().out
    for words in ("perturb TRACTS...", "--bundle MCP", "reconstruct TRACTS...", ".trk, .tck"):
        assert words in told


def with_others(path, suffix):
    """A file whose third streamline is a point and whose last is not finite (or stands still)."""
    original = load_tractogram(path)
    lines = [np.array(line) for line in original.streamlines]
    lines[2] = lines[2][:1]
    lines[-1] = np.full((3, 3), 7.0 if suffix == ".tck" else np.nan)
    # Values for each point no longer fit.
    bare = dataclasses.replace(data.new_tractogram(lines, *space_of(original)))
    weights = {"weight": np.arange(len(lines), dtype="float32")[:, None]}
    bare = dataclasses.replace(bare, data_per_streamline={} if suffix == ".tck" else weights)
    return save_tractogram(bare, lines, path.with_name(f"odd{suffix}")), lines


def space_of(tractogram):
    return (
        (tractogram.affine, tractogram.shape)
        if tractogram.affine is not None
        else (np.eye(4), "xyz")
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_no_curve_stays_as_it_is(runs, files, tmp_path, monkeypatch, capsys, suffix):
    path, lines = with_others(files[suffix], suffix)
    for points in ("own", "model"):
        words = (path, "--points", points)
        use(tmp_path, monkeypatch, runs["lossless"], "reconstruct", *words, "--out", points)
        whole = load_tractogram(tmp_path / points / f"odd_desc-reconstruction{suffix}").streamlines
        assert len(whole) == len(lines)
        for number in (2, len(lines) - 1):
            np.testing.assert_allclose(whole[number], lines[number], atol=1e-5)
        assert np.isfinite(np.concatenate(list(whole[:-1]))).all()
        use(tmp_path, monkeypatch, runs["lossless"], "encode", *words, "--out", f"{points}-codes")
        codes = tmp_path / f"{points}-codes" / "odd_latents.npy"
        use(tmp_path, monkeypatch, runs["lossless"], "decode", codes, "--out", f"{points}-back")
        back = load_tractogram(tmp_path / f"{points}-back" / f"odd_latents_decoded{suffix}")
        assert_near(back.streamlines, whole, atol=1e-2)
    assert f"odd{suffix}: 2 of {len(lines)} streamlines are no curves" in capsys.readouterr().out
