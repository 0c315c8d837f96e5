"""From settings to a schedule."""

import dataclasses
import inspect
import itertools
import sys
from typing import get_args

import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.config import Config, ScheduleConfig, TrainConfig
from lfr_jax.schedule.arrays.estimate import Scores, Unmeasured
from lfr_jax.train import policy

LENGTHS = dict(learn=10, focus=5, review=5, focus2=4)


def test_every_policy_can_be_named():
    """Catches: a policy of `lfr_jax.schedule` that no configuration can name, or a name without a policy."""
    not_policies = {*schedule.WRAPPERS, "fit", "scored"}  # they take schedules, or phases
    assert set(schedule.WRAPPERS) == {"chain", "floor", "stratified", "cap_noise", "unbiased"}
    functions = {name: getattr(schedule, name) for name in schedule.__all__ if name.islower()}
    makers = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and inspect.signature(function).return_annotation is schedule.Schedule
        and name not in not_policies
    }
    assert set(schedule.POLICIES) == makers
    for name in schedule.POLICIES:
        assert policy.build(ScheduleConfig(name), steps=100).phases[-1].stop == 100


def test_options_reach_the_policy():
    """Catches: options that are dropped, or a fit that is left out, or made where no length was asked for."""
    options = LENGTHS | dict(reps=1, drop=0.25, scores="train")
    built = policy.build(ScheduleConfig("lfr", options), steps=0)
    assert built.phases == schedule.lfr(**options).phases and built.observe_train
    assert [phase.stop for phase in policy.build(ScheduleConfig("lfr", options), 48).phases] == [20, 30, 40, 48]
    state = built.begin(built.init(schedule.BlockInfo(8)), 1)
    assert np.asarray(built.rates(state)).sum() == 6


def test_uniform_lasts_as_long_as_asked():
    """Catches: the steps of `train` not handed on, or winning where none were asked for; 0 handed on as a length."""
    assert policy.build(ScheduleConfig("uniform"), 24).phases == schedule.uniform(24).phases
    assert policy.build(ScheduleConfig("uniform", dict(steps=7)), 0).phases[-1].stop == 7
    assert policy.build(ScheduleConfig("uniform", dict(steps=7)), 24).phases[-1].stop == 24
    own_length = schedule.uniform().phases[-1].stop
    assert policy.build(ScheduleConfig("uniform"), 0).phases[-1].stop == own_length
    assert policy.switched(Config(), "lfr").train.steps == own_length  # where `train.steps` is 0


@pytest.mark.parametrize("name", schedule.POLICIES)
def test_without_steps_each_policy_has_its_own_lengths(name):
    """Catches: a policy that cannot be trained with `train.steps` 0."""
    assert policy.build(ScheduleConfig(name), 0).phases == schedule.POLICIES[name]().phases


@pytest.mark.parametrize(
    "name, options, error",
    [
        (
            "unifrom",
            {},
            "no policy is called 'unifrom'; did you mean 'uniform'.* there are ado, .*, lfr, .* uniform.*, and module",
        ),
        ("fit", {}, "no policy is called 'fit'"),  # another function of the package
        ("lfr", dict(dropp=0.5), "schedule.options has 'dropp', which lfr does not take; did you mean 'drop'"),
        ("uniform", dict(learn=5), "'learn', which uniform does not take; uniform takes steps"),
        ("lfr", dict(drop=1.5), "drop is 1.5, expected a share"),
        ("lfr", dict(learn="many"), "schedule.options.learn is 'many', expected a whole number"),
    ],
)
def test_mistakes_are_named(name, options, error):
    """Catches: any function of the package taken for a policy; a TypeError in place of words."""
    with pytest.raises(ValueError, match=error):
        policy.build(ScheduleConfig(name, options), steps=100)


def test_another_policy_has_its_own_defaults():
    """Catches: options of the same name inherited, such as scores="pass" by one that trains without passes; a control
    without the floor, clusters, sample or references of what it controls."""
    config = ScheduleConfig("lfr", LENGTHS | dict(reps=3, drop=0.25, scores="pass"))
    config = dataclasses.replace(config, floor=0.1, clusters=9, score_fraction=0.5, ref_scores="a.csv")
    for name in schedule.POLICIES:
        options = config.options if name == "lfr" else {}
        assert policy.switch(config, name) == dataclasses.replace(config, policy=name, options=options)
    with pytest.raises(ValueError, match="did you mean 'random_drop'"):
        policy.switch(config, "random_drp")


def test_options_given_by_hand_go_to_the_policies_that_take_them():
    """Catches: numbers left as text; one of the file's options lost beside those by hand."""
    config, given = ScheduleConfig("lfr", dict(reps=3, drop=0.25)), {"drop": "1e-1", "scores": "train", "groups": "7"}
    assert policy.switch(config, "lfr", given).options == dict(reps=3, drop=0.1, scores="train")
    assert policy.switch(config, "seta", given).options == dict(drop=0.1, scores="train", groups=7)
    assert policy.switch(config, "uniform", given).options == {}
    stages = policy.switch(config, "mixture", {"stages": '[[300, "natural"], (100, [1, 3])]', "by": "cluster"})
    assert stages.options == dict(stages=[(300, "natural"), (100, [1.0, 3.0])], by="cluster")
    assert policy.build(stages, 0).phases[-1].stop == 400


