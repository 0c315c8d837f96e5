"""Compiles one program of a run for a topology, and says what it would take."""

import time
from collections.abc import Callable, Mapping
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
from lfr_jax.train import steps
from lfr_jax.train.flops import PEAK_FLOPS, attention_flops_per_token, forward_flops_per_token


class Examined(NamedTuple):
    """What one program would take."""

    program: str  # a key of programs.PROGRAMS
    chips: int  # that it runs on
    memory: Memory
    costs: costs.Totals  # of each chip
    collectives: list[Collective]
    model_flops: float  # of all chips, by `train.flops`
    bound: Bound
    mfu: float  # the model FLOPs utilisation that the bound allows
    compile_seconds: float


def examine(
    program: str,
    config: Config,
    topology: Topology,
    mesh: jax.sharding.Mesh,
    blocks: int,
    options: Mapping[str, str] = {},
    keep: Callable[[str], None] = lambda text: None,
) -> Examined | TooLarge:
    """Compiles `program` for a mesh of the topology, with the compiler's own `options`. `keep` gets its HLO text.

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
    keep(text := compiled.as_text())
    module = hlo.parse(text)
    totals, found = costs.totals(module), find_collectives(module)
    chips = 1 if program == "generate" else mesh.size
    peak = PEAK_FLOPS[topology.generation.device_kind]
    flops = totals.flops + (kernel_flops(program, config) / chips if totals.kernels else 0)
    if program == "generate":
        alone, batch = decoder.abstract(config.model, programs.first_chip(mesh)), ()
        state = steps.TrainState(step=(), params=alone, opt_state=(), schedule=())
    else:
        state = programs.abstract_state(config, mesh, blocks)
        batch = steps.abstract_batch(config, mesh, programs.rows(program, config))
    memory = measure(compiled, topology.generation.hbm_gib, state, batch, others=program != "train")
    least = bound(flops, totals.hbm_bytes, found, mesh, topology, peak)
    by_model = model_flops(program, config)
    mfu = by_model / (least.seconds * chips * peak)
    totals = totals._replace(flops=round(flops))
    return Examined(program, chips, memory, totals, found, by_model, least, mfu, elapsed)


def model_flops(program: str, config: Config) -> float:
    """FLOPs of one call that the mathematics needs; 0 for generation, whose length is not known before."""
    length = config.data.seq_len
    return float(forward_tokens(program, config) * forward_flops_per_token(config.model, length))


def kernel_flops(program: str, config: Config) -> float:
    """The least FLOPs of attention within kernels, which the compiler does not see: they skip what the mask hides."""
    return forward_tokens(program, config) * attention_flops_per_token(config.model, config.data.seq_len) / 2


def forward_tokens(program: str, config: Config) -> int:
    """Tokens of a call, each as often as a forward pass of it would cost: training costs three."""
    return {"train": 3, "score": 1, "generate": 0}[program] * programs.rows(program, config) * config.data.seq_len
