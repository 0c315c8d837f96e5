"""From rates to draws: which block stands at each position of a phase."""

import abc
import dataclasses
import operator

import numpy as np

from lfr_jax.schedule.permutation import bits_for, permute, round_keys

CHUNK = 1 << 16  # positions worked on at once: they stay in the processor's cache


def plan(rates: np.ndarray, num_draws: int, seed: int, phase: int) -> "Plan":
    r"""Lays out the draws of one phase, without replacement within a pass.

    Block i is expected to be drawn

    $$ e_i = M r_i / \textstyle\sum_j r_j $$

    times, M being `num_draws`. Its count is $\lfloor e_i \rfloor$ or $\lceil e_i \rceil$, and the
    counts sum to M exactly.

    - *Equal rates* (0 apart): shuffled epochs. Passes over the K blocks with a rate follow one
      another, each in a fresh order; the last one is partial.
    - *Any other rates*: P = ⌈max e⌉ passes, whose sizes differ by at most one. The counts come
      from systematic sampling in a shuffled order of the blocks; the copies, laid out in that
      order, are dealt to the passes in turn. No count exceeds P, so no block stands twice in a
      pass. Each pass is then shuffled.

    A plan is a pure function of these arguments and holds no position: any process can read
    any part of it, and to resume is to read on. No two pairs of seed and phase share an order.

    Args:
      rates: float[N], relative draw rate of each block; 0 = not drawn.
      num_draws: M, how many blocks the phase draws: its steps times the batch size.
      seed: the run's.
      phase: number of the phase.

    Returns:
      A `Plan`: `plan[positions]` gives block ids, `len(plan)` is M. It can be pickled. It
      holds 4 bytes for each block drawn if rates are equal (nothing, if no rate is 0), or
      4 bytes for each draw if not.

    Raises:
      ValueError: a rate is negative, NaN or infinite, or all are 0 or missing; or `num_draws`
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

    drawn_K = np.flatnonzero(rates_N).astype(np.int32)
    rates_K = rates_N[drawn_K]
    if rates_K.min() == rates_K.max():
        everything = len(drawn_K) == len(rates_N)
        return Epochs(num_draws, seed, phase, len(drawn_K), None if everything else drawn_K)

    order_K = shuffled(len(drawn_K), round_keys(b"block order", seed, phase, 0))
    offset = int.from_bytes(round_keys(b"offset", seed, phase, 0).tobytes(), "little")
    counts_K, num_passes = systematic_counts(rates_K[order_K].astype(np.float64), num_draws, offset)
    return Spread(num_draws, seed, phase, num_passes, np.repeat(drawn_K[order_K], counts_K))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan(abc.ABC):
    """The draws of one phase: `plan[positions]` gives int64 block ids in the shape of `positions`.

    Positions are an integer, a slice, or an integer array of any shape; they run from 0 to
    `len(plan)` − 1, and except in slices do not count from the end.

    Raises:
      IndexError: a position is out of range.
      TypeError: positions are not integers.
    """

    num_draws: int
    seed: int
    phase: int

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

    @abc.abstractmethod
    def _ids(self, positions: np.ndarray) -> np.ndarray:
        """int64[E] -> int64[E]."""

    def _shuffle(self, passes: np.ndarray, offsets: np.ndarray, sizes: np.ndarray | int, bits: int) -> np.ndarray:
        """int64[E]: where offset e of its pass lands in that pass's permutation."""
        numbers, which = np.unique(passes, return_inverse=True)
        keys = np.stack([round_keys(b"pass", self.seed, self.phase, int(number)) for number in numbers], axis=-1)
        keys = keys[:, 0] if len(numbers) == 1 else keys[:, which]
        return permute(offsets.astype(np.uint32), sizes, keys, bits).astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs(Plan):
    """Consecutive passes over the same blocks; the last one may be partial."""

    pass_size: int  # K
    blocks: np.ndarray | None  # int32[K]: the blocks drawn; None = 0, 1, ..., K−1

    def _ids(self, positions):
        passes, offsets = np.divmod(positions, self.pass_size)
        slots = self._shuffle(passes, offsets, self.pass_size, bits_for(self.pass_size))
        return slots if self.blocks is None else self.blocks[slots].astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Spread(Plan):
    """P passes of equal size, up to one: copy j is in pass j mod P. The longer passes come first."""

    num_passes: int  # P
    copies: np.ndarray  # int32[M]: the block of each copy, equal ones together

    def _ids(self, positions):
        size, num_longer = divmod(self.num_draws, self.num_passes)
        in_longer = num_longer * (size + 1)  # draws in the passes of size + 1
        is_longer = positions < in_longer
        sizes = size + is_longer
        passes, offsets = np.divmod(positions - np.where(is_longer, 0, in_longer), sizes)
        passes += np.where(is_longer, 0, num_longer)
        slots = self._shuffle(passes, offsets, sizes, bits_for(size + 1))
        return self.copies[slots * self.num_passes + passes].astype(np.int64)


