"""Weights for the losses of a batch, computed from these losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.by_phase import of_phase
from lfr_jax.schedule.checks import POSITIVE, real_number
from lfr_jax.schedule.phases import consecutive
from lfr_jax.schedule.types import BlockInfo, Schedule, num_blocks
from lfr_jax.schedule.unscored import drawn_rates, ignore_losses


class LinUpperState(NamedTuple):
    """State of `linupper`."""

    drawn: jax.Array  # bool[N]: all blocks, always
    weighted: jax.Array  # bool[]: whether this phase has weights


def linupper(*, warmup: int = 1000, weighted: int = 19000, temperature: float = 1.0) -> Schedule:
    r"""Draws all blocks equally often, but gives blocks with a low loss a smaller weight in their batch.

    Let $\ell_1, \dots, \ell_B$ be the losses of a batch. The factor on the loss of block b is

    $$ w_b = B \frac{e^{f_b / \tau}}{\sum_c e^{f_c / \tau}}, \qquad f_b = \min(1 + h_b,\ 1), \qquad
       h_b = 2\, \frac{\ell_b - \ell_{\min}}{\ell_{\max} - \ell_{\min}} - 1 $$

    So f rises linearly from the lowest loss to the middle of the range, and is constant from there:
    an outlier has the same weight as a block with a middle loss. The weights have mean 1; if
    all losses are equal, each is 1. A loss that is NaN or infinite, such as that of a row of
    padding, has weight 0 and does not change the other weights.

    The formula is that of the authors' code (strategy "linupper"; "upper" in that for their large models), where a
    batch is that of a step over all devices. A trainer that accumulates gradients computes the weights within each
    micro-batch. The trainer must multiply losses by `loss_weights`, or this is `uniform`.

    What the authors ran differs by the size of the model. Their settings for GPT-2 with 12 layers have τ = 1, and
    those with 24 and 36 layers τ = 0.4; all have 20,000 steps, the first 1,000 without weights. As they stand in the
    repository, only those with 36 layers and the mixtures of DoGE and DoReMi have the strategy "linupper". The others
    have "mid" and "extremes", which we do not offer. For models of 1.4 and 7 billion parameters, the code has τ = 100
    in the first 2,000 steps, which is almost no weights, and leaves the rest to the paper's appendix, which we have not
    read. The GPT-2 trainer also multiplies each loss by the block's share of the batch's tokens.

    Args:
      warmup: length in steps of the first phase, which has no weights: losses tell little before
        the model knows something. 1,000 of 20,000 steps, as in the authors' settings for GPT-2.
      weighted: length in steps of the phase with weights.
      temperature: τ; 1 as in the authors' settings for their smallest GPT-2.

    Returns:
      The schedule, with phases 'warmup' and 'weighted', and with `loss_weights`. Its state is a
      `LinUpperState`: bool[N], bool[]. It needs no `observe`.

    Raises:
      ValueError: a length is not a positive whole number, or `temperature` is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.linupper()
      >>> state = s.begin(s.init(schedule.BlockInfo(num_blocks=9)), 1)
      >>> losses = jnp.array([2.0, 2.5, 3.0, 4.0])  # f = 0, 0.5, 1, 1
      >>> [round(w, 2) for w in s.loss_weights(state, jnp.array([5, 2, 7, 1]), losses).tolist()]
      [0.49, 0.82, 1.34, 1.34]

    References:
      Sow et al., "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model
      Pretraining", arXiv 2502.06733, and the authors' code
      (github.com/sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025, config/methods/ and src/trainer.py; for the
      large models github.com/foundation-model-stack/fms-fsdp, branch reweighted-train).
    """
    temperature = real_number("temperature", temperature, POSITIVE)
    phases = consecutive([("warmup", warmup), ("weighted", weighted)])

    def init(info: BlockInfo) -> LinUpperState:
        return LinUpperState(jnp.ones(num_blocks(info), bool), jnp.array(False))

    def begin(state, phase_index):
        return state._replace(weighted=jnp.array(of_phase((False, True), phase_index)))

    def loss_weights(state, ids_B, losses_B):
        return jnp.where(state.weighted, weights(losses_B, temperature), 1.0)

    return Schedule(phases, init, ignore_losses, begin, drawn_rates, loss_weights)


@jax.jit  # the same bits inside and outside a jit
def weights(losses_B: jax.Array, temperature: float) -> jax.Array:
    """f32[B]: the factors; 0 where the loss is not finite."""
    finite_B = jnp.isfinite(losses_B)
    lowest = jnp.min(losses_B, where=finite_B, initial=jnp.inf)
    highest = jnp.max(losses_B, where=finite_B, initial=-jnp.inf)
    middle = lowest + (highest - lowest) / 2
    f_B = jnp.where(losses_B < middle, (losses_B - lowest) / (middle - lowest), 1.0)
    e_B = jnp.where(finite_B, jnp.exp((f_B - 1.0) / temperature), 0.0)
    return e_B * jnp.sum(finite_B) / jnp.maximum(jnp.sum(e_B), jnp.finfo(jnp.float32).tiny)
