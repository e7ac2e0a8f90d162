import json

import keras
import numpy as np
import pytest
from keras import ops

import brainvq
from brainvq import (
    Autoencoder,
    CodeUsage,
    EMAVectorQuantizer,
    FiniteScalarQuantizer,
    GaussianSampling,
    Identity,
    ProbabilisticSOM,
    ResidualQuantizer,
    VectorQuantizer,
    VQVAETrainer,
    conv_decoder,
    conv_encoder,
)

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="slow to compile on JAX, where the layer tests cover what depends on the backend",
)
RNG = np.random.default_rng(0)
X = RNG.random((6, 8, 8, 1), dtype="float32")


def parts(sizes=(8, 8)):
    grid = tuple(n and n // 4 for n in sizes)
    return conv_encoder((*sizes, 1), (3, 4), 4, 3), conv_decoder((*grid, 3), (3, 4), 4)


def make(bottleneck=None, cls=VQVAETrainer, sizes=(8, 8), **options):
    encoder, decoder = parts(sizes)
    bottleneck = bottleneck or EMAVectorQuantizer(5, seed=1)
    model = cls(encoder, bottleneck, decoder, **options)
    model.compile(keras.optimizers.Adam(0.01))
    return model


@pytest.fixture(scope="module")
def trained():
    model = make()
    history = model.fit(
        X, batch_size=3, epochs=2, shuffle=False, validation_data=(X[:4],), verbose=0
    ).history
    return model, history


def test_the_history_names_each_term_and_they_add_up(trained):
    model, history = trained
    terms = {"loss", "reconstruction_loss", "commitment_loss", "codes_used", "perplexity"}
    assert set(history) == terms | {f"val_{name}" for name in terms}
    for prefix in ("", "val_"):
        total = np.add(history[f"{prefix}reconstruction_loss"], history[f"{prefix}commitment_loss"])
        np.testing.assert_allclose(history[f"{prefix}loss"], total, rtol=1e-5)
        assert np.all(np.array(history[f"{prefix}perplexity"]) <= history[f"{prefix}codes_used"])
    assert len({tuple(values) for values in history.values()}) > 5
    scores = model.evaluate(X, batch_size=4, verbose=0, return_dict=True)
    outputs = model(X, training=False)
    reconstruction = ops.convert_to_numpy(outputs["reconstruction"])
    # Batches of 4 and 2 weigh by their size, so this is the mean over all six images.
    expected = np.mean((reconstruction - X) ** 2)
    np.testing.assert_allclose(scores["reconstruction_loss"], expected, rtol=1e-4)
    counts = np.bincount(ops.convert_to_numpy(outputs["codes"]).ravel(), minlength=5)
    p = counts[counts > 0] / counts.sum()
    np.testing.assert_allclose(scores["perplexity"], np.exp(-np.sum(p * np.log(p))), rtol=1e-4)
    assert scores["codes_used"] == np.sum(counts > 0)


def test_call_encode_decode_and_reconstruct_agree(trained):
    model, _ = trained
    outputs = keras.tree.map_structure(ops.convert_to_numpy, model(X, training=False))
    assert set(outputs) == {"reconstruction", "codes", "losses"}
    codes = model.encode(X, batch_size=4)
    assert codes.dtype == np.int32
    assert codes.shape == (6, 2, 2)
    np.testing.assert_array_equal(codes, outputs["codes"])
    for images in (model.decode(codes, batch_size=4), model.reconstruct(X, batch_size=4)):
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, outputs["reconstruction"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.encode(X[:1]), codes[:1])
    predicted = model.predict(X, batch_size=4, verbose=0)
    assert set(predicted) == {"reconstruction", "codes"}
    np.testing.assert_array_equal(predicted["codes"], codes)


def test_shapes_and_bits(trained):
    model, _ = trained
    assert model.stride == (4, 4)
    assert model.num_codes == 5
    assert model.code_shape((8, 8, 1)) == (2, 2)
    np.testing.assert_allclose(model.bits_per_code, np.log2(5))


def test_a_saved_model_comes_back_with_weights_optimiser_and_codes(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is VQVAETrainer
    np.testing.assert_array_equal(loaded.encode(X), model.encode(X))
    np.testing.assert_allclose(loaded.reconstruct(X), model.reconstruct(X), rtol=1e-5, atol=1e-6)
    assert int(loaded.optimizer.iterations) == 4
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = VQVAETrainer(parts()[0], EMAVectorQuantizer(5), parts()[1])
    fresh.build((None, 8, 8, 1))
    assert not np.array_equal(fresh.reconstruct(X), model.reconstruct(X))
    fresh.load_weights(tmp_path / "model.weights.h5")
    # The compiled function reads the new weights, not those of its first call.
    np.testing.assert_allclose(fresh.reconstruct(X), model.reconstruct(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cls", "bottleneck", "loss"),
    [
        (Autoencoder, lambda: Identity(), "mae"),
        (Autoencoder, lambda: GaussianSampling(1e-3, seed=2), keras.losses.LogCosh()),
        (VQVAETrainer, lambda: [GaussianSampling(1e-3), VectorQuantizer(4)], "mse"),
    ],
)
def test_the_config_makes_the_same_model(cls, bottleneck, loss):
    model = make(bottleneck(), cls, reconstruction_loss=loss)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is cls
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    again.build((None, 8, 8, 1))
    model.build((None, 8, 8, 1))
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(again.reconstruct(X), model.reconstruct(X), rtol=1e-5, atol=1e-6)
    again.compile("adam")
    scores = again.evaluate(X, verbose=0, return_dict=True)
    error = model.reconstruct(X) - X
    if loss == "mae":
        np.testing.assert_allclose(scores["loss"], np.mean(np.abs(error)), rtol=1e-4)
    elif loss == "mse":
        np.testing.assert_allclose(scores["reconstruction_loss"], np.mean(error**2), rtol=1e-4)
    else:
        log_cosh = np.log(np.cosh(error))
        np.testing.assert_allclose(scores["reconstruction_loss"], np.mean(log_cosh), rtol=1e-3)


def test_weights_of_the_layers_penalties_and_metrics_count():
    _, decoder = parts()
    penalised = keras.layers.Conv2D(3, 4, strides=4, kernel_regularizer=keras.regularizers.L2(0.5))
    encoder = keras.Sequential([keras.Input((8, 8, 1)), penalised])
    model = Autoencoder(encoder, Identity(), decoder)
    model.compile("adam", metrics=["mae"])
    scores = model.evaluate(X, verbose=0, return_dict=True)
    kernel = ops.convert_to_numpy(ops.convert_to_tensor(penalised.kernel))
    penalty = 0.5 * np.sum(kernel**2)
    np.testing.assert_allclose(scores["loss"] - scores["reconstruction_loss"], penalty, rtol=1e-4)
    error = np.abs(model.reconstruct(X) - X)
    np.testing.assert_allclose(scores["mae"], error.mean(), rtol=1e-4)


def test_targets_and_sample_weights():
    model = make(Identity(), Autoencoder)
    target = 1 - X
    weights = np.array([0, 1, 2, 0, 0, 3], "float32")
    scores = model.evaluate(X, target, sample_weight=weights, verbose=0, return_dict=True)
    per_image = np.mean((model.reconstruct(X) - target) ** 2, axis=(1, 2, 3))
    # Keras divides the weighted sum by the number of images, not by the sum of weights.
    expected = np.sum(per_image * weights) / 6
    np.testing.assert_allclose(scores["reconstruction_loss"], expected, rtol=1e-4)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (X[3 * index : 3 * index + 3],)


@on_tensorflow
def test_every_kind_of_input_trains_alike():
    def first_loss(data, **options):
        model = make(VectorQuantizer(4, initializer=keras.initializers.RandomNormal(seed=1)))
        model.set_weights([np.full(w.shape, 0.05) for w in model.weights])
        return model.fit(data, epochs=1, shuffle=False, verbose=0, **options).history["loss"]

    expected = first_loss(X, batch_size=3)
    np.testing.assert_allclose(first_loss(Batches()), expected, rtol=1e-5)
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(X).batch(3)
    np.testing.assert_allclose(first_loss(data), expected, rtol=1e-5)


def test_training_after_the_first_call_is_seen_by_encode_and_reconstruct():
    model = make(VectorQuantizer(4))
    before = model.reconstruct(X)
    model.fit(X, batch_size=6, epochs=1, verbose=0)
    after = model.reconstruct(X)
    assert np.abs(before - after).max() > 1e-5
    expected = ops.convert_to_numpy(model(X, training=False)["reconstruction"])
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


def test_any_size():
    model = make(sizes=(None, None))
    wide = RNG.random((2, 12, 16, 1), dtype="float32")
    assert model.stride == (4, 4)
    assert model.encode(wide).shape == (2, 3, 4)
    assert model.reconstruct(wide).shape == wide.shape
    assert model.code_shape((16, 8, 1)) == (4, 2)
    assert model.code_shape((6, 8, 1)) == (2, 2)
    with pytest.raises(ValueError, match=r"Received: sizes=\(10, 8\)"):
        model(np.zeros((1, 10, 8, 1), "float32"))


def test_sizes_that_the_stride_does_not_divide_are_padded_and_cropped_back():
    model = make(sizes=(None, None))
    odd = RNG.random((3, 10, 7, 1), dtype="float32")
    # By hand: 10 lacks 2 of 12, one on each side; 7 lacks 1 of 8, after it.
    padded = np.pad(odd, [(0, 0), (1, 1), (0, 1), (0, 0)], mode="edge")
    codes = model.encode(odd)
    np.testing.assert_array_equal(codes, model.encode(padded))
    restored = model.reconstruct(odd)
    assert restored.shape == odd.shape
    np.testing.assert_array_equal(restored, model.reconstruct(padded)[:, 1:11, :7])
    with pytest.raises(ValueError, match=r"Images of \(20, 7\) are decoded to \(20, 8\)"):
        model.decode(codes, size=(20, 7))


def test_a_model_for_one_size_refuses_another():
    with pytest.raises(ValueError, match=r"None there takes any size. Received: x.shape=\(1, 12"):
        make().encode(np.zeros((1, 12, 16, 1), "float32"))


@pytest.mark.parametrize("count", [1, 5, 7])
def test_decoded_codes_are_the_reconstruction_to_the_last_bit(count):
    model = make(sizes=(None, None))
    x = RNG.random((count, 9, 14, 1), dtype="float32")
    codes = model.encode(x, batch_size=4)
    again = model.decode(codes, batch_size=4, size=(9, 14))
    np.testing.assert_array_equal(again, model.reconstruct(x, batch_size=4))


@on_tensorflow
def test_volumes_run_the_same_way():
    encoder, decoder = conv_encoder((4, 4, 4, 1), (2,), 2, 3), conv_decoder((2, 2, 2, 3), (2,), 2)
    model = VQVAETrainer(encoder, EMAVectorQuantizer(4, initialization="kmeans"), decoder)
    model.compile("adam")
    x = RNG.random((2, 4, 4, 4, 1), dtype="float32")
    model.fit(x, epochs=1, verbose=0)
    assert model.encode(x).shape == (2, 2, 2, 2)
    assert model.reconstruct(x).shape == x.shape


@on_tensorflow
def test_continuous_vectors_are_decoded_by_the_same_decoder_and_weighed():
    model = make(VectorQuantizer(5), continuous_weight=0.8)
    outputs = model(X, training=False)
    z = ops.convert_to_numpy(model.encoder(X))
    np.testing.assert_allclose(model.continuous(X, batch_size=4), z, atol=1e-6)
    expected = ops.convert_to_numpy(model.decoder(z))
    for images in (outputs["continuous_reconstruction"], model.reconstruct(X, 4, continuous=True)):
        np.testing.assert_allclose(ops.convert_to_numpy(images), expected, atol=1e-5)
    quantized = model.decode(model.encode(X))
    np.testing.assert_allclose(
        ops.convert_to_numpy(outputs["reconstruction"]), quantized, atol=1e-5
    )
    scores = model.evaluate(X, batch_size=6, verbose=0, return_dict=True)
    mse_e, mse_q = np.mean((expected - X) ** 2), np.mean((quantized - X) ** 2)
    np.testing.assert_allclose(scores["continuous_reconstruction_loss"], mse_e, rtol=1e-4)
    np.testing.assert_allclose(scores["reconstruction_loss"], mse_q, rtol=1e-4)
    terms = scores["codebook_loss"] + scores["commitment_loss"]
    np.testing.assert_allclose(scores["loss"], 0.8 * mse_e + 0.2 * mse_q + terms, rtol=1e-4)


def test_a_weight_of_one_leaves_the_quantised_reconstruction_out_of_the_loss():
    model = make(VectorQuantizer(5, beta=0.0), continuous_weight=1.0)
    plain = make(Identity(), Autoencoder)
    plain.set_weights([*model.encoder.get_weights(), *model.decoder.get_weights()])
    # The codebook's own loss changes the codebook alone.
    for each in (model, plain):
        each.fit(X, batch_size=6, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(model.decoder.weights, plain.decoder.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), atol=1e-4
        )


def test_codes_of_a_map_whose_decoder_reads_the_vectors():
    model = make(ProbabilisticSOM((2, 3)), Autoencoder)
    z = model.encode(X)
    np.testing.assert_allclose(z, model.continuous(X), atol=1e-6)
    codebook = ops.convert_to_numpy(model.quantizer.codebook)
    distances = np.square(z[..., None, :] - codebook).sum(-1)
    np.testing.assert_array_equal(model.codes(X), distances.argmin(-1))
    assert model.num_codes == 6
    assert model.code_shape((8, 8, 1)) == (2, 2)
    with pytest.raises(ValueError, match="has no codes"):
        make(Identity(), Autoencoder).codes(X)


def residual(**options):
    return ResidualQuantizer([EMAVectorQuantizer(5, seed=seed) for seed in range(3)], **options)


@pytest.fixture(scope="module")
def trained_in_stages():
    model = make([GaussianSampling(1e-3, seed=0), residual(dropout=0.5, seed=1)])
    history = model.fit(X, batch_size=3, epochs=2, validation_data=(X[:4],), verbose=0).history
    return model, history


def test_codes_of_several_stages_decode_from_any_first_number_of_them(trained_in_stages):
    model, _ = trained_in_stages
    assert (model.num_codes, model.depth, model.quantizer.depth) == (5, 3, 3)
    assert model.code_shape((8, 8, 1)) == (2, 2, 3)
    # The bits of an image are, as with one code per cell, those of a code times their number.
    np.testing.assert_allclose(model.bits_per_code, np.log2(5))
    codes = model.encode(X, batch_size=4)
    assert codes.shape == (6, 2, 2, 3)
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, model.codes(X))
    outputs = keras.tree.map_structure(ops.convert_to_numpy, model(X, training=False))
    np.testing.assert_array_equal(codes, outputs["codes"])
    np.testing.assert_array_equal(model.decode(codes), model.reconstruct(X))
    np.testing.assert_allclose(model.decode(codes), outputs["reconstruction"], atol=1e-5)
    np.testing.assert_array_equal(model.predict(X, verbose=0)["codes"], codes)
    tables = ops.convert_to_numpy(model.quantizer.codebook)
    for stages in (1, 2, 3):
        vectors = sum(tables[i][codes[..., i]] for i in range(stages))
        by_hand = ops.convert_to_numpy(model.decoder(vectors))
        np.testing.assert_allclose(model.decode(codes[..., :stages]), by_hand, atol=1e-5)


def test_usage_of_several_stages_is_counted_apart(trained_in_stages):
    model, history = trained_in_stages
    terms = {"loss", "reconstruction_loss", "kl_loss", "commitment_loss"}
    terms |= {"codes_used", "perplexity"}
    assert set(history) == terms | {f"val_{name}" for name in terms}
    scores = model.evaluate(X, batch_size=6, verbose=0, return_dict=True)
    codes = ops.convert_to_numpy(model(X, training=False)["codes"])
    counts = np.stack([np.bincount(codes[..., i].ravel(), minlength=5) for i in range(3)])
    np.testing.assert_allclose(scores["codes_used"], (counts > 0).sum(axis=1).mean(), rtol=1e-6)
    p = counts / counts.sum(axis=1, keepdims=True)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)), axis=1)
    np.testing.assert_allclose(scores["perplexity"], np.exp(entropy.mean()), rtol=1e-4)


