"""Four quadrants of perplexity and perplexity difference, one after another, each block once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import NOT_NEGATIVE, real_number, seed_number
from lfr_jax.schedule.phases import equal_rounds
from lfr_jax.schedule.randomness import Purpose, jax_key
from lfr_jax.schedule.types import Schedule, num_blocks, required
from lfr_jax.schedule.unscored import ignore_losses


class FrameState(NamedTuple):
    """State of FRAME."""

    part: jax.Array  # i8[N]: which part of the order each block belongs to
    current: jax.Array  # i8[]: the part that this phase draws


def frame(*, rounds: int = 16, round_steps: int = 100, width: float = 0.02, seed: int = 0) -> Schedule:
    r"""Draws hard blocks before easy ones; in each half, first those on which two models differ little.

    From the losses w and s of a weak and a strong reference model, each block has

    $$ \text{PPL} = e^s, \qquad \text{PD} = \frac{\text{PPL}_w - \text{PPL}_s}{\text{PPL}_w} = 1 - e^{s - w} $$

    Each is split at its median: ⌊N/2⌋ blocks are high (ties as in `hardest`). The quadrants follow one
    another in the order

    Q3 (low PD, high PPL), Q4 (high PD, high PPL), Q1 (low PD, low PPL), Q2 (high PD, low PPL)

    Let τ be the share of the training data that was seen. The quadrant that lasts from a to b has the share

    $$ \sigma\!\left(\frac{\tau - a}{\text{width}}\right) - \sigma\!\left(\frac{\tau - b}{\text{width}}\right) $$

    of the draws, where σ is the logistic function. To get it, each block gets the random time
    $a + (b - a) u + \text{width} \ln \frac{v}{1 - v}$, with u and v uniform in (0, 1): these times have that
    density. In the order of their times the blocks are cut into as many equal parts as
    there are rounds, each block in one part. A round draws its part at equal rates. As in the paper, each block is
    drawn once, if the steps and the batch size make a round one pass.

    Losses are mean nats per token. PPL rises with s and PD with w − s, so only s and w − s are
    compared. NaN counts as high.

    Args:
      rounds: number of parts, at most 127; ours. If there are fewer blocks, several rounds draw the same block.
      round_steps: length of a round in steps; ours.
      width: how long a transition takes, as a share of the training data; 0 makes it abrupt. Transitions
        are said to follow a sigmoid. We do not know its width; the default is ours.
      seed: of u and v.

    Returns:
      The schedule; its state is a `FrameState`. It needs no losses of this run. Its phases are 'round.1', ...

    Raises:
      ValueError: a number is not positive and whole, there are too many rounds, or `width` is negative or not
        finite. From `init`: `BlockInfo` lacks `weak_loss` or `strong_loss`.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.frame(rounds=4, width=0.0)
      >>> weak, strong = [2.5, 4.0, 9.0, 7.5], [2.0, 1.0, 6.0, 7.0]  # in Q1, Q2, Q4, Q3
      >>> state = s.init(schedule.BlockInfo(4, weak_loss=weak, strong_loss=strong))
      >>> [s.rates(s.begin(state, i)).tolist().index(1.0) for i in range(4)]
      [3, 2, 0, 1]

    References:
      Zhang et al. 2025, "FRAME: Boosting LLMs with A Four-Quadrant Multi-Stage Pretraining Strategy", arXiv
      2502.05551. We have read its abstract, and notes of others on the rest: the quotient of PD, the medians and the
      sigmoid are from these. We take PPL as the strong model's.
    """
    phases = equal_rounds(rounds, round_steps, most=127)
    width, seed = real_number("width", width, NOT_NEGATIVE), seed_number("seed", seed)

    def init(info):
        n = num_blocks(info)
        weak_N, strong_N = (
            jnp.asarray(required(info, name, "frame"), jnp.float32) for name in ("weak_loss", "strong_loss")
        )
        keys = [jax_key(Purpose.FRAME, seed, number) for number in range(2)]
        return FrameState(parts(times(weak_N, strong_N, keys, width), min(n, len(phases))), jnp.int8(0))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        num_parts = min(state.part.shape[0], len(phases))
        return state._replace(current=jnp.asarray(phase_index * num_parts // len(phases), jnp.int8))

    return Schedule(phases, init, ignore_losses, begin, lambda state: (state.part == state.current).astype(jnp.float32))


@jax.jit
def times(weak_N: jax.Array, strong_N: jax.Array, keys: list[jax.Array], width: float) -> jax.Array:
    """f32[N]: the time of each block, about 0 to 1."""
    n = strong_N.shape[0]
    high_ppl_N, high_pd_N = hardest(strong_N, n // 2), hardest(weak_N - strong_N, n // 2)
    quadrant_N = jnp.where(high_ppl_N, 0, 2) + high_pd_N  # Q3, Q4, Q1, Q2
    time_N, start = jnp.zeros(n, jnp.float32), jnp.float32(0)
    sharding = jax.typeof(strong_N).sharding
    u_N, v_N = (jax.random.uniform(key, (n,), jnp.float32, minval=2**-24, out_sharding=sharding) for key in keys)
    for quadrant in range(4):
        size = jnp.sum(quadrant_N == quadrant, dtype=jnp.int32) / np.float32(n)
        time_N = jnp.where(quadrant_N == quadrant, start + size * u_N, time_N)
        start += size
    return time_N + width * jnp.log(v_N / (1 - v_N))


@functools.partial(jax.jit, static_argnums=1)
def parts(time_N: jax.Array, num_parts: int) -> jax.Array:
    """i8[N]: the part of each block, in the order of time. The sizes of the parts differ by at most one."""
    n = time_N.shape[0]
    later = np.array([n - part * n // num_parts for part in range(1, num_parts)], np.uint32)  # blocks in later parts

    def count(part_N, k):
        return part_N + hardest(time_N, k).astype(jnp.int8), None

    return jax.lax.scan(count, jnp.zeros(n, jnp.int8), later)[0]
