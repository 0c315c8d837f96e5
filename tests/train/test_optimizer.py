"""Learning-rate shapes, clipping, and what weight decay touches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfr_jax.config import OptimizerConfig
from lfr_jax.train import optimizer

CONFIG = OptimizerConfig(peak_lr=1.0, end_lr=0.1, warmup_steps=10, decay_fraction=0.2)


def rates(shape, steps=100, **changes):
    """Of steps 1 to `steps`."""
    rate = optimizer.learning_rate(dataclasses.replace(CONFIG, lr_schedule=shape, **changes), steps)
    return np.broadcast_to(rate(np.arange(steps)), steps)


@pytest.mark.parametrize("shape", ["cosine", "wsd", "constant"])
def test_warmup_is_linear_from_zero(shape):
    """Catches: a first step at 0; a warm-up that starts at the peak, or is off by a step."""
    np.testing.assert_allclose(rates(shape)[:10], np.arange(1, 11) / 10, rtol=1e-6)


def test_cosine():
    """Catches: a cosine over all steps rather than those after the warm-up; a last step above end_lr."""
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(91) / 90)) / 2
    np.testing.assert_allclose(rates("cosine")[9:], expected, rtol=1e-5)


def test_wsd_is_stable_then_linear():
    """Catches: a decay that starts too soon or ends above end_lr."""
    rate = rates("wsd")
    np.testing.assert_allclose(rate[9:80], 1.0)
    np.testing.assert_allclose(rate[79:], np.linspace(1.0, 0.1, 21), rtol=1e-5)


def test_constant_stays():
    assert np.all(rates("constant")[9:] == 1.0)


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
@pytest.mark.parametrize(
    "steps, warmup, first",
    [(1, 0, 0.1), (2, 0, 1), (2, 1, 1), (10, 0, 1), (10, 1, 1), (10, 2, 1 / 2), (10, 8, 1 / 8), (10, 9, 1 / 9)],
)
def test_first_and_last_step(shape, steps, warmup, first):
    """The last step has end_lr, the step that ends the warm-up peak_lr, to the bit. Catches: a decay of no step."""
    rate = rates(shape, steps, warmup_steps=warmup, decay_fraction=0.1)
    assert rate[0] == pytest.approx(first) and rate[-1] == np.float32(0.1)
    assert steps == 1 or rate[max(1, warmup) - 1] == 1.0


@pytest.mark.parametrize("steps, warmup", [(1, 0), (1, 1), (2, 2), (10, 0), (10, 10)])
def test_constant_ends_at_its_peak(steps, warmup):
    """With an end_lr above it, which says nothing here."""
    assert rates("constant", steps, warmup_steps=warmup, end_lr=2.0)[-1] == 1.0


@pytest.mark.parametrize(
    "shape, steps, warmup", [("wsd", 100, 81), ("cosine", 100, 100), ("constant", 100, 101), ("wsd", 1, 1)]
)
def test_too_long_a_warmup_is_refused(shape, steps, warmup):
    """Catches: a schedule that silently never reaches its decay."""
    with pytest.raises(ValueError, match=f"do not fit into a run of {steps} steps"):
        rates(shape, steps, warmup_steps=warmup)


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
def test_a_decay_that_rises_is_refused(shape):
    """Catches: a learning rate that rises to `end_lr` without a word."""
    with pytest.raises(ValueError, match=r"optimizer\.peak_lr=1e-06 below optimizer\.end_lr=0\.1"):
        rates(shape, peak_lr=1e-6)


def test_decay_shrinks_matrices_only_and_clipping_bounds_the_gradient():
    """Catches: decay on norms or biases; a clip that is not applied."""
    params = {"layers": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}, "norm": {"scale": jnp.ones(3)}}
    config = dataclasses.replace(CONFIG, lr_schedule="constant", warmup_steps=0, weight_decay=0.5)
    tx = optimizer.make_optimizer(config, 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["layers"]["kernel"], -0.5)
    assert np.all(updates["layers"]["bias"] == 0) and np.all(updates["norm"]["scale"] == 0)

    grads = jax.tree.map(lambda x: 100 * jnp.ones_like(x), params)
    for clip_norm, expected in [(1.0, 1.0), (0.0, float(optax.tree.norm(grads)))]:
        tx = optimizer.make_optimizer(dataclasses.replace(config, clip_norm=clip_norm), 10)
        _, state = tx.update(grads, tx.init(params), params)
        first_moment = optax.tree.get(state, "mu")  # (1 − beta1) times the gradient, after one step
        assert float(optax.tree.norm(first_moment)) == pytest.approx(0.1 * expected, rel=1e-5)


def test_an_unknown_optimizer_is_refused():
    """Catches: AdamW in place of what was asked for; an error that does not say what there is."""
    with pytest.raises(ValueError, match="found optimizer.name='adamW'; did you mean 'adamw'\\? known are adamw"):
        optimizer.make_optimizer(dataclasses.replace(CONFIG, name="adamW"), 100)
