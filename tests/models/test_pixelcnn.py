import functools
import inspect
import itertools
import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from brainvq.backend import compile_function
from brainvq.errors import UserError
from brainvq.models import pixelcnn_sampler
from brainvq.models.pixelcnn import PixelCNN

# Keras hands its variables to NumPy 2 in a way that NumPy deprecates; it is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GRIDS = {1: (5,), 2: (3, 4), 3: (2, 3, 2)}
KINDS = list(itertools.product([True, False], [2, 3], [None, 3]))


@functools.cache
def make(grid=(3, 4), num_codes=5, seed=0, **options):
    """A small prior whose weights are all random, biases included, so that every term counts.

    Tests share it, and what it has compiled: they must leave its weights alone.
    """
    options = {"filters": 6, "num_blocks": 2, "first_kernel_size": 5, **options}
    prior = PixelCNN(grid, num_codes, **options)
    rng = np.random.default_rng(seed)
    for variable in prior.trainable_variables:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return prior


def draw_codes(prior, n, seed=0):
    shape = (n, *prior.grid_shape)
    return np.random.default_rng(seed).integers(0, prior.num_codes, shape, dtype="int32")


def every_grid(prior):
    positions = math.prod(prior.grid_shape)
    grids = list(itertools.product(range(prior.num_codes), repeat=positions))
    return np.array(grids, "int32").reshape(-1, *prior.grid_shape)


def labels_of(prior, n):
    return None if prior.num_classes is None else np.arange(n) % prior.num_classes


def numpy_of(x):
    return ops.convert_to_numpy(x)


# The network


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((3, 4), {"gated": True}),
        ((3, 4), {"gated": True, "embedding_dim": 0, "position_embedding": False}),
        ((2, 3, 2), {"gated": True}),
        ((5,), {"gated": True}),
        ((3, 4), {"attention_every": 1}),
        ((3, 3), {"gated": False}),
        ((2, 3, 2), {"gated": False, "embedding_dim": 3, "position_embedding": True}),
    ],
)
def test_logits_depend_on_earlier_codes_only_and_on_all_of_them(grid, options):
    prior = make(grid, **options)
    size = math.prod(grid)
    codes = draw_codes(prior, 1)
    changed = np.repeat(codes, size, axis=0)
    changed.reshape(size, size)[np.diag_indices(size)] += 1
    changed %= prior.num_codes
    # One batch size for both: rounding may depend on it.
    before = numpy_of(prior(np.repeat(codes, size, axis=0))).reshape(size, size, -1)
    after = numpy_of(prior(changed)).reshape(size, size, -1)
    influence = np.abs(after - before).max(-1) > 1e-6  # (changed code, logits)
    np.testing.assert_array_equal(influence, np.triu(np.ones((size, size), bool), 1))


def test_gated_form_has_no_blind_spot_where_the_plain_form_has_one():
    # Three layers of reach 1: a plain chain cannot see the row above far to the right of a code.
    options = {"filters": 4, "num_blocks": 3, "first_kernel_size": 3}
    seen = {}
    for gated in (True, False):
        prior = make((4, 9), gated=gated, **options)
        codes = draw_codes(prior, 1)
        changed = codes.copy()
        changed[0, 1, 6] = (changed[0, 1, 6] + 1) % prior.num_codes
        difference = np.abs(numpy_of(prior(codes)) - numpy_of(prior(changed))).max(-1)[0]
        seen[gated] = difference[2, 3] > 1e-7
    # Two rows of reach carry the gated form three columns to the right; a plain row, one.
    assert seen == {True: True, False: False}


def test_attention_sees_what_convolutions_do_not_reach():
    # Two layers of reach 1, and a code seven rows away.
    options = {"filters": 4, "num_blocks": 2, "first_kernel_size": 3}
    seen = []
    for every in (0, 1):
        prior = make((9, 3), attention_every=every, **options)
        codes = draw_codes(prior, 1)
        changed = codes.copy()
        changed[0, 1, 1] = (changed[0, 1, 1] + 1) % prior.num_codes
        difference = np.abs(numpy_of(prior(codes)) - numpy_of(prior(changed))).max(-1)[0]
        seen.append(difference[8, 2] > 1e-7)
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("grid", "num_codes", "options"),
    [
        ((2, 2), 3, {"gated": True}),
        ((2, 2), 3, {"gated": False}),
        ((1, 2, 2), 3, {"gated": True, "num_classes": 2}),
        ((2, 2, 1), 3, {"gated": False, "num_classes": 2}),
        ((5,), 2, {"gated": True}),
    ],
)
def test_probabilities_of_all_grids_sum_to_one(grid, num_codes, options):
    prior = make(grid, num_codes, **options)
    grids = every_grid(prior)
    for label in range(prior.num_classes or 1):
        log_p = prior.log_prob(grids, None if prior.num_classes is None else label)
        assert np.exp(log_p.astype("float64")).sum() == pytest.approx(1, abs=1e-5)


