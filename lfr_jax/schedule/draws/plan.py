"""From rates to draws: which block a phase draws at each position."""

import abc
import dataclasses
import operator

import numpy as np

from lfr_jax.schedule.draws.permutation import permute, sides_for
from lfr_jax.schedule.draws.systematic import CHUNK, chunks, systematic_sample
from lfr_jax.schedule.randomness import Purpose, numpy_key


def plan(rates: np.ndarray, num_draws: int, seed: int, phase: int) -> "Plan":
    r"""Turns rates into the draws of one phase, without replacement within a pass.

    Block i is expected to be drawn

    $$ e_i = M r_i / \textstyle\sum_j r_j $$

    times, where M is `num_draws`. Its count is $\lfloor e_i \rfloor$ or $\lceil e_i \rceil$, and the
    counts sum to M exactly.

    - *Equal rates*, except for zeros: shuffled epochs. Each pass reads all K blocks with a positive rate,
      in an order of its own; the last pass may be partial.
    - *Other rates*: P = ⌈max e⌉ passes, whose sizes differ by at most one. The counts come
      from systematic sampling (see `systematic_sample`). Copy 0 goes to pass 0, copy 1 to pass 1, and so
      on, round and round. No block has more than P copies, so no pass has a block twice. Each
      pass is then shuffled.

    A plan is a pure function of its arguments and has no position: any process can read
    any part of it, and a run that is resumed reads on where it stopped. Orders of different
    seeds or phases differ.

    Args:
      rates: float[N], relative draw rate of each block; 0 = not drawn.
      num_draws: M, how many blocks the phase draws: its steps times the batch size.
      seed: the run's.
      phase: number of the phase.

    Returns:
      A `Plan`: `plan[positions]` gives block ids, `len(plan)` is M. It can be pickled. It
      takes 4 bytes for each drawn block if rates are equal (nothing, if no rate is 0), else
      4 bytes for each draw.

    Raises:
      ValueError: a rate is negative, NaN or infinite, or no rate is positive; or `num_draws`
        is not positive.

    Examples:
      >>> from lfr_jax import schedule
      >>> draws = schedule.plan([1, 0, 1, 1], num_draws=6, seed=0, phase=2)
      >>> sorted(draws[:3].tolist()), sorted(draws[3:].tolist())
      ([0, 2, 3], [0, 2, 3])
      >>> draws = schedule.plan([4, 1, 1, 0], num_draws=6, seed=0, phase=2)
      >>> sorted(draws[:].tolist())
      [0, 0, 0, 0, 1, 2]

    References:
      Madow 1949, "On the Theory of Systematic Sampling, II" (the counts).
    """
    rates_N = checked_rates(rates)
    num_draws, seed, phase = operator.index(num_draws), int64("seed", seed), int64("phase", phase)
    if num_draws <= 0:
        raise ValueError(f"num_draws is {num_draws}, expected at least 1")
    if rates_are_equal(rates_N):
        return Epochs(num_draws, seed, phase, int(np.count_nonzero(rates_N)), 0, drawn(rates_N))
    copies_M, num_passes = systematic_sample(rates_N, num_draws, seed, phase)
    return Spread(num_draws, seed, phase, *divmod(num_draws, num_passes), num_passes, copies_M)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan(abc.ABC):
    """The draws of one phase: `plan[positions]` gives int64 block ids in the shape of `positions`.

    Positions are an integer, a slice, or an integer array of any shape. They run from 0 to
    `len(plan)` − 1. Only in slices may they be negative.

    Raises:
      IndexError: a position is out of range.
      TypeError: positions are not integers.
    """

    num_draws: int
    seed: int
    phase: int
    pass_size: int  # draws in each pass; the last pass may be partial
    num_longer: int  # how many passes, the first ones, have one draw more

    def __len__(self) -> int:
        return self.num_draws

    def __getitem__(self, positions: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self.num_draws))
        positions = np.asarray(positions)
        if positions.size == 0:
            return np.zeros(positions.shape, np.int64)
        if not np.issubdtype(positions.dtype, np.integer):
            raise TypeError(f"positions are {positions.dtype}, expected integers")
        if positions.min() < 0 or positions.max() >= self.num_draws:
            found = f"{positions.min()} to {positions.max()}" if positions.ndim else f"{positions}"
            raise IndexError(
                f"position {found}, expected 0 to {self.num_draws - 1}: the plan has {self.num_draws} draws"
            )
        flat = positions.astype(np.int64).ravel()
        ids = [self._ids(flat[start : start + CHUNK]) for start in range(0, len(flat), CHUNK)]
        return np.concatenate(ids).reshape(positions.shape)[()]

    def _ids(self, positions: np.ndarray) -> np.ndarray:
        """int64[E] -> int64[E]."""
        size, longer = self.pass_size, self.num_longer
        # Two ways to count: by the longer passes, and by the others. The larger one is right.
        passes = np.maximum(positions // (size + 1), (positions - longer) // size) if longer else positions // size
        offsets = positions - passes * size
        offsets -= np.minimum(passes, longer)
        first = int(passes[0])
        if first == passes[-1] and (passes == first).all():  # the usual case
            sizes, keys = size + (first < longer), self._keys(first)
        else:
            numbers, which = np.unique(passes, return_inverse=True)
            sizes = (size + (passes < longer)).astype(np.uint32)
            keys = np.stack([self._keys(int(number)) for number in numbers], axis=-1)[:, which]
        slots = permute(offsets.astype(np.uint32), sizes, keys, sides_for(size + (longer > 0)))
        return self._blocks(passes, slots.astype(np.int64)).astype(np.int64, copy=False)

    def _keys(self, number: int) -> np.ndarray:
        return numpy_key(Purpose.PASS, self.seed, self.phase, number)

    @abc.abstractmethod
    def _blocks(self, passes: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """int64[E]: the block in each slot of a pass, before the pass is shuffled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs(Plan):
    """Consecutive passes over the same blocks."""

    blocks: np.ndarray | None  # uint32[K]: the blocks drawn; None = 0, 1, ..., K−1

    def _blocks(self, passes, slots):
        return slots if self.blocks is None else self.blocks[slots]


@dataclasses.dataclass(frozen=True, eq=False)
class Spread(Plan):
    """Passes whose sizes differ by at most one: copy j is in pass j mod P."""

    num_passes: int  # P
    copies: np.ndarray  # uint32[M]: the block of each copy, equal ones side by side

    def _blocks(self, passes, slots):
        slots *= self.num_passes
        slots += passes
        return self.copies[slots]


def checked_rates(rates: np.ndarray) -> np.ndarray:
    """Checks that a phase can be drawn by these rates.

    Args:
      rates: float[N], one for each block.

    Returns:
      The same as an array.

    Raises:
      ValueError: there is none, one is negative, NaN or infinite, or all are 0. The message names one.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.checked_rates([1.0, 0.0]).tolist()
      [1.0, 0.0]
    """
    rates_N = np.asarray(rates)
    if rates_N.ndim != 1 or rates_N.size == 0:
        raise ValueError(f"rates have shape {rates_N.shape}, expected [N], one for each of at least one block")
    least, most = rates_N.min(), rates_N.max()  # NaN, if there is any
    if not (least >= 0 and most < np.inf):
        i = int((~((rates_N >= 0) & (rates_N < np.inf))).argmax())
        raise ValueError(f"rates[{i}] is {rates_N[i]}, expected a finite number, 0 or more")
    if most == 0:
        raise ValueError(f"rates[0] to rates[{len(rates_N) - 1}] are all 0, expected at least one positive")
    return rates_N


def rates_are_equal(rates_N: np.ndarray) -> bool:
    """Whether all rates that are not 0 are the same.

    Then `plan` gives shuffled epochs, and the draws of a longer phase begin with those of a shorter one.

    Args:
      rates_N: float[N], as `checked_rates` returns them.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax import schedule
      >>> schedule.rates_are_equal(np.array([2.0, 0.0, 2.0])), schedule.rates_are_equal(np.array([2.0, 1.0]))
      (True, False)
    """
    most = rates_N.max()
    return all(((rates_N[part] == 0) | (rates_N[part] == most)).all() for part in chunks(len(rates_N)))


def drawn(rates_N: np.ndarray) -> np.ndarray | None:
    """uint32[K]: the blocks with a positive rate, in order; None if all have one."""
    num_drawn = int(np.count_nonzero(rates_N))
    if num_drawn == len(rates_N):
        return None
    blocks_K, end = np.empty(num_drawn, np.uint32), 0
    for part in chunks(len(rates_N)):  # flatnonzero of all of them would take 8 bytes a block
        (found,) = np.nonzero(rates_N[part])
        blocks_K[end : end + len(found)] = found + part.start
        end += len(found)
    return blocks_K


def int64(name: str, value: int) -> int:
    """`value` as an int that fits into a `numpy_key`."""
    value = operator.index(value)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value}, expected a signed 64-bit integer")
    return value
