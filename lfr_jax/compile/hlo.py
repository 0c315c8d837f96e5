"""Reads XLA's scheduled HLO text: its computations, and how often each instruction is done.

The text is what `jax.stages.Compiled.as_text()` gives. A loop's body stands there once; `executed` says how often it is
done. The syntax: https://openxla.org/xla/operation_semantics and https://openxla.org/xla/shapes.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
HBM, HOST = 0, 5  # memory spaces of a TPU; 1 is its vector memory, on the chip


class Array(NamedTuple):
    """An array's type: element type, shape, and the memory space that it is in."""

    dtype: str
    shape: tuple[int, ...]
    space: int = HBM

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes its numbers take, without the padding of a TPU's tiles."""
        return self.size * _bits(self.dtype) // 8


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    arrays: tuple[Array, ...]  # of its result; several if that is a tuple
    opcode: str
    operands: tuple[str, ...]  # names of instructions in the same computation; of a constant: the value
    attributes: str  # the rest of the line
    is_root: bool = False  # whether it is the result of its computation

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations that it is made of; a reduction's function of two numbers is none."""
        named = "to_apply" if self.opcode in ("call", "call-start") else "calls|body|branch_computations"
        lists = re.findall(rf"\b(?:{named})=(\{{[^}}]*\}}|\S+)", self.attributes)
        return tuple(re.findall(r"%([\w.\-]+)", "".join(lists)))

    def attribute(self, name: str) -> str:
        """The text of an attribute up to the next comma or blank; "" if there is none."""
        found = re.search(rf"\b{name}=\"?([^\s,\"]+)", self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]  # in the order in which they are scheduled


class Module(NamedTuple):
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction is made of."""
        return [self.computations[name] for name in instruction.calls]


class Done(NamedTuple):
    """A computation and how often it is done in one call of the program."""

    computation: Computation
    times: int
    known: bool  # False: within a loop whose length the text does not say, which counts as one


def parse(text: str) -> Module:
    """The computations of a program's text.

    Raises:
      ValueError: there is no entry computation.

    >>> text = '''ENTRY %main (p: f32[2,3]) -> f32[2,3] {
    ...   %p = f32[2,3]{1,0:T(8,128)S(1)} parameter(0)
    ...   ROOT %double = f32[2,3]{1,0} add(%p, %p), metadata={op_name="add"}
    ... }'''
    >>> parse(text).computations["main"]["double"].operands
    ('p', 'p')
    """
    computations, entry, lines = {}, "", []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line)
        if head:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif re.match(r"  (?:ROOT )?%[\w.\-]+ = ", line):
            lines.append(line)
        elif lines and line != "}":  # an attribute may hold line breaks
            lines[-1] += line
    if not entry:
        raise ValueError(f"found no ENTRY computation in a text of {len(text)} characters, expected scheduled HLO")
    parsed = {name: [_instruction(line) for line in lines] for name, lines in computations.items()}
    return Module({name: {line.name: line for line in lines} for name, lines in parsed.items()}, entry)


def root(computation: Computation) -> Instruction:
    """The result of a computation."""
    return next(each for each in computation.values() if each.is_root)


def parameter(computation: Computation, number: int) -> Instruction:
    """A parameter of a computation."""
    return next(each for each in computation.values() if each.opcode == "parameter" and each.operands[0] == str(number))


def executed(module: Module) -> Iterator[Done]:
    """The computations that are scheduled: the entry, and the bodies of its loops, calls and branches.

    What an instruction such as a fusion is made of is not among them, as it is one unit of work. Of a conditional, all
    branches count.
    """

    def walk(name: str, times: int, known: bool) -> Iterator[Done]:
        computation = module.computations[name]
        yield Done(computation, times, known)
        for instruction in computation.values():
            if instruction.opcode == "while":
                length = trip_count(module, computation, instruction)
                yield from walk(instruction.calls[0], times * (length or 1), known and length is not None)
            elif instruction.opcode in ("call", "conditional"):
                for called in instruction.calls:
                    yield from walk(called, times, known)

    return walk(module.entry, 1, True)


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often a `while` in `computation` runs its body; None where the text does not say.

    Where XLA has not written it down, it is the constant that a counter is compared with. JAX's loops count from 0 in
    steps of one. Of several conditions that must hold, the first counts: the loop is no longer than this.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition = module.computations[re.search(r"condition=%([\w.\-]+)", loop.attributes)[1]]
    carried = computation.get(loop.operands[0])

    def constant(inside: Computation, name: str, arguments: tuple[str, ...], outside: Computation | None) -> int | None:
        """The value of an instruction within the condition or a fusion of it, if it is a constant."""
        found = inside[name]
        if found.opcode == "constant":
            return int(found.operands[0]) if re.fullmatch(r"-?\d+", found.operands[0]) else None
        if found.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
            return constant(inside, found.operands[0], arguments, outside)
        if found.opcode == "parameter" and outside is not None:
            return constant(outside, arguments[int(found.operands[0])], (), None)
        if found.opcode == "get-tuple-element" and inside is condition and carried and carried.opcode == "tuple":
            index = int(found.attribute("index"))
            return constant(computation, carried.operands[index], (), None)
        return None

    def limit(inside: Computation, arguments: tuple[str, ...], outside: Computation | None) -> int | None:
        for found in inside.values():
            if found.opcode == "compare" and found.attribute("direction") in ("LT", "GT"):
                upper = found.operands[found.attribute("direction") == "LT"]
                if (value := constant(inside, upper, arguments, outside)) is not None:
                    return value
            for called in module.called(found):
                if (value := limit(called, found.operands, inside)) is not None:
                    return value
        return None

    return limit(condition, (), None)


def _instruction(line: str) -> Instruction:
    name, rest = re.match(r"  (?:ROOT )?%([\w.\-]+) = (.*)", line, re.DOTALL).groups()
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    opcode, rest_ = re.match(r" *([\w\-]+)(.*)", rest[end:], re.DOTALL).groups()
    close = _closing(rest_)
    inner = rest_[1:close]
    literal = opcode in ("constant", "parameter")
    operands = (inner,) if literal else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(name, _arrays(rest[:end]), opcode, operands, rest_[close + 1 :], line.startswith("  ROOT "))


def _closing(text: str) -> int:
    """The position of the bracket that closes the one with which `text` begins."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"found no closing bracket in {text[:80]!r}")


def _arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type.

    >>> _arrays("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)})")
    (Array(dtype='bf16', shape=(2, 3), space=1), Array(dtype='s32', shape=(), space=0))
    """
    found = re.findall(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?", text)

    def array(dtype: str, shape: str, layout: str) -> Array:
        space = re.search(r"S\((\d+)\)", layout)
        return Array(dtype, tuple(map(int, filter(None, shape.split(",")))), int(space[1]) if space else HBM)

    return tuple(array(*each) for each in found)


@functools.cache
def _bits(dtype: str) -> int:
    return BITS[dtype] if dtype in BITS else int(re.search(r"\d+", dtype)[0])