def test_log_prob_against_logits_by_hand():
    prior = make(num_classes=2)
    codes, labels = draw_codes(prior, 5), np.array([0, 1, 1, 0, 1])
    logits = numpy_of(prior({"codes": codes, "labels": labels})).astype("float64")
    assert logits.shape == (5, 3, 4, 5)
    np.testing.assert_allclose(numpy_of(prior(codes, labels=labels)), logits, atol=1e-6)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    by_code = np.take_along_axis(log_p, codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(prior.code_log_prob(codes, labels, batch_size=2), by_code, atol=1e-5)
    np.testing.assert_allclose(prior.log_prob(codes, labels), by_code.sum((1, 2)), atol=1e-4)
    bits = -by_code.mean() / np.log(2)
    assert prior.bits_per_code(codes, labels) == pytest.approx(bits, abs=1e-5)


def test_log_prob_of_codes_among_those_of_another_grid():
    prior = make()
    context, codes = draw_codes(prior, 3), draw_codes(prior, 3, seed=1)
    logits = numpy_of(prior(context)).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(log_p, codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        prior.code_log_prob(codes, batch_size=2, context=context), expected, atol=1e-5
    )
    with pytest.raises(ValueError, match="context"):
        prior.code_log_prob(codes, context=context[:, :1])


def test_a_class_changes_the_distribution():
    prior = make(num_classes=2)
    codes = draw_codes(prior, 4)
    assert np.abs(prior.log_prob(codes, 0) - prior.log_prob(codes, 1)).min() > 1e-3


def test_the_paper_form_has_the_layers_of_the_study():
    prior = PixelCNN((8, 8), 16, filters=128, num_blocks=4, first_kernel_size=7, gated=False)
    first = 7 * 7 * (16 + 1) * 128 + 128  # 16 one-hot channels and the constant one
    block = (128 * 128 + 128) + (3 * 3 * 128 * 64 + 64) + (64 * 128 + 128)
    between = 128 * 128 + 128
    last = 128 * 16 + 16
    assert prior.count_params() == first + 4 * block + 3 * between + last
    assert prior.first_convolutions[0].mask_type == "A"
    assert all(block.convolution.mask_type == "B" for block in prior.blocks)


def test_logits_are_float32_under_mixed_precision():
    prior = make(dtype="mixed_bfloat16", num_classes=2)
    codes = draw_codes(prior, 2)
    logits = prior(codes, labels=np.array([0, 1]))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert keras.backend.standardize_dtype(prior.blocks[0].compute_dtype) == "bfloat16"
    assert prior.sample(2, seed=0, labels=1).shape == (2, 3, 4)


# The sampler


def traced(prior, codes, labels):
    def run(known, labels):
        choose = pixelcnn_sampler.Chooser(1.0, 1.0)
        noise = ops.zeros((*known.shape, 1))
        return pixelcnn_sampler.decode(prior, choose, noise, known, labels, trace=True)

    labels = None if labels is None else labels.astype("int32")
    results = compile_function(run, owner=prior)(codes.reshape(len(codes), -1), labels)
    return [numpy_of(part) for part in results]


@pytest.mark.parametrize(
    ("rank", "options"),
    [
        (1, {"gated": True}),
        (2, {"gated": True, "kernel_size": 5, "num_classes": 2}),
        (2, {"gated": True, "kernel_size": 1, "embedding_dim": 0, "position_embedding": False}),
        (2, {"num_classes": 2, "num_blocks": 3, "attention_every": 1}),
        (3, {"attention_every": 1, "position_embedding": False}),
        (1, {"num_blocks": 3, "attention_every": 2}),
        (3, {"gated": True, "num_classes": 2}),
        (1, {"gated": False}),
        (2, {"gated": False, "first_kernel_size": 7}),
        (2, {"gated": False, "kernel_size": 5, "embedding_dim": 4, "num_classes": 2}),
        (2, {"gated": False, "kernel_size": 1}),
        (3, {"gated": False, "position_embedding": True}),
    ],
)
def test_cached_equals_naive_layer_by_layer(rank, options):
    prior = make(GRIDS[rank], **options)
    codes = draw_codes(prior, 3)
    labels = labels_of(prior, 3)
    drawn, trace = traced(prior, codes, labels)
    np.testing.assert_array_equal(drawn, codes)
    wanted = prior.features(codes, labels)
    assert len(wanted) == prior.num_blocks + 2
    start = 0
    for layer in map(numpy_of, wanted):
        part = trace[..., start : start + layer.shape[-1]]
        # A softmax over large products, as random attention has, makes rounding larger.
        rounding = 1e-3 if options.get("attention_every") else 1e-4
        scale = max(1, np.abs(layer).max())
        np.testing.assert_allclose(part, layer, rtol=rounding, atol=0.2 * rounding * scale)
        start += layer.shape[-1]
    assert start == trace.shape[-1]


@pytest.mark.parametrize(("gated", "rank", "num_classes"), KINDS)
def test_cached_and_naive_draw_the_same_codes(gated, rank, num_classes):
    prior = make(GRIDS[rank], gated=gated, num_classes=num_classes, num_blocks=1)
    filters = {"top_k": 4, "top_p": 0.8} if (rank == 2) == gated else {}
    arguments = {"seed": 3, "labels": labels_of(prior, 4), "temperature": 1.3, **filters}
    cached = prior.sample(4, **arguments)
    naive = prior.sample(4, method="naive", **arguments)
    assert cached.dtype == np.int32
    assert cached.shape == (4, *GRIDS[rank])
    np.testing.assert_array_equal(cached, naive)
    assert len(np.unique(cached)) > 2


def test_samples_have_the_distribution_that_log_prob_says():
    prior = make((2, 2), 3)
    grids = every_grid(prior)
    p = np.exp(prior.log_prob(grids).astype("float64"))
    n = 8192
    samples = prior.sample(n, seed=0, batch_size=2048).reshape(n, -1)
    counts = np.bincount(samples @ (3 ** np.arange(3, -1, -1)), minlength=len(p))
    # Chi-squared with 80 degrees of freedom: mean 80, standard deviation 12.6.
    assert (((counts - n * p) ** 2) / (n * p)).sum() < 80 + 5 * 12.6


def test_seeds_and_batches():
    prior = make()
    first = prior.sample(5, seed=7)
    np.testing.assert_array_equal(first, prior.sample(5, seed=7))
    np.testing.assert_array_equal(first, prior.sample(5, seed=7, batch_size=2))
    np.testing.assert_array_equal(first[:3], prior.sample(3, seed=7))
    assert (first != prior.sample(5, seed=8)).any()
    assert (prior.sample(5) != prior.sample(5)).any()
    assert prior.sample(0, seed=0).shape == (0, 3, 4)


def test_temperature_zero_takes_the_most_probable_code():
    prior = make()
    codes = prior.sample(3, temperature=0)
    np.testing.assert_array_equal(codes[0], codes[1])
    np.testing.assert_array_equal(codes, numpy_of(prior(codes)).argmax(-1))
    np.testing.assert_array_equal(codes, prior.sample(3, temperature=0, method="naive"))
    np.testing.assert_array_equal(codes, prior.sample(3, top_k=1, seed=0))


@pytest.mark.parametrize("method", ["cached", "naive"])
@pytest.mark.parametrize(
    "options",
    [{"temperature": 1e-38}, {"temperature": 1e-44}, {"top_p": 1e-40}, {"temperature": 1e-30}],
    ids=str,
)
def test_the_smallest_temperature_and_share_take_the_most_probable_code(method, options):
    prior = make(seed=3)
    expected = prior.sample(3, temperature=0)
    assert expected.any()
    np.testing.assert_array_equal(prior.sample(3, seed=1, method=method, **options), expected)


def test_known_codes_are_kept_and_the_rest_follows_them():
    prior = make((2, 2), 3)
    known = np.zeros((2048, 2, 2), "int32")
    known[:, 0] = [2, 1]
    mask = np.zeros((2, 2), bool)
    mask[0] = True
    samples = prior.sample(2048, seed=0, known_codes=known, known_mask=mask, batch_size=2048)
    assert (samples[:, 0] == [2, 1]).all()
    # The third code has the conditional distribution of the network.
    logits = numpy_of(prior(known[:1]))[0, 1, 0].astype("float64")
    p = np.exp(logits) / np.exp(logits).sum()
    share = np.bincount(samples[:, 1, 0], minlength=3) / 2048
    np.testing.assert_allclose(share, p, atol=5 * 0.5 / np.sqrt(2048))


def test_the_compiled_sampler_sees_new_weights():
    prior = make(seed=1)
    before = prior.sample(2, temperature=0), prior.log_prob(draw_codes(prior, 2))
    other = make()
    prior.set_weights(other.get_weights())
    np.testing.assert_array_equal(prior.sample(2, temperature=0), other.sample(2, temperature=0))
    assert (prior.sample(2, temperature=0) != before[0]).any()
    assert (prior.log_prob(draw_codes(prior, 2)) != before[1]).all()


def allowed(logits, temperature, top_k, top_p):
    """The codes that the filters leave, in plain NumPy."""
    logits = logits.astype("float64") / temperature
    order = np.argsort(-logits)[: top_k or len(logits)]
    p = np.exp(logits[order] - logits[order].max())
    p /= p.sum()
    if top_p is not None:
        order = order[: np.searchsorted(np.cumsum(p), top_p) + 1]
    return set(order.tolist())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000),
    st.floats(0.3, 3),
    st.one_of(st.none(), st.integers(1, 8)),
    st.one_of(st.none(), st.floats(0.05, 0.99)),
)
def test_filters_allow_what_they_should(seed, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).normal(0, 2, (3, 8)).astype("float32")
    top_p = None if top_p is None else np.float32(top_p)
    choose = pixelcnn_sampler.Chooser(temperature, top_p, top_k, nucleus=top_p is not None)
    filtered = numpy_of(choose.filtered(ops.convert_to_tensor(logits)))
    for row, values in zip(logits, filtered, strict=True):
        possible = set(np.flatnonzero(np.isfinite(values)).tolist())
        assert possible == allowed(row, temperature, top_k, top_p)


