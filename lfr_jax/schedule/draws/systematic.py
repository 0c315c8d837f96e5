"""Systematic sampling: how many copies of each block a phase draws, laid out in a shuffled order."""

import itertools

import numpy as np

from lfr_jax.schedule.draws.permutation import feistel, round_keys, sides_for

CHUNK = 1 << 16  # blocks or draws worked on at once: they stay in the processor's cache


def chunks(size: int) -> list[slice]:
    """0, 1, ..., size − 1 in parts of at most `CHUNK`, equal up to one."""
    number = -(-size // CHUNK)
    edges = [size * i // number for i in range(number + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def systematic(rates_N: np.ndarray, num_draws: int, seed: int, phase: int) -> tuple[np.ndarray, int]:
    """The blocks to draw, as often as each is to be, equal ones together.

    Expected counts are rounded to integer units of at most 2**-30. From there on the arithmetic
    is exact: marks stand a random offset and every whole from there, and a block gets as many
    copies as it spans marks. Over the offset, the mean of each count is the expected count.

    The order of the blocks is shuffled on two levels: the chunks, and the blocks of each. Any
    order gives such counts, and keeps the copies of a block together. Of this one, the work
    stays in cache and needs no memory of the size of the corpus. And it is a better sample:
    the draws from every chunk are the expected ones too, to less than one.

    Args:
      rates_N: float[N], not negative, finite, not all 0.
      num_draws: M.
      seed, phase: decide on the order and the offset.

    Returns:
      uint32[M], and a bound of the counts: the largest expected one, rounded up.
    """
    unit_bits = min(40, 62 - num_draws.bit_length())  # so that M wholes fit into int64
    unit = 1 << unit_bits
    most = float(rates_N.max())
    parts = chunks(len(rates_N))

    def shares(part: slice) -> np.ndarray:
        return rates_N[part].astype(np.float64) / most  # at most 1, whatever the scale of the rates

    per_share = num_draws * unit / sum(shares(part).sum() for part in parts)

    def units(part: slice) -> np.ndarray:
        return np.rint(shares(part) * per_share).astype(np.int64)

    rest = num_draws * unit - sum(int(units(part).sum()) for part in parts)
    bound = -(-int(np.rint(per_share)) // unit)

    blocks_M = np.empty(num_draws, np.uint32)
    end, position = 0, int.from_bytes(round_keys(b"offset", seed, phase, 0).tobytes(), "little") % unit
    for number in shuffled(len(parts), round_keys(b"chunk order", seed, phase, 0)):
        part = parts[number]
        order = shuffled(part.stop - part.start, round_keys(b"block order", seed, phase, int(number)))
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
    """Moves `rest` units onto blocks (off them, if negative), none across a whole; what could not be moved.

    Rounding leaves expected counts a few units away from M. A whole one must stay as it is.
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
    """uint32[size]: 0, 1, ..., size − 1 in the order in which they come up on the grid of a Feistel network."""
    a, b = sides_for(size)
    order = feistel(np.arange(a * b, dtype=np.uint32), keys, (a, b))
    return order[order < size]
