"""Exported models give the same numbers where neither Keras nor brainvq is imported."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from brainvq import layers
from brainvq.layers import Identity, VectorQuantizer
from brainvq.models import (
    Autoencoder,
    IntroVAE,
    PixelCNN,
    VQVAETrainer,
    conv_decoder,
    conv_encoder,
    intro_decoder,
    intro_encoder,
)

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel")
PROGRAM = """
import json, sys
sys.modules |= {"brainvq": None, "keras": None}  # neither can be imported
import numpy as np, tensorflow as tf
for folder, calls in json.loads(sys.argv[1]).items():
    loaded = tf.saved_model.load(folder)
    for name in calls:
        data = dict(np.load(f"{folder}/{name}.npz"))
        expected, given = data.pop("expected"), data if len(data) > 1 else data.popitem()[1]
        np.testing.assert_allclose(getattr(loaded, name)(given), expected, rtol=1e-5, atol=1e-6)
"""


def image_model(cls, bottleneck):
    return cls(conv_encoder((8, 8, 1), (3,), 2, 3), bottleneck, conv_decoder((4, 4, 3), (3,), 2))


def exported(model, folder, calls):
    """Exports a model beside what its methods give, a file for each: dict of folder to names."""
    model.export(str(folder), verbose=False)
    for name, (given, expected) in calls.items():
        np.savez(folder / f"{name}.npz", **given, expected=expected)
    return {str(folder): list(calls)}


def autoencoder(rng):
    return image_model(Autoencoder, Identity()), rng.random((3, 8, 8, 1), "float32")


def vqvae(rng):
    return image_model(VQVAETrainer, VectorQuantizer(5)), rng.random((3, 8, 8, 1), "float32")


def intro_vae(rng):
    sizes = {"latent_size": 4, "filters": (2,), "dense_units": (4,), "groups": 1}
    parts = (make((8, 8, 8, 1), **sizes) for make in (intro_encoder, intro_decoder))
    return IntroVAE(*parts), rng.random((2, 8, 8, 8, 1), "float32")


def prior_to(folder, rng):
    prior = PixelCNN((2, 2), 5, filters=4, num_blocks=1, num_classes=2)
    codes, labels = rng.integers(0, 5, (3, 2, 2)).astype("int32"), np.array([0, 1, 1], "int32")
    given = {"codes": codes, "labels": labels}
    return exported(prior, folder, {"log_prob": (given, prior.code_log_prob(codes, labels))})


@pytest.mark.parametrize(
    "models", [[vqvae], pytest.param([autoencoder, intro_vae], marks=pytest.mark.thorough)]
)
def test_loaded_elsewhere_they_give_equal_numbers(models, tmp_path):
    rng = np.random.default_rng(0)
    made = prior_to(tmp_path / "prior", rng)
    for make in models:
        model, x = make(rng)
        given = {"encode": x, "decode": model.encode(x), "reconstruct": x}
        calls = {name: ({"x": z}, getattr(model, name)(z)) for name, z in given.items()}
        made |= exported(model, tmp_path / make.__name__, calls)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(made)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_endpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="Received: endpoint=draw"):
        image_model(Autoencoder, Identity()).export(str(tmp_path), endpoint="draw")


# What the converter to ONNX has no counterpart for.
NOT_IN_ONNX = {"Bitcast", "BitwiseAnd", "Log1p"}
QUANTIZERS = {
    "vq": lambda: VectorQuantizer(5),
    "som": lambda: layers.SOMQuantizer((2, 3), gradient="rotation"),
    "psom": lambda: layers.ProbabilisticSOM((2, 3), quantize=True),
    "torus": lambda: layers.TorusQuantizer((2, 3)),
    "fsq": lambda: layers.FiniteScalarQuantizer((3, 4, 5, 3)),
    "beam": lambda: layers.ResidualQuantizer([VectorQuantizer(5), VectorQuantizer(5)], beam=2),
}


def quantised(name):
    encoder, decoder = keras.layers.Conv2D(4, 2, 2), keras.layers.Conv2DTranspose(1, 2, 2)
    model = VQVAETrainer(
        keras.Sequential([keras.Input((4, 4, 1)), encoder]), QUANTIZERS[name](), decoder
    )
    model(np.zeros((1, 4, 4, 1), "float32"))
    return model


def operations(function, spec):
    """Names of the operations that the results of a function of tensors need."""
    import tensorflow as tf

    inputs = keras.tree.map_structure(
        lambda spec: tf.TensorSpec(spec.shape, spec.dtype, spec.name), spec
    )
    graph = tf.function(function).get_concrete_function(inputs).graph
    needed = tf.compat.v1.graph_util.extract_sub_graph(
        graph.as_graph_def(), [tensor.op.name for tensor in graph.outputs]
    )
    return {node.op for node in needed.node}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_is_exported_has_a_counterpart_in_onnx(name):
    for function, spec in quantised(name).endpoints().values():
        assert not operations(function, spec) & NOT_IN_ONNX


@pytest.mark.filterwarnings("ignore")  # of the converter
@pytest.mark.parametrize("name", QUANTIZERS)
def test_onnx_gives_the_same_codes_and_images(name, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = quantised(name), np.random.default_rng(0).random((3, 4, 4, 1), "float32")
    model.export(str(tmp_path / "model.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": x}), strict=True))
    np.testing.assert_array_equal(found["codes"], model.codes(x))
    np.testing.assert_allclose(found["reconstruction"], model.reconstruct(x), atol=1e-5)
