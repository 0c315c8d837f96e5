"""What makes a program fit that does not: settings, tried in the order of what they cost.

1. More micro-batches: the same training, with fewer rows at once. With 'fsdp', each gathers the weights once more.
2. Remat: the same training. Each layer runs forward twice, which is up to a third more FLOPs.
3. Both.
4. 'fsdp' over all chips: the same training. Parameters and optimizer are split, and weights are gathered.
5. 'tensor' beside it: activations are split too, and each layer waits for its neighbours twice.
6. A smaller batch: another training, with other results.

Where the state of training alone is too large, 1 to 3 cannot help, and are left out. Scoring has one way out: fewer
rows at once.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from lfr_jax.compile import programs
from lfr_jax.compile.examine import Examined
from lfr_jax.compile.memory import TooLarge, per_chip
from lfr_jax.config import Config, flat


class Attempt(NamedTuple):
    """Settings that were tried."""

    options: str  # as for the command line
    outcome: Examined | TooLarge | str  # str: why they cannot be compiled

    @property
    def fits(self) -> bool:
        """Whether these settings are a way out."""
        return isinstance(self.outcome, Examined) and self.outcome.memory.fits


def search(
    program: str,
    config: Config,
    devices: Sequence[jax.Device],
    limit: float,
    blocks: int,
    run: Callable[[Config], Examined | TooLarge],
) -> Iterator[Attempt]:
    """Tries settings until some fit, which are then the last attempt.

    Args:
      limit: GiB that a chip has.
      blocks: of the corpus.
      run: compiles the program under other settings.
    """
    seen = {""}
    for candidate in candidates(program, config, devices, limit, blocks):
        words = options(config, candidate)
        if words in seen:
            continue
        seen.add(words)
        try:
            attempt = Attempt(words, run(candidate))
        except ValueError as error:  # such as heads that 'tensor' does not divide
            attempt = Attempt(words, str(error))
        yield attempt
        if attempt.fits:
            return


def candidates(
    program: str, config: Config, devices: Sequence[jax.Device], limit: float, blocks: int
) -> Iterator[Config]:
    """The settings to try, in order. Some may be the same again, or not go with the model."""
    mesh = programs.mesh_of(config, devices)
    if program == "score":
        sizes = halved(programs.rows(program, config), rows_of(mesh))
        yield from (changed(config, train={"score_batch_size": size}) for size in sizes)
        return
    state = programs.abstract_state(config, mesh, blocks)
    if per_chip(state) + per_chip(state.params) < limit:  # gradients are like the parameters
        rematted = changed(config, model={"remat": "block"})
        for pieces in (2, 4, None):
            yield in_pieces(config, rows_of(mesh), pieces)
        for pieces in (1, 2, 4, None):
            yield in_pieces(rematted, rows_of(mesh), pieces)
    for tensor in (1, 2, 4):
        if len(devices) % tensor:
            continue
        fsdp = len(devices) // tensor
        split = changed(config, model={"remat": "block"}, mesh=dict(data=1, fsdp=fsdp, tensor=tensor))
        yield in_pieces(split, fsdp, None)
    for size in halved(config.train.batch_size, fsdp):
        yield in_pieces(changed(split, train={"batch_size": size}), fsdp, None)


def rows_of(mesh: jax.sharding.Mesh) -> int:
    """Over how many chips the rows of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def halved(size: int, least: int) -> list[int]:
    """A half, a quarter, ... of `size`, down to `least`."""
    sizes = [size // 2**power for power in range(1, size.bit_length())]
    return [size for size in sizes if size >= least and size % least == 0]


def in_pieces(config: Config, rows: int, factor: int | None) -> Config:
    """With `factor` times as many micro-batches; None: with so many that each chip has one row at once."""
    train = config.train
    most = max(1, train.batch_size // rows)
    steps = most if factor is None else min(most, train.grad_accum_steps * factor)
    return changed(config, train={"grad_accum_steps": steps})


def changed(config: Config, **sections: dict) -> Config:
    """The settings with some fields of some sections changed."""
    new = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **new)


def options(before: Config, after: Config) -> str:
    """The options that turn one configuration into another."""
    old, words = flat(before), []
    for name, value in flat(after).items():
        if value != old[name]:
            word = name.replace("_", "-")
            if isinstance(value, bool):
                section, _, field = word.rpartition(".")
                words.append(f"--{word}" if value else f"--{section}.no-{field}")
            else:
                words.append(f"--{word} {value}")
    return " ".join(words)