def test_samples_stay_within_the_filters():
    prior = make((2, 3), 6)
    samples = prior.sample(16, seed=0, temperature=1.5, top_k=4, top_p=0.7)
    logits = numpy_of(prior(samples)).reshape(-1, 6)
    for row, code in zip(logits, samples.reshape(-1), strict=True):
        # A hair of slack for the border of the nucleus, where rounding decides.
        assert code in allowed(row, 1.5, 4, 0.7 + 1e-5)


# Training


def striped(n=64, grid=(4, 4), seed=0):
    """Grids whose rows repeat: one free code for each row, four codes."""
    first = np.random.default_rng(seed).integers(0, 4, (n, grid[0], 1))
    return np.broadcast_to(first, (n, *grid)).astype("int32")


@functools.cache
def untrained(num_classes=None):
    return small(num_classes=num_classes)


def small(**options):
    keras.utils.set_random_seed(0)
    options = {"filters": 8, "num_blocks": 1, "first_kernel_size": 3, **options}
    return PixelCNN((4, 4), 4, **options)


@pytest.mark.parametrize("gated", [True, False])
def test_plain_fit_learns_and_logs_bits(gated):
    codes = striped()
    prior = small(gated=gated)
    prior.compile(keras.optimizers.Adam(0.02))
    history = prior.fit(codes, epochs=8, batch_size=8, validation_data=striped(seed=1), verbose=0)
    assert set(history.history) == {"loss", "bits_per_code", "val_loss", "val_bits_per_code"}
    nats = np.array(history.history["val_loss"])
    np.testing.assert_allclose(history.history["val_bits_per_code"], nats / np.log(2), rtol=1e-4)
    # Knowing nothing costs 2 bits, the truth 0.5 bits: one free code of 2 bits in four.
    assert prior.bits_per_code(striped(seed=1)) < 1.2
    np.testing.assert_allclose(
        prior.bits_per_code(striped(seed=1)), history.history["val_bits_per_code"][-1], rtol=1e-4
    )


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_fit_on_labels_and_datasets():
    codes, labels = striped(8), np.arange(8) % 2
    data = {"codes": codes, "labels": labels}
    prior = small(num_classes=2, dropout=0.1)
    prior.compile()
    losses = [prior.fit(data, verbose=0), prior.fit(Batches([(data,)]), shuffle=False, verbose=0)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
        losses.append(prior.fit(dataset, shuffle=False, verbose=0))
    assert all(np.isfinite(history.history["loss"]).all() for history in losses)
    prior = small()
    prior.compile()
    assert prior.fit(Batches([codes, codes]), shuffle=False, verbose=0).history["loss"][0] > 0


def test_sample_weights_and_label_smoothing():
    codes = striped(4)
    prior = small(label_smoothing=0.25)
    logits = prior(codes)
    nats = -prior.code_log_prob(codes)
    weight = np.zeros((4, 4, 4), "float32")
    weight[:, :2] = 1
    loss = prior.compute_loss(codes, None, logits, weight, training=False)
    assert numpy_of(loss) == pytest.approx(nats[:, :2].mean(), rel=1e-5)
    loss = prior.compute_loss(codes, None, logits, np.array([1, 0, 0, 3.0]), training=False)
    assert numpy_of(loss) == pytest.approx((nats[0].mean() + 3 * nats[3].mean()) / 4, rel=1e-5)
    log_p = numpy_of(ops.log_softmax(logits))
    loss = prior.compute_loss(codes, None, logits, None, training=True)
    assert numpy_of(loss) == pytest.approx(0.75 * nats.mean() - 0.25 * log_p.mean(), rel=1e-5)


# Saving and configuration


@pytest.mark.parametrize(
    "options",
    [
        {"gated": True, "num_classes": 3, "dropout": 0.2, "label_smoothing": 0.1},
        {"gated": False, "embedding_dim": 4, "position_embedding": True, "kernel_size": 5},
        {"attention_every": 1},
    ],
)
def test_config_and_files(options, tmp_path):
    prior = small(**options)
    prior.compile(keras.optimizers.Adam(1e-3))
    codes = striped(6)
    labels = labels_of(prior, 6)
    prior.fit(codes if labels is None else {"codes": codes, "labels": labels}, verbose=0)
    config = prior.get_config()
    for name in inspect.signature(PixelCNN.__init__).parameters:
        if name not in ("self", "kwargs"):
            assert name in config
            assert hasattr(prior, name)
    rebuilt = PixelCNN.from_config(json.loads(json.dumps(config)))
    assert rebuilt.get_config() == config
    wanted = prior.log_prob(codes, labels)
    prior.save(tmp_path / "prior.keras")
    loaded = keras.saving.load_model(tmp_path / "prior.keras")
    np.testing.assert_array_equal(loaded.log_prob(codes, labels), wanted)
    assert float(loaded.optimizer.iterations) == float(prior.optimizer.iterations) > 0
    prior.save_weights(tmp_path / "prior.weights.h5")
    rebuilt.load_weights(tmp_path / "prior.weights.h5")
    np.testing.assert_array_equal(rebuilt.log_prob(codes, labels), wanted)


@pytest.mark.parametrize(
    "name", ["GatedBlock", "PlainBlock", "ContextProjection", "CausalAttention"]
)
def test_parts_rebuild_from_their_config(name):
    every = int(name == "CausalAttention")
    prior = small(gated=name != "PlainBlock", num_classes=2, num_blocks=2, attention_every=every)
    part = {
        "ContextProjection": prior.first_contexts[0],
        "CausalAttention": prior.attentions[-1],
    }.get(name, prior.blocks[0])
    config = part.get_config()
    parameters = set(inspect.signature(type(part).__init__).parameters) - {"self", "kwargs"}
    assert parameters <= set(config)
    assert type(part).from_config(json.loads(json.dumps(config))).get_config() == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid_shape": (2, 2, 2, 2)}, "grid_shape="),
        ({"grid_shape": (0, 2)}, "grid_shape="),
        ({"num_codes": 0}, "num_codes=0"),
        ({"filters": 1.5}, "filters=1.5"),
        ({"kernel_size": 4}, "kernel_size=4"),
        ({"first_kernel_size": 1}, "first_kernel_size=1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"embedding_dim": -1}, "embedding_dim=-1"),
        ({"attention_every": 1, "gated": False}, "attention_every=1"),
    ],
)
def test_bad_constructor_arguments(options, message):
    with pytest.raises(ValueError, match=f"Received: {message}"):
        PixelCNN(**{"grid_shape": (2, 2), "num_codes": 3, **options})


