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
    rate = optimizer.learning_rate(dataclasses.replace(CONFIG, lr_schedule=shape, **changes), steps)
    return np.asarray(rate(np.arange(steps + 1)))


@pytest.mark.parametrize("shape", ["cosine", "wsd", "constant"])
def test_warmup_is_linear_from_zero(shape):
    """Catches: a warm-up that starts at the peak, or is off by a step."""
    np.testing.assert_allclose(rates(shape)[:11], np.arange(11) / 10, rtol=1e-6)


def test_cosine():
    """Catches: a cosine over all steps rather than those after the warm-up; an end other than end_lr."""
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(91) / 90)) / 2
    np.testing.assert_allclose(rates("cosine")[10:], expected, rtol=1e-5)


def test_wsd_is_stable_then_linear():
    """Catches: a decay that starts too soon or ends above end_lr."""
    rate = rates("wsd")
    np.testing.assert_allclose(rate[10:81], 1.0)
    np.testing.assert_allclose(rate[80:], np.linspace(1.0, 0.1, 21), rtol=1e-5)


def test_constant_stays():
    assert np.all(rates("constant")[10:] == 1.0)


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
def test_without_warmup(shape):
    """Catches: boundaries that are shifted when there is no warm-up piece."""
    rate = rates(shape, warmup_steps=0)
    assert rate[0] == 1.0 and rate[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("shape, warmup", [("wsd", 90), ("cosine", 100), ("constant", 101)])
def test_too_long_a_warmup_is_refused(shape, warmup):
    """Catches: a schedule that silently never reaches its decay."""
    with pytest.raises(ValueError, match="do not fit into a run of 100 steps"):
        rates(shape, warmup_steps=warmup)


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
