"""Learn, Focus, Review."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from lfr_jax.schedule.observe import Measured, observe, unmeasured
from lfr_jax.schedule.phases import drop_in, learn_focus_review, num_kept
from lfr_jax.schedule.select import hardest
from lfr_jax.schedule.trend import detrend
from lfr_jax.schedule.types import Schedule, num_blocks
from lfr_jax.schedule.uniform import rates

Scores = Literal["pass", "train", "detrended"]


class LFRState(NamedTuple):
    """State of `lfr`."""

    measured: Measured  # f32[N], i32[N], i32[]: each block's last loss
    drawn: jax.Array  # bool[N]: the blocks that this phase draws


def lfr(
    *,
    learn: int = 2000,
    focus: int = 1000,
    review: int = 2000,
    focus2: int = 600,
    drop: float = 0.5,
    drop2: float = 0.7,
    reps: int = 2,
    scores: Scores = "pass",
) -> Schedule:
    r"""Learn from all blocks, focus on the hard ones, review all, focus again.

    Learn once, then `reps` times the cycle Focus, Review, Focus 2. In Learn and Review every
    block is drawn at the same rate. A Focus phase draws the blocks of the highest loss alone:

    $$ r_i = [\, i \in \text{the } k \text{ hardest} \,], \quad k = N - \lfloor \text{drop} \cdot N \rfloor $$

    with `drop2` in Focus 2. Ties fall by a hash of the index (see `hardest`). A block whose
    loss was never measured counts as hardest, and is kept.

    Which loss decides:

    - `scores="pass"`: one of a scoring pass over all blocks on entry of a Focus phase, all
      under the same parameters.
    - `scores="train"`: that of the training forward pass in which the block was last drawn, as
      in the paper's first version. It costs nothing, but blocks met early look hard only
      because the model was younger.
    - `scores="detrended"`: the same, less its trend over steps (see `detrend`), in
      min(64, max(1, ⌊N/32⌋)) bins: about 32 blocks or more in each.

    Args:
      learn, focus, review, focus2: lengths of the phases in steps. The defaults stand to each
        other as published (one epoch each, an epoch of a Focus phase being one pass over the
        kept blocks); their scale is ours. See `in_epochs` and `fit`.
      drop: share of the blocks that Focus drops; published.
      drop2: share of the blocks that Focus 2 drops; published.
      reps: how often the cycle runs. What was published can be read as 2 or as 5, and as
        repeating Learn or not; we take 2, and Learn once.
      scores: "pass", "train" or "detrended". The default is ours.

    Returns:
      The schedule. Its phases are 'learn', 'focus', 'review', 'focus2'; with `reps` > 1
      'learn', 'focus.1', 'review.1', 'focus2.1', 'focus.2', ...

    Raises:
      ValueError: a length or `reps` is not a positive whole number, a share is outside
        [0, 1), or `scores` is none of the three. From `init`: the corpus has no blocks, so
        that a Focus phase would keep none; any other corpus leaves at least one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.lfr(learn=4, focus=2, review=4, focus2=1, drop=0.5, reps=1)
      >>> [(p.name, p.start, p.stop, p.score) for p in s.phases[:2]]
      [('learn', 0, 4, False), ('focus', 4, 6, True)]
      >>> state = s.init(schedule.BlockInfo(num_blocks=4))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([2.0, 5.0, 3.0, 4.0]), 4)
      >>> s.rates(s.begin(state, 1)).tolist()
      [0.0, 1.0, 0.0, 1.0]

    References:
      Prakriya et al., "Accelerating LLM Pretraining via LFR Pedagogy: Learn, Focus, and
      Review", arXiv 2409.06131, version 1.
    """
    if scores not in get_args(Scores):
        raise ValueError(f"scores is {scores!r}, expected one of {', '.join(map(repr, get_args(Scores)))}")
    phases, drops = learn_focus_review(
        learn=learn, focus=focus, review=review, focus2=focus2, drop=drop, drop2=drop2, reps=reps,
        score=scores == "pass",
    )  # fmt: skip

    def init(info):
        n = num_blocks(info)
        return LFRState(unmeasured(n), jnp.ones(n, bool))

    def fold(state, ids_B, losses_B, step):
        return state._replace(measured=observe(state.measured, ids_B, losses_B, step))

    def begin(state, phase_index):
        n = state.drawn.shape[0]
        k = num_kept(n, drop_in(drops, phase_index))
        if k == n:
            return state._replace(drawn=jnp.ones_like(state.drawn))
        loss_N = state.measured.loss
        if scores == "detrended":
            loss_N = detrend(state.measured, num_bins=min(64, max(1, n // 32)))
        return state._replace(drawn=hardest(loss_N, k))

    return Schedule(phases, init, fold, begin, rates, observe_train=scores != "pass")
