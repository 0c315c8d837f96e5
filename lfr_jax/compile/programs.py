"""The programs of a run, traced for devices that need not be here: the trainer's own functions on abstract arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.config import Config
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder, generate
from lfr_jax.schedule import BlockInfo, Schedule
from lfr_jax.train import optimizer, policy, start, steps

NEW_TOKENS = 100  # what `lfr generate` writes by default
EOS_ID = 0  # any: the shapes do not depend on it


def mesh_of(config: Config, devices) -> Mesh:
    """The mesh that the settings ask for. Raises ValueError if it, the model or the batches do not fit the devices."""
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=devices)
    start.check_devices(config, mesh)
    return mesh


def num_blocks(config: Config) -> int:
    """How many blocks the first phase draws: as many as the corpus has, where that phase is one pass over it."""
    phases = policy.build(config.schedule, config.train.steps).phases
    return phases[0].stop * config.train.batch_size


def abstract_state(config: Config, mesh: Mesh, blocks: int) -> steps.TrainState:
    """The state of a run over a corpus of that many blocks."""
    tx, schedule = _parts(config)
    return steps.abstract_state(config.model, tx, schedule, _block_info(config, blocks), mesh)


def train(config: Config, mesh: Mesh, blocks: int) -> jax.stages.Lowered:
    """The train step."""
    tx, schedule = _parts(config)
    step = steps.make_train_step(config.model, tx, schedule, config.train.grad_accum_steps, EOS_ID)
    state = abstract_state(config, mesh, blocks)
    with jax.set_mesh(mesh):
        return step.lower(*steps.abstract_arguments(config, schedule, state, mesh))


def score(config: Config, mesh: Mesh, blocks: int) -> jax.stages.Lowered:
    """The scoring step, with which held-out text is evaluated and probes are measured too."""
    batch = steps.abstract_batch(config, mesh, rows("score", config))
    with jax.set_mesh(mesh):
        return steps.make_score_step(config.model, EOS_ID).lower(decoder.abstract(config.model, mesh), batch["tokens"])


def rows(program: str, config: Config) -> int:
    """Blocks in a call of a program."""
    train = config.train
    at_once = train.score_batch_size or train.batch_size // train.grad_accum_steps
    return {"train": train.batch_size, "score": at_once, "generate": 0}[program]


def generation(config: Config, mesh: Mesh, blocks: int) -> jax.stages.Lowered:
    """What `lfr generate` runs on the first chip: a short prompt, and NEW_TOKENS new ones. Others would repeat it."""
    alone = first_chip(mesh)
    whole = NamedSharding(alone, P())
    new_tokens = min(NEW_TOKENS, config.model.max_len - 1)
    prompt = jax.ShapeDtypeStruct((min(generate.PROMPT_STEP, config.model.max_len),), jnp.int32, sharding=whole)
    key = jax.eval_shape(jax.random.key, 0)
    sampling = generate.Sampling(0.8, 0, 1.0, config.model.vocab_size)
    with jax.set_mesh(alone):
        params = decoder.abstract(config.model, alone)
        return generate.write_on.lower(params, prompt, 1, key, EOS_ID, config.model, new_tokens, sampling)


def first_chip(mesh: Mesh) -> Mesh:
    """A mesh of one chip."""
    return make_mesh(1, 1, 1, devices=mesh.devices.flat[:1])


PROGRAMS: dict[str, Callable[[Config, Mesh, int], jax.stages.Lowered]] = {
    "train": train,
    "score": score,
    "generate": generation,
}


def _parts(config: Config) -> tuple[Any, Schedule]:
    schedule = policy.build(config.schedule, config.train.steps)
    return optimizer.make_optimizer(config.optimizer, schedule.phases[-1].stop), schedule


def _block_info(config: Config, blocks: int) -> BlockInfo:
    """What the settings say is known of the blocks. Only shapes count, so the arrays take no memory."""
    chosen = config.schedule
    loss_N, number_N = (np.broadcast_to(np.zeros((), dtype), blocks) for dtype in (np.float32, np.int32))
    return BlockInfo(
        blocks,
        domain=number_N,
        cluster=number_N if chosen.clusters else None,
        length=number_N if config.data.packing == "by_length" else None,
        ref_loss=loss_N if chosen.ref_scores else None,
        weak_loss=loss_N if chosen.weak_scores else None,
        strong_loss=loss_N if chosen.strong_scores else None,
        columns={word.partition("=")[0]: loss_N for word in chosen.columns},
        documents=(number_N, number_N, np.broadcast_to(np.int32(1), blocks)),  # one in each block, at least
    )
