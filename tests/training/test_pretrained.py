import io
import json
import pickle
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

import brainvq
from brainvq.data.cohort import Cohort
from brainvq.data.looks import Look
from brainvq.errors import UserError
from brainvq.tasks.run import LoadedRun
from brainvq.tasks.trained import Trained, export
from brainvq.training import pretrained
from brainvq.training.codebook import encode_to_file
from brainvq.training.runs import RunFolder
from brainvq.training.shipped import SHIPPED


def model(seed=0):
    keras.utils.set_random_seed(seed)
    x = keras.Input((8, 8, 1))
    z = keras.Input((2, 2, 4))
    made = brainvq.VQVAETrainer(
        keras.Model(x, keras.layers.Conv2D(4, 4, strides=4)(x)),
        brainvq.EMAVectorQuantizer(num_codes=8, initialization="random"),
        keras.Model(z, keras.layers.Conv2DTranspose(1, 4, strides=4)(z)),
    )
    made(np.zeros((1, 8, 8, 1), "float32"))
    return made


def prior():
    made = brainvq.PixelCNN((2, 2), 8, filters=4, num_blocks=1, first_kernel_size=3)
    made(np.zeros((1, 2, 2), "int32"))
    return made


def images(count=7):
    return np.random.default_rng(0).random((count, 8, 8, 1), "float32")


def test_packed_weights_come_back_to_half_precision(tmp_path):
    for original in (model(), prior()):
        pretrained.pack(original, tmp_path / "model.zip")
        found = pretrained.unpack(tmp_path / "model.zip")
        assert type(found) is type(original)
        for one, other in zip(original.weights, found.weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6, err_msg=one.path)


