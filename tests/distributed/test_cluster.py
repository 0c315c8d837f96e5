"""Runs in several processes: they compute what one computes, stop together, and go on as another number of them.

Each test starts processes of one CPU device or two, which talk over gloo, as hosts of a cluster would.
"""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from helpers import changed, rows, tiny
from running import ended, held_port, slurm, stop_after, train_in_processes

from lfr_jax.config import DistributedConfig, ScheduleConfig
from lfr_jax.data import score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.distributed import cluster
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.distributed.peers import Peers
from lfr_jax.model import decoder
from lfr_jax.storage.checkpoint import latest_step, restore_params
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train.loop import train

pytestmark = pytest.mark.apart
# From which step on they are alike in runs that were evaluated at other steps up to 10.
TABLES = {"metrics.csv": 1, "eval.csv": 11, "scores/probes.csv": 10, "scores/rates.csv": 0}


def check_blocks_and_losses(run_dir, expected_dir):
    """The same blocks in the same order, at the same losses but for rounding."""
    found, expected = rows(run_dir), rows(expected_dir)
    for name in ("step", "phase", "blocks", "tokens", "flops"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    losses = [[float(row["loss"]) for row in table] for table in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=2e-4)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_to_the_same_bits(finished, corpus_dir, tmp_path, monkeypatch):
    """On the mesh that one had alone. Catches: rows that another process holds; what each computes from its part
    alone, as of losses or rates; a table that two write, or that one decides by; a result that each prints."""
    _, path, expected = finished
    config = tiny(tmp_path / "run", corpus_dir)
    stop_after(monkeypatch, changed(config, train__eval_every=5), 10)  # with the probes of the edge written
    (code, _, shown), (other_code, _, silent) = train_in_processes(config, 2, tmp_path)
    assert (code, other_code) == (0, 0)
    for table, first in TABLES.items():
        found, whole = (
            [row for row in rows(of, table) if int(row["step"]) >= first] for of in (tmp_path / "run", path)
        )
        assert found == whole
    params, step = restore_params(
        tmp_path / "run" / "checkpoints", decoder.abstract(config.model, make_mesh(2, 1, 1, devices=jax.devices()[:2]))
    )
    assert step == 24
    jax.tree.map(np.testing.assert_array_equal, params, expected.state.params)
    assert "step 24/24" in shown and "step" not in silent
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2  # one for each start
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {**kept, "seconds": 0, "stages": 0} == {**expected.summary, "seconds": 0, "stages": 0}


@pytest.mark.slow
def test_sigterm_to_one_stops_all_and_other_numbers_go_on(finished, corpus_dir, tmp_path):
    """Four processes (data × fsdp), then two (tensor), then one. Catches: one that saves or stops alone, or at another
    step; a signal in a scoring pass that is forgotten; draws or a state that depend on the number of processes."""
    run_dir = tmp_path / "run"
    config = changed(
        tiny(run_dir, corpus_dir), mesh__fsdp=2, train__checkpoint_every=0, train__eval_every=0, train__probe_blocks=0
    )
    for count, victim, moment, change in [
        (4, 3, ("step", 3, "SIGTERM"), {}),
        (2, 0, ("score", 1, "SIGTERM"), dict(mesh__data=1, mesh__fsdp=1, mesh__tensor=2)),
    ]:
        before = latest_step(run_dir / "checkpoints") or 0
        results = train_in_processes(changed(config, **change), count, tmp_path, victim, moment)
        assert [code for code, _, _ in results] == [75] * count, "\n".join(error for _, _, error in results)
        saved = latest_step(run_dir / "checkpoints")
        assert before < saved < 20 and [int(row["step"]) for row in rows(run_dir)] == list(range(1, saved + 1))
    assert saved > 10  # the scoring pass was before step 11
    train(changed(config, mesh__fsdp=1), quiet=True)
    check_blocks_and_losses(run_dir, finished[1])


@pytest.mark.slow
def test_when_one_is_killed_the_others_say_so_and_the_run_goes_on(corpus_dir, tmp_path, monkeypatch):
    """Two devices a process, which stand in the mesh in turns; the reference losses lie where process 0 alone sees
    them, NaN among them. Catches: a survivor that waits, or ends with 0 or 75; rows that are taken to lie
    together; what each process works out of its own; a state that is compared, as if NaN were equal to NaN."""
    blocks = Blocks(open_store(corpus_dir / "train"), 32)
    with open(tmp_path / "scores.csv", "w") as file:
        file.write(score_files.origin(blocks, 1) + "block,domain,loss\n")
        file.writelines(f"{i},d,{i % 7 if i % 5 else 'nan'}\n" for i in range(blocks.num_blocks))
    rounds = ScheduleConfig("reducible", dict(first=8, later=8, rounds=2, keep=0.25), ref_scores="scores.csv")
    config = changed(tiny(tmp_path / "killed", corpus_dir), schedule=rounds, train__eval_every=0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    survivor, victim = train_in_processes(
        changed(config, mesh__data=4), 2, tmp_path, 1, ("step", 7, "SIGKILL"), order="0,2,1,3",
        folders=[tmp_path, elsewhere], devices=2,
    )  # fmt: skip
    assert (survivor[0], victim[0]) == (1, -9)
    assert "lfr: process 0 of 2: process 1 of 2 is gone: it was killed, or its machine was lost" in survivor[2]
    assert latest_step(tmp_path / "killed" / "checkpoints") == 4
    monkeypatch.chdir(tmp_path)
    train(config, quiet=True)
    train(changed(config, run_dir=str(tmp_path / "whole")), quiet=True)
    check_blocks_and_losses(tmp_path / "killed", tmp_path / "whole")


def lfr(config_file, process, port, *options, command="train", count=2):
    """The arguments of one process of `lfr train`, or of another command."""
    cluster = dict(coordinator=f"127.0.0.1:{port}", num_processes=count, process_id=process, start_timeout=60)
    named = [
        word for name, value in cluster.items() for word in (f"--distributed.{name}".replace("_", "-"), str(value))
    ]
    return ["-m", "lfr_jax.cli", command, str(config_file), *named, *options]


@pytest.fixture
def port():
    with held_port() as port:
        yield port


@pytest.fixture
def config_file(corpus_dir, tmp_path):
    config = tiny(tmp_path / "run", corpus_dir)
    file = tmp_path / "config.py"
    file.write_text(
        "import json\nfrom lfr_jax.config import Config, from_dict\n"
        f"config = from_dict(Config, json.loads({json.dumps(dataclasses.asdict(config))!r}), '')\n"
    )
    return file


@pytest.mark.slow
def test_a_comparison_is_made_by_all_and_told_by_one(config_file, port, tmp_path):
    """Catches: what process 0 does alone, for the report, that is an operation of all."""
    short = "--train.steps 6 --train.eval-every 1 --policies random_drop uniform".split()
    options = "--schedule.options learn 2 focus 1 review 2 focus2 1 reps 1".split()
    first, second = ended(
        [lfr(config_file, process, port, *short, *options, command="compare") for process in (0, 1)], [{}, {}]
    )
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "random_drop − uniform" in first[1] and "random_drop" not in second[1] + second[2]
    assert (tmp_path / "run" / "report" / "report.html").exists()


@pytest.mark.slow
def test_processes_that_differ_do_not_begin(config_file, port, tmp_path):
    """Catches: training on two settings at once; a difference that is not named; a trace in the run's folder."""
    results = ended([lfr(config_file, 0, port), lfr(config_file, 1, port, "--optimizer.peak-lr", "0.1")], [{}, {}])
    found = (
        "the processes of a run must be started alike: process 1 of 2 has optimizer.peak_lr = 0.1, process 0 has 0.003"
    )
    for process, (code, _, error) in enumerate(results):  # one that is slow may hear it from the other first
        assert code == 1 and f"process {process} of 2: " in error and found in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_process_0_is_refused_ends_all(config_file, port, tmp_path):
    """The folder is in use. Catches: others that wait for a process that has given up."""
    with RunDir(tmp_path / "run").lock():
        first, second = ended([lfr(config_file, process, port) for process in (0, 1)], [{}, {}])
    assert (first[0], second[0]) == (1, 1)
    assert f"lfr train: process 0 of 2: {tmp_path / 'run'} is in use by another trainer (pid {os.getpid()}" in first[2]
    assert "lfr: process 1 of 2: process 0 of 2 stopped: RunInUse: " in second[2]


@pytest.mark.slow
def test_one_host_of_several_does_not_wait_for_ever(config_file, port, tmp_path):
    """Catches: a hang; an abort in place of a message; a folder made for a run that does not begin."""
    (result,) = ended([lfr(config_file, 0, port, "--distributed.start-timeout", "1")], [{}])
    assert result[0] == 1 and result[2].startswith("lfr train: found 1 of 2 processes within 1 s (missing: 1). Start")
    assert not (tmp_path / "run").exists()


def test_slurm_is_detected(monkeypatch):
    """Catches: settings that JAX finds but that are not used; a cluster of one; a command for one run by several."""
    assert cluster.detect_cluster(DistributedConfig()) is None
    for name, value in slurm(process=2, count=4, port=1234).items():
        monkeypatch.setenv(name, value)
    assert cluster.detect_cluster(DistributedConfig()) == ("localhost:1234", 4, 2, [2])
    assert cluster.detect_cluster(DistributedConfig(num_processes=1)) is None
    with pytest.raises(ValueError, match="`lfr score` is for one process, and this is process 2 of 4"):
        cluster.require_one_process("lfr score")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert cluster.detect_cluster(DistributedConfig()) is None
    cluster.require_one_process("lfr score")


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(coordinator="a:1"), "--distributed.num-processes and --distributed.process-id missing: give all of"),
        (dict(process_id=0, num_processes=2), "--distributed.coordinator missing: give all of"),
        (dict(coordinator="a:1", process_id=2, num_processes=2), "process-id 2 of 2, expected 0 to 1"),
    ],
)
def test_a_cluster_is_given_whole(given, message):
    """Catches: waiting for JAX to guess the rest."""
    with pytest.raises(ValueError, match=message):
        cluster.detect_cluster(DistributedConfig(**given))


def test_a_process_that_has_computed_cannot_join():
    """Catches: waiting for others first, and failing then."""
    jax.devices()
    with pytest.raises(ValueError, match="processes must connect before JAX is first used"):
        with cluster.initialize(DistributedConfig("127.0.0.1:1", 2, 0)):
            pass


def test_one_alone_joins_nobody():
    """Catches: a wait, or another code path, where there is one process."""
    with cluster.initialize(DistributedConfig()) as peers:
        assert peers.count == 1 and Peers.current is None
        cluster.assert_equal_across_processes(peers, {"a": 1})


def test_importing_leaves_the_backend_alone():
    """Catches: a computation at import, after which no process can join others."""
    code = (
        "import lfr_jax.train.loop, lfr_jax.experiments.compare, lfr_jax.cli; from jax._src import xla_bridge; "
        "assert not xla_bridge.backends_are_initialized()"
    )
    ((code, _, error),) = ended([["-c", code]], [{}])
    assert code == 0, error
