"""Blocks by a score that is known before training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lfr_jax.schedule.arrays.estimate import one_of
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_column import Prefer, standard_scores
from lfr_jax.schedule.by_domain import rounded
from lfr_jax.schedule.by_phase import check_phase
from lfr_jax.schedule.checks import DROP, KEEP, NOT_NEGATIVE, real_number, seed_number
from lfr_jax.schedule.phases import equal_rounds, num_chosen, num_kept
from lfr_jax.schedule.randomness import Purpose, jax_key
from lfr_jax.schedule.types import Schedule
from lfr_jax.schedule.unscored import ignore_losses

LOWEST = -60.0  # exponent of the lowest rate, so that a block that is drawn never has the rate 0


class RankedState(NamedTuple):
    """State of a policy by a column."""

    score: jax.Array  # f32[N]: the column, in standard deviations; the higher, the better
    rate: jax.Array  # f32[N]: the rates of this round


def ranked(
    *,
    column: str = "quality",
    minus: str = "",
    prefer: Prefer = "high",
    rounds: int = 1,
    round_steps: int = 1000,
    keep: float = 0.5,
    skip: float = 0.0,
    temperature: float = 0.0,
    tilt: float = 0.0,
    seed: int = 0,
) -> Schedule:
    r"""Draws the blocks whose score is the best, by any column that is known before training.

    Let z be the column in standard deviations from its mean, turned round if low numbers are better. The rates are

    $$ r_i = [\, S \le \text{rank}_i < S + K \,]\; e^{\text{tilt} \cdot z_i},
       \quad S = \lfloor \text{skip} \cdot N \rfloor,\ K = \lceil \text{keep} \cdot N \rceil $$

    Ranks count from 0, the best. The window ends with the last block. With a temperature τ, ranks are those of
    $z_i + \tau g_i$, where $g_i$ are independent standard Gumbel numbers, drawn anew in each round. So without
    `skip`, K blocks are chosen one after another, without replacement, with chances in proportion to $e^{z_i / \tau}$.

    These published rules are settings of it; the columns are made by the authors' own tools:

    - PreSelect: `keep=0.1`, of the score of a classifier of words.
    - CoLoR-Filter: `column="prior", minus="conditional"`. These are the losses of a model, and of the same
      one after training on text of the target. The authors keep a share of 1/τ, their setting.
    - QuRating: `temperature=2.0`. The authors' code divides normalised scores by it and adds Gumbel numbers too.
    - INGENIOUS: `temperature`, and `rounds`, as it chooses a subset anew. Its score is the gain of a block in a
      greedy facility location. Its chances are $1 + x + x^2/2$ in place of $e^x$, within parts of the data.

    A window in the middle, such as `column="ref_loss", prefer="low", skip=0.25, keep=0.5`, leaves out both what a
    reference model finds easy and what may be noise.

    Args:
      column: name of the array of `BlockInfo` that has the scores. A block without a number counts as the worst.
      minus: name of another one, which is subtracted from it; "": none.
      prefer: whether "high" numbers are better, or "low" ones.
      rounds: how often blocks are chosen. It matters with a temperature only.
      round_steps: length of a round in steps.
      keep: share of the blocks that a round draws. The default is ours.
      skip: share of the blocks, the best, that is left out.
      temperature: in standard deviations; 0 takes the best blocks exactly.
      tilt: how much more often better blocks are drawn: e^tilt times for each standard deviation; 0 draws all of
        them equally often. Ours.
      seed: decides the Gumbel numbers, together with the number of the round.

    Returns:
      The schedule; its state is a `RankedState`. It needs no losses. Its phases are 'round.1', 'round.2', ...

    Raises:
      ValueError: a number is not positive and whole, a share is out of its range, `temperature` or `tilt` is negative
        or not finite, or `prefer` has another value. From `init`: `BlockInfo` lacks the column.

    Examples:
      >>> from lfr_jax import schedule
      >>> info = schedule.BlockInfo(4, columns={"quality": [0.5, 0.75, 0.25, 1.0]})
      >>> s = schedule.ranked(keep=0.5)
      >>> s.rates(s.begin(s.init(info), 0)).tolist()
      [0.0, 1.0, 0.0, 1.0]
      >>> s = schedule.ranked(keep=0.5, skip=0.25)
      >>> s.rates(s.begin(s.init(info), 0)).tolist()
      [1.0, 1.0, 0.0, 0.0]

    References:
      Shum et al. 2025, "Predictive Data Selection: The Data That Predicts Is the Data That Teaches" (PreSelect), arXiv
      2503.00808, the share from the card of the authors' classifier.

      Brandfonbrener et al. 2024, "CoLoR-Filter: Conditional Loss Reduction Filtering for Targeted Language Model
      Pre-training", arXiv 2406.10670, and the authors' code (github.com/davidbrandfonbrener/color-filter-olmo,
      scripts/select_index_np.py).

      Wettig et al. 2024, "QuRating: Selecting High-Quality Data for Training Language Models", arXiv 2402.09739, from
      the authors' code (github.com/princeton-nlp/QuRating, data_tools/select_subset.py).

      Renduchintala et al. 2023, "INGENIOUS: Using Informative Data Subsets for Efficient Pre-Training of Language
      Models", arXiv 2305.06677, from the authors' code (github.com/Efficient-AI/ingenious, run_mlm_nsp_ingenious.py).
    """
    one_of("prefer", prefer, Prefer)
    keep, skip = real_number("keep", keep, KEEP), real_number("skip", skip, DROP)
    temperature, tilt = real_number("temperature", temperature, NOT_NEGATIVE), real_number("tilt", tilt, NOT_NEGATIVE)
    phases, seed = equal_rounds(rounds, round_steps), seed_number("seed", seed)

    def init(info):
        score_N = jnp.asarray(standard_scores(info, column, minus, prefer, "ranked"))
        return RankedState(score_N, jnp.ones_like(score_N))

    def begin(state, phase_index):
        check_phase(phases, phase_index)
        n = state.score.shape[0]
        skipped = n - num_kept(n, skip)
        ranked_N = state.score
        if temperature > 0:
            ranked_N = perturbed(ranked_N, temperature, jax_key(Purpose.RANKED, seed, phase_index))
        drawn_N = hardest(ranked_N, min(skipped + num_chosen(n, keep), n)) & ~hardest(ranked_N, skipped)
        return state._replace(rate=tilted(state.score, drawn_N, tilt))

    return Schedule(phases, init, ignore_losses, begin, lambda state: state.rate)


@jax.jit  # the same bits inside and outside a jit
def perturbed(score_N: jax.Array, temperature: float, key: jax.Array) -> jax.Array:
    """f32[N]: the scores, plus the temperature times Gumbel numbers."""
    like = jax.typeof(score_N)
    return score_N + temperature * jax.random.gumbel(key, like.shape, like.dtype, out_sharding=like.sharding)


@jax.jit
def tilted(score_N: jax.Array, drawn_N: jax.Array, tilt: float) -> jax.Array:
    """f32[N]: rates that grow with the score, for the blocks that are drawn; the largest is about 1."""
    best = jnp.max(score_N, where=drawn_N, initial=-jnp.inf)
    return jnp.where(drawn_N, rounded(jnp.exp(jnp.maximum(tilt * (score_N - best), LOWEST))), 0.0)
