"""Settings: which may change when a run goes on, and what became of old names."""

import pytest
from helpers import UNUSUAL, replaced

from lfr_jax.config import (
    RENAMED,
    Config,
    check_resumable,
    flat,
    from_saved,
    resumable_settings,
)

MAY_CHANGE = {
    "run_dir",
    "data.store",  # its fingerprint may not
    "data.cache",
    "data.workers",
    "model.attention",
    "model.remat",
    "model.loss_chunk",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
    "train.grad_accum_steps",
    "train.score_batch_size",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "distributed.coordinator",
    "distributed.num_processes",
    "distributed.process_id",
    "distributed.start_timeout",
    "distributed.heartbeat_timeout",
}

# Each setting that once had another name. Old runs need them for ever: lines are added here, and none goes.
OLD_NAMES = {
    "optimizer.warmup": "optimizer.warmup_steps",
    "optimizer.shape": "optimizer.lr_schedule",
    "optimizer.decay": "optimizer.decay_fraction",
    "train.accumulate": "train.grad_accum_steps",
    "train.score_batch": "train.score_batch_size",
    "distributed.heartbeat": "distributed.heartbeat_timeout",
}


def test_every_differing_setting_is_named():
    """Catches: stopping at the first difference; swapping then and now; missing options that come or go."""
    new = replaced(replaced(UNUSUAL, "train.seed", 4), "schedule.options", {"learn": 30, "reps": 2})
    with pytest.raises(ValueError) as error:
        check_resumable(UNUSUAL, new)
    message = str(error.value)
    for line in [
        "train.seed: 3 when it began, now 4",
        "schedule.options.learn: 20 when it began, now 30",
        "schedule.options.drop: 0.5 when it began, now None",
        "schedule.options.reps: None when it began, now 2",
        "choose another run_dir",
    ]:
        assert line in message
    assert "train.steps" not in message


def test_tuples_and_lists_are_the_same_setting():
    """Catches: comparing a configuration as written with one as read back from JSON."""
    check_resumable(UNUSUAL, replaced(UNUSUAL, "schedule.options", UNUSUAL.schedule.options | {"shares": (0.1, 0.2)}))


def test_what_may_change_exists_and_may_change():
    """Catches: a field that lost its mark, or one with a mark that decides the result; a mark that is not looked at."""
    changed = UNUSUAL
    assert resumable_settings(Config) == MAY_CHANGE
    for dotted in sorted(MAY_CHANGE):
        changed = replaced(changed, dotted, other_value(dotted))
    check_resumable(UNUSUAL, changed)
    for dotted in [
        "train.steps",
        "train.batch_size",
        "train.seed",
        "data.seq_len",
        "model.dtype",
        "schedule.policy",
    ]:
        with pytest.raises(ValueError, match=dotted):
            check_resumable(UNUSUAL, replaced(UNUSUAL, dotted, other_value(dotted)))


def other_value(dotted: str):
    """A value that the setting may have, and does not have in `UNUSUAL`."""
    names = {"model.attention": "xla", "model.dtype": "bfloat16", "model.remat": "block"}
    value = flat(UNUSUAL)[dotted]
    assert dotted not in names or names[dotted] != value
    return names.get(dotted) or (
        not value if type(value) is bool else "other" if type(value) in (str, type(None)) else value + 2
    )


def test_old_names_are_known_and_new_ones_exist():
    """Catches: a renamed setting that is not in `RENAMED`; a new name that was renamed again."""
    assert RENAMED == OLD_NAMES
    assert set(RENAMED.values()) <= set(flat(Config()))
    assert not set(RENAMED) & set(flat(Config()))


@pytest.mark.parametrize("old, new", [(False, "products"), (True, "block"), ("dots", "dots")])
def test_saved_values_are_read_as_their_new_ones(old, new):
    """Catches: a run that began when `remat` was True or False and is refused, or goes on with the default."""
    assert from_saved({"model": {"remat": old}}, "config.json").model.remat == new


@pytest.mark.parametrize("old, new", OLD_NAMES.items())
def test_saved_settings_are_read_under_their_new_names(old, new):
    """Catches: a run that began under an old name and is refused, or goes on with the default."""
    section, name = old.split(".")
    value = {"optimizer.shape": "wsd", "optimizer.decay": 0.7}.get(old, 7)
    config = from_saved({section: {name: value}, "run_dir": "runs/a"}, "config.json")
    assert flat(config)[new] == value and config.run_dir == "runs/a"
