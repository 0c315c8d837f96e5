"""Settings: which may change when a run goes on, and what became of old names."""

import dataclasses

import pytest

from lfr_jax.config import (
    RENAMED,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    check_resumable,
    flat,
    from_saved,
    resumable_settings,
)

UNUSUAL = Config(
    run_dir="runs/a",
    data=DataConfig(store="elsewhere", seq_len=64),
    model=ModelConfig(num_layers=2, norm="rmsnorm", bias=False),
    schedule=ScheduleConfig("lfr", {"learn": 20, "drop": 0.5, "shares": [0.1, 0.2], "nested": {"a": None}}),
    optimizer=OptimizerConfig(peak_lr=1 / 3),
    mesh=MeshConfig(tensor=2),
    train=TrainConfig(steps=7, seed=3),
)


def replace(config, dotted, value):
    first, _, rest = dotted.partition(".")
    return dataclasses.replace(config, **{first: replace(getattr(config, first), rest, value) if rest else value})


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
    "train.eval_blocks",
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
    new = replace(replace(UNUSUAL, "train.seed", 4), "schedule.options", {"learn": 30, "reps": 2})
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
    check_resumable(UNUSUAL, replace(UNUSUAL, "schedule.options", UNUSUAL.schedule.options | {"shares": (0.1, 0.2)}))


def test_what_may_change_exists_and_may_change():
    """Catches: a field that lost its mark, or one with a mark that decides the result; a mark that is not looked at."""
    changed = UNUSUAL
    assert resumable_settings(Config) == MAY_CHANGE
    for dotted in sorted(MAY_CHANGE):
        value = flat(UNUSUAL)[dotted]
        changed = replace(changed, dotted, value + 1 if type(value) is int else "other")
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
            check_resumable(UNUSUAL, replace(UNUSUAL, dotted, "other"))


def test_old_names_are_known_and_new_ones_exist():
    """Catches: a renamed setting that is not in `RENAMED`; a new name that was renamed again."""
    assert RENAMED == OLD_NAMES
    assert set(RENAMED.values()) <= set(flat(Config()))
    assert not set(RENAMED) & set(flat(Config()))


@pytest.mark.parametrize("old, new", OLD_NAMES.items())
def test_saved_settings_are_read_under_their_new_names(old, new):
    """Catches: a run that began under an old name and is refused, or goes on with the default."""
    section, name = old.split(".")
    config = from_saved({section: {name: 7}, "run_dir": "runs/a"}, "config.json")
    assert flat(config)[new] == 7 and config.run_dir == "runs/a"