def test_a_model_of_several_stages_comes_back(trained_in_stages, tmp_path):
    model, _ = trained_in_stages
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.encode(X), model.encode(X))
    np.testing.assert_allclose(loaded.reconstruct(X), model.reconstruct(X), rtol=1e-5, atol=1e-6)
    assert int(loaded.optimizer.iterations) == 4
    encoder, decoder = parts()
    fresh = VQVAETrainer(encoder, [GaussianSampling(), residual()], decoder)
    fresh.build((None, 8, 8, 1))
    model.save_weights(tmp_path / "model.weights.h5")
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.encode(X), model.encode(X))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 2, 2), "int32"), r"integers \(n, size, size, 1 to 3\)"),
        (np.zeros((1, 2, 2, 4), "int32"), r"integers \(n, size, size, 1 to 3\)"),
        (np.zeros((1, 2, 2, 0), "int32"), r"integers \(n, size, size, 1 to 3\)"),
        (np.zeros((1, 2, 2, 3)), r"integers \(n, size, size, 1 to 3\)"),
        (np.full((1, 2, 2, 3), 5), "from 0 to 4. Received: codes from 5 to 5"),
    ],
)
def test_wrong_codes_of_several_stages_are_named(trained_in_stages, codes, message):
    with pytest.raises(ValueError, match=message):
        trained_in_stages[0].decode(codes)