def checked_rates(rates: np.ndarray) -> np.ndarray:
    """`rates` as an array, if a phase can be drawn by them."""
    rates_N = np.asarray(rates)
    if rates_N.ndim != 1 or rates_N.size == 0:
        raise ValueError(f"rates have shape {rates_N.shape}, expected [N], one for each of at least one block")
    wrong_N = ~((rates_N >= 0) & (rates_N < np.inf))
    if wrong_N.any():
        i = int(wrong_N.argmax())
        raise ValueError(f"rates[{i}] is {rates_N[i]}, expected a finite number, 0 or more")
    if not rates_N.any():
        raise ValueError(f"rates[0] to rates[{len(rates_N) - 1}] are all 0, expected at least one positive")
    return rates_N


def systematic_counts(rates_K: np.ndarray, num_draws: int, offset: int) -> tuple[np.ndarray, int]:
    """Counts int64[K] that sum to `num_draws`, each the expected one rounded down or up; and their bound.

    Expected counts are split into whole and fractional parts, the latter in integer units of
    at most 2**-30. From there on the arithmetic is exact: marks stand `offset` and every whole
    from there, and a block whose fraction spans a mark gets one more.
    The bound is the largest expected count, rounded up.

    Args:
      rates_K: float64[K], positive and finite.
      num_draws: M.
      offset: any integer; a random one makes the expectation of each count the expected count.
    """
    unit_bits = min(40, 62 - len(rates_K).bit_length())  # so that K units fit into int64
    unit = 1 << unit_bits
    # A power of two as factor is exact, and keeps the sum finite.
    rates_K = np.ldexp(rates_K, -np.frexp(rates_K.max())[1])
    expected_K = rates_K * num_draws / rates_K.sum()
    whole_K = np.floor(expected_K)
    units_K = np.rint((expected_K - whole_K) * unit).astype(np.int64)
    counts_K = whole_K.astype(np.int64) + (units_K >> unit_bits)
    units_K &= unit - 1
    largest = int((counts_K + (units_K > 0)).max())

    # Rounding leaves the fractions a few units away from a whole number of draws.
    rest = (num_draws - int(counts_K.sum())) * unit - int(units_K.sum())
    for i in np.flatnonzero(units_K):
        if rest == 0:
            break
        moved = max(-int(units_K[i]), min(rest, unit - int(units_K[i])))
        units_K[i] += moved
        rest -= moved

    marks_K = (np.cumsum(units_K) + offset % unit) >> unit_bits
    counts_K += np.diff(marks_K, prepend=0)
    return counts_K, largest


def shuffled(size: int, keys: np.ndarray) -> np.ndarray:
    """uint32[size]: the whole of a permutation."""
    bits, order = bits_for(size), np.arange(size, dtype=np.uint32)
    for start in range(0, size, CHUNK):
        order[start : start + CHUNK] = permute(order[start : start + CHUNK], size, keys, bits)
    return order


def int64(name: str, value: int) -> int:
    """`value` as an int that fits into the key of a permutation."""
    value = operator.index(value)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value}, expected a signed 64-bit integer")
    return value
