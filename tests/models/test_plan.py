"""Plans: principal components against NumPy, contexts by hand, and priors that draw by them."""

import keras
import numpy as np
import pytest

from brainvq.errors import UserError
from brainvq.models import GaussianPlan, PixelCNN
from brainvq.models.plan import coarse, stack_of

RNG = np.random.default_rng(0)
SHAPE = (5, 4, 6)


def make_plan(rank=3, people=12, **options):
    plan = GaussianPlan(SHAPE, rank, **options)
    stacks = RNG.random((people, *SHAPE)).astype("float32")
    plan.fit(stacks)
    return plan, stacks


def make_prior(form="gated", grid=(4, 6), shape=(8, 6, 2), **options):
    keras.utils.set_random_seed(1)
    return PixelCNN(
        grid,
        7,
        filters=8,
        num_blocks=2,
        first_kernel_size=5,
        gated=form == "gated",
        plan_shape=shape,
        **options,
    )


def test_components_are_those_of_numpy():
    plan, stacks = make_plan()
    flat = stacks.reshape(12, -1).astype("float64")
    _, values, components = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    ours = keras.ops.convert_to_numpy(plan.components)
    np.testing.assert_allclose(np.abs(ours @ components[:3].T), np.eye(3), atol=1e-5)
    deviations = keras.ops.convert_to_numpy(plan.deviations)
    np.testing.assert_allclose(deviations, values[:3] / np.sqrt(11), rtol=1e-5)
    projected = (flat - flat.mean(0)) @ components[:3].T @ components[:3] + flat.mean(0)
    restored = keras.ops.convert_to_numpy(plan(plan.project(stacks)))
    np.testing.assert_allclose(restored.reshape(12, -1), projected, atol=1e-5)


def test_draws_have_the_spread_of_the_people_and_bits_are_the_divergence():
    plan, _ = make_plan(noise=0.2)
    drawn = plan.draw(20_000, seed=1)
    deviations = keras.ops.convert_to_numpy(plan.deviations)
    np.testing.assert_allclose(drawn.std(axis=0), deviations, rtol=0.03)
    np.testing.assert_array_equal(plan.draw(2, seed=1, temperature=0), np.zeros((2, 3)))
    # KL(N(c, .04 s^2) || N(0, s^2)) of c = s, thrice, by hand.
    wanted = 3 * 0.5 * (1 + 0.04 - 1 - np.log(0.04)) / np.log(2)
    np.testing.assert_allclose(plan.bits(deviations[None]), [wanted], rtol=1e-6)
    blurred = plan.blurred(np.zeros((20_000, 3), "float32"), seed=2)
    np.testing.assert_allclose(blurred.std(axis=0), 0.2 * deviations, rtol=0.03)


def test_a_context_is_the_slice_its_neighbours_and_the_height():
    plan, stacks = make_plan(rank=11, reach=0.25)  # all that 12 stacks hold
    context = plan.context(plan.project(stacks[:3]), np.array([0.5, 0.0, 0.875]))
    assert context.shape == (3, *plan.context_shape)
    np.testing.assert_allclose(context[0, ..., :3], np.moveaxis(stacks[0, 1:4], 0, -1), atol=1e-4)
    np.testing.assert_allclose(context[1, ..., 0], stacks[1, 0], atol=1e-4)  # none below
    between = (stacks[2, 3] + stacks[2, 4]) / 2
    np.testing.assert_allclose(context[2, ..., 1], between, atol=1e-4)
    np.testing.assert_array_equal(context[:, 0, 0, 3], np.float32([0.5, 0, 0.875]))


def test_a_stack_averages_cells_and_interpolates_heights():
    slices = np.arange(2 * 4 * 4, dtype="float32").reshape(2, 4, 4)
    np.testing.assert_allclose(coarse(slices, (2, 2))[0], [[2.5, 4.5], [10.5, 12.5]])
    stack = stack_of(slices, np.array([0.0, 1.0]), (3, 2, 2))
    np.testing.assert_allclose(stack[1], coarse(slices, (2, 2)).mean(axis=0))
    np.testing.assert_allclose(stack[[0, 2]], coarse(slices, (2, 2)))


@pytest.mark.parametrize("form", ["gated", "plain"])
@pytest.mark.parametrize("labels", [None, 3])
def test_cached_draws_by_a_plan_equal_naive_ones(form, labels):
    prior = make_prior(form, num_classes=labels)
    plan = 5 * RNG.normal(size=(5, 8, 6, 2)).astype("float32")
    classes = None if labels is None else RNG.integers(0, labels, 5)
    options = {"plan": plan, "labels": classes, "seed": 3, "batch_size": 4}
    cached = prior.sample(5, **options)
    np.testing.assert_array_equal(cached, prior.sample(5, method="naive", **options))
    assert (cached != prior.sample(5, **{**options, "plan": plan[::-1]})).any()


def test_cached_draws_by_a_plan_equal_naive_ones_in_one_and_three_dimensions():
    for grid, shape in (((6,), (12, 1)), ((2, 3, 2), (2, 6, 4, 1))):
        prior = make_prior(grid=grid, shape=shape)
        plan = RNG.normal(size=(2, *shape)).astype("float32")
        cached = prior.sample(2, plan=plan, seed=0)
        np.testing.assert_array_equal(cached, prior.sample(2, plan=plan, seed=0, method="naive"))