@on_tensorflow
def test_the_vectors_before_several_stages_are_decoded_too():
    model = make(residual(), continuous_weight=0.5)
    model.fit(X, batch_size=6, verbose=0)
    z = ops.convert_to_numpy(model.encoder(X))
    np.testing.assert_allclose(model.continuous(X), z, atol=1e-6)
    expected = ops.convert_to_numpy(model.decoder(z))
    np.testing.assert_allclose(model.reconstruct(X, continuous=True), expected, atol=1e-5)


@on_tensorflow
def test_finite_scalar_codes_are_codes_like_others():
    model = make(FiniteScalarQuantizer((3, 4, 3)))
    history = model.fit(X, batch_size=6, verbose=0).history
    assert set(history) == {"loss", "reconstruction_loss", "codes_used", "perplexity"}
    assert model.num_codes == 36
    codes = model.encode(X)
    assert codes.shape == (6, 2, 2)
    np.testing.assert_array_equal(model.decode(codes), model.reconstruct(X))


def test_skip_connections_reach_the_decoder_and_codes_alone_are_refused():
    fine, coarse = keras.layers.Conv2D(2, 3, 2, "same"), keras.layers.Conv2D(3, 3, 2, "same")
    inputs = keras.Input((8, 8, 1))
    middle = fine(inputs)
    encoder = keras.Model(inputs, [coarse(middle), middle])
    z, skip = keras.Input((2, 2, 3)), keras.Input((4, 4, 2))
    up = keras.layers.Conv2DTranspose(2, 3, 2, "same")(z)
    joined = keras.layers.Concatenate()([up, skip])
    decoder = keras.Model([z, skip], keras.layers.Conv2DTranspose(1, 3, 2, "same")(joined))
    model = VQVAETrainer(encoder, VectorQuantizer(5), decoder, continuous_weight=0.5)
    model.compile("adam")
    model.fit(X, batch_size=3, verbose=0)
    assert model.has_skips
    assert model.stride == (4, 4)
    assert model.code_shape((8, 8, 1)) == (2, 2)
    vectors = model.bottleneck.codes_to_vectors(model.codes(X))
    _, skips = model.encoder(X)
    by_hand = ops.convert_to_numpy(model.decoder([vectors, skips]))
    np.testing.assert_allclose(model.reconstruct(X, batch_size=4), by_hand, atol=1e-5)
    changed = ops.convert_to_numpy(model.decoder([vectors, 0 * skips]))
    assert np.abs(changed - by_hand).max() > 1e-3
    assert model.reconstruct(X, continuous=True).shape == X.shape
    with pytest.raises(ValueError, match="skip connections"):
        model.decode(model.codes(X))
    rebuilt = VQVAETrainer.from_config(json.loads(json.dumps(model.get_config())))
    assert rebuilt.has_skips
    assert rebuilt.continuous_weight == 0.5


