"""Systematic sampling: how often a phase draws each block."""

import itertools

import numpy as np

from lfr_jax.schedule.draws.permutation import feistel, sides_for
from lfr_jax.schedule.randomness import Purpose, numpy_key

CHUNK = 1 << 16  # blocks or draws that are worked on at once: they fit into the processor's cache


def chunks(size: int) -> list[slice]:
    """Slices of at most `CHUNK` that cover 0, 1, ..., size − 1. Their sizes differ by at most one."""
    number = -(-size // CHUNK)
    edges = [size * i // number for i in range(number + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def systematic_sample(rates_N: np.ndarray, num_draws: int, seed: int, phase: int) -> tuple[np.ndarray, int]:
    """Draws blocks with counts as near to the expected ones as whole numbers can be.

    The expected count of a block is M times its share of the rates. The blocks are laid on a line, in
    a shuffled order, each as long as its expected count. Marks stand on the line at distance 1, from a
    random offset on. A block is drawn as often as there are marks on it: its expected count, rounded up
    or down, and on average over the offset exactly that count.

    Lengths are rounded to integer multiples of a unit of at most 2**-30, and from there on the arithmetic is exact.
    The order is shuffled on two levels, the chunks and the blocks within each, so the work stays in
    the processor's cache and needs no memory of the size of the corpus. The counts of the
    chunks are then the expected ones too, rounded up or down.

    Args:
      rates_N: float[N], not negative, finite, not all 0; see `checked_rates`.
      num_draws: M.
      seed, phase: decide the order and the offset.

    Returns:
      uint32[M], the drawn blocks, equal ones side by side; and the largest expected count, rounded up.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax import schedule
      >>> blocks, most = schedule.systematic_sample(np.array([1.0, 0.0, 3.0]), num_draws=8, seed=0, phase=0)
      >>> np.bincount(blocks).tolist(), most
      ([2, 0, 6], 6)

    References:
      Madow 1949, "On the Theory of Systematic Sampling, II".
    """
    unit_bits = min(40, 62 - num_draws.bit_length())  # so that the length of the line fits into int64
    unit = 1 << unit_bits
    most = float(rates_N.max())
    parts = chunks(len(rates_N))

    def relative(part: slice) -> np.ndarray:
        return rates_N[part].astype(np.float64) / most  # at most 1, whatever the scale of the rates

    longest = num_draws * unit / sum(relative(part).sum() for part in parts)  # of a block, in units

    def units(part: slice) -> np.ndarray:
        return np.rint(relative(part) * longest).astype(np.int64)

    rest = num_draws * unit - sum(int(units(part).sum()) for part in parts)
    bound = -(-int(np.rint(longest)) // unit)

    blocks_M = np.empty(num_draws, np.uint32)
    offset = int.from_bytes(numpy_key(Purpose.OFFSET, seed, phase, 0).tobytes(), "little") % unit
    end, position = 0, offset
    for number in shuffled(len(parts), numpy_key(Purpose.CHUNKS, seed, phase, 0)):
        part = parts[number]
        order = shuffled(part.stop - part.start, numpy_key(Purpose.BLOCKS, seed, phase, int(number)))
        units_C = units(part)[order]
        rest = settle(units_C, rest, unit)
        positions_C = np.cumsum(units_C)
        positions_C += position
        position = int(positions_C[-1])
        ends_C = positions_C >> unit_bits
        copies = np.repeat(order + np.uint32(part.start), np.diff(ends_C, prepend=end))
        blocks_M[end : end + len(copies)] = copies
        end += len(copies)
    return blocks_M, bound


def settle(units_C: np.ndarray, rest: int, unit: int) -> int:
    """Adds `rest` units to the lengths (takes them away, if negative), and returns what could not be moved.

    Rounding leaves the sum of the lengths a few units away from M. No length crosses a whole number of
    marks, so a count that is expected to be whole stays exact.
    """
    if rest == 0:
        return 0
    fractions_C = units_C & (unit - 1)
    room_C = np.where(fractions_C > 0, unit - fractions_C, 0) if rest > 0 else fractions_C
    moved_C = np.diff(np.minimum(np.cumsum(room_C), abs(rest)), prepend=0)
    moved_C *= 1 if rest > 0 else -1
    units_C += moved_C
    return rest - int(moved_C.sum())


def shuffled(size: int, keys: np.ndarray) -> np.ndarray:
    """uint32[size]: 0, 1, ..., size − 1 in a random order: that in which a Feistel network gives them."""
    a, b = sides_for(size)
    order = feistel(np.arange(a * b, dtype=np.uint32), keys, (a, b))
    return order[order < size]
