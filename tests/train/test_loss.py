"""The loss of a batch of blocks, and its gradient, against the plain form on whole logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from lfr_jax import schedule
from lfr_jax.config import gpt2, llama
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model import decoder
from lfr_jax.train import loss

EOS = 63
LLAMA = llama(1, 32, num_heads=4, num_kv_heads=2, mlp_dim=64, vocab_size=64, max_len=24, tied_head=True, loss_chunk=7)
GPT2 = gpt2(1, 32, 4, vocab_size=64, max_len=24, loss_chunk=50, tied_head=False)
TOKENS = np.random.default_rng(0).integers(0, 64, (16, 25)).astype(np.int32)
TOKENS[0], TOKENS[1, 11:] = -1, -1
TOKENS[2] = EOS  # with document masks it has no target
KNOWN = np.random.default_rng(1).uniform(0, 3, 16).astype(np.float32)
LINUPPER = schedule.linupper(warmup=1, weighted=9)
WEIGHTED = LINUPPER.begin(LINUPPER.init(schedule.BlockInfo(16)), 1)


def by_block(losses_B):
    return jnp.asarray(KNOWN)


def by_loss(losses_B):
    return LINUPPER.loss_weights(WEIGHTED, jnp.arange(16), losses_B)


def plain(config, params, tokens_BxT1, weigh):
    """Whole logits, and weights on blocks' losses after these are known."""
    model = decoder.merge(config, params)
    targets_BxT = jax.reshard(loss.targets(config, tokens_BxT1, EOS), jax.P())
    logits = jax.reshard(jax.vmap(model.logits)(loss.hidden(model, tokens_BxT1, EOS)), jax.P())
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(targets_BxT, 0)[..., None], -1)[..., 0]
    nll_B = -jnp.sum(jnp.where(targets_BxT >= 0, picked, 0.0), -1)
    count_B = jnp.sum(targets_BxT >= 0, -1)
    weights_B = jnp.ones(16) if weigh is None else weigh(jax.lax.stop_gradient(nll_B) / count_B)
    return jnp.sum(jnp.where(count_B > 0, nll_B * weights_B, 0.0)) / 100, (nll_B, count_B)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def with_gradient(function, config, params, tokens, weigh):
    return jax.value_and_grad(lambda params: function(config, params, tokens, weigh), has_aux=True)(params)


def fused(config, params, tokens, weigh):
    def placed(losses_B):
        return jax.reshard(weigh(jax.reshard(losses_B, jax.P())), BATCH)

    total, (nll_B, count_B, _) = loss.mean_loss(config, params, tokens, EOS, 100, weigh and placed)
    return total, (nll_B, count_B)


def tokens_on(mesh):
    return jax.device_put(TOKENS, NamedSharding(mesh, BATCH))


@functools.cache
def params_of(config):
    return jax.device_get(decoder.init(config, make_mesh(1, 1, 1), jax.random.key(0))[1])


@pytest.mark.parametrize(
    "config, sizes, weigh",
    [
        (LLAMA, (1, 1, 1), None),
        (LLAMA, (1, 1, 1), by_block),
        (LLAMA, (1, 1, 1), by_loss),
        (GPT2, (2, 2, 2), by_block),
        (GPT2, (2, 2, 2), by_loss),
        (dataclasses.replace(LLAMA, mask_documents=True), (2, 2, 2), by_loss),
    ],
    ids=["none", "by block", "by loss", "by block, mesh", "by loss, mesh", "by loss, mesh, masked"],
)
def test_equals_the_plain_form(config, sizes, weigh):
    """Loss, blocks' losses and gradients, for weights that are known before, and for those that depend on the losses.

    Catches: weights applied to the hidden states' gradient and not to the head's; a block's weight on another block; a
    gradient through the weights; NaN of a block without a target; a target behind a masked-off document.
    """
    one, mesh = make_mesh(1, 1, 1), make_mesh(*sizes)
    with jax.set_mesh(one):
        params = decoder.put_on_mesh(params_of(config), config, one)
        (expected, sums), expected_grads = with_gradient(plain, config, params, tokens_on(one), weigh)
    with jax.set_mesh(mesh):
        params = decoder.put_on_mesh(params_of(config), config, mesh)
        (total, (nll_B, count_B)), grads = with_gradient(fused, config, params, tokens_on(mesh), weigh)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(nll_B, sums[0], rtol=2e-6)
    np.testing.assert_array_equal(count_B, sums[1])
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected_grads))
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6 * largest)


def test_weights_that_do_not_read_the_losses_cost_nothing():
    """Loops in the program. Catches: a second forward pass through the head for policies such as `infobatch`, whose
    weights are known before."""
    mesh = make_mesh(1, 1, 1)

    def loops(weigh):
        with jax.set_mesh(mesh):
            lowered = with_gradient.lower(fused, LLAMA, decoder.abstract(LLAMA, mesh), tokens_on(mesh), weigh)
        return lowered.as_text().count("stablehlo.while")

    assert loops(None) == loops(by_block) == loops(by_loss) - 1
