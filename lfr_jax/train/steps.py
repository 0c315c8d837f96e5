"""The two jitted steps: train on a batch of blocks, and score one.

Both run the same model, and the same loss.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax.config import Config, ModelConfig
from lfr_jax.distributed.mesh import BATCH
from lfr_jax.model import decoder
from lfr_jax.schedule import Schedule, objective_weights, take_blocks
from lfr_jax.train import loss, signals
from lfr_jax.train.gradient_scores import Along


class TrainState(NamedTuple):
    """All that training carries from step to step, and all that a checkpoint holds."""

    step: jax.Array  # i32[]: optimizer steps done
    params: Any  # nested dict of f32 arrays
    opt_state: Any  # optax's
    schedule: Any  # the schedule's own state, per-block arrays of length N


PARAMS = 0  # purposes that the run's key is folded with


def init_state(
    config: ModelConfig, optimizer, schedule: Schedule, block_info, mesh, seed: int, params: Any = None
) -> TrainState:
    """The state before the first step. Each array is created on the mesh, in its own sharding.

    Args:
      params: to begin from, on the mesh; None: random ones.

    Raises:
      ValueError: a dimension of the model is not divisible by the mesh axis that splits it.
    """
    decoder.abstract(config, mesh)  # raises
    # It runs once, for milliseconds. On a CPU, optimising it takes longer than compiling all else but the train step.
    is_cpu = mesh.devices.flat[0].platform == "cpu"

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1} if is_cpu else None)
    def new(seed):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), PARAMS)
        params = decoder.new_params(config, key)
        return params, optimizer.init(params)

    # Flags of JAX's generator do not change what a seed means.
    with jax.set_mesh(mesh), jax.threefry_partitionable(True):
        params, opt_state = new(np.uint32(seed)) if params is None else (params, jax.jit(optimizer.init)(params))
    # The schedule's arrays are not constants of a jitted function: they may hold 10**8 blocks.
    rest = (np.int32(0), schedule.init(block_info))
    step, schedule_state = jax.tree.map(functools.partial(on_every_device, mesh), rest)
    return TrainState(step, params, opt_state, schedule_state)


def on_every_device(mesh, x) -> jax.Array:
    """Puts a whole copy of `x` on each device. All processes hold the same `x`."""
    sharding = NamedSharding(mesh, P())
    is_global = isinstance(x, jax.Array) and not x.is_fully_addressable
    if sharding.is_fully_addressable or is_global:
        return jax.device_put(x, sharding)
    x = np.asarray(x)  # device_put would compare it across processes, and NaN is not equal to NaN
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def abstract_state(config: ModelConfig, optimizer, schedule: Schedule, block_info, mesh) -> TrainState:
    """The same state as shapes, types and shardings, without allocating it: what a checkpoint is restored into."""
    params = decoder.abstract(config, mesh)
    rest = jax.eval_shape(lambda p: (optimizer.init(p), schedule.init(block_info)), params)

    def on_mesh(x):
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec if x.sharding else P())
        )

    step = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(on_mesh(step), params, *jax.tree.map(on_mesh, rest))


def make_train_step(
    config: ModelConfig,
    optimizer,
    schedule: Schedule,
    grad_accum_steps: int,
    eos_id: int,
    learning_rate: optax.Schedule = lambda count: np.float32(np.nan),
) -> Callable:
    """Builds `step(state, batch, weights_N=None) -> (state, metrics)`, jitted, which consumes (donates) its state.

    The batch's loss is the mean over its real target tokens. Each block is weighted by its entry in `weights_N`, the
    phase's `objective_weights` of all blocks, if the policy has an objective; by `schedule.loss_weights`, if it has
    them; and each token by `schedule.token_weights`. The latter two see a micro-batch at a time. The
    gradient is summed over `grad_accum_steps` micro-batches on each device, and over 'data' once, after
    the last. metrics: `loss` f32[] (unweighted, nats per token), `grad_norm` f32[] (before clipping),
    `update_norm` f32[] (of what was added to the params), `losses` f32[B] (each block's mean NLL, from
    the same forward pass).

    A batch holds `ids` and `tokens`; and `ref_token_losses` f32[B, T], if the policy asks for them.
    If it asks for "grad_dot", the batch has `held_out` too, tokens of a held-out batch. The signal is the dot
    product of the gradient of its mean loss with that of each block's mean loss, as weighted; 0 for a block without
    targets.

    Args:
      learning_rate: of a step, given the number of steps before it: the signal of this name.

    Raises:
      ValueError: from the step: the policy has an objective and `weights_N` is None, or the other way round.
    """

    needs_dots = "grad_dot" in schedule.extra

    def batch_loss(params, shift_B, batch, direction, state, total_targets):
        ids_B = batch["ids"]

        def weigh(losses_B):
            factors = [batch["weights"]] if "weights" in batch else []
            if schedule.loss_weights is not None:
                weights_B = schedule.loss_weights(state.schedule, *map(replicated, (ids_B, losses_B)))
                factors.append(jax.reshard(weights_B, BATCH))
            return functools.reduce(jnp.multiply, factors)

        def weigh_tokens(losses_BxT):
            known = signals.before_the_gradient(schedule, state.step, **of_reference(batch))
            weights_BxT = schedule.token_weights(state.schedule, *map(replicated, (ids_B, losses_BxT)), **known)
            return jax.reshard(weights_BxT, BATCH)

        total, (nll_B, count_B, nll_BxT) = loss.mean_loss(
            config,
            params,
            batch["tokens"],
            eos_id,
            total_targets,
            weigh if "weights" in batch or schedule.loss_weights is not None else None,
            weigh_tokens if schedule.token_weights is not None else None,
            Along(decoder.merge(config, direction), shift_B) if needs_dots else None,
        )
        measured = {"token_losses": nll_BxT} if "token_losses" in schedule.extra else {}
        return total, (nll_B, count_B, measured)

    def num_targets(tokens_BxT1):
        return jnp.maximum(jnp.sum(loss.num_targets(loss.targets(config, tokens_BxT1, eos_id))), 1)

    def held_out_gradient(params, tokens_BxT1):
        total_targets = num_targets(tokens_BxT1)
        return jax.grad(lambda params: loss.mean_loss(config, params, tokens_BxT1, eos_id, total_targets)[0])(params)

    def gradients(params, batch, state):
        total_targets = num_targets(batch["tokens"])
        direction, shift_B = None, None
        if needs_dots:
            direction = held_out_gradient(params, batch["held_out"])
            shift_B = jnp.zeros(batch["ids"].shape, out_sharding=BATCH)
        batch = {name: x for name, x in batch.items() if name != "held_out"}
        grad = jax.grad(batch_loss, argnums=(0, 1), has_aux=True)
        if grad_accum_steps == 1:
            (grads, slope_B), losses = grad(params, shift_B, batch, direction, state, total_targets)
            return grads, dots_of(slope_B, total_targets, *losses)

        split = functools.partial(split_microbatches, pieces=grad_accum_steps)
        local_params, summed_over_data = jax.vjp(decoder.with_local_gradients, params)
        local_direction = direction and decoder.with_local_gradients(direction)

        def add(total, micro_batch):
            (grads, slope_B), losses = grad(local_params, *micro_batch, local_direction, state, total_targets)
            return jax.tree.map(jnp.add, total, grads), (slope_B, *losses)

        zeros = jax.tree.map(no_gradient, local_params)
        grads, measured = jax.lax.scan(add, zeros, jax.tree.map(split, (shift_B, batch)))
        (grads,) = summed_over_data(grads)
        slope_B, *losses = jax.tree.map(merge_microbatches, measured)
        return grads, dots_of(slope_B, total_targets, *losses)

    def dots_of(slope_B, total_targets, nll_B, count_B, measured):
        """The losses and signals of a batch; a block's part of the batch's slope becomes that of its own mean loss."""
        if needs_dots:
            measured = measured | {"grad_dot": loss.mean_nll(slope_B * total_targets, count_B)}
        return nll_B, count_B, measured

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, batch, weights_N=None):
        if (weights_N is None) != (schedule.objective is None):
            raise ValueError("weights_N must be given if and only if the schedule has an objective: objective_weights")
        ids_B = replicated(batch["ids"])
        if weights_N is not None:
            batch = batch | {"weights": jax.reshard(take_blocks(weights_N, ids_B), BATCH)}
        grads, (nll_B, count_B, measured) = gradients(state.params, batch, state)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        losses_B = loss.mean_nll(nll_B, count_B)
        schedule_state = state.schedule
        if schedule.observe_train:  # a scatter of B numbers: no host sees them
            known = of_reference(batch) | {"learning_rate": learning_rate(state.step)}
            extra = signals.asked(schedule, state.step, ids_B, **measured, **known)
            schedule_state = schedule.observe(schedule_state, ids_B, replicated(losses_B), state.step, **extra)
        metrics = {
            "loss": loss.mean_nll(jnp.sum(nll_B), jnp.sum(count_B)),
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "losses": losses_B,
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, schedule_state), metrics

    return train_step


def abstract_weights(schedule: Schedule, state: TrainState):
    """The `weights_N` of a train step, as shape, type and sharding; `state` is such a one of `abstract_state`."""
    if schedule.objective is None:
        return None
    weights_N = jax.eval_shape(functools.partial(objective_weights, schedule), state.schedule)
    sharding = NamedSharding(state.step.sharding.mesh, P())
    return jax.ShapeDtypeStruct(weights_N.shape, weights_N.dtype, sharding=sharding)


def of_reference(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What a reference model has said of a batch: signals."""
    return {"ref_token_losses": batch["ref_token_losses"]} if "ref_token_losses" in batch else {}


