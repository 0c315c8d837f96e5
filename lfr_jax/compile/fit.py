"""Finds settings under which a program fits that does not fit as it is, with few compilations."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from lfr_jax.compile import programs
from lfr_jax.compile.examine import Examined
from lfr_jax.compile.ladders import ladders, options
from lfr_jax.compile.memory import TooLarge, per_chip
from lfr_jax.config import Config


class Attempt(NamedTuple):
    """Settings that were tried."""

    options: str  # as for the command line
    outcome: Examined | TooLarge | str  # str: why they cannot be compiled

    @property
    def fits(self) -> bool:
        """Whether these settings are a way out."""
        return fits(self.outcome)


def search(
    program: str,
    config: Config,
    outcome: Examined | TooLarge,
    devices: Sequence[jax.Device],
    limit: float,
    blocks: int,
    run: Callable[[Config], Examined | TooLarge],
) -> Iterator[Attempt]:
    """Tries settings, ladder by ladder, until it is known of one ladder which is its first rung that fits.

    That rung need not be the last attempt. Ladders are left out for which the state of training alone is too large.

    Args:
      outcome: of `config` itself, which does not fit.
      limit: GiB that a chip has.
      blocks: of the corpus.
      run: compiles the program under other settings.
    """
    for number, rungs in enumerate(ladders(program, config, devices)):
        try:
            fixed = fixed_gib(program, rungs[0], devices, blocks)
        except ValueError as error:  # such as heads that 'tensor' does not divide
            yield Attempt(options(config, rungs[0]), str(error))
            continue
        if fixed >= limit:
            continue
        done = False
        for rung, found in climb(program, rungs, outcome if number == 0 else None, fixed, limit, run):
            yield Attempt(options(config, rung), found)
            done |= fits(found)
        if done:
            return


def climb(
    program: str,
    rungs: Sequence[Config],
    first: Examined | TooLarge | None,
    fixed: float,
    limit: float,
    run: Callable[[Config], Examined | TooLarge],
) -> Iterator[tuple[Config, Examined | TooLarge]]:
    """Compiles rungs of a ladder until it is known which is the first that fits, or that none does.

    Each outcome says where to look next, as memory is nearly a straight line over the rows at once. So of most ladders
    three rungs or fewer are compiled. Where nothing is known yet, the last rung is, and with it whether the ladder is
    of any use.

    Args:
      first: the outcome of the first rung, where it is known: it does not fit.
      fixed: GiB that are taken without any row.
    """
    rows = [rows_at_once(program, rung) for rung in rungs]
    low, high = 0, len(rungs)  # no rung before `low` fits; that at `high` does, if there is one
    points = [(0.0, fixed)]  # rows at once, GiB
    if first is not None:
        low = 1
        points += known(rows[0], first)
    while low < high:
        most = room(points, limit)
        guess = next((at for at, some in enumerate(rows) if some <= most), high)  # no number is <= NaN
        at = min(max(guess, low), high - 1)
        found = run(rungs[at])
        yield rungs[at], found
        low, high = (low, at) if fits(found) else (at + 1, high)
        points += known(rows[at], found)


def fits(outcome: Examined | TooLarge | str) -> bool:
    """Whether a chip has room for the program."""
    return isinstance(outcome, Examined) and outcome.memory.fits


def known(rows: float, found: Examined | TooLarge) -> list[tuple[float, float]]:
    """The rows at once and the GiB that they take. Nothing, where the compiler gave no number."""
    gib = found.memory.total if isinstance(found, Examined) else found.needed
    return [] if math.isnan(gib) else [(rows, gib)]


def room(points: Sequence[tuple[float, float]], limit: float) -> float:
    """How many rows fill `limit` GiB, on a straight line through the last two of some points; NaN of one point.

    >>> room([(0, 99), (2, 10), (4, 14)], limit=20)
    7.0
    """
    if len(points) < 2:
        return math.nan
    (less, gib), (more, more_gib) = sorted(points[-2:])
    return less + (limit - gib) * (more - less) / max(more_gib - gib, 1e-9)


def rows_at_once(program: str, config: Config) -> float:
    """Rows of all chips together that are in memory at once."""
    return programs.rows(program, config) / (config.train.grad_accum_steps if program == "train" else 1)


def fixed_gib(program: str, config: Config, devices: Sequence[jax.Device], blocks: int) -> float:
    """GiB on a chip that no number of rows changes: the state, and gradients, which are like the parameters.

    Raises:
      ValueError: the model or the batches do not go with the mesh.
    """
    state = programs.abstract_state(config, programs.mesh_of(config, devices), blocks)
    return per_chip(state) + (per_chip(state.params) if program == "train" else 0.0)
