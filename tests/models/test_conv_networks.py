import keras
import pytest

from brainvq.models import conv_decoder, conv_encoder


def layers_of(model):
    return [
        (layer.kernel_size[0], layer.strides[0], layer.filters, layer.activation.__name__)
        for layer in model.layers
        if hasattr(layer, "kernel_size")
    ]


def test_the_defaults_are_the_network_of_the_source():
    encoder = conv_encoder((128, 128, 1))
    assert layers_of(encoder) == [
        (3, 2, 32, "relu"),
        (3, 2, 32, "relu"),
        (3, 2, 64, "relu"),
        (3, 2, 64, "relu"),
        (3, 1, 128, "relu"),
        (1, 1, 16, "linear"),
    ]
    assert encoder.output_shape == (None, 8, 8, 16)
    decoder = conv_decoder((8, 8, 16))
    assert layers_of(decoder) == [
        (3, 1, 128, "relu"),
        (3, 2, 64, "relu"),
        (3, 2, 64, "relu"),
        (3, 2, 32, "relu"),
        (3, 2, 32, "relu"),
        (3, 1, 1, "linear"),
    ]
    assert decoder.output_shape == (None, 128, 128, 1)


@pytest.mark.parametrize("shape", [(8,), (8, 4), (4, 8, 4)])
@pytest.mark.parametrize("known", [True, False])
def test_every_rank_comes_back_to_its_size(shape, known):
    sizes = shape if known else (None,) * len(shape)
    grid = tuple(n and n // 4 for n in sizes)
    encoder = conv_encoder((*sizes, 2), (2, 3), 4, 5)
    decoder = conv_decoder((*grid, 5), (2, 3), 4, channels=2)
    assert encoder.output_shape == (None, *grid, 5)
    assert decoder(encoder(keras.Input((*shape, 2)))).shape == (None, *shape, 2)


def test_the_output_is_float32_under_mixed_precision():
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder, decoder = conv_encoder((4, 4, 1), (2,), 2, 3), conv_decoder((2, 2, 3), (2,), 2)
    finally:
        keras.config.set_dtype_policy(old)
    assert encoder.output.dtype == "bfloat16"
    assert decoder.output.dtype == "float32"


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match=r"multiples of 16.*Received: input_shape=\(130, 128, 1\)"):
        conv_encoder((130, 128, 1))
    with pytest.raises(ValueError, match="one to three spatial sizes"):
        conv_encoder((8, 8, 8, 8, 1))
    with pytest.raises(ValueError, match="one to three spatial sizes"):
        conv_decoder((16,))