@pytest.mark.parametrize(
    "name, word, error",
    [
        ("drop", "much", "schedule.options.drop is 'much', expected a number"),
        ("drop", "nan", "schedule.options.drop is 'nan', expected a number"),
        ("learn", "2.5", "schedule.options.learn is '2.5', expected a whole number"),
        ("learn", "", "schedule.options.learn is '', expected a whole number"),
        ("scores", "pas", "schedule.options.scores is 'pas', expected one of 'pass', 'train', "),
        ("learn", "[" * 9999, "schedule.options.learn is '.*, expected a whole number"),
        ("dropp", "1", "'dropp', which lfr does not take; did you mean 'drop'"),
    ],
)
def test_words_that_are_no_value_are_refused(name, word, error):
    """Catches: a word that reaches the policy as text; a message that does not name the option."""
    config = dataclasses.replace(Config(), schedule=ScheduleConfig("lfr"))
    with pytest.raises(ValueError, match=error):
        policy.switched(config, "lfr", {name: word})


def test_the_phases_of_another_policy_fill_the_run_of_the_file():
    """Catches: 7,250 steps of `seta`, its own, in place of the 24 that the file's options say."""
    config = dataclasses.replace(Config(), schedule=ScheduleConfig("lfr", LENGTHS | dict(reps=1)))
    assert policy.switched(config, "lfr", {}) == config and policy.num_steps(config) == 24
    assert policy.switched(config, "seta", {"rounds": "2"}).train.steps == 24
    longer = dataclasses.replace(config, train=TrainConfig(steps=36))
    assert policy.switched(longer, "seta", {}).train.steps == 36


def rates(config, losses, groups):
    """The rates of Focus, `losses` being those of its scoring pass; `groups` are domains and clusters alike."""
    built = policy.build(config, 24)
    state = built.init(schedule.BlockInfo(len(losses), domain=groups, cluster=groups))
    state = built.observe(state, np.arange(len(losses)), np.float32(losses), built.phases[1].start)
    found = np.asarray(built.rates(built.begin(state, 1)))
    return (found / found.mean()).tolist()


@pytest.mark.parametrize(
    "settings, expected",
    [
        (dict(), [0, 0, 0, 0, 2, 2, 2, 2]),
        (dict(stratify="domain"), [0, 0, 2, 2, 0, 0, 2, 2]),
        (dict(stratify="cluster"), [0, 0, 2, 2, 0, 0, 2, 2]),
        (dict(floor=0.5), [0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1.5, 1.5]),
        (dict(cap_noise=0.25), [0, 0, 0, 0, 4, 4, 0, 0]),
        (dict(cap_noise=0.25, floor=0.5), [0.8, 0.8, 0.8, 0.8, 2.4, 2.4, 0, 0]),
    ],
)
def test_settings_combine_with_any_policy(settings, expected):
    """Eight blocks of rising loss in two groups, of which LFR keeps half.

    Catches: a setting that is ignored, or always on; groups of the other kind; a floor put under capped noise.
    """
    config = ScheduleConfig("lfr", LENGTHS | dict(reps=1, drop=0.5), **settings)
    assert rates(config, [1, 2, 3, 4, 5, 6, 7, 8], np.repeat([0, 1], 4)) == pytest.approx(expected)


def test_unbiased_is_a_setting():
    """Catches: a setting that is ignored, or always on; rates that it changes; weights of the rates under a floor."""
    config = ScheduleConfig("lfr", LENGTHS | dict(reps=1, drop=0.5), floor=0.5)
    assert policy.build(config, 24).objective is None
    built = policy.build(dataclasses.replace(config, unbiased=True), 24)
    state = built.observe(built.init(schedule.BlockInfo(4)), np.arange(4), np.arange(4, dtype=np.float32), 10)
    state = built.begin(state, 1)
    assert built.rates(state).tolist() == [0.5, 0.5, 1.5, 1.5]
    np.testing.assert_allclose(schedule.objective_weights(built, state), [2, 2, 2 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("kind", ["domain", "cluster"])
def test_groups_to_keep_must_be_known(kind):
    """Catches: `stratify` taken for true or false."""
    built = policy.build(ScheduleConfig("lfr", stratify=kind), 100)
    with pytest.raises(ValueError, match=f"BlockInfo.{kind}"):
        built.init(schedule.BlockInfo(8, **{"cluster" if kind == "domain" else "domain": np.arange(8)}))


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.01, np.nan])
def test_an_impossible_sample_is_refused(fraction):
    """Catches: a pass over no block, or over more than there are."""
    with pytest.raises(ValueError, match=f"schedule.score_fraction is {fraction}, expected a number"):
        policy.build(ScheduleConfig("uniform", score_fraction=fraction), 10)


