"""Runs that begin from a checkpoint of another run: branches, and runs that take weights alone."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from buckets import URL
from helpers import LENGTHS, changed, documents, rows, tiny
from running import stop_after, train_in_processes

from lfr_jax import schedule
from lfr_jax.config import DataConfig, InitConfig, ScheduleConfig
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.tokenizer import Bytes, Ids
from lfr_jax.experiments.compare import compare_policies
from lfr_jax.experiments.mixture_search import Goal, search_mixture
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.schedule import Phase
from lfr_jax.storage.checkpoint import DamagedCheckpoint
from lfr_jax.storage.named_checkpoint import NamedCheckpoint
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import initial
from lfr_jax.train.loop import train

pytestmark = pytest.mark.apart
TABLES = ("metrics.csv", "eval.csv", "scores/probes.csv")


def constant(run_dir, corpus_dir, policy="uniform", **options):
    """A run at a constant learning rate that keeps all its checkpoints. Its 576 draws are more than an epoch."""
    config = tiny(run_dir, corpus_dir, policy, **options)
    return changed(config, optimizer__lr_schedule="constant", train__batch_size=24, train__keep_checkpoints=12)


def cooled(trunk, run_dir, num_steps, decay_steps):
    """The same, with a decay at its end."""
    decay = dict(optimizer__lr_schedule="wsd", optimizer__decay_fraction=decay_steps / num_steps)
    return changed(trunk, run_dir=str(run_dir), train__steps=num_steps, **decay)


def equal_after(step, found, expected, found_dir, expected_dir):
    """Fails unless two finished runs have the same state, cost and losses, and the same rows after a step."""
    jax.tree.map(np.testing.assert_array_equal, found.state, expected.state)
    same_costs_and_losses(found.summary, expected.summary)
    for name in TABLES:
        assert rows(found_dir, name) == [row for row in rows(expected_dir, name) if int(row["step"]) > step]


def same_costs_and_losses(found, expected):
    for name in ("trained_tokens", "scored_tokens", "flops", "held_out_loss"):
        assert found[name] == expected[name]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory, corpus_dir):
    """A finished run under uniform shuffling, at a constant learning rate."""
    config = constant(tmp_path_factory.mktemp("trunk") / "trunk", corpus_dir)
    train(config, quiet=True)
    return config


@pytest.fixture(scope="module")
def own(trunk, tmp_path_factory):
    """A run of 20 steps that decays over the last 6: (its config, its result)."""
    config = cooled(trunk, tmp_path_factory.mktemp("own") / "own", num_steps=20, decay_steps=6)
    return config, train(config, quiet=True)


def test_a_branch_is_the_run_of_its_own(trunk, own, tmp_path, monkeypatch):
    """It is stopped twice: its checkpoint is lost, as if it had been killed before; and then the trunk is gone.
    Catches: a state, a cost or an order of the data that begins anew; rows that are written twice; a branch that goes
    on from the trunk although it has a checkpoint, or that goes on as another branch; a warm-up whose bits depend on
    what follows it."""
    config, expected = own
    origin = tmp_path / "trunk"
    shutil.copytree(trunk.run_dir, origin)
    config = changed(config, run_dir=str(tmp_path / "branch"), init__run=f"{origin}@12")
    stop_after(monkeypatch, config, 3)
    assert [int(row["step"]) for row in rows(tmp_path / "branch")] == [13, 14, 15]
    shutil.rmtree(tmp_path / "branch" / "checkpoints")
    stop_after(monkeypatch, config, 5)
    shutil.rmtree(origin)
    with pytest.raises(ValueError, match="init.run: '.*@12' when it began, now ''"):
        train(changed(config, init__run=""), quiet=True)
    result = train(config, quiet=True)
    equal_after(12, result, expected, tmp_path / "branch", pathlib.Path(own[0].run_dir))
    assert result.summary["init"] == f"{origin}@12" and expected.summary["init"] == ""
    assert {(row["step"], row["stop"]) for row in rows(tmp_path / "branch" / "scores", "rates.csv")} == {("0", "20")}


@pytest.mark.slow
def test_two_processes_branch_as_one_does(trunk, own, tmp_path):
    """Catches: a checkpoint that one process looks for alone; a check that asks an array of which it has a part."""
    config, expected = own
    config = changed(config, run_dir=str(tmp_path / "branch"), init__run=trunk.run_dir + "@12")
    (code, _, shown), (other_code, _, _) = train_in_processes(config, 2, tmp_path)
    assert (code, other_code) == (0, 0), shown
    assert f"began at step 12, from {trunk.run_dir}@12" in shown
    same_costs_and_losses(RunDir(config.run_dir).load_summary(), expected.summary)
    assert rows(tmp_path / "branch") == rows(pathlib.Path(own[0].run_dir))[12:]


@pytest.mark.slow
def test_a_branch_in_a_bucket(bucket, trunk, own, monkeypatch):
    """It is stopped once. Catches: a path that loses a slash of its URL; tables that are not those of a branch."""
    config, expected = own
    there = bucket.copy(pathlib.Path(trunk.run_dir), "trunk")
    config = changed(config, run_dir=f"{URL}/branch", init__run=f"{there}@12")
    stop_after(monkeypatch, config, 3)
    result = train(config, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, result.state, expected.state)
    same_costs_and_losses(result.summary, expected.summary)
    steps = [line.split(b",")[0] for line in bucket.files.cat_file(f"{URL}/branch/metrics.csv").splitlines()]
    assert steps == [b"step", *(b"%d" % step for step in range(13, 21))]


@pytest.mark.slow
def test_a_branch_of_lfr_within_its_last_phase(corpus_dir, tmp_path):
    """Its last phase gets longer; what its trunk was told of the blocks is in no file any more. Catches: a branch that
    begins its phase anew; scoring that is not charged; clusters that are computed again."""
    trunk = changed(constant(tmp_path / "trunk", corpus_dir, "lfr"), train__checkpoint_every=2, schedule__clusters=3)
    train(trunk, quiet=True)
    longer = changed(trunk, schedule__options=LENGTHS | dict(focus2=8))
    own = cooled(longer, tmp_path / "own", num_steps=28, decay_steps=6)
    expected = train(own, quiet=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(initial.block_info, "compute", lambda *_: pytest.fail("computed again"))
        config = changed(own, run_dir=str(tmp_path / "branch"), init__run=f"{trunk.run_dir}@22")
        result = train(config, quiet=True)
    equal_after(22, result, expected, tmp_path / "branch", tmp_path / "own")


@pytest.mark.parametrize(
    "name, changes, error",
    [
        ("@12", dict(train__seed=1), r"init\.run=.*@12: .* other settings: train\.seed is 0 there and 1 here; use"),
        ("@12", dict(train__batch_size=8, model__norm_eps=1e-6), "model.norm_eps is .*; train.batch_size is 24 there"),
        ("@12", dict(data__seq_len=16), r"data\.seq_len is 32 there and 16 here; use those, or take its weights"),
        ("@12", dict(model__dim=32), "model.dim is 16 there and 32 here"),
        ("@12", dict(schedule=ScheduleConfig("lfr", LENGTHS)), "policy is 'uniform' there and 'lfr' here"),
        ("@12", dict(optimizer__clip_norm=0.0), r"opt_state\.0\.count is absent in .*@12, and int32\[\] in this"),
        ("@12", dict(train__steps=12), r"is at step 12 there, and this one ends at step 12: raise train\.steps, or"),
        ("", {}, r"is at step 24 there, and this one ends at step 24"),  # the newest
        ("@5", {}, r"no checkpoint of step 5 in .*trunk/checkpoints, where those of 4, 8, 12, 16, 20, 24 are"),
        ("/none@5", {}, r"no run in .*/none: found no config\.json"),
    ],
)
def test_what_is_no_branch_is_refused_before_anything_is_written(trunk, tmp_path, name, changes, error):
    """Catches: each check, if it is dropped or comes after the run directory is touched."""
    config = changed(trunk, run_dir=str(tmp_path / "run"), init__run=trunk.run_dir + name, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        train(config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(trunk, tmp_path):
    """Catches: a branch on other blocks than its trunk; weights that read the tokens of another tokenizer."""
    prepare_documents(tmp_path / "other", documents(8, seed=1), Bytes(), valid_fraction=0.2)
    config = changed(trunk, run_dir=str(tmp_path / "run"), init__run=f"{trunk.run_dir}@12")
    with pytest.raises(ValueError, match="/other.: the fingerprint of the training text is .*; the fingerprint of "):
        train(changed(config, data__store=str(tmp_path / "other")), quiet=True)
    assert not (tmp_path / "run").exists()
    corpus = open_corpus(trunk.data)
    initial.check_tokenizer(NamedCheckpoint(trunk.run_dir), corpus)
    with pytest.raises(ValueError, match="tokens of another tokenizer .*trunk/tokenizer"):
        initial.check_tokenizer(NamedCheckpoint(trunk.run_dir), corpus._replace(tokenizer=Ids(264, 256)))


@pytest.mark.parametrize("setting", ["init__run", "init__params"])
@pytest.mark.parametrize("part", ["meta", "state"])
def test_a_damaged_checkpoint_is_named_and_left(trunk, tmp_path, setting, part):
    """Catches: another checkpoint that is taken in its place; one that is moved; a run that begins nevertheless."""
    copy = tmp_path / "trunk"
    shutil.copytree(trunk.run_dir, copy)
    for file in (copy / "checkpoints" / "12" / part).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    config = changed(trunk, run_dir=str(tmp_path / "run"), **{setting: f"{copy}@12"})
    with pytest.raises(DamagedCheckpoint, match="12 is damaged .* RUN@STEP: where those of 4, 8, 16, 20, 24 are"):
        train(config, quiet=True)
    assert not (tmp_path / "run").exists() and (copy / "checkpoints" / "12").exists()


def phases(*stops):
    return tuple(Phase(name, start, stop) for name, start, stop in zip("abc", (0, *stops), stops))


def test_phases_must_be_the_same_up_to_the_branch():
    """Catches: phases after the branch that must be equal too; one before it that need not; an edge off by one."""
    initial.check_phases(12, phases(10, 20), phases(10, 40))
    initial.check_phases(10, phases(10, 20), phases(10, 11, 90))
    initial.check_phases(10, phases(10, 20), phases(15))
    for step, before, now in [
        (12, phases(10, 20), phases(20, 40)),
        (12, phases(10, 20), phases(11, 40)),
        (11, phases(10, 20), phases(15)),
        (12, phases(24), phases(10, 24)),
        (12, phases(10, 20), (Phase("a", 0, 10), Phase("b", 10, 20, True))),
    ]:
        with pytest.raises(ValueError, match=f"up to step {step} that run had the phases a 0–"):
            initial.check_phases(step, before, now)


def test_the_order_of_the_data_must_go_on(trunk):
    """Catches: a longer phase whose plan is another one from its first draw on; other rates within a phase; options
    that would not count."""
    info = schedule.BlockInfo(4, domain=np.array([0, 0, 1, 1]))

    def mixture(share, num_steps):
        return schedule.fit(schedule.mixture(stages=[[1, [share, 1 - share]]]), num_steps)

    uniform = [schedule.fit(schedule.uniform(), num_steps) for num_steps in (20, 40)]
    unequal, longer = mixture(0.25, 20), mixture(0.25, 40)
    other = unequal._replace(rates=lambda state: 2 - unequal.rates(state))
    state = unequal.begin(unequal.init(info), 0)
    initial.check_order(12, *uniform, uniform[0].init(info), trunk)
    initial.check_order(12, unequal, unequal, state, trunk)
    initial.check_order(20, other, unequal, state, trunk)  # the next phase begins by its own rates
    with pytest.raises(ValueError, match=r"has 20 steps there and 40 here, .* a phase ends there \(step 20\)"):
        initial.check_order(12, unequal, longer, state, trunk)
    with pytest.raises(ValueError, match="has 20 steps there and 40 here"):
        by_length = dataclasses.replace(trunk, data=DataConfig(packing="by_length"))
        initial.check_order(12, *uniform, uniform[0].init(info), by_length)
    with pytest.raises(ValueError, match="options change the draw rates of the phase .* in its middle"):
        initial.check_order(12, other, unequal, state, trunk)
    initial.check_options(unequal.init(info), longer.init(info))
    with pytest.raises(ValueError, match=r"writes its options into its state when a run begins \(rates\)"):
        initial.check_options(unequal.init(info), mixture(0.75, 20).init(info))


@pytest.mark.slow
def test_weights_alone(trunk, tmp_path, corpus_dir):
    """On other text, in shorter blocks, under another policy; the learning rate is too small for any change. Catches:
    random weights; those of another checkpoint; steps, costs or an optimizer that go on."""
    prepare_documents(tmp_path / "other", documents(8, seed=1), Bytes(), valid_fraction=0.2)
    config = tiny(tmp_path / "run", tmp_path / "other", learn=1, focus=1, review=1, focus2=1)
    config = changed(config, train__steps=4, optimizer__peak_lr=1e-30, optimizer__warmup_steps=1, data__seq_len=16)
    result = train(changed(config, init__params=f"{trunk.run_dir}@8"), quiet=True)
    checkpoint = NamedCheckpoint(f"{trunk.run_dir}@8")
    expected = checkpoint.restore(result.state.params, "params.")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-20), result.state.params, expected)
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert result.summary["trained_tokens"] == 4 * 8 * 16 and result.summary["init"] == f"{trunk.run_dir}@8"
    counts = [leaf for leaf in jax.tree.leaves(result.state.opt_state) if leaf.shape == ()]
    assert counts and all(int(count) == 4 for count in counts)


def test_weights_of_another_model_are_refused(trunk, tmp_path):
    """Catches: weights that the model lacks, or has beside those of the checkpoint; two checkpoints to begin from."""
    config = changed(trunk, run_dir=str(tmp_path / "run"), init__params=trunk.run_dir)
    for changes, error in [
        (dict(model__mlp_dim=64), r"params=.*@24: params\..* is float32\[1,32,16\] in .*@24, and float32\[1,64,16\]"),
        (dict(model__tied_head=False), r"params\..* is absent in .*@24, and float32\["),
        (dict(model__mlp="gelu"), r"params\..* is float32\[.*\] in .*@24, and absent in this run"),
    ]:
        with pytest.raises(ValueError, match=error):
            train(changed(config, **changes), quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="a run begins from one checkpoint; leave one of the two out"):
        InitConfig(run="a", params="b")


def test_commands_that_choose_the_policy_make_no_branches(trunk, tmp_path):
    """Catches: a comparison that trains one policy, and fails at the next."""
    config = changed(trunk, run_dir=str(tmp_path / "runs"), init__run=trunk.run_dir)
    with pytest.raises(ValueError, match=f"a branch keeps that of its run: .* --init.params {trunk.run_dir}"):
        compare_policies(config, ["uniform", "lfr"])
    with pytest.raises(ValueError, match="a branch keeps that of its run"):
        search_mixture(config, 8, Goal())
    assert not (tmp_path / "runs").exists()
    assert pathlib.Path(trunk.run_dir).exists()
