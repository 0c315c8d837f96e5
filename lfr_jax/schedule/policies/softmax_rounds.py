"""Rounds over blocks that the softmax of the losses chooses."""

import functools

import jax

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_loss import scored
from lfr_jax.schedule.checks import KEEP, POSITIVE, real_number, seed_number
from lfr_jax.schedule.phases import in_rounds, num_chosen
from lfr_jax.schedule.randomness import Purpose, jax_key
from lfr_jax.schedule.types import Schedule


def softmax_rounds(
    *,
    first: int = 2000,
    later: int = 1000,
    rounds: int = 2,
    keep: float = 0.5,
    temperature: float = 1.0,
    scores: Scores = "train",
    unmeasured: Unmeasured = "hardest",
    seed: int = 0,
) -> Schedule:
    r"""A round over all blocks, then rounds over a random part of them, which favours high losses.

    Each later round chooses k = ⌈keep · N⌉ blocks, one after another without replacement. The next
    one is block i with probability

    $$ p_i = \frac{e^{\ell_i / \tau}}{\sum_{j\ \text{not yet chosen}} e^{\ell_j / \tau}} $$

    This is exact, although all k are chosen at once: they are the k largest of
    $\ell_i / \tau + g_i$, where $g_i$ are independent standard Gumbel numbers.

    The paper means it for small models, which forget: a block learned early may have a high loss again.

    The authors choose batches by their mean loss, and we choose blocks. In their example, 150 billion tokens are 75,000
    batches. Means of a batch differ little, so theirs is a mild choice, and ours a hard one. If the losses of blocks
    have the variance σ², half of them drawn at temperature τ have a mean that is higher by 0.69 σ²/τ nats. Half of the
    batches of B random blocks have one that is higher by 0.69 σ²/B. Both hold where the gain is small beside σ. So
    `temperature` = B chooses as hard as the authors do.

    Args:
      first, later: length of the first round and of each later one, in steps. By default each round
        is one pass over its blocks.
      rounds: how many there are, the first one included. Two, as in notes of others on the
        paper: a third round gained nothing there.
      keep: share of the blocks that a later round draws; one half, from the same notes.
      temperature: τ, in nats; ours. 1 is the authors' softmax, but of single blocks; as many as a batch has blocks is
        as hard a choice as theirs. The higher, the closer to equal chances.
      scores: as of `lfr`. The authors measure all batches under the frozen model of the epoch before: that is "pass".
        The default is ours, as it costs nothing.
      unmeasured: as of `lfr`.
      seed: decides the choices, together with the number of the phase.

    Returns:
      The schedule, with phases 'round.1', 'round.2', ... Its state is a `ScoredState`:
      `measured` (f32[N], i32[N], i32[]) and `rate` bool[N].

    Raises:
      ValueError: a length or `rounds` is not a positive whole number, `keep` is outside (0, 1],
        `temperature` is not positive, or `scores` or `unmeasured` has another value.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.softmax_rounds(keep=0.5)
      >>> state = s.init(schedule.BlockInfo(num_blocks=4))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([2.0, 60.0, 3.0, 50.0]), 9)
      >>> s.rates(s.begin(state, 1)).tolist()
      [0.0, 1.0, 0.0, 1.0]

    References:
      Tang et al., "Rethinking Optimization and Architecture for Tiny Language Models" (PanGu-π Pro), arXiv 2402.02791;
      we have not read it, but the authors' README (github.com/YuchuanTian/RethinkTinyLM, "Multiple-Round Training").

      Kool et al., "Stochastic Beams and Where to Find Them", arXiv 1903.06059 (the Gumbel-top-k trick).
    """
    keep, temperature = real_number("keep", keep, KEEP), real_number("temperature", temperature, POSITIVE)
    seed = seed_number("seed", seed)
    phases = in_rounds(rounds=rounds, first=first, later=later, score=scores in ("pass", "mixed"))
    choices = (None,) + (functools.partial(draw, keep=keep, temperature=temperature, seed=seed),) * (len(phases) - 1)
    return scored(phases, choices, scores=scores, unmeasured=unmeasured, policy="softmax_rounds")


def draw(loss_N: jax.Array, info, keep: float, temperature: float, seed: int) -> jax.Array:
    """bool[N]: the share `keep` of the blocks, chosen by the softmax of the losses."""
    key = jax_key(Purpose.SOFTMAX, seed, info["phase"])
    return hardest(perturbed(loss_N, temperature, key), num_chosen(loss_N.shape[0], keep))


@jax.jit  # the same bits inside and outside a jit
def perturbed(loss_N: jax.Array, temperature: float, key: jax.Array) -> jax.Array:
    """f32[N]: the losses divided by the temperature, plus Gumbel noise."""
    like = jax.typeof(loss_N)
    return loss_N / temperature + jax.random.gumbel(key, like.shape, like.dtype, out_sharding=like.sharding)
