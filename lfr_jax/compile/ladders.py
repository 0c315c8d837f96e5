"""Settings by which a program that does not fit may fit, in the order of what they cost.

They stand in ladders. Along a ladder there are more and more micro-batches, so fewer rows at once on a chip, and less
memory is taken. Each ladder costs more than the one before it:

1. The settings as they are. With 'fsdp', each micro-batch gathers the weights once more.
2. Remat that keeps less, last "block": each layer runs forward twice, which is up to a third more FLOPs.
3. 'fsdp' over all chips, with the remats of 1 and 2: parameters and optimizer are split, and weights are gathered.
4. 'tensor' beside it, with "block": activations are split too, and each layer waits for its neighbours twice.
5. One micro-batch with one row on each chip, so no sum of gradients is kept: another training, with other results.

Scoring has one ladder: fewer rows at once.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax

from lfr_jax.compile import programs
from lfr_jax.config import Config, flat

# Remats that keep less than a given one, in the order of what they compute again; where nothing is said, "block". Not
# "dots": beside a TPU's kernels it keeps as much as "products". Not "offload": its way to the host is in no bound.
LESS = {"none": ("products", "block"), "block": ()}


def ladders(program: str, config: Config, devices: Sequence[jax.Device]) -> Iterator[list[Config]]:
    """The ladders for a program. The first begins with `config` itself; other meshes may not go with the model."""
    mesh = programs.mesh_of(config, devices)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if program == "score":
        most = programs.rows(program, config) // rows
        yield [changed(config, train={"score_batch_size": size * rows}) for size in divisors(most)[::-1]]
        return
    remats = (config.model.remat, *LESS.get(config.model.remat, ("block",)))
    for remat in remats:
        yield micro_batches(changed(config, model={"remat": remat}), rows)
    whole = dict(data=1, fsdp=len(devices), tensor=1)
    for tensor in (1, 2, 4):
        split = whole | dict(fsdp=len(devices) // tensor, tensor=tensor)
        if split == dict(mesh.shape) or len(devices) % tensor:
            continue
        for remat in remats if tensor == 1 else ("block",):
            yield micro_batches(changed(config, model={"remat": remat}, mesh=split), split["fsdp"])
    if config.train.batch_size > len(devices):
        least_batch = dict(batch_size=len(devices), grad_accum_steps=1)
        yield [changed(config, model={"remat": "block"}, mesh=whole, train=least_batch)]


def micro_batches(config: Config, rows: int) -> list[Config]:
    """The settings with ever more micro-batches, from as many as they have on, until each of `rows` chips has one row.

    If they have more than that, or if the batch cannot be split so, there is one rung.
    """
    train = config.train
    least = min(train.grad_accum_steps, max(1, train.batch_size // rows))
    numbers = [number for number in divisors(max(1, train.batch_size // rows)) if number >= least]
    return [changed(config, train={"grad_accum_steps": number}) for number in numbers]


def divisors(number: int) -> list[int]:
    """All divisors, from 1 on.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [part for part in range(1, number + 1) if number % part == 0]


def changed(config: Config, **sections: dict) -> Config:
    """The settings with some fields of some sections changed."""
    new = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **new)


def options(before: Config, after: Config) -> str:
    """The options that turn one configuration into another."""
    old, new = flat(before), flat(after)
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in new.items() if value != old[name])
