"""Settings changed by their dotted names."""

import pytest

from lfr_jax.config import Config, ModelConfig, ScheduleConfig
from lfr_jax.config.dotted import with_settings, with_texts

LFR = Config(schedule=ScheduleConfig("lfr", {"drop": 0.25, "reps": 2}))


@pytest.mark.parametrize(
    "changes, policy, options",
    [
        ({}, "lfr", {"drop": 0.25, "reps": 2}),
        ({"schedule.options.drop": 0.5}, "lfr", {"drop": 0.5, "reps": 2}),
        ({"schedule.options": {"reps": 1}}, "lfr", {"reps": 1}),
        ({"schedule.options": {"reps": 1}, "schedule.options.drop": 0.5}, "lfr", {"reps": 1, "drop": 0.5}),
        ({"schedule.policy": "uniform"}, "uniform", {}),
        ({"schedule.policy": "seta", "schedule.options.rounds": 2}, "seta", {"rounds": 2}),
    ],
)
def test_another_policy_begins_with_its_own_options(changes, policy, options):
    """Catches: the options of one policy given to another; one option that replaces the others of its policy."""
    schedule = with_settings(LFR, changes).schedule
    assert (schedule.policy, schedule.options) == (policy, options)
    assert LFR.schedule.options == {"drop": 0.25, "reps": 2}


def test_settings_of_a_section_are_changed_together():
    """Catches: one setting after the other, where only both fit together."""
    config = Config(model=ModelConfig(dim=768, num_heads=12))
    model = with_settings(
        config, {"model.dim": 10, "model.num_heads": 5, "model.num_kv_heads": 5, "run_dir": "a"}
    ).model
    assert (model.dim, model.num_heads) == (10, 5)


@pytest.mark.parametrize(
    "name, error",
    [
        ("train.step", "no setting 'train.step'; did you mean 'train.steps'."),
        ("optimizer.warmup", "it is called optimizer.warmup_steps now"),
        ("train", "no setting 'train'"),
    ],
)
def test_an_unknown_setting_is_refused(name, error):
    """Catches: a KeyError; a whole section overwritten with a number."""
    with pytest.raises(ValueError, match=error):
        with_settings(Config(), {name: 1})


def test_texts_are_changed_wherever_they_are():
    """Catches: a text in a list of an option, or in a tuple of settings, that is left as it was."""
    config = Config("X", schedule=ScheduleConfig(ref_scores="X/a", columns=("q=X/b",), options={"a": ["X", 1]}))
    changed = with_texts(config, lambda text: text.replace("X", "here"))
    chosen = changed.schedule
    assert [changed.run_dir, chosen.ref_scores, *chosen.columns, chosen.options] == [
        "here", "here/a", "q=here/b", {"a": ["here", 1]}
    ]  # fmt: skip
