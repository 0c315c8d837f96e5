"""What `lfr compile` found, for people and for programs."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from lfr_jax.compile.collectives import KINDS, Collective
from lfr_jax.compile.examine import Examined
from lfr_jax.compile.fit import Attempt
from lfr_jax.compile.memory import TooLarge
from lfr_jax.compile.topologies import GIB, Topology
from lfr_jax.config import Config

TITLES = {"train": "train step", "score": "scoring step, also of evaluation", "generate": "generation"}


def heading(config: Config, topology: Topology, mesh: jax.sharding.Mesh, blocks: int) -> str:
    """What is compiled, for what."""
    sizes = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    train, rows = config.train, mesh.shape["data"] * mesh.shape["fsdp"]
    return (
        f"{topology.title}: {topology.num_chips} chips, {topology.generation.hbm_gib} GiB for a program on each\n"
        f"mesh {sizes}; batch {train.batch_size} × {config.data.seq_len} tokens, in {train.grad_accum_steps} "
        f"micro-batches of {train.batch_size / train.grad_accum_steps / rows:g} rows on a chip; {blocks:,} blocks"
    )


def text(program: str, found: Examined | TooLarge) -> str:
    """One program's part of the report."""
    if isinstance(found, TooLarge):
        return f"{TITLES[program]}: DOES NOT FIT\n  {found}"
    memory, costs, bound = found.memory, found.costs, found.bound
    verdict = f"fits, {memory.margin:.2f} GiB to spare" if memory.fits else f"DOES NOT FIT by {-memory.margin:.2f} GiB"
    parts = [f"{name} {value:.2f}" for name, value in memory._asdict().items() if name != "limit" and value >= 0.005]
    lines = [
        f"{TITLES[program]}: {verdict} (compiled in {found.compile_seconds:.0f} s)",
        f"  GiB a chip    {memory.total:.2f} of {memory.limit}: {', '.join(parts)}",
    ]
    if found.model_flops:
        more = costs.flops * found.chips / found.model_flops
        lines.append(f"  FLOPs         {found.model_flops:.3e} by the model; the program does {more:.2f} times as many")
    if costs.kernels:
        lines.append("  kernels       " + ", ".join(f"{name} × {times}" for name, times in costs.kernels.items()))
    for kind, count, sent, hidden in by_kind(found.collectives):
        share = f"{100 * hidden / sent:.0f} % of it beside products" if hidden else "none of it beside products"
        lines.append(f"  {kind:<19} × {count}: {amount(sent)} into each chip, {share}")
    if costs.host_transfers:
        lines.append(f"  HOST TRANSFERS × {costs.host_transfers}")
    if not costs.known:
        lines.append("  one turn      of the loop whose length is not known before")
    ms = {name: milliseconds(value) for name, value in bound._asdict().items()}
    lines.append(
        f"  bound         {milliseconds(bound.seconds)} ms: compute {ms['compute']}, HBM {ms['hbm']}, links "
        f"{ms['links']}, of which {ms['exposed']} exposed ({100 * bound.share_exposed:.0f} %)"
        + (f"; MFU at most {100 * found.mfu:.0f} %" if found.model_flops else "")
    )
    return "\n".join(lines)


def attempt_text(attempt: Attempt) -> str:
    """One line about settings that were tried."""
    outcome = attempt.outcome
    if isinstance(outcome, Examined):
        memory = outcome.memory
        said = f"{'fits' if memory.fits else 'does not fit'}: {memory.total:.2f} of {memory.limit} GiB"
        said += f", bound {milliseconds(outcome.bound.seconds)} ms"
    else:
        said = str(outcome)
    return f"  tried {attempt.options}: {said}"


def advice(tried: Sequence[dict[str, Any]]) -> str:
    """What to do, by the settings that were tried."""
    if best := way_out(tried):
        return f"  it fits with {best['options']}"
    return "  nothing that was tried fits: take a smaller model, or more chips"


def way_out(tried: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of the settings that were tried and fit, those of the least bound."""
    ways = [attempt for attempt in tried if attempt["fits"]]
    return min(ways, key=lambda attempt: attempt["bound_seconds"]["step"], default=None)


def by_kind(collectives: Sequence[Collective]) -> list[tuple[str, int, int, int]]:
    """(kind, how many, bytes into each chip, of these beside products) for each kind that there is."""
    rows = []
    for kind in KINDS:
        some = [each for each in collectives if each.kind == kind]
        hidden = sum(each.wire_bytes for each in some if each.asynchronous and each.flops_meanwhile)
        rows.append((kind, sum(each.times for each in some), sum(each.wire_bytes for each in some), hidden))
    return [row for row in rows if row[1]]


def amount(size: float) -> str:
    """Bytes for people.

    >>> amount(3 * 2**30), amount(2000)
    ('3 GiB', '1.95 KiB')
    """
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def milliseconds(seconds: float) -> str:
    """A time for people, with three digits or more.

    >>> milliseconds(1.17658), milliseconds(0.0071526)
    ('1177', '7.15')
    """
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def as_dict(found: Examined | TooLarge | str) -> dict[str, Any]:
    """The same for programs. Times are in seconds, memory in GiB a chip, collectives in bytes into each chip."""
    if isinstance(found, str):
        return {"fits": False, "reason": found}
    if isinstance(found, TooLarge):
        return {"fits": False, "reason": str(found), "needed_gib": None if math.isnan(found.needed) else found.needed}
    return {
        "fits": found.memory.fits,
        "memory_gib": found.memory._asdict() | {"total": found.memory.total},
        "model_flops": found.model_flops,
        "flops_per_chip": found.costs.flops,
        "hbm_bytes": found.costs.hbm_bytes,
        "kernels": found.costs.kernels,
        "host_transfers": found.costs.host_transfers,
        "loops_known": found.costs.known,
        "collectives": [
            {"kind": kind, "count": count, "bytes": sent, "bytes_beside_products": hidden}
            for kind, count, sent, hidden in by_kind(found.collectives)
        ],
        "bound_seconds": found.bound._asdict() | {"step": found.bound.seconds},
        "mfu_at_most": found.mfu,
        "compile_seconds": found.compile_seconds,
    }