@pytest.mark.parametrize("scores, unmeasured", list(itertools.product(get_args(Scores), get_args(Unmeasured))))
def test_a_sample_needs_a_stand_in_for_the_rest(scores, unmeasured):
    """Catches: nine blocks in ten counted as hardest since nobody looked; refusing where training measures the rest."""
    config = ScheduleConfig("lfr", dict(scores=scores, unmeasured=unmeasured), score_fraction=0.1)
    if (scores, unmeasured) == ("pass", "hardest"):
        with pytest.raises(ValueError, match='under lfr: .* unmeasured="domain" or "cluster", .* scores="mixed"'):
            policy.build(config, 100)
        with pytest.raises(ValueError, match="would count as hardest"):  # the defaults
            policy.build(dataclasses.replace(config, options={}), 100)
        with pytest.raises(ValueError, match="would count as hardest"):  # of two kinds of losses, one
            options = dict(scores="mixed", scores_before="pass")
            policy.build(dataclasses.replace(config, policy="progress", options=options), 100)
        config = dataclasses.replace(config, score_fraction=1.0)
    assert policy.build(config, 100).phases[-1].stop == 100


OWN = """
from lfr_jax import schedule
def half(learn=3, focus=1, drop=0.5):
    return schedule.lfr(learn=learn, focus=focus, review=1, focus2=1, drop=drop, reps=1)
def strict(*, learn: int, drop: "Unknown" = 0.5, by: callable = None):
    return schedule.lfr(learn=learn, focus=1, review=1, focus2=1, drop=drop, reps=1)
def nothing(learn=3): pass
def broken(learn=3): return 1 / 0
number = 5
"""


@pytest.fixture
def own_policies(tmp_path, monkeypatch):
    """A module in the working directory, which is not on the path."""
    (tmp_path / "own_policies.py").write_text(OWN)
    (tmp_path / "own_exit.py").write_text("raise SystemExit(3)")
    for name in ("json.py", "made_of_parts.py"):
        (tmp_path / name).write_text("raise RuntimeError('a file of this name must not be run')")
    (tmp_path / "installed" / "made_of_parts").mkdir(parents=True)  # as orbax is: no __init__.py
    (tmp_path / "installed" / "made_of_parts" / "inner.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])


def test_a_policy_of_ones_own(own_policies):
    """Catches: names of other modules not looked up there; options, stretching or combinators left out for them."""
    config = ScheduleConfig("own_policies:half", dict(drop=0.25), floor=0.5)
    built = policy.build(config, steps=12)
    assert [phase.stop for phase in built.phases] == [6, 8, 10, 12]
    state = built.begin(built.init(schedule.BlockInfo(8)), 1)
    rates = np.asarray(built.rates(state))
    assert np.sum(rates > 1) == 6 and np.min(rates) == 0.5
    by_hand = policy.switch(ScheduleConfig("lfr", LENGTHS), "own_policies:half", {"drop": "0.25", "learn": "4"})
    assert by_hand.options == dict(drop=0.25, learn=4)
    assert policy.build(policy.switch(by_hand, "own_policies:strict", {"learn": "4"}), 0).phases[0].stop == 4


@pytest.mark.parametrize(
    "name, options, error",
    [
        ("own_policies:quarter", {}, "expected module:function"),
        ("no_such_module:half", {}, "expected module:function"),
        (":half", {}, "expected module:function"),
        ("..own_policies:half", {}, "expected module:function"),
        ("own_policies:", {}, "expected module:function"),
        ("own_policies:number", {}, "expected module:function"),
        ("own_exit:half", {}, "SystemExit: 3; expected module:function"),
        ("own_policies:nothing", {}, "returns NoneType, expected an lfr_jax.schedule.Schedule"),
        ("own_policies:broken", {}, "'own_policies:broken': ZeroDivisionError: division by zero"),
        ("own_policies:strict", {}, "'own_policies:strict': TypeError: .* 'learn'"),
        ("own_policies:half", dict(learn="many"), "schedule.options.learn is 'many', expected a whole number, or a n"),
    ],
)
def test_what_fails_in_a_policy_of_ones_own_is_named(own_policies, name, options, error):
    """Catches: a traceback, or an exit, for a fault in the module of a user."""
    with pytest.raises(ValueError, match=error):
        policy.build(ScheduleConfig(name, options), steps=12)


def test_the_working_directory_comes_last(own_policies, tmp_path, monkeypatch):
    """Catches: a file `json.py` that lies in the working directory and is run; one with the name of a package that has
    no `__init__.py`, which Python finds after all modules on the path."""
    monkeypatch.syspath_prepend(tmp_path / "installed")
    policy.build(ScheduleConfig("own_policies:half"), steps=12)
    assert str(tmp_path) not in sys.path
    for name in ("json:half", "made_of_parts.inner:half"):
        with pytest.raises(ValueError, match="has no attribute 'half'"):
            policy.find_policy(name)
