"""The collectives of a compiled program: what kind, how many bytes, in which groups, and what runs meanwhile."""

import re
from typing import NamedTuple

import numpy as np

from lfr_jax.compile import costs
from lfr_jax.compile.hlo import Computation, Instruction, Module, executed

IOTA = r"\[[\d,]+\](?:T\([\d,]+\))?"  # the numbers from 0 on, as an array of this shape, transposed
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


Channel = tuple[str, str]  # its number, and the kind of collective


class Collective(NamedTuple):
    """One collective of a program."""

    kind: str  # one of KINDS
    operand_bytes: int  # what each chip puts in
    group: tuple[int, ...]  # positions in the mesh, in row-major order, of the first group
    times: int  # how often it is done in one call of the program
    asynchronous: bool  # it has a start and a done, and other instructions between them
    flops_meanwhile: int  # of products between start and done
    source: str  # where it comes from: JAX's name of the operation
    dtype: str

    @property
    def wire_bytes(self) -> int:
        """The fewest bytes that each chip must receive, for all times together.

        Of n chips, an all-gather receives n − 1 operands, a reduce-scatter 1 − 1/n of one, and an all-reduce is the
        two after one another (Thakur et al. 2005, "Optimization of collective communication operations in MPICH").
        """
        n = len(self.group)
        share = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}.get(
            self.kind, (n - 1) / n
        )
        return round(self.operand_bytes * share) * self.times


def find(module: Module) -> list[Collective]:
    """All collectives of a program, in the order in which they are scheduled."""
    return [each for done in executed(module) for each in _of(module, done.computation, done.times)]


def _of(module: Module, computation: Computation, times: int) -> list[Collective]:
    """The collectives of one computation.

    One collective may be several instructions: a start and a done, which may be those of a call to another core; or
    fusions that each do a part of it beside their own work, on a TPU. These have one channel.
    """
    places: dict[Channel, list[int]] = {}  # channel -> positions of its instructions
    found: dict[Channel, tuple[Instruction, Computation, Instruction]] = {}
    order = list(computation.values())
    channels: dict[str, Channel] = {}  # of the instructions that begin one
    for position, instruction in enumerate(order):
        if instruction.opcode.endswith("-done") and instruction.operands[0] in channels:
            places[channels[instruction.operands[0]]].append(position)
        for inner, each in _collectives_in(module, computation, instruction):
            # An all-reduce of which only some arrays became a reduce-scatter has the same number as that.
            channel = (each.attribute("channel_id") or each.name, _kind(each, instruction))
            places.setdefault(channel, []).append(position)
            found.setdefault(channel, (each, inner, instruction))
            channels[instruction.name] = channel

    def collective(channel: Channel) -> Collective:
        each, inner, instruction = found[channel]
        first, last = places[channel][0], places[channel][-1]
        between = order[first : last + 1] if last > first else []
        arrays = [array for name in each.operands for array in inner[name].arrays]
        source = re.search(r'op_name="([^"]*)"', each.attributes + instruction.attributes)
        return Collective(
            _kind(each, instruction),
            sum(array.bytes for array in arrays),
            group_of(each),
            times,
            last > first,
            sum(costs.flops(module, computation, each) for each in between),
            source[1] if source else "",
            max(arrays, key=lambda array: array.bytes).dtype,
        )

    return [collective(channel) for channel in found]


def _collectives_in(module: Module, computation: Computation, instruction: Instruction):
    """(computation, collective) for each that an instruction is or contains."""
    if instruction.opcode.removesuffix("-start") in KINDS:
        yield computation, instruction
    elif instruction.opcode in ("fusion", "async-start", "call-start"):
        for inner in module.called(instruction):
            for each in inner.values():
                yield from _collectives_in(module, inner, each)


def _kind(each: Instruction, instruction: Instruction) -> str:
    """On a TPU, a reduce-scatter is a fusion of an all-reduce and slices, which is never an all-reduce as it runs."""
    if any(name.startswith("all-reduce-scatter") for name in instruction.calls):
        return "reduce-scatter"
    return each.opcode.removesuffix("-start")


def group_of(collective: Instruction) -> tuple[int, ...]:
    """The chips of the first group of a collective; of a permutation, those of its first pair.

    Raises:
      ValueError: the groups are written in a way that this does not know.
    """
    text = collective.attributes
    if pair := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
        return tuple(map(int, pair.groups()))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return tuple(map(int, listed[1].split(",")))
    if iota := re.search(rf"replica_groups=\[([\d,]+)\]<=({IOTA})", text):
        return tuple(_ids(iota[2]).reshape(_numbers(iota[1]))[0].tolist())
    if mesh := re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(({IOTA})\))? \{{([^}}]*)\}}", text):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        along = mesh[3].replace("'", "").split(",")
        if set(along) <= set(axes):
            sizes = tuple(axes.values())
            ids = (_ids(mesh[2]) if mesh[2] else np.arange(np.prod(sizes))).reshape(sizes)
            return tuple(ids[tuple(slice(None) if axis in along else 0 for axis in axes)].ravel().tolist())
    found = re.search(r"(replica_groups|source_target_pairs)=.{,60}", text)
    raise ValueError(
        f"found {found[0] if found else 'no groups'} in {collective.name}, which this reader does not know"
    )


def _ids(iota: str) -> np.ndarray:
    """The numbers that an `IOTA` lists, in its order.

    >>> _ids("[2,3]T(1,0)").tolist()
    [0, 3, 1, 4, 2, 5]
    """
    shape, _, order = iota.partition("T")
    array = np.arange(np.prod(_numbers(shape))).reshape(_numbers(shape))
    return (array.transpose(_numbers(order)) if order else array).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