def test_mixed_precision_gives_float32_images_and_codes_of_float32_distances():
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make()
        history = model.fit(X, batch_size=6, epochs=1, verbose=0).history
        outputs = model(X, training=False)
    finally:
        keras.config.set_dtype_policy(old)
    assert np.isfinite(history["loss"][0])
    assert keras.backend.standardize_dtype(outputs["reconstruction"].dtype) == "float32"
    assert model.bottleneck.compute_dtype == "float32"
    assert model.encoder.layers[1].compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda m: m.decode(np.zeros((1, 2, 2))), "must be integers"),
        (lambda m: m.decode(np.zeros((1, 2, 2, 1), "int32")), "must be integers"),
        (lambda m: m.decode(np.full((1, 2, 2), 5)), "from 0 to 4. Received: codes from 5 to 5"),
        (lambda m: m.decode(np.full((1, 2, 2), -1)), "from 0 to 4"),
        (lambda m: m.encode(np.zeros((8, 8, 1))), r"Received: x.shape=\(8, 8, 1\)"),
        (lambda m: m.encode(np.zeros((0, 8, 8, 1))), "Nothing to encode"),
    ],
)
def test_wrong_input_is_named(trained, action, message):
    with pytest.raises(ValueError, match=message):
        action(trained[0])