def test_a_loss_of_the_users_own_is_refused():
    prior = small()
    prior.compile(loss="mse")
    with pytest.raises(ValueError, match="Received: loss=mse"):
        prior.fit(striped(4), verbose=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.log_prob(np.zeros((2, 3, 3), int)), r"codes: .*\(2, 3, 3\), want .*4, 4"),
        (lambda p: p.log_prob(np.zeros((2, 4, 4))), "codes: found float64"),
        (lambda p: p.log_prob(np.full((2, 4, 4), 4)), r"codes: found values in \[4, 4\]"),
        (lambda p: p.log_prob(np.zeros((2, 4, 4), int), 1), "labels: given"),
        (lambda p: p.sample(-1), "n: found -1"),
        (lambda p: p.sample(1, temperature=-1), "temperature: found -1"),
        (lambda p: p.sample(1, top_k=0), "top_k: found 0"),
        (lambda p: p.sample(1, top_p=1.5), "top_p: found 1.5"),
        (lambda p: p.sample(1, method="slow"), "method: found 'slow'"),
        (lambda p: p.sample(1, known_mask=np.zeros((4, 4), bool)), "known_codes, known_mask"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call(untrained())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [None, 2, -1, [0, 1, 1], [0.5]])
def test_bad_labels(labels):
    prior = untrained(num_classes=2)
    with pytest.raises(UserError, match="labels: "):
        prior.sample(2, labels=labels)
    with pytest.raises(ValueError, match="needs labels"):
        prior(striped(2))


