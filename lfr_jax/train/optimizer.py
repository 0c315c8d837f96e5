"""AdamW with global-norm clipping and one of three learning-rate shapes, all from optax."""

import jax
import optax

from lfr_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of each of `steps` optimizer steps.

    Linear warm-up from 0 to `peak_lr` over `warmup` steps, then

    - cosine: half a cosine down to `end_lr` at the last step (Loshchilov & Hutter 2017);
    - wsd: constant, then linear down to `end_lr` over the last `decay` share of all steps
      (warm-up, stable, decay: Hu et al. 2024, "MiniCPM", section 4);
    - constant: `peak_lr` to the end.

    Raises:
      ValueError: the warm-up, or warm-up and decay together, do not fit into `steps`.

    >>> rate = learning_rate(OptimizerConfig(peak_lr=1.0, end_lr=0.0, shape="wsd", warmup=10), steps=100)
    >>> [round(float(rate(step)), 2) for step in (0, 5, 50, 80, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    decay = {"cosine": steps - config.warmup, "wsd": round(config.decay * steps), "constant": 0}[config.shape]
    stable = steps - config.warmup - decay
    if stable < 0 or (decay == 0 and config.shape != "constant"):
        raise ValueError(
            f"optimizer.warmup={config.warmup} steps and a {config.shape} decay of {decay} steps do not fit "
            f"into a run of {steps} steps; lower optimizer.warmup or optimizer.decay, or raise train.steps"
        )
    warmup = optax.linear_schedule(0.0, config.peak_lr, config.warmup) if config.warmup else None
    if config.shape == "constant":
        rest = [optax.constant_schedule(config.peak_lr)]
    elif config.shape == "cosine":
        rest = [optax.cosine_decay_schedule(config.peak_lr, decay, alpha=config.end_lr / config.peak_lr)]
    else:
        rest = [
            optax.constant_schedule(config.peak_lr),
            optax.linear_schedule(config.peak_lr, config.end_lr, decay),
        ]
    pieces = ([warmup] if warmup else []) + rest
    boundaries = ([config.warmup] if warmup else []) + [config.warmup + stable]
    return optax.join_schedules(pieces, boundaries[: len(pieces) - 1])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW with decay on matrices only (GPT-3's recipe, Brown et al. 2020, app. B)."""
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def decayed(params):
    """True for the matrices, which weight decay shrinks; False for norms' scales and all biases.

    Layers are stacked, so a layer's bias has two axes: the name decides, not the rank.
    """

    def is_matrix(path, _):
        return not any(getattr(key, "key", None) in ("bias", "scale") for key in path)

    return jax.tree_util.tree_map_with_path(is_matrix, params)