def test_wrong_arguments_are_named():
    encoder, decoder = parts()
    with pytest.raises(ValueError, match="must be a brainvq.layers.Bottleneck"):
        Autoencoder(encoder, keras.layers.ReLU(), decoder)
    with pytest.raises(ValueError, match="must have codes"):
        VQVAETrainer(encoder, Identity(), decoder)
    with pytest.raises(ValueError, match="needs a bottleneck with codes"):
        Autoencoder(encoder, Identity(), decoder, continuous_weight=0.5)
    with pytest.raises(ValueError, match="at most 1"):
        Autoencoder(encoder, VectorQuantizer(5), decoder, continuous_weight=1.5)
    with pytest.raises(ValueError, match="nonsense"):
        Autoencoder(encoder, Identity(), decoder, reconstruction_loss="nonsense")
    model = Autoencoder(encoder, Identity(), decoder)
    model.compile("adam", loss="mse")
    with pytest.raises(ValueError, match="not of `compile`"):
        model.fit(X, verbose=0)


def test_code_usage_counts_over_all_updates():
    usage = CodeUsage(4)
    assert usage.result()["codes_used"] == 0
    usage.update_state(np.array([[0, 0], [1, 1]], "int32"))
    usage.update_state(np.array([3, 3, 3, 3], "int32"))
    result = usage.result()
    assert float(result["codes_used"]) == 3
    expected = np.exp(0.5 * np.log(2) + 2 * 0.25 * np.log(4))
    np.testing.assert_allclose(float(result["perplexity"]), expected, rtol=1e-5)
    assert CodeUsage.from_config(usage.get_config()).num_codes == 4
    usage.reset_state()
    assert float(usage.result()["codes_used"]) == 0


def test_code_usage_of_stages_is_their_mean():
    usage = CodeUsage(4, depth=2)
    assert usage.result()["codes_used"] == 0
    usage.update_state(np.array([[0, 2], [1, 2]], "int32"))
    usage.update_state(np.array([[[3, 2]], [[2, 2]]], "int32"))
    result = usage.result()
    assert float(result["codes_used"]) == 2.5  # four and one
    np.testing.assert_allclose(float(result["perplexity"]), 2.0, rtol=1e-5)  # √(4 · 1)
    assert CodeUsage.from_config(usage.get_config()).depth == 2


def test_the_package_exports_what_it_names():
    for name in brainvq.__all__:
        assert hasattr(brainvq, name)