@pytest.mark.parametrize("per_code", [False, True])
def test_the_loss_is_the_mean_by_weights_over_all_batches(per_code):
    model = PixelCNN((3, 2), 4, filters=4, num_blocks=1)
    model.compile(keras.optimizers.SGD(0.0))
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (7, 3, 2)).astype("int32")
    weight = rng.random(codes.shape if per_code else 7).astype("float32")
    weight[1], weight[2] = 0.0, 7.0
    by_code = -model.code_log_prob(codes).astype("float64")
    shape = by_code.shape if per_code else (7, 1, 1)
    wanted = np.average(by_code, weights=np.broadcast_to(weight.reshape(shape), by_code.shape))
    options = {"sample_weight": weight, "batch_size": 3, "verbose": 0}
    history = model.fit(codes, validation_data=(codes, None, weight), **options).history
    evaluated = dict(zip(("loss", "bits_per_code"), model.evaluate(codes, **options), strict=True))
    whole = model.test_on_batch(codes, sample_weight=weight, return_dict=True)
    step = model.train_on_batch(codes, None, weight, return_dict=True)
    val = {name[4:]: values[0] for name, values in history.items() if name.startswith("val_")}
    fit = {name: history[name][0] for name in val}
    for logs in (fit, val, evaluated, whole, step):
        assert set(logs) == {"loss", "bits_per_code"}
        np.testing.assert_allclose(logs["loss"], wanted, rtol=1e-5)
        np.testing.assert_allclose(logs["bits_per_code"], wanted / np.log(2), rtol=1e-5)
    nothing = model.test_on_batch(codes, sample_weight=0 * weight, return_dict=True)
    assert nothing["loss"] == 0


@pytest.mark.parametrize("bad", [-1, 4])
def test_fit_refuses_codes_out_of_range(bad):
    model = PixelCNN((3, 2), 4, filters=4, num_blocks=1, num_classes=2)
    model.compile("sgd")
    codes, labels = np.zeros((2, 3, 2), "int32"), np.zeros(2, "int32")
    spoilt = codes.copy()
    spoilt[1, 2, 1] = bad
    for data in ({"codes": spoilt, "labels": labels}, {"codes": codes, "labels": labels + bad}):
        for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
            with pytest.raises(UserError, match=r"want integers in \[0, [24]\)") as caught:
                call(data)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [8.5, np.nan, np.inf, True, "8"])
def test_arguments_that_are_no_numbers_are_refused(value):
    for name in ("filters", "num_blocks", "kernel_size", "first_kernel_size", "num_classes"):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            PixelCNN((3, 2), 4, **{name: value})
    for make in (lambda: PixelCNN((3, 2), value), lambda: PixelCNN((3, value), 4)):
        with pytest.raises(ValueError, match="must be"):
            make()
    for name in ("dropout", "label_smoothing"):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            PixelCNN((3, 2), 4, **{name: value})
