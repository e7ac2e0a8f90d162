import json

import keras
import numpy as np
import pytest

from brainvq import (
    CodeClassifier,
    EMAVectorQuantizer,
    FrozenEncoder,
    GaussianSampling,
    ImageClassifier,
    PixelStem,
    VQVAETrainer,
    conv_decoder,
    conv_encoder,
    pixel_classifier,
)
from brainvq.models.classifier import copy_layer, trainable_parameters
from tests.layers.layer_test import run_layer_test
from tests.layers.oracles import array

RNG = np.random.default_rng(0)
BOOK = RNG.normal(size=(7, 3)).astype("float32")
CODES = RNG.integers(0, 7, (6, 4, 4)).astype("int32")
VECTORS = RNG.normal(size=(6, 4, 4, 3)).astype("float32")
IMAGES = RNG.random((6, 16, 16, 1), dtype="float32")
SMALL = {"filters": (4, 5), "dropout": 0.25, "class_names": ("a", "b"), "seed": 3}


def autoencoder():
    model = VQVAETrainer(
        conv_encoder((None, None, 1), (3, 4), 4, 3),
        EMAVectorQuantizer(7, seed=1),
        conv_decoder((None, None, 3), (3, 4), 4),
    )
    model(IMAGES)
    # As after training: the codebook is where the encoder's outputs are.
    model.bottleneck.set_codebook(array(model.encoder(IMAGES)).reshape(-1, 3)[:7])
    return model


def frozen():
    model = autoencoder()
    return model, FrozenEncoder(model.encoder, model.bottleneck)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_code_classifier_is_a_proper_layer(tmp_path):
    run_layer_test(
        CodeClassifier,
        {"num_classes": 2, "codebook": BOOK, **SMALL},
        CODES,
        own_dtype="float32",
        tmp_path=tmp_path,
    )


def test_vector_classifier_is_a_proper_layer():
    options = {"num_classes": 2, **SMALL}
    run_layer_test(CodeClassifier, options, VECTORS, own_dtype="float32")


def test_pixel_stem_is_a_proper_layer():
    options = {"stride": 6, "dim": 3, "filters": 2, "seed": 4}
    x = RNG.random((4, 12, 12, 1), dtype="float32")
    run_layer_test(PixelStem, options, x, own_dtype="float32")


def test_logits_are_those_of_numpy():
    model = CodeClassifier(3, codebook=BOOK, filters=(4,), seed=0)
    model(CODES)
    weights = [RNG.normal(size=w.shape) * 0.5 + 1.5 for w in model.weights]
    model.set_weights(weights)
    book, first, kernel, second, dense, bias = (
        array(model.embeddings),
        [array(w) for w in model.norm.weights],
        array(model.convolutions[0].kernel),
        [array(w) for w in model.norms[0].weights],
        array(model.logits.kernel),
        array(model.logits.bias),
    )

    def normal(x, weights):
        gamma, beta, mean, variance = weights
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    x = np.pad(normal(book[CODES], first), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3))
    y = np.maximum(normal(y, second), 0)
    pooled = np.concatenate([y.mean(axis=(1, 2)), y.max(axis=(1, 2))], axis=-1)
    np.testing.assert_allclose(array(model(CODES)), pooled @ dense + bias, rtol=1e-4, atol=1e-3)


def test_codes_and_their_vectors_give_the_same_logits():
    model = CodeClassifier(2, codebook=BOOK, filters=(4,), seed=0)
    np.testing.assert_array_equal(array(model(CODES)), array(model(BOOK[CODES])))
    np.testing.assert_array_equal(array(model.embeddings), BOOK)


def test_the_codebook_is_never_trained_and_survives_the_config():
    model = CodeClassifier(2, codebook=BOOK, **SMALL)
    model.compile(keras.optimizers.SGD(0.1), cross_entropy())
    model.fit(CODES, np.array([0, 1] * 3), epochs=2, verbose=0)
    np.testing.assert_array_equal(array(model.embeddings), BOOK)
    again = CodeClassifier.from_config(json.loads(json.dumps(model.get_config())))
    np.testing.assert_array_equal(again.codebook, BOOK)
    assert again.class_names == ("a", "b")


