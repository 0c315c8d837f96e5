"""Optimizers with global-norm clipping and one of three learning-rate schedules, all from optax."""

import jax
import optax

from lfr_jax.config import OptimizerConfig, nearest


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of each of `steps` optimizer steps.

    Linear warm-up from 0 to `peak_lr` over the first `warmup_steps`, then

    - cosine: half a cosine down to `end_lr` at the last step (Loshchilov & Hutter 2017);
    - wsd: constant, then linear down to `end_lr` over the last `decay_fraction` of all steps
      (warm-up, stable, decay: Hu et al. 2024, "MiniCPM", section 4);
    - constant: `peak_lr` to the end.

    Raises:
      ValueError: the warm-up, or warm-up and decay together, do not fit into `steps`.

    >>> rate = learning_rate(OptimizerConfig(peak_lr=1.0, end_lr=0.0, lr_schedule="wsd", warmup_steps=10), steps=100)
    >>> [round(float(rate(step)), 2) for step in (0, 5, 50, 80, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warmup_steps, shape = config.warmup_steps, config.lr_schedule
    decay = {"cosine": steps - warmup_steps, "wsd": round(config.decay_fraction * steps), "constant": 0}[shape]
    stable = steps - warmup_steps - decay
    if stable < 0 or (decay == 0 and shape != "constant"):
        raise ValueError(
            f"optimizer.warmup_steps={warmup_steps} steps and a {shape} decay of {decay} steps do not fit into a run "
            f"of {steps} steps; lower optimizer.warmup_steps or optimizer.decay_fraction, or raise train.steps"
        )
    warmup = optax.linear_schedule(0.0, config.peak_lr, warmup_steps) if warmup_steps else None
    if shape == "constant":
        rest = [optax.constant_schedule(config.peak_lr)]
    elif shape == "cosine":
        rest = [optax.cosine_decay_schedule(config.peak_lr, decay, alpha=config.end_lr / config.peak_lr)]
    else:
        rest = [
            optax.constant_schedule(config.peak_lr),
            optax.linear_schedule(config.peak_lr, config.end_lr, decay),
        ]
    pieces = ([warmup] if warmup else []) + rest
    boundaries = ([warmup_steps] if warmup else []) + [warmup_steps + stable]
    return optax.join_schedules(pieces, boundaries[: len(pieces) - 1])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clips by global norm (GPT-3's recipe, Brown et al. 2020, app. B), then the optimizer `config.name`.

    Raises:
      ValueError: `OPTIMIZERS` has no optimizer of this name; or `learning_rate` raises.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f"found optimizer.name={config.name!r}; {nearest(config.name, OPTIMIZERS)}known are {', '.join(OPTIMIZERS)}"
        )
    optimizer = OPTIMIZERS[config.name](config, learning_rate(config, steps))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer) if config.clip_norm else optimizer


def adamw(config: OptimizerConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2017), with decay on matrices only (GPT-3's recipe)."""
    return optax.adamw(
        learning_rate,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )


# By `optimizer.name`. docs/add_an_optimizer.md says how to add one.
OPTIMIZERS = {"adamw": adamw}


def decayed(params):
    """True for the matrices, which weight decay shrinks; False for norms' scales and all biases.

    Layers are stacked, so a layer's bias has two axes: the name decides, not the rank.
    """

    def is_matrix(path, _):
        return not any(getattr(key, "key", None) in ("bias", "scale") for key in path)

    return jax.tree_util.tree_map_with_path(is_matrix, params)
