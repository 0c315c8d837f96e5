"""Phases: how they are built, and stretched to the length of a run; shares of the blocks as whole numbers."""

import math
from collections.abc import Iterable
from fractions import Fraction

from lfr_jax.schedule.checks import DROP, PHASES, STEPS, positive_int, real_number, whole_number
from lfr_jax.schedule.types import Phase, Schedule


def learn_focus_review(
    *, learn: int, focus: int, review: int, focus2: int, drop: float, drop2: float, reps: int, score: bool
) -> tuple[tuple[Phase, ...], tuple[float, ...]]:
    """The phases of `lfr`, and the share of the blocks that each phase drops.

    They are Learn, then `reps` times Focus, Review, Focus 2. If `reps` is more than 1, names have a
    number: 'learn', 'focus.1', 'review.1', 'focus2.1', 'focus.2', ... If `focus2` is 0, there is no Focus 2.

    Raises:
      ValueError: a length or `reps` is not a positive whole number, `focus2` is not 0 either, or a share is outside
        [0, 1).
    """
    drop, drop2 = real_number("drop", drop, DROP), real_number("drop2", drop2, DROP)
    reps = positive_int("reps", reps, most=PHASES)
    cycle = [("focus", focus, drop), ("review", review, 0.0)]
    if whole_number("the length of phase 'focus2'", focus2, 0, STEPS):
        cycle.append(("focus2", focus2, drop2))
    parts = [("learn", learn, 0.0)]
    for rep in range(1, reps + 1):
        suffix = f".{rep}" if reps > 1 else ""
        parts += [(name + suffix, length, share) for name, length, share in cycle]
    phases = consecutive((name, length, score and name.startswith("focus")) for name, length, _ in parts)
    return phases, tuple(share for *_, share in parts)


def in_rounds(
    *, rounds: int, first: int, later: int, anneal: int = 0, last: int = 1, score: bool = False
) -> tuple[Phase, ...]:
    """The phases of a policy that decides once a round.

    The first round is for all blocks, as nothing is known yet. The later ones are for the blocks that
    the policy chooses. The last ones, if any, are for all blocks again (annealing).

    Args:
      rounds: how many rounds there are in all.
      first: length of the first round, in steps.
      later: length of each later round.
      anneal: how many of the rounds are last ones, less than `rounds`.
      last: length of each last round.
      score: whether a scoring pass comes before each later round.

    Returns:
      The phases 'round.1', 'round.2', ..., and at the end 'anneal', or 'anneal.1', 'anneal.2', ... if
      there are several.

    Raises:
      ValueError: a length or `rounds` is not a positive whole number, or `anneal` is not less than `rounds`.

    Examples:
      >>> from lfr_jax import schedule
      >>> phases = schedule.in_rounds(rounds=3, first=20, later=10, anneal=1, last=20, score=True)
      >>> [(p.name, p.start, p.stop, p.score) for p in phases]
      [('round.1', 0, 20, False), ('round.2', 20, 30, True), ('anneal', 30, 50, False)]
    """
    rounds = positive_int("rounds", rounds, most=PHASES)
    first, later, last = (positive_int(*option) for option in dict(first=first, later=later, last=last).items())
    anneal = whole_number("anneal", anneal, 0, rounds - 1, f", as there are {rounds} rounds")
    lengths = [first] + [later] * (rounds - anneal - 1)
    parts = [(f"round.{i}", length, score and i > 1) for i, length in enumerate(lengths, start=1)]
    parts += [("anneal" if anneal == 1 else f"anneal.{i}", last, False) for i in range(1, anneal + 1)]
    return consecutive(parts)


def equal_rounds(rounds: int, round_steps: int, most: int = PHASES) -> tuple[Phase, ...]:
    """The phases of a policy whose rounds, at most `most`, last equally many steps; errors name these options."""
    rounds, round_steps = positive_int("rounds", rounds, most), positive_int("round_steps", round_steps)
    return in_rounds(rounds=rounds, first=round_steps, later=round_steps)


def consecutive(parts: Iterable[tuple[str, int] | tuple[str, int, bool]]) -> tuple[Phase, ...]:
    """Phases one after another, from step 0.

    Args:
      parts: for each phase its name, its length in steps and, if wanted, whether a scoring pass comes before it.

    Returns:
      The phases.

    Raises:
      ValueError: a length is not a positive whole number.

    Examples:
      >>> from lfr_jax import schedule
      >>> for phase in schedule.consecutive([("learn", 20), ("focus", 10, True)]):
      ...     print(phase)
      Phase(name='learn', start=0, stop=20, score=False)
      Phase(name='focus', start=20, stop=30, score=True)
    """
    phases, start = [], 0
    for name, length, *score in parts:
        stop = start + positive_int(f"the length of phase '{name}'", length)
        phases.append(Phase(name, start, stop, *score))
        start = stop
    whole_number("the length of all phases", start, 0, STEPS)
    return tuple(phases)


def fit(schedule: Schedule, steps: int) -> Schedule:
    """Stretches or shrinks all phases by the same factor, so that together they last `steps` steps.

    Each boundary b moves to b · steps / total, rounded to the nearest step (a half is rounded up).
    Policies go by the number of the phase, not by steps, so nothing else changes.

    Args:
      schedule: any schedule whose phases follow one another from step 0.
      steps: the new total.

    Returns:
      The same schedule with the new phases.

    Raises:
      ValueError: `steps` is so small that a phase would have no step.

    Examples:
      >>> from lfr_jax import schedule
      >>> s = schedule.fit(schedule.lfr(learn=4, focus=2, review=3, focus2=1, reps=1), 100)
      >>> [(p.name, p.start, p.stop) for p in s.phases]
      [('learn', 0, 40), ('focus', 40, 60), ('review', 60, 90), ('focus2', 90, 100)]
    """
    steps = positive_int("steps", steps)
    total = schedule.phases[-1].stop

    def moved(boundary):
        return (2 * boundary * steps + total) // (2 * total)

    phases = tuple(p._replace(start=moved(p.start), stop=moved(p.stop)) for p in schedule.phases)
    for old, new in zip(schedule.phases, phases):
        if new.start == new.stop:
            raise ValueError(
                f"phase '{old.name}' is {old.stop - old.start} of {total} steps, and would last none of "
                f"{steps}: train for more steps, or choose fewer or longer phases"
            )
    return schedule._replace(phases=phases)


def num_kept(num_blocks: int, drop: float) -> int:
    """How many blocks are left when a share of them is dropped: N − ⌊drop · N⌋.

    The product is exact, where floats would round it: 0.29 · 100 is 29, not 28.999...

    Args:
      num_blocks: N.
      drop: share of the blocks, at least 0 and less than 1.

    Returns:
      1 to N, if N is at least 1.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.num_kept(100, drop=0.29)
      71
    """
    return num_blocks - math.floor(as_written(drop) * num_blocks)


def num_chosen(num_blocks: int, keep: float) -> int:
    """How many blocks a share of them is, rounded up: ⌈keep · N⌉.

    The product is exact, where floats would round it: 0.07 · 100 is 7, not 7.000...1.

    Args:
      num_blocks: N.
      keep: share of the blocks, more than 0 and at most 1.

    Returns:
      1 to N, if N is at least 1.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.num_chosen(100, keep=0.07)
      7
    """
    return math.ceil(as_written(keep) * num_blocks)


def as_written(x: float) -> Fraction:
    """The decimal number that a float is written as: 29/100 for 0.29, although the float is a little less."""
    return Fraction(repr(float(x)))
