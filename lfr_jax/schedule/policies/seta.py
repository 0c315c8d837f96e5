"""A window that slides over the blocks, from easy to hard."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured
from lfr_jax.schedule.arrays.select import hardest, random_blocks
from lfr_jax.schedule.by_loss import scored
from lfr_jax.schedule.by_phase import of_phase
from lfr_jax.schedule.checks import DROP, positive_int, real_number, seed_number
from lfr_jax.schedule.phases import in_rounds, num_kept
from lfr_jax.schedule.randomness import Purpose, jax_key
from lfr_jax.schedule.types import Schedule


def seta(
    *,
    first: int = 900,
    later: int = 450,
    last: int = 900,
    rounds: int = 8,
    anneal: int = 1,
    drop: float = 0.1,
    groups: int = 10,
    window: int = 5,
    scores: Scores = "train",
    unmeasured: Unmeasured = "hardest",
    seed: int = 0,
) -> Schedule:
    r"""Rounds over blocks of similar loss: each drops some at random, and a window slides over the rest.

    Each round leaves out a random share `drop` of the blocks, chosen anew. The other $K = N - \lfloor \text{drop}
    \cdot N \rfloor$ blocks are put into G groups by rising loss. Round $t = 2, 3, \dots$ draws W groups:

    $$ r_i = \left[\, \frac{s_t K}{G} \le \text{rank}_i < \frac{(s_t + W) K}{G} \,\right],
       \quad s_t = (t - 1) \bmod (G - W + 1) $$

    Ranks count from 0, the lowest loss, and the edges are rounded outwards. The window moves from easy to
    hard. After it has reached the end, it starts again. The first round, when nothing is known, and
    the last ones (the paper's partial annealing) draw all K blocks.

    The authors make groups by k-means of the losses, so they differ in size. Ours have the same size, up to one block:
    that is exact, and needs nothing but selection. But it changes how much a round draws. Ours always draws W/G of the
    K blocks. Theirs draws much where losses are dense, and little in a long tail: with 10 groups and a window of 5, the
    windows hold 47 to 75 % of the blocks if losses are normal, and 12 to 88 % if they are lognormal with σ = 0.5.

    The authors' settings (drop, groups, window) are 0, 10, 5 in their class, 0.1, 5, 4 in their script for CIFAR-100
    and 0, 5, 3 in that for ImageNet. Our defaults mix the first two. Their drop is at most 0.9, and a sample without a
    loss counts as one of 3 nats.

    Args:
      first, later, last: lengths in steps of the first round, of the rounds with a window, and of
        the last ones. The defaults are in proportion to the blocks that each draws. Ours.
      rounds: how many there are in all. Ours.
      anneal: how many of them are last ones. 1 of 8, as the authors' code stops after 0.875 of the epochs.
      drop: share of the blocks that is left out at random.
      groups: G.
      window: W, in groups. The authors give W/G, and round.
      scores: as of `lfr`; the authors use those of training.
      unmeasured: as of `lfr`; "hardest" puts blocks without a loss into the last group.
      seed: decides what is left out, together with the number of the phase.

    Returns:
      The schedule, with phases 'round.1', 'round.2', ..., 'anneal'. Its state is a
      `ScoredState`: `measured` (f32[N], i32[N], i32[]) and `rate` bool[N].

    Raises:
      ValueError: a length, `rounds`, `groups` or `window` is not a positive whole number, `window`
        is larger than `groups`, `anneal` leaves no round before it, `drop` is outside [0, 1), or `scores`
        or `unmeasured` has another value.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lfr_jax import schedule
      >>> s = schedule.seta(drop=0.0, groups=4, window=2)
      >>> state = s.init(schedule.BlockInfo(num_blocks=4))
      >>> state = s.observe(state, jnp.arange(4), jnp.array([2.0, 5.0, 3.0, 4.0]), 9)
      >>> [s.rates(s.begin(state, t)).tolist() for t in (1, 2)]
      [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]]

    References:
      Zhou et al., "Scale Efficient Training for Large Datasets" (SeTa), arXiv 2503.13385, and
      the authors' code (github.com/mrazhou/SeTa, seta.py and scripts/).
    """
    drop, seed = real_number("drop", drop, DROP), seed_number("seed", seed)
    groups, window = positive_int("groups", groups), positive_int("window", window)
    if window > groups:
        raise ValueError(f"window is {window} groups, expected at most {groups}, all there are")
    phases = in_rounds(
        rounds=rounds, first=first, later=later, anneal=anneal, last=last, score=scores in ("pass", "mixed")
    )

    starts = [index % (groups - window + 1) for index in range(len(phases))]
    windows = [(start, start + window, groups) for start in starts]
    for index in (0, *range(len(phases) - anneal, len(phases))):
        windows[index] = (0, 1, 1)  # everything
    choose = functools.partial(in_window, drop=drop, windows=windows, seed=seed)
    return scored(phases, (choose,) * len(phases), scores=scores, unmeasured=unmeasured, policy="seta")


def in_window(loss_N: jax.Array, info, drop: float, windows: Sequence[tuple[int, int, int]], seed: int) -> jax.Array:
    """bool[N]: of the blocks that are not dropped at random, those in groups `start` to `stop` − 1 of `groups`.

    Args:
      windows: (start, stop, groups) for each phase.
    """
    kept = num_kept(loss_N.shape[0], drop)

    def edges(start, stop, groups):
        """How many blocks are not below the window, and how many are above it."""
        return kept - start * kept // groups, kept - -(-stop * kept // groups)  # rounded outwards: at least one block

    counts = {window: edges(*window) for window in set(windows)}
    above, higher = of_phase(np.array([counts[window] for window in windows], np.uint32), info["phase"])
    loss_N = jnp.where(random_blocks(jax_key(Purpose.SETA, seed, info["phase"]), loss_N, kept), loss_N, -jnp.inf)
    return hardest(loss_N, above) & ~hardest(loss_N, higher)
