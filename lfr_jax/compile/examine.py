"""Compiles one program of a run for a topology, and says what it would take."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

from lfr_jax.compile import costs, hlo, programs
from lfr_jax.compile.collectives import Collective
from lfr_jax.compile.collectives import find as find_collectives
from lfr_jax.compile.memory import Memory, TooLarge, measure, too_large
from lfr_jax.compile.roofline import Bound, bound
from lfr_jax.compile.topologies import Topology
from lfr_jax.config import Config
from lfr_jax.model import decoder
from lfr_jax.train.flops import PEAK_FLOPS, attention_flops_per_token, forward_flops_per_token

PASSES = {"train": 3, "score": 1}  # forward passes that a call costs; of generation, see `model_flops`


class Examined(NamedTuple):
    """What one program would take."""

    program: str  # a key of programs.PROGRAMS
    chips: int  # that it runs on
    memory: Memory
    costs: costs.Totals  # of each chip
    collectives: list[Collective]
    model_flops: float  # of all chips, by `train.flops`
    bound: Bound
    compile_seconds: float

    @property
    def mfu(self) -> float:
        """The model FLOPs utilisation that the bound allows."""
        peak = self.costs.flops / self.bound.compute if self.bound.compute else 0
        return self.model_flops / (self.bound.seconds * self.chips * peak) if peak else 0.0


def examine(
    program: str,
    config: Config,
    topology: Topology,
    mesh: jax.sharding.Mesh,
    blocks: int,
    options: Mapping[str, str] = {},
) -> Examined | TooLarge:
    """Compiles `program` for a mesh of the topology, with the compiler's own `options`.

    Raises:
      ValueError: the program cannot be traced with these settings.
    """
    started = time.monotonic()
    lowered = programs.PROGRAMS[program](config, mesh, blocks)
    try:
        compiled = lowered.compile(compiler_options=dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        if (found := too_large(error)) is None:
            raise
        return found
    elapsed = time.monotonic() - started
    module = hlo.parse(compiled.as_text())
    totals, found = costs.totals(module), find_collectives(module)
    chips = 1 if program == "generate" else mesh.size
    peak = PEAK_FLOPS[topology.generation.device_kind]
    flops = totals.flops + (kernel_flops(program, config) / chips if totals.kernels else 0)
    state = programs.abstract_state(config, mesh, blocks)
    rows = {"train": config.train.batch_size, "score": programs.score_rows(config)}.get(program)
    batch = programs.abstract_batch(config, mesh, rows) if rows else ()
    if program == "generate":
        state = state._replace(
            params=decoder.abstract(config.model, programs.first_chip(mesh)), opt_state=(), schedule=()
        )
    memory = measure(compiled, topology.generation.hbm_gib, state, batch, others=program != "train")
    return Examined(
        program,
        chips,
        memory,
        totals._replace(flops=round(flops)),
        found,
        model_flops(program, config),
        bound(flops, totals.hbm_bytes, found, mesh, topology, peak),
        elapsed,
    )


def model_flops(program: str, config: Config) -> float:
    """FLOPs of one call that the mathematics needs; 0 for generation, whose length is not known before."""
    if program not in PASSES:
        return 0.0
    rows = config.train.batch_size if program == "train" else programs.score_rows(config)
    length = config.data.seq_len
    return float(PASSES[program] * rows * length * forward_flops_per_token(config.model, length))


def kernel_flops(program: str, config: Config) -> float:
    """The least FLOPs of attention within kernels, which the compiler does not see: they skip what the mask hides."""
    if program not in PASSES:
        return 0.0
    rows = config.train.batch_size if program == "train" else programs.score_rows(config)
    length = config.data.seq_len
    return PASSES[program] * rows * length * attention_flops_per_token(config.model, length) / 2
