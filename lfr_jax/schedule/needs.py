"""What a schedule needs of its trainer, and whether a trainer does it."""

from lfr_jax.schedule.types import Schedule

SIGNALS = {
    "progress": "f32[]: steps done / steps of all phases",
    "learning_rate": "f32[]: that of the step; NaN in a scoring pass",
    "token_losses": "f32[B, T]: the loss of each token, nats; NaN without a target",
    "ref_token_losses": "f32[B, T]: the loss of each token under a reference model, nats; NaN without a target, and "
    "in a scoring pass",
    "grad_norm": "f32[B]: norm of the gradient of each block's loss; NaN in a scoring pass",
    "grad_dot": "f32[B]: its dot product with the gradient of a held-out batch; NaN in a scoring pass",
}
"""The signals that a policy may name in `Schedule.extra`. A trainer may supply others, under names of its own."""


def check_trainer(
    schedule: Schedule,
    *,
    scores_blocks: bool = False,
    observes_training: bool = False,
    weighs_losses: bool = False,
    follows_objective: bool = False,
    weighs_tokens: bool = False,
    supplies: tuple[str, ...] = (),
) -> None:
    """Raises unless a trainer does all that a schedule needs. Call it once, before training.

    Without it, a policy whose needs are not met trains as another policy and reports no error:
    `linupper` without its weights is `uniform`.

    Args:
      schedule: the one to train with.
      scores_blocks: the trainer measures all blocks, or a sample, where `Phase.score` is true, before `begin`.
      observes_training: the trainer calls `observe` with the losses of every training step.
      weighs_losses: the trainer multiplies each block's loss by `loss_weights`.
      follows_objective: the trainer multiplies each block's loss by `objective_weights`.
      weighs_tokens: the trainer multiplies each token's loss by `token_weights`.
      supplies: names of the signals that the trainer passes to `observe`, if `extra` names them; see `SIGNALS`.

    Returns:
      None.

    Raises:
      ValueError: the schedule needs what the trainer does not do. The message names each such need.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.check_trainer(schedule.lfr(scores="train"), observes_training=True)
      >>> schedule.check_trainer(schedule.linupper(), observes_training=True)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: ... multiply each block's loss by schedule.loss_weights(state, ids, losses)...
    """
    scored = [f"'{phase.name}'" for phase in schedule.phases if phase.score]
    scoring = ", ".join(scored[:4]) + (f", ... ({len(scored)} phases)" if len(scored) > 4 else "")
    needs = [
        (scoring, scores_blocks, f"measure the blocks before it begins {scoring}", "scores_blocks=True"),
        (
            schedule.observe_train,
            observes_training,
            "observe the losses of every training step",
            "observes_training=True",
        ),
        (
            schedule.loss_weights,
            weighs_losses,
            "multiply each block's loss by schedule.loss_weights(state, ids, losses)",
            "weighs_losses=True",
        ),
        (
            schedule.objective,
            follows_objective,
            "multiply each block's loss by objective_weights(schedule, state, ids)",
            "follows_objective=True",
        ),
        (
            schedule.token_weights,
            weighs_tokens,
            "multiply each token's loss by schedule.token_weights(state, ids, token_losses)",
            "weighs_tokens=True",
        ),
    ]
    needs += [
        (
            True,
            name in supplies,
            f"pass {name!r} to schedule.observe, {SIGNALS.get(name, 'a signal')}",
            f"supplies=({name!r}, ...)",
        )
        for name in schedule.extra
    ]
    missing = [f"{what} (then pass {argument})" for needed, done, what, argument in needs if needed and not done]
    if missing:
        raise ValueError(f"this trainer does not do what the schedule needs: {'; '.join(missing)}")
