"""What one instruction of a compiled program costs: FLOPs of its products, bytes between chip and HBM.

Both are counted as XLA's own analysis does (xla/service/hlo_cost_analysis.cc), which however counts a loop's body once.
"""

import functools
import itertools
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from lfr_jax.compile.hlo import HBM, HOST, Array, Computation, Instruction, Module, executed, parameter, root

# They move nothing: they name a part of what is there, or end what another one began.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call"}
SLICES = {"dynamic-slice", "slice", "gather"}  # they read as much as they give
# The compiler's own: a place for a result, two arrays side by side as one, a promise, the ends of a collective.
FREE_CALLS = {
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
    "AsyncCollectiveStart",
    "AsyncCollectiveDone",
}
HOST_OPS = {"infeed", "outfeed", "send", "recv"}


class Totals(NamedTuple):
    """What one call of a program costs each chip."""

    flops: int  # of matrix products, without those within kernels
    hbm_bytes: int
    kernels: dict[str, int]  # name of a Pallas kernel -> how often it is run
    host_transfers: int  # transfers from or to the host's memory
    known: bool  # False: a loop of unknown length counts as if it were done once


def totals(module: Module) -> Totals:
    """The costs of all instructions, each as often as it is done."""
    work, moved, kernels, host, known = 0, 0, Counter(), 0, True
    for computation, times, sure in executed(module):
        known &= sure
        for each in computation.values():
            work += times * flops(module, computation, each)
            moved += times * traffic(module, computation, each)
            if each.attribute("custom_call_target") == "tpu_custom_call":
                kernels[re.sub(r"[.\d]+$", "", each.name)] += times
            to_host = each.opcode not in FREE and any(array.space == HOST for array in each.arrays)
            callback = "callback" in each.attribute("custom_call_target")
            host += times * (each.opcode in HOST_OPS or to_host or callback)
    return Totals(work, moved, dict(kernels), host, known)


def flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of the matrix products in an instruction, 2 for a multiply-add. Kernels are not looked into."""
    if instruction.opcode == "convolution":
        return _convolution(*(computation[name].arrays[0] for name in instruction.operands), instruction)
    if instruction.opcode == "dot":
        left = computation[instruction.operands[0]].arrays[0]
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)[1]
        axes = [int(axis) for axis in contracted.split(",") if axis]
        return 2 * instruction.arrays[0].size * int(np.prod([left.shape[axis] for axis in axes], dtype=np.int64))
    if instruction.opcode in FREE:
        return 0
    return sum(flops(module, inner, each) for inner in module.called(instruction) for each in inner.values())


def traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that an instruction reads from HBM and writes to it. What stays in the chip's own memory is free.

    A slice reads what it gives, and an update in place writes what it changes, also within a fusion.
    """
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done") or instruction.attribute("custom_call_target") in FREE_CALLS:
        return 0
    inputs = [computation[name].arrays for name in instruction.operands if name in computation]
    if opcode == "fusion":
        (inner,) = module.called(instruction)
        return _fusion(module, inner, inputs, instruction)
    if opcode.removesuffix("-start") in SLICES:
        result = instruction.arrays[1] if opcode.endswith("-start") else instruction.arrays[0]
        return _in_hbm([result]) + (result.bytes if _in_hbm(inputs[0]) else 0)
    if opcode == "dynamic-update-slice":
        return 2 * _in_hbm(inputs[1])
    results = instruction.arrays[:1] if opcode == "copy-start" else instruction.arrays
    if opcode == "call-start":  # its operands stand before its results
        results = results[sum(map(len, inputs)) :]
    return _in_hbm(itertools.chain(*inputs)) + _in_hbm(results)


def _in_hbm(arrays) -> int:
    return sum(array.bytes for array in arrays if array.space == HBM)


def _fusion(module: Module, inner: Computation, inputs: list[tuple[Array, ...]], instruction: Instruction) -> int:
    """Bytes that a fusion reads and writes."""
    parameters = [each for each in inner.values() if each.opcode == "parameter"]
    read = sum(_read(module, inner, each.name, _in_hbm(inputs[int(each.operands[0])])) for each in parameters)
    end = root(inner)
    outputs = [inner[name] for name in end.operands] if end.opcode == "tuple" else [end]
    written = sum(
        min(result.bytes, _written(module, inner, output))
        for output, result in zip(outputs, instruction.arrays)
        if result.space == HBM
    )
    return read + written


def _read(module: Module, inner: Computation, name: str, whole: int) -> int:
    """Bytes that a computation reads of the value `name`, which has `whole` bytes in HBM."""
    read = 0
    for each in inner.values():
        for position, operand in enumerate(each.operands):
            if operand != name:
                continue
            if each.opcode == "bitcast":
                read += _read(module, inner, each.name, whole)
            elif each.opcode == "fusion":
                (called,) = module.called(each)
                read += _read(module, called, parameter(called, position).name, whole)
            elif each.opcode in SLICES and position == 0:
                read += each.arrays[0].bytes
            elif each.opcode != "dynamic-update-slice" or position != 0:
                return whole
    return min(whole, read)


def _written(module: Module, inner: Computation, output: Instruction) -> int:
    """Bytes that a computation writes for one of its results."""
    if output.opcode == "bitcast":
        return _written(module, inner, inner[output.operands[0]])
    if output.opcode == "dynamic-update-slice":
        return inner[output.operands[1]].arrays[0].bytes
    source, index = output, None
    if output.opcode == "get-tuple-element":
        source, index = inner[output.operands[0]], int(output.attribute("index"))
    if source.opcode == "fusion":
        (called,) = module.called(source)
        end = root(called)
        if index is None and end.opcode != "tuple":
            return _written(module, called, end)
        if index is not None and end.opcode == "tuple":
            return _written(module, called, called[end.operands[index]])
    return output.arrays[0].bytes


def _convolution(left: Array, kernel: Array, instruction: Instruction) -> int:
    """A TPU's products are convolutions: axes of the batch and of heads are spatial ones."""
    of_left, of_kernel, of_out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes).groups()
    out = instruction.arrays[0].shape
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    settings = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    total = 2 * out[of_out.index("b")] * out[of_out.index("f")] * kernel.shape[of_kernel.index("i")]
    for axis in range(len(of_out) - 2):

        def setting(name: str, default: int) -> int:
            """What the window says of this axis; of a padding, what is before the array."""
            return int(settings[name].split("x")[axis].split("_")[0]) if name in settings else default

        total *= _products(
            left.shape[of_left.index(str(axis))],
            out[of_out.index(str(axis))],
            setting("size", 1),
            setting("stride", 1),
            setting("pad", 0),
            setting("lhs_dilate", 1),
            setting("rhs_dilate", 1),
        )
    return total


@functools.cache
def _products(size: int, out: int, window: int, stride: int, pad: int, dilate: int, window_dilate: int) -> int:
    """Pairs of an output and a place in the window at which there is an input, and not padding."""
    at = np.arange(out)[:, None] * stride + np.arange(window)[None, :] * window_dilate - pad
    return int(np.sum((at >= 0) & (at < (size - 1) * dilate + 1) & (at % dilate == 0)))
