"""The documentation of the schedule package: none is missing."""

import inspect

import pytest

from lfr_jax import schedule

FUNCTIONS = [name for name in schedule.__all__ if inspect.isroutine(getattr(schedule, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    """Catches: dropping the example of a public function; an argument that its docstring does not explain."""
    assert len(FUNCTIONS) > 50
    function = getattr(schedule, name)
    first, _, rest = inspect.getdoc(function).partition("\n")
    assert first.endswith(".") and ">>>" in rest
    arguments = rest.partition("Args:\n")[2].partition("\n\nReturns:")[0]
    for parameter in inspect.signature(function).parameters:
        assert parameter in arguments, parameter


DOES = ("scores_blocks", "observes_training", "weighs_losses", "follows_objective", "weighs_tokens")


@pytest.mark.parametrize(
    "sched, needs",
    [
        (schedule.uniform(), []),
        (schedule.random_drop(), []),
        (schedule.lfr(), ["scores_blocks"]),
        (schedule.lfr(scores="train"), ["observes_training"]),
        (schedule.lfr(scores="mixed"), ["scores_blocks", "observes_training"]),
        (schedule.linupper(), ["weighs_losses"]),
        (schedule.infobatch(), ["observes_training", "follows_objective"]),
        (schedule.unbiased(schedule.uniform()), ["follows_objective"]),
        (
            schedule.chain(schedule.uniform(), schedule.floor(schedule.infobatch())),
            ["observes_training", "follows_objective"],
        ),
        (schedule.uniform()._replace(token_weights=lambda state, ids, losses: losses), ["weighs_tokens"]),
        (schedule.cap_noise(schedule.floor(schedule.stratified(schedule.odm()))), ["observes_training"]),
        (schedule.chain(schedule.linupper(), schedule.lfr()), ["scores_blocks", "weighs_losses"]),
    ],
)
def test_a_trainer_is_told_what_it_does_not_do(sched, needs):
    """Catches: a need that is not looked at, named when it is met, or lost in a wrapper; only the first one named."""
    does = {name: name in needs for name in DOES}
    schedule.check_trainer(sched, **does)
    schedule.check_trainer(sched, **dict.fromkeys(DOES, True))
    for missing in needs:
        with pytest.raises(ValueError, match=f"does not do .* needs: .*{missing}=True") as raised:
            schedule.check_trainer(sched, **(does | {missing: False}))
        assert not any(met in str(raised.value) for met in set(does) - {missing})
    if needs:
        with pytest.raises(ValueError) as raised:
            schedule.check_trainer(sched)
        assert all(need in str(raised.value) for need in needs)


def test_a_trainer_is_told_which_phases_score():
    """Catches: every phase named, or the number in place of the name."""
    with pytest.raises(ValueError, match="measure the blocks before it begins 'focus', 'focus2' "):
        schedule.check_trainer(schedule.lfr(reps=1))


def test_a_trainer_is_told_which_signals_it_lacks():
    """Catches: any signal taken for supplied where one is; names lost in a wrapper, or asked for twice."""
    one, two = (schedule.uniform()._replace(extra=names) for names in (("grad_norm", "mine"), ("mine", "progress")))
    sched = schedule.cap_noise(schedule.floor(schedule.stratified(schedule.chain(one, two))))
    assert sched.extra == ("grad_norm", "mine", "progress")
    schedule.check_trainer(sched, supplies=("progress", "mine", "grad_norm", "token_losses"))
    with pytest.raises(ValueError, match="pass 'grad_norm' to schedule.observe, .*supplies=.'grad_norm'") as raised:
        schedule.check_trainer(sched, supplies=("mine", "progress"))
    assert "'mine'" not in str(raised.value)
