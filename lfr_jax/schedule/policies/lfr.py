"""Learn, Focus, Review."""

import functools

import jax

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured
from lfr_jax.schedule.arrays.select import hardest
from lfr_jax.schedule.by_loss import scored
from lfr_jax.schedule.phases import learn_focus_review, num_kept
from lfr_jax.schedule.types import Schedule


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
    unmeasured: Unmeasured = "hardest",
    minus: str = "",
) -> Schedule:
    r"""Learn from all blocks, focus on the hard ones, review all, focus again.

    First comes Learn, then `reps` times the cycle Focus, Review, Focus 2. Learn and Review draw every
    block equally often. A Focus phase draws only the blocks with the highest loss:

    $$ r_i = [\, i \in \text{the } k \text{ hardest} \,], \quad k = N - \lfloor \text{drop} \cdot N \rfloor $$

    with `drop2` in place of `drop` in Focus 2. Ties are broken by a hash of the index (see `hardest`).

    Two settings depart from the paper; both are ours. `minus="ref_loss"` is for text with noise, which is hard and
    stays so: Focus keeps the blocks of the highest excess loss, that is the loss less that of a reference model, as
    `reducible` does. `focus2=0` leaves Focus 2 out, and the run ends in Review: if that is as long as the cooldown of
    the learning rate, the cooldown reads all blocks.

    `scores` says which loss decides:

    - `"pass"`: the loss in a scoring pass before each Focus phase. All blocks are measured under the same
      parameters. The pass may leave blocks out; then see `unmeasured`.
    - `"train"`: the loss of the training step that last drew the block, as in the first version of
      the paper. It costs nothing. But blocks that were drawn early look hard only
      because the model was younger.
    - `"detrended"`: as "train", minus the average fall during training (see `detrend`). It follows the
      blocks that were drawn: after a phase of hard blocks (with `reps` > 1, Focus follows
      Focus 2), hard blocks look like the rest. `unmeasured="domain"` or `"cluster"` mends much of this.
    - `"mixed"`: a scoring pass over a sample of the blocks, and "detrended" for the others. If
      `unmeasured` is "domain" or "cluster", the losses of the others are shifted and pulled towards the
      sample's mean in their group.

    Args:
      learn, focus, review, focus2: lengths of the phases in steps. The defaults have the published
        proportions: one epoch each, where an epoch of a Focus phase is one pass over its
        blocks. Their scale is ours. See `in_epochs` and `fit`. With `focus2` 0 there is no Focus 2.
      drop: share of the blocks that Focus drops; published.
      drop2: share of the blocks that Focus 2 drops; published.
      reps: how often the cycle runs. The notes that we have on the paper can be read in three ways: the cycle is
        repeated; Learn is too; or Focus 2 alone is, on one selection. They give 2 or 5. We repeat the cycle, twice.
        Quokka, an implementation by others, repeats Focus 2 alone, 5 times. That is `reps=1` and a `focus2` five
        times as long: `schedule.in_epochs(n, batch, focus2=5, reps=1)`.
      scores: "pass", "train", "detrended" or "mixed". The default is ours.
      unmeasured: what a block without a loss counts as. "hardest" keeps it. "domain" and
        "cluster" give it the mean loss of its group: choose one of these where a sample is scored.
      minus: name of a column of `BlockInfo` that is subtracted from the losses, such as "ref_loss"; "": none. In all
        that is said above, the difference stands in place of the loss. A block whose column is NaN counts as
        unmeasured.

    Returns:
      The schedule. Its phases are 'learn', 'focus', 'review', 'focus2'; with `reps` > 1 'learn',
      'focus.1', 'review.1', 'focus2.1', 'focus.2', ... Its state is a `ScoredState`: `measured`
      (f32[N], i32[N], i32[]), `rate` bool[N], and `info` with the groups that `unmeasured` names and the column
      `minus`, f32[N].

    Raises:
      ValueError: a length or `reps` is not a positive whole number (`focus2` may be 0), a share is outside
        [0, 1), or `scores`, `unmeasured` or `minus` has another value. From `init`: there are no blocks,
        or `BlockInfo` lacks the groups or the column.

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

      By excess loss. The last phase draws all blocks:

      >>> s = schedule.lfr(learn=4, focus=8, review=3, focus2=0, drop=0.25, reps=1, minus="ref_loss")
      >>> state = s.init(schedule.BlockInfo(4, ref_loss=jnp.array([1.0, 4.75, 2.0, 2.5])))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([2.0, 5.0, 3.0, 4.0]), 4)
      >>> s.rates(s.begin(state, 1)).tolist()  # the differences are 1, 0.25, 1 and 1.5
      [1.0, 0.0, 1.0, 1.0]
      >>> [phase.name for phase in s.phases]
      ['learn', 'focus', 'review']

    References:
      Prakriya et al., "Accelerating LLM Pretraining via LFR Pedagogy: Learn, Focus, and
      Review", arXiv 2409.06131, version 1.

      Quokka (github.com/aistrova/quokka, src/quokka/trainer.py). It selects as `scores="train"` does: it drops
      ⌊drop · N⌋ blocks of the lowest perplexity in training. Where Learn or Review last several epochs, it takes the
      mean of the perplexities, and we the last loss.
    """
    phases, drops = learn_focus_review(
        learn=learn, focus=focus, review=review, focus2=focus2, drop=drop, drop2=drop2, reps=reps,
        score=scores in ("pass", "mixed"),
    )  # fmt: skip
    by_drop = {drop: functools.partial(keep_hardest, drop=drop) if drop else None for drop in drops}
    choices = tuple(by_drop[drop] for drop in drops)
    return scored(phases, choices, scores=scores, unmeasured=unmeasured, minus=minus, policy="lfr")


def keep_hardest(loss_N: jax.Array, info, drop: float) -> jax.Array:
    """bool[N]: the blocks that are left without the share `drop` of the lowest losses."""
    return hardest(loss_N, num_kept(loss_N.shape[0], drop))