def abstract_arguments(
    config: Config, schedule: Schedule, state: TrainState, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct | None]:
    """What the train step is called with, as shapes, types and shardings; `state` is such a one already."""
    batch = abstract_batch(config, mesh, config.train.batch_size)
    if "ref_token_losses" in schedule.extra:
        shape = (config.train.batch_size, config.data.seq_len)
        batch["ref_token_losses"] = batch["tokens"].update(shape=shape, dtype=jnp.float32)
    if "grad_dot" in schedule.extra:
        batch["held_out"] = abstract_batch(config, mesh, config.schedule.held_out_blocks)["tokens"]
    return state, batch, abstract_weights(schedule, state)


def abstract_batch(config: Config, mesh: Mesh, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch as `pipeline.shard_batch` puts it on the devices; of several lengths, the longest."""
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32, sharding=NamedSharding(mesh, BATCH))
    return {"ids": array((size,)), "tokens": array((size, config.data.seq_len + 1))}


def make_score_step(config: ModelConfig, eos_id: int, token_losses: bool = False) -> Callable:
    """Builds `score(params, tokens_BxT1) -> (nll_B, count_B)`, jitted: a forward pass, `block_nll`.

    A block's mean NLL in nats per token is `mean_nll` of the two; a row of padding has count 0. With `token_losses`,
    they are a third result, f32[B, T].
    """
    nll = loss.block_and_token_nll if token_losses else loss.block_nll
    return jax.jit(lambda params, tokens_BxT1: nll(config, params, tokens_BxT1, eos_id))


def replicated(x):
    """A copy on every device."""
    return jax.reshard(x, P())


def no_gradient(param):
    """Zeros of the type that a gradient of `param` has: unreduced over the axes over which the param is reduced."""
    spec = jax.typeof(param).sharding.spec
    return jax.reshard(jnp.zeros(param.shape, param.dtype), P(*spec.partitions, unreduced=spec.reduced))


def split_microbatches(x_B, pieces: int):
    """[B, ...] -> [pieces, B/pieces, ...]. Each piece is spread over all devices, as the batch was."""
    rest = (None,) * (x_B.ndim - 1)
    shape = (x_B.shape[0] // pieces, pieces, *x_B.shape[1:])
    return jnp.moveaxis(jnp.reshape(x_B, shape, out_sharding=P(*BATCH, None, *rest)), 1, 0)


def merge_microbatches(x_AxB):
    """The inverse of `split_microbatches`, for results [pieces, B/pieces, ...]."""
    x = jnp.moveaxis(x_AxB, 0, 1)
    rest = x.shape[2:]
    return jnp.reshape(x, (x.shape[0] * x.shape[1], *rest), out_sharding=P(*BATCH, *(None,) * len(rest)))