def test_every_code_sees_all_of_the_plan_near_it_and_no_later_code():
    prior = make_prior()
    codes = RNG.integers(0, 7, (1, 4, 6))
    plan = RNG.normal(size=(1, 8, 6, 2)).astype("float32")
    before = prior.code_log_prob(codes, plan=plan)
    changed = plan.copy()
    changed[0, -1, -1] += 1  # belongs to the last code, and reaches earlier ones
    assert (prior.code_log_prob(codes, plan=changed)[0, 2, 4] != before[0, 2, 4]).all()
    other = codes.copy()
    other[0, -1, -1] = (codes[0, -1, -1] + 1) % 7
    after = prior.code_log_prob(other, plan=plan)
    np.testing.assert_allclose(after.ravel()[:-1], before.ravel()[:-1], rtol=1e-5)


def test_a_prior_learns_from_its_plan_and_keeps_it_in_its_file(tmp_path):
    plan, stacks = make_plan()
    keras.utils.set_random_seed(0)
    prior = PixelCNN((4, 6), 4, filters=8, num_blocks=1, first_kernel_size=3, plan=plan)
    contexts = plan.context(plan.draw(96, seed=0), RNG.random(96))
    codes = RNG.integers(0, 2, (96, 4, 6))
    contexts[..., 1] = 2 * codes - 1
    prior.compile(keras.optimizers.Adam(0.004))
    inputs = {"codes": codes, "plan": contexts}
    bits = prior.fit(inputs, epochs=12, batch_size=8, verbose=0).history["bits_per_code"]
    assert min(bits) < 0.6 < 1 < bits[0]
    prior.save(tmp_path / "prior.keras")
    loaded = keras.saving.load_model(tmp_path / "prior.keras")
    np.testing.assert_allclose(loaded.plan.project(stacks), plan.project(stacks), rtol=1e-5)
    given = {"plan": contexts[:2], "seed": 0}
    np.testing.assert_array_equal(loaded.sample(2, **given), prior.sample(2, **given))


def test_coherent_draws_are_alike_and_none_of_them_is_special():
    prior = make_prior()
    plan = np.zeros((64, 8, 6, 2), "float32")
    alone = prior.sample(64, plan=plan, seed=0)
    near = prior.sample(64, plan=plan, seed=0, coherence=0.98, batch_size=16)

    def same(codes):
        return (codes[1:] == codes[:-1]).mean()

    assert same(near) > same(alone) + 0.3
    np.testing.assert_array_equal(
        near, prior.sample(64, plan=plan, seed=0, coherence=0.98, batch_size=64)
    )
    # Each alone is a draw as any other: the same shares of codes over many chains.
    counts = [
        np.bincount(codes.ravel(), minlength=7) / codes.size
        for codes in (
            prior.sample(400, plan=np.zeros((400, 8, 6, 2)), seed=1),
            prior.sample(400, plan=np.zeros((400, 8, 6, 2)), seed=2, coherence=0.5),
        )
    ]
    np.testing.assert_allclose(counts[0], counts[1], atol=0.02)


@pytest.mark.parametrize("coherence", [0.0, 0.6])
def test_coherent_noise_is_gumbel_noise(coherence):
    prior = make_prior()
    noise, _ = prior._coherent(np.random.default_rng(0), 400, coherence, None)
    # Mean, deviation and a tail of the Gumbel distribution, by hand.
    np.testing.assert_allclose(noise.mean(), 0.5772, atol=0.03)
    np.testing.assert_allclose(noise.std(), np.pi / np.sqrt(6), rtol=0.02)
    np.testing.assert_allclose((noise > 4).mean(), 1 - np.exp(-np.exp(-4)), rtol=0.1)
    next_to = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    assert next_to == pytest.approx(0, abs=0.02) if coherence == 0 else 0.2 < next_to < 0.6


def test_what_does_not_fit_is_refused():
    prior = make_prior()
    codes = np.zeros((2, 4, 6), "int32")
    with pytest.raises(UserError, match="plan: found none"):
        prior.sample(2)
    with pytest.raises(UserError, match=r"plan: found shape \(2, 8, 6\)"):
        prior.code_log_prob(codes, plan=np.zeros((2, 8, 6)))
    with pytest.raises(ValueError, match="needs a plan"):
        prior(codes)
    with pytest.raises(UserError, match="coherence: found 2"):
        prior.sample(2, plan=np.zeros((2, 8, 6, 2)), coherence=2)
    with pytest.raises(ValueError, match="multiples of the grid"):
        make_prior(shape=(9, 6, 2))
    with pytest.raises(ValueError, match="more than rank=3"):
        GaussianPlan(SHAPE, 3).fit(np.zeros((3, *SHAPE)))
    with pytest.raises(UserError, match="plan: found some"):
        PixelCNN((4, 6), 7, filters=4, num_blocks=1).sample(2, plan=np.zeros((2, 8, 6, 2)))