def test_packing_twice_gives_the_same_bytes(tmp_path):
    original = model()
    pretrained.pack(original, tmp_path / "a.zip")
    pretrained.pack(original, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_damaged_or_wrong_weights(tmp_path):
    path = tmp_path / "model.zip"
    with pytest.raises(UserError, match="model.zip: cannot be read"):
        pretrained.unpack(path)
    pretrained.pack(model(), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="model.zip: cannot be read"):
        pretrained.unpack(path)


def test_load_a_run(tmp_path):
    content = {"study": {"name": "s"}, "steps": [{"name": "Canonical", "axcodes": "LPS"}]}
    run = RunFolder.create(tmp_path, "s", "v", content)
    with pytest.raises(UserError, match=r"has no model\.keras"):
        brainvq.load(run.path)
    original = model()
    original.save(run.file("model.keras"))
    trained = brainvq.load(run.path)
    np.testing.assert_array_equal(trained.model.encode(images()), original.encode(images()))
    assert trained.steps == content["steps"]
    with pytest.raises(UserError, match=r"has no prior\.keras"):
        trained.sample(2)
    prior().save(run.file("prior.keras"))
    brains, codes = brainvq.load(run.path).sample(3, seed=0)
    assert brains.shape == (3, 8, 8, 1)
    assert codes.shape == (3, 2, 2)


def test_samples_are_clipped_where_images_are_in_the_unit_range(tmp_path):
    original, codes_prior = model(), prior()
    original.quantizer.set_codebook(100 * np.random.default_rng(0).normal(size=(8, 4)))
    drawn = {}
    for step in ("ScaleIntensity", "ZScore"):
        trained = Trained(original, codes_prior, [{"name": step}], {}, tmp_path)
        assert trained.study.kind == "slices"
        drawn[step], codes = trained.sample(4, batch_size=3, seed=0)
    np.testing.assert_array_equal(drawn["ZScore"], original.decode(codes))
    np.testing.assert_array_equal(drawn["ScaleIntensity"], drawn["ZScore"].clip(0, 1))
    assert drawn["ZScore"].min() < 0
    assert drawn["ZScore"].max() > 1


def test_a_model_that_does_not_decode_codes_gives_no_samples(tmp_path):
    original = model()
    plain = brainvq.Autoencoder(original.encoder, brainvq.layers.Identity(), original.decoder)
    trained = Trained(plain, prior(), [], {}, tmp_path)
    with pytest.raises(UserError, match="its decoder reads vectors, not codes"):
        trained.sample(2)


def test_weights_of_another_shape(tmp_path):
    original = model()
    pretrained.pack(original, tmp_path / "model.zip")
    other = brainvq.VQVAETrainer(
        original.encoder, brainvq.EMAVectorQuantizer(num_codes=16), original.decoder
    )
    other(np.zeros((1, 8, 8, 1), "float32"))
    original.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(UserError, match=r"m\.weights\.h5: .* expected .* same network.* 16 codes"):
        other.load_weights(tmp_path / "m.weights.h5")


def test_no_such_name():
    with pytest.raises(UserError, match="nonsense: found neither"):
        brainvq.load("nonsense")


def test_what_ships_is_small_and_says_where_it_comes_from():
    assert "oasis2d" in brainvq.shipped()
    folder = SHIPPED / "oasis2d"
    weights = [folder / "model.zip", folder / "prior.zip"]
    assert sum(path.stat().st_size for path in weights) <= 5_000_000
    card = (folder / "MODEL_CARD.md").read_text()
    assert "ds002748" in card
    assert "CC0" in card
    study = json.loads((folder / "study.json").read_text())
    assert study["study"]["data"]["root"] is None


def test_codes_on_disk_are_those_of_the_model(tmp_path):
    original, data = model(), images(10)
    rows = np.array([4, 1, 7])
    augment = lambda batch, rng: batch[:, ::-1]  # noqa: E731
    path = tmp_path / "codes.npy"
    codes = encode_to_file(
        path, original, lambda r: data[r], rows, copies=2, augment=augment, batch_size=2
    )
    assert codes.dtype == np.int16
    np.testing.assert_array_equal(codes[:3], original.encode(data[rows]))
    np.testing.assert_array_equal(codes[3:], original.encode(data[rows][:, ::-1]))
    again = encode_to_file(path, None, None, rows)
    np.testing.assert_array_equal(again, codes)
    assert [p.name for p in tmp_path.iterdir()] == ["codes.npy"]


def test_export_leaves_the_places_of_this_machine_behind(tmp_path):
    data = {
        "root": "/home/someone/scans",
        "cache": "/big/cache",
        "assignments": "/x",
        "mirror": None,
    }
    study = {"name": "s", "variant": "v", "runs": "/home/runs", "data": data}
    content = {
        "study": study,
        "steps": [],
        "command": "train.py --data.root /home/someone/scans --data.cache /big/cache",
    }
    run = RunFolder.create(tmp_path / "runs", "s", "v", content)
    model().save(run.file("model.keras"))
    with pytest.raises(UserError, match=r"has no prior\.keras"):
        export(brainvq.load(run.path), tmp_path / "small")
    prior().save(run.file("prior.keras"))
    run.file("MODEL_CARD.md").write_text("made from /home/someone/scans")
    looks = {"scans": 3, "heads": 0.0, "depth": [0.2, 0.25]}
    run.file("looks.json").write_text(json.dumps(looks))
    original = brainvq.load(run.path)
    export(original, tmp_path / "small")
    for path in (tmp_path / "small").glob("*.[jm][sd]*"):
        assert "/home" not in path.read_text()
        assert "/big" not in path.read_text()
    found = brainvq.load(tmp_path / "small")
    assert found.usual == original.usual == looks
    restored, expected = (m.reconstruct(images()) for m in (found.model, original.model))
    np.testing.assert_allclose(restored, expected, atol=5e-3)
    np.testing.assert_array_equal(
        found.sample(2, seed=1)[1].shape, original.sample(2, seed=1)[1].shape
    )
    with pytest.raises(UserError, match="small: is not empty"):
        export(original, tmp_path / "small")


def test_a_study_without_a_prior_exports_without_one(tmp_path):
    study = {"name": "s", "variant": "v", "runs": "runs", "data": {}, "prior": {"epochs": 0}}
    run = RunFolder.create(tmp_path / "runs", "s", "v", {"study": study, "steps": []})
    model().save(run.file("model.keras"))
    export(brainvq.load(run.path), tmp_path / "small")
    found = brainvq.load(tmp_path / "small")
    assert found.prior is None
    assert found.model.encode(images()).shape == (7, 2, 2)


@pytest.mark.parametrize("simulated", [True, False])
def test_a_run_keeps_what_its_real_training_scans_look_like(tmp_path, simulated):
    content = {"study": {"name": "s", "variant": "v", "data": {}}, "steps": []}
    run = LoadedRun(RunFolder.create(tmp_path, "s", "v", content), None)
    table = pd.DataFrame({"scan_id": list("abc"), "subject": list("abc"), "paths": [("x",)] * 3})
    table["split"] = ["train", "train", "test"]
    run.scans = Cohort("c", table, simulated=simulated)
    looks = {"a": Look(1.4, {}, 0.2), "c": Look(1.4, {}, 0.4)}  # none of b
    run._keep_looks(SimpleNamespace(looks=looks))
    usual = {} if simulated else {"scans": 1, "heads": 0.0, "depth": [0.2, 0.2]}
    model().save(run.file("model.keras"))
    assert brainvq.load(run.path).usual == usual


def packed(path, config):
    weights = io.BytesIO()
    np.savez(weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("weights.npz", weights.getvalue())
    return path


@pytest.mark.parametrize(
    "config",
    [
        {"module": "os", "class_name": "system", "config": {"command": "touch found"}},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", "found"]}},
        {"module": "builtins", "class_name": "function", "config": "exec"},
        ["no", "model"],
        "text",
    ],
)
def test_weights_that_ask_for_code_are_refused(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    if isinstance(config, dict):
        config["registered_name"] = config["class_name"]
    with pytest.raises(UserError, match=r"model\.zip: cannot be read"):
        pretrained.unpack(packed(tmp_path / "model.zip", config))
    assert not (tmp_path / "found").exists()


def test_functions_and_pickles_in_weights_are_refused(tmp_path):
    function = keras.layers.Lambda(lambda x: x)
    network = keras.Sequential([keras.layers.Input((2,)), function])
    network.save(tmp_path / "model.keras")
    with pytest.raises(UserError, match=r"model\.keras: cannot be loaded"):
        pretrained.load_model(tmp_path / "model.keras")
    config = keras.saving.serialize_keras_object(network)
    with pytest.raises(UserError, match=r"model\.zip: cannot be read"):
        pretrained.unpack(packed(tmp_path / "model.zip", config))
    pretrained.pack(model(), tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        config = archive.read("config.json")
    objects = io.BytesIO()
    np.savez(objects, **{"0000": np.array([print], object)})
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("weights.npz", objects.getvalue())
    with pytest.raises(UserError, match=r"model\.zip: cannot be read .*allow_pickle"):
        pretrained.unpack(tmp_path / "model.zip")
    with open(tmp_path / "other.keras", "wb") as file:
        pickle.dump({"a": 1}, file)
    with pytest.raises(UserError, match=r"other\.keras: cannot be loaded"):
        pretrained.load_model(tmp_path / "other.keras")
