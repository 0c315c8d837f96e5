"""Optimizers with global-norm clipping and one of three learning-rate schedules, all from optax."""

import jax
import optax

from lfr_jax.config import OptimizerConfig, nearest


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of each of `steps` optimizer steps. It counts from 0: step n of the run has rate(n − 1).

    A linear warm-up from 0 reaches `peak_lr` at step `warmup_steps`: its first step has peak_lr / warmup_steps. Without
    one, the first step has `peak_lr`. Then

    - cosine: half a cosine, which reaches `end_lr` at the last step (Loshchilov & Hutter 2017);
    - wsd: constant, then linear, over the last `decay_fraction` of all steps, at least one; `end_lr` is reached at the
      last step (warm-up, stable, decay: Hu et al. 2024, "MiniCPM", section 4);
    - constant: `peak_lr` to the last step; there `end_lr` says nothing.

    In a run of one step that step is the last.

    Raises:
      ValueError: the warm-up, or warm-up and decay together, do not fit into `steps`; or the decay would rise.

    >>> rate = learning_rate(OptimizerConfig(peak_lr=1.0, end_lr=0.0, lr_schedule="wsd", warmup_steps=10), steps=100)
    >>> [round(float(rate(step - 1)), 2) for step in (1, 5, 10, 80, 81, 90, 100)]
    [0.1, 0.5, 1.0, 1.0, 0.95, 0.5, 0.0]
    """
    warmup, peak, end, shape = config.warmup_steps, config.peak_lr, config.end_lr, config.lr_schedule
    decay = {
        "cosine": max(1, steps - max(1, warmup)),
        "wsd": max(1, round(config.decay_fraction * steps)),
        "constant": 0,
    }[shape]
    stable = steps - warmup - decay
    if stable < 0:
        also = " or optimizer.decay_fraction" if shape == "wsd" else ""
        raise ValueError(
            f"optimizer.warmup_steps={warmup} steps and a {shape} decay of {decay} steps do not fit into a run "
            f"of {steps} steps; lower optimizer.warmup_steps{also}, or raise train.steps"
        )
    if decay and peak < end:
        raise ValueError(
            f"found optimizer.peak_lr={peak} below optimizer.end_lr={end}: the {shape} decay would rise; raise "
            "optimizer.peak_lr, lower optimizer.end_lr, or set optimizer.lr_schedule=constant"
        )
    decays = {"cosine": half_cosine, "wsd": optax.linear_schedule, "constant": lambda *_: optax.constant_schedule(peak)}
    after = optax.join_schedules([optax.constant_schedule(peak), decays[shape](peak, end, decay)], [stable])
    whole = optax.join_schedules([warm_up(peak, max(1, warmup)), after], [warmup])
    return lambda count: whole(count + 1)


def warm_up(peak: float, steps: int) -> optax.Schedule:
    """Linear from 0 at 0 to `peak` at `steps`. One product, so it has the same bits in every program.

    Compilers fuse the product and the sum of `optax.linear_schedule` in some programs, and not in others. A run would
    then have another warm-up than the run from which it branches at a later step.
    """
    return lambda count: count * (peak / steps)


def half_cosine(start: float, stop: float, steps: int) -> optax.Schedule:
    """Half a cosine from `start` at 0 to `stop` at `steps`, exactly these two at its ends."""
    share = optax.cosine_decay_schedule(1.0, steps)
    return lambda count: start * share(count) + stop * (1 - share(count))


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
