"""Study t1w3d without its data: the transform, its refinement, and packed codes of scans."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from brainvq.layers import EntropyQuantizer
from brainvq.models import (
    ReconstructionLoss,
    WindowedTrainer,
    set_transform,
    transform_decoder,
    transform_encoder,
)
from brainvq.options import Entropy, Model, Transform
from brainvq.tasks.volumes.transform import fit_transform, principal_patches
from tests.layers.oracles import array
from tests.scripts.test_predict import brain

SHAPE, PATCH = (16, 24, 16, 1), 8
GRID = (2, 3, 2)


def model(components=20, filters=(4,), **options):
    keras.utils.set_random_seed(0)
    encoder = transform_encoder(SHAPE, PATCH, components)
    decoder = transform_decoder((*GRID, components), PATCH, filters)
    loss = ReconstructionLoss(mse_weight=5.0, ssim_weight=1.0)
    made = WindowedTrainer(
        encoder, EntropyQuantizer(components), decoder, loss, windows=2, window=8, **options
    )
    made(np.zeros((1, *SHAPE), "float32"))
    return made


def volumes(n=6):
    made = np.stack([brain(seed, SHAPE[:3]) for seed in range(n)])[..., None].astype("float32")
    return made / made.max()


class Store:
    """Volumes as an `ArrayStore` gives them."""

    sample_shape = SHAPE

    def __init__(self, volumes):
        self.volumes = volumes

    def read(self, rows):
        return self.volumes[rows]


def fitted(volumes, bits=100, **options):
    made = model(**options)
    components = made.bottleneck.channels
    options = Model(Transform(PATCH, components), Entropy(bits, components))
    study = SimpleNamespace(model=options)
    rows = {"train": np.arange(len(volumes))}
    fit_transform(SimpleNamespace(study=study, rows=rows, store=Store(volumes)), made)
    return made


def test_all_components_of_a_patch_give_the_volume_back():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(PATCH**3, PATCH**3)))[0]
    x = volumes(2)
    deviation = np.full(SHAPE, 0.3)
    encoder = transform_encoder(SHAPE, PATCH, PATCH**3)
    decoder = transform_decoder((*GRID, PATCH**3), PATCH, (4, 8))
    set_transform(encoder, decoder, x.mean(0), deviation, basis)
    z = encoder(x)
    assert z.shape == (2, *GRID, PATCH**3)
    # The refinement begins as nothing.
    np.testing.assert_allclose(array(decoder(z)), x, atol=1e-4)
    assert encoder.trainable_weights == []
    assert len(decoder.trainable_weights) == len(decoder.get_layer("refine").trainable_weights)


def test_principal_patches_are_those_of_an_eigenvalue_problem():
    patches = np.random.default_rng(0).normal(size=(200, 6)) * [1, 5, 2, 4, 0.5, 3]
    found = principal_patches(iter([patches[:90], patches[90:]]), 3)
    axes = np.linalg.svd(patches, full_matrices=False)[2][:3]
    np.testing.assert_allclose(np.abs(found @ axes.T), np.eye(3), atol=1e-4)


def test_the_fit_meets_the_bits_and_more_bits_are_nearer():
    x = volumes()
    errors = []
    for bits in (200, 800):
        made = fitted(x, bits)
        codes = made.encode(x)
        assert made.bottleneck.code_bits(codes).mean() == pytest.approx(bits, rel=0.05)
        assert made.bits_per_sample(SHAPE) == pytest.approx(bits, rel=0.05)
        errors.append(np.mean((made.decode(codes) - x) ** 2))
    mean = np.mean((x - x.mean(0)) ** 2)
    assert errors[1] < errors[0] < mean


def test_windows_train_the_refinement_alone_and_whole_volumes_are_decoded(tmp_path):
    x = volumes()
    made = fitted(x)
    # A transform that is off by so much: what there is to learn is known.
    template = made.decoder.get_layer("linear").get_layer("template")
    template.set(array(template.mean) + 0.3, array(template.deviation))
    before = [array(weight).copy() for weight in made.weights]
    made.compile(keras.optimizers.Adam(1e-2))
    first = made.evaluate(x, batch_size=2, verbose=0, return_dict=True)["loss"]
    made.fit(x, epochs=8, batch_size=2, verbose=0)
    assert made.evaluate(x, batch_size=2, verbose=0, return_dict=True)["loss"] < 0.6 * first
    trained = {id(weight) for weight in made.decoder.get_layer("refine").weights}
    for weight, old in zip(made.weights, before, strict=True):
        if id(weight) not in trained:
            np.testing.assert_array_equal(array(weight), old)
    made.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.reconstruct(x), made.reconstruct(x), atol=1e-5)
    assert again.get_config()["windows"] == 2
    outputs = made(ops.convert_to_tensor(x[:2]), training=True)
    assert outputs["reconstruction"].shape == outputs["target"].shape == (4, 8, 8, 8, 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        transform_decoder((*GRID, 4), PATCH, (4, 4, 4, 4))
    with pytest.raises(ValueError, match="continuous_weight"):
        model(continuous_weight=0.5)