def test_a_seed_gives_the_same_start_and_another_seed_another():
    first, same, other = (CodeClassifier(2, codebook=BOOK, filters=(4,), seed=s) for s in (1, 1, 2))
    logits = [array(model(CODES)) for model in (first, same, other)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


def test_it_learns_which_code_is_there():
    codes = RNG.integers(0, 5, (40, 4, 4)).astype("int32")
    classes = np.arange(40) % 2
    codes[classes == 1, 2, 1] = 6
    model = CodeClassifier(2, codebook=BOOK, filters=(8,), dropout=0.0, seed=0)
    model.compile(keras.optimizers.Adam(0.02), cross_entropy())
    model.fit(codes, classes, epochs=25, batch_size=20, verbose=0)
    assert np.mean(np.argmax(array(model(codes)), axis=1) == classes) > 0.9


def test_frozen_encoder_gives_the_vectors_of_the_codes():
    model, front = frozen()
    expected = array(model.bottleneck.codebook)[model.encode(IMAGES)]
    np.testing.assert_array_equal(array(front(IMAGES)), expected)
    symbolic = front(keras.KerasTensor((None, 16, 16, 1)))
    assert symbolic.shape == (None, 4, 4, 3)
    assert front.compute_output_shape((None, 24, 16, 1)) == (None, 6, 4, 3)


def test_frozen_encoder_of_vectors_has_no_noise():
    encoder = conv_encoder((16, 16, 1), (3, 4), 4, 3)
    sampling = GaussianSampling(1e-3, seed=2)
    sampling.build((None, 4, 4, 3))
    front = FrozenEncoder(encoder, sampling)
    expected = array(sampling(encoder(IMAGES), training=False)["quantized"])
    np.testing.assert_allclose(array(front(IMAGES)), expected, rtol=1e-5)


def test_training_around_it_never_changes_a_frozen_encoder_nor_adds_its_losses():
    model, front = frozen()
    before = [array(w) for w in front.variables]
    origin = [array(w) for w in model.variables]
    classifier = ImageClassifier(front, CodeClassifier(2, filters=(4,), dropout=0.0, seed=0))
    classifier.compile(keras.optimizers.SGD(0.5), cross_entropy())
    y = np.array([0, 1] * 3)
    logits = array(classifier(IMAGES, training=True))
    loss = classifier.train_on_batch(IMAGES, y)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), y])
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    for old, weight in zip(before, front.variables, strict=True):
        np.testing.assert_array_equal(old, array(weight))
    for old, weight in zip(origin, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(weight))
    assert front.trainable_weights == []
    assert model.encoder.trainable_weights
    assert not classifier.losses


@pytest.mark.parametrize("kind", ["frozen", "pixels"])
def test_image_classifiers_save_and_load(kind, tmp_path):
    if kind == "frozen":
        model = ImageClassifier(frozen()[1], CodeClassifier(2, **SMALL))
    else:
        model = pixel_classifier(2, 4, 3, **SMALL)
    model.compile(keras.optimizers.SGD(0.1), cross_entropy())
    model.train_on_batch(IMAGES, np.array([0, 1] * 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is ImageClassifier
    assert loaded.class_names == ("a", "b")
    assert loaded.num_classes == 2
    np.testing.assert_allclose(array(loaded(IMAGES)), array(model(IMAGES)), rtol=1e-5, atol=1e-6)
    config = json.loads(json.dumps(model.get_config()))
    again = ImageClassifier.from_config(config)
    assert json.dumps(again.head.get_config()) == json.dumps(model.head.get_config())
    again.build((None, 16, 16, 1))
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(array(again(IMAGES)), array(model(IMAGES)), rtol=1e-5, atol=1e-6)
    assert model.compute_output_shape((5, 16, 16, 1)) == (5, 2)


@pytest.mark.parametrize(("stride", "filters"), [(8, (32, 64)), (4, (32, 64)), (8, (16, 32, 32))])
def test_the_pixel_classifier_is_of_the_same_size(stride, filters):
    pixels = pixel_classifier(2, stride, 16, filters=filters)
    codes = CodeClassifier(2, codebook=RNG.normal(size=(9, 16)), filters=filters)
    codes.build((None, 4, 4))
    ratio = trainable_parameters(pixels) / trainable_parameters(codes)
    assert 1.0 < ratio <= 1.1
    wider = PixelStem(stride, 16, pixels.front.filters + 1)
    wider.build((None, None, None, 1))
    assert trainable_parameters(wider) > 0.1 * trainable_parameters(codes)
    assert pixels.front.compute_output_shape((1, 32, 64, 1)) == (1, 32 // stride, 64 // stride, 16)


def test_a_copy_shares_nothing():
    model = autoencoder()
    copy = copy_layer(model.encoder)
    np.testing.assert_array_equal(array(copy(IMAGES)), array(model.encoder(IMAGES)))
    copy.set_weights([0 * w for w in copy.get_weights()])
    assert np.any(array(model.encoder(IMAGES)) != 0)
    assert copy_layer(CodeClassifier(2)).weights == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CodeClassifier(1), "num_classes=1"),
        (lambda: CodeClassifier(2, filters=()), r"filters=\(\)"),
        (lambda: CodeClassifier(2, dropout=1.0), "dropout=1.0"),
        (lambda: CodeClassifier(2, class_names=["a"]), r"class_names=\['a'\]"),
        (lambda: CodeClassifier(2, codebook=np.zeros(3)), r"codebook.shape=\(3,\)"),
        (lambda: CodeClassifier(2)(CODES), r"input_shape=\(6, 4, 4\)"),
        (lambda: PixelStem(1, 3), "stride=1"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=f"Received: .*{message}"):
        make()
