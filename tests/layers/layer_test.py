"""The shared layer test: what must hold for every layer, on whichever backend runs."""

import inspect
import json

import keras
import numpy as np
from keras import ops

from tests.layers.oracles import array


def run_layer_test(
    cls,
    init_kwargs,
    x,
    *,
    output_key=None,
    check_training=True,
    own_dtype=None,
    mixed_policy="mixed_bfloat16",
    tmp_path=None,
):
    """Checks config, shapes, dtypes, saving and one step of `fit` of a layer.

    Args:
        cls: the layer's class.
        init_kwargs: dict of constructor arguments; give every argument a value that is not its
            default where that matters.
        x: NumPy input `(batch, ...)`.
        output_key: for layers that return a dict, the entry that a model goes on with.
        check_training: whether one step of `fit` must change a weight of the layer.
        own_dtype: dtype the layer computes in whatever the policy, such as "float32"; None if it
            follows the policy.
        mixed_policy: the dtype policy to try.
        tmp_path: folder for saved models; without it, saving is not tested.

    Returns:
        The layer, built and never trained, for further checks.
    """
    layer = cls(**init_kwargs)
    _check_config(cls, layer, init_kwargs)
    _check_symbolic_equals_eager(layer, x)
    _check_inference_changes_nothing(layer, x)
    _check_mixed(cls, init_kwargs, x, output_key, own_dtype, mixed_policy)
    _check_fit_and_saving(cls, init_kwargs, x, output_key, check_training, tmp_path)
    return layer


def _check_config(cls, layer, init_kwargs):
    config = layer.get_config()
    parameters = [
        name
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name in parameters:
        assert name in config, f"{cls.__name__}.get_config lacks {name}"
        assert hasattr(layer, name), f"{cls.__name__} has no attribute {name}"
    for name, value in init_kwargs.items():
        if isinstance(value, int | float | bool):
            assert config[name] == value
    restored = cls.from_config(json.loads(json.dumps(config)))
    assert restored.get_config() == config
    whole = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(whole)))
    assert type(again) is cls
    assert again.get_config() == config


def _check_symbolic_equals_eager(layer, x):
    symbolic = layer(keras.KerasTensor((None, *x.shape[1:]), dtype=x.dtype.name))
    eager = layer(x)
    keras.tree.assert_same_structure(symbolic, eager)
    for s, e in zip(keras.tree.flatten(symbolic), keras.tree.flatten(eager), strict=True):
        assert keras.backend.standardize_dtype(s.dtype) == keras.backend.standardize_dtype(e.dtype)
        assert len(s.shape) == len(e.shape)
        assert all(a in (None, b) for a, b in zip(s.shape, e.shape, strict=True))
        assert np.all(np.isfinite(array(ops.cast(e, "float32"))))


def _check_inference_changes_nothing(layer, x):
    before = [array(v) for v in layer.variables]
    first = keras.tree.map_structure(array, layer(x, **_inference(layer)))
    second = keras.tree.map_structure(array, layer(x, **_inference(layer)))
    keras.tree.map_structure(np.testing.assert_array_equal, first, second)
    for old, variable in zip(before, layer.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable))


def _inference(layer):
    has_training = "training" in inspect.signature(layer.call).parameters
    return {"training": False} if has_training else {}


def _check_mixed(cls, init_kwargs, x, output_key, own_dtype, mixed_policy):
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy(mixed_policy)
    try:
        layer = cls(**init_kwargs)
        layer.build(x.shape)
        output = layer(ops.cast(x, "bfloat16") if x.dtype.kind == "f" else x)
        if own_dtype is None:
            assert layer.compute_dtype == keras.config.dtype_policy().compute_dtype
            assert layer.variable_dtype == "float32"
        else:
            assert layer.compute_dtype == own_dtype
        for tensor in keras.tree.flatten(output[output_key] if output_key else output):
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            assert dtype == (own_dtype or layer.compute_dtype)
        if own_dtype:
            for sublayer in layer._flatten_layers():
                assert sublayer.compute_dtype == own_dtype
    finally:
        keras.config.set_dtype_policy(old)


def _check_fit_and_saving(cls, init_kwargs, x, output_key, check_training, tmp_path):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    layer = cls(**init_kwargs)
    # A plain layer before it shows that gradients pass through.
    before = keras.layers.Dense(x.shape[-1]) if x.dtype.kind == "f" else lambda z: z
    outputs = layer(before(inputs))
    outputs = outputs[output_key] if output_key else outputs
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    old_layer = [array(v) for v in layer.weights]
    old_before = [array(v) for v in getattr(before, "weights", [])]
    target = np.ones((len(x), *outputs.shape[1:]), "float32")
    losses = model.fit(x, target, epochs=1, batch_size=len(x), verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    if check_training:
        assert _changed(old_layer, layer.weights)
    if old_before:
        assert _changed(old_before, before.weights)
    if tmp_path is not None:
        path = tmp_path / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
        for old, new in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(array(old), array(new))
        model.save_weights(tmp_path / "model.weights.h5")
        for weight in loaded.weights:
            weight.assign(ops.zeros(weight.shape))
        loaded.load_weights(tmp_path / "model.weights.h5")
        for old, new in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(array(old), array(new))


def _changed(old, weights):
    pairs = zip(old, weights, strict=True)
    return any(not np.array_equal(o, array(w)) for o, w in pairs)
