"""A run in a bucket: what it leaves there, after kills and takeovers too, is what a run on a disk leaves."""

import csv
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from buckets import URL
from helpers import changed, rows, tiny
from running import PATIENCE, killed

from lfr_jax import cli
from lfr_jax.config import DataConfig, ScheduleConfig
from lfr_jax.data import score_files
from lfr_jax.data.corpus import open_corpus
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder
from lfr_jax.storage import mirror
from lfr_jax.storage.checkpoint import Checkpointer, latest_step, restore_params
from lfr_jax.storage.mirror import local_folder_for
from lfr_jax.storage.paths import as_path
from lfr_jax.storage.run_dir import RunDir, RunInUse
from lfr_jax.train import block_info
from lfr_jax.train.loop import train
from lfr_jax.train.track.metrics import MetricsWriter

TABLES = ("metrics.csv", "eval.csv", "scores/probes.csv", "scores/rates.csv")


def table(bucket, url, name):
    """As `helpers.rows`."""
    text = bucket.files.cat_file(f"{url}/{name}").decode()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(io.StringIO(text))]


def same_as(bucket, url, folder):
    for name in TABLES:
        assert table(bucket, url, name) == rows(folder, name), name


@pytest.fixture
def url(tmp_path):
    return f"{URL}/{tmp_path.name}"


@pytest.fixture(scope="module")
def remote(bucket, corpus_dir, finished):
    """The run `finished`, with its data and itself in the bucket: its config, and of each save (step, rows there)."""
    config = tiny(f"{URL}/finished", bucket.copy(corpus_dir, "finished-data"))
    real, saves = Checkpointer.save, []

    def save(self, state, meta):
        saves.append((int(state.step), [len(table(bucket, config.run_dir, name)) for name in TABLES]))
        return real(self, state, meta)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LFR_CACHE", "")
        patch.setattr(Checkpointer, "save", save)
        train(config, quiet=True)
    return config, saves


@pytest.mark.slow
def test_a_run_is_there_as_it_would_be_on_a_disk(bucket, remote, finished):
    """Catches: a file that stays on this machine; one that is copied before its last rows; a lock left behind."""
    remote, _ = remote
    folder = finished[1]
    same_as(bucket, remote.run_dir, folder)

    def names(found, top):
        inner = {str(pathlib.PurePosixPath(path).relative_to(top)).split(".")[0] for path in found}
        return {name for name in inner if not name.startswith("checkpoints")}

    here = names((path for path in folder.rglob("*") if path.is_file()), folder)
    assert names(bucket.files.find(remote.run_dir), "bucket/finished") == here - {"lock"}
    assert latest_step(f"{remote.run_dir}/checkpoints") == 24
    assert RunDir(remote.run_dir).load_summary()["held_out_loss"] == RunDir(folder).load_summary()["held_out_loss"]
    assert not list(pathlib.Path.cwd().glob("gs:*"))
    before = len(bucket.requests)
    assert train(remote, quiet=True).summary["steps"] == 24  # finished: nothing to do
    uploads = [request for request in bucket.requests[before:] if request.startswith("POST")]
    assert len(uploads) < 12


def lfr(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["lfr", *map(str, args)])
    cli.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_tables_are_never_behind_a_checkpoint(remote, finished):
    """Catches: copying the tables after the checkpoint: a kill in between loses rows for good."""
    for step, counts in remote[1]:
        for name, count in zip(TABLES, counts):
            assert count >= sum(int(row["step"]) < step + (name == "metrics.csv") for row in rows(finished[1], name))
    assert [step for step, _ in remote[1]] == [4, 8, 12, 16, 20, 24]


@pytest.mark.slow
def test_the_command_line_uses_it(bucket, remote, finished, tmp_path, monkeypatch, capsys):
    """Catches: a subcommand that takes the URL of a run for a path."""
    remote, _ = remote
    monkeypatch.setenv("LFR_CACHE", str(tmp_path / "cache"))
    for command in (["evaluate"], ["generate", "--prompt", "the", "--tokens", 3, "--temperature", 0]):
        here, there = ([command[0], place, *command[1:]] for place in (finished[1], remote.run_dir))
        assert lfr(monkeypatch, capsys, *there) == lfr(monkeypatch, capsys, *here)
    lfr(monkeypatch, capsys, "score", remote.run_dir, "--out", tmp_path / "there.csv")
    lfr(monkeypatch, capsys, "score", finished[1], "--out", tmp_path / "here.csv")
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert f"report: {remote.run_dir}/report/report.html" in lfr(monkeypatch, capsys, "report", remote.run_dir)
    assert b"Losses of single blocks" in bucket.files.cat_file(f"{remote.run_dir}/report/report.html")
    assert bucket.files.exists(f"{remote.run_dir}/report/losses.png")
    with pytest.raises(SystemExit, match="no run in gs://bucket/none"):
        lfr(monkeypatch, capsys, "evaluate", f"{URL}/none")


@pytest.mark.slow
def test_scored_here_and_trained_there(bucket, corpus_dir, finished, tmp_path, url, monkeypatch, capsys):
    """Catches: losses that cannot leave the machine, or that another cannot read; a URL taken for a path, and its
    slashes lost; a file of scores refused in a bucket without the command that writes it there."""
    here, there = tmp_path / "scores.csv", f"{url}/new/scores.csv"
    for out in (here, there):
        assert f"scored at step 24: {out}" in lfr(monkeypatch, capsys, "score", finished[1], "--out", out)
    assert bucket.files.cat_file(there) == here.read_bytes()
    rounds = ScheduleConfig("reducible", dict(first=4, later=2, rounds=1, keep=0.25), ref_scores=there)
    config = changed(tiny(tmp_path / "run", corpus_dir), schedule=rounds, train__steps=6, train__probe_blocks=0)
    train(config, quiet=True)
    blocks = open_corpus(config.data).train
    np.testing.assert_array_equal(
        block_info.load(tmp_path / "run", blocks).ref_loss, score_files.read_scores(here, blocks)
    )
    with pytest.raises(FileNotFoundError, match=rf"no file of scores '{url}/none.csv'; .* --out {url}/none.csv`"):
        score_files.read_scores(f"{url}/none.csv", blocks)
    monkeypatch.setattr(bucket, "trouble", ("scores.csv", 403))
    with pytest.raises(OSError, match=f"{there}: the object store does not answer as it should .OSError: Forbidden"):
        score_files.read_scores(there, blocks)


def test_what_cannot_be_copied_is_kept(bucket, finished, tmp_path, url, monkeypatch, capsys):
    """Catches: hours of scoring thrown away because a bucket's name is misspelt, or rights to it are lacking."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bucket, "trouble", ("/upload/", 403))
    with pytest.raises(SystemExit, match="you may not.*files that were to be uploaded are in ") as refused:
        lfr(monkeypatch, capsys, "score", finished[1], "--out", f"{url}/scores.csv")
    (kept,) = pathlib.Path(str(refused.value).rpartition("uploaded are in ")[2]).iterdir()
    assert kept.name == "scores.csv" and kept.read_text().startswith("# store ")
    with pytest.raises(KeyError), local_folder_for(as_path(url)) as folder:
        raise KeyError
    assert not folder.exists()


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(bucket, corpus_dir, finished, tmp_path, url, monkeypatch):
    """Catches: what a run needs and a bucket lacks; what a killed save left, taken for a checkpoint."""
    config = changed(tiny(url, corpus_dir), train__checkpoint_every=8)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where a killed process leaves its folder
    assert killed(config, "begun", 1, tmp_path) == -signal.SIGKILL  # at the edge after step 10
    with pytest.warns(UserWarning, match=r"is taken over from a trainer that did not release it \(pid"):
        train(config, quiet=True)
    same_as(bucket, url, finished[1])
    mesh = make_mesh(2, 1, 1, devices=jax.devices()[:2])
    expected, params = (
        restore_params(place, decoder.abstract(config.model, mesh))
        for place in (finished[1] / "checkpoints", f"{url}/checkpoints")
    )
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.slow
def test_sigterm_and_resumed_equals_uninterrupted(bucket, corpus_dir, finished, url, monkeypatch):
    """Catches: tables that are not copied when a run is preempted; a lock that its successor must wait for."""
    config, real = changed(tiny(url, corpus_dir), train__checkpoint_every=8), MetricsWriter.train

    def write(self, rows):
        real(self, rows)
        if rows[-1]["step"] >= 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsWriter, "train", write)
        with pytest.raises(SystemExit) as stopped:
            train(config, quiet=True)
    assert stopped.value.code == 75 and not bucket.files.exists(f"{url}/lock")
    step = latest_step(f"{url}/checkpoints")
    assert 9 <= step < 24 and len(table(bucket, url, "metrics.csv")) == step
    train(config, quiet=True)
    same_as(bucket, url, finished[1])


@pytest.mark.slow
def test_the_newest_trainer_has_the_run(bucket, corpus_dir, finished, url, monkeypatch):
    """Catches: two trainers that write one run in turns; an older one that lets the newer one's lock go."""
    config = changed(tiny(url, corpus_dir), train__checkpoint_every=12)
    real, taken = Checkpointer.save, []

    def save(self, state, meta):
        real(self, state, meta)
        if not taken:
            self.wait()
            taken.append(True)
            with pytest.warns(UserWarning, match="is taken over from a trainer"):
                taken.append(train(config, quiet=True))
            bucket.files.pipe(f"{url}/lock", b"another, still at work")

    monkeypatch.setattr(Checkpointer, "save", save)
    with pytest.raises(RunInUse, match=rf"{url} was taken over by another trainer \(another, still at work\)"):
        train(config, quiet=True)
    assert bucket.files.cat_file(f"{url}/lock") == b"another, still at work"
    same_as(bucket, url, finished[1])


@pytest.mark.slow
def test_settings_may_not_change(bucket, remote):
    """Catches: a run in a bucket that goes on under other settings, as if it were new."""
    remote, _ = remote
    with pytest.raises(ValueError, match="train.seed: 0 when it began, now 1"):
        train(changed(remote, train__seed=1), quiet=True)
    assert RunDir(remote.run_dir).load_config() == remote


def test_block_info_is_kept(bucket, corpus_dir, url, tmp_path):
    """Catches: what a run was told of its blocks, forgotten in a bucket."""
    config = changed(tiny(url, corpus_dir), schedule__clusters=3)
    blocks = open_corpus(DataConfig(str(corpus_dir), 32)).train
    info = block_info.load_or_compute(RunDir(url).path, config, blocks)
    run = RunDir(url)
    with run.lock():
        block_info.save(run.folder, info, blocks)
    np.testing.assert_array_equal(block_info.load(run.path, blocks).cluster, info.cluster)


@pytest.mark.slow
def test_rows_of_the_last_checkpoint_of_an_older_trainer_are_kept(bucket, remote, corpus_dir, finished, url):
    """It comes between the moment at which the run is taken and that at which checkpoints are looked for. Catches:
    tables that were fetched before it, and are put in place of those that reach up to it."""
    real = Checkpointer.restore

    def restore(self, shapes):
        bucket.files.copy(f"{remote[0].run_dir}/", f"{url}/", recursive=True)
        return real(self, shapes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, "restore", restore)
        assert int(train(tiny(url, corpus_dir), quiet=True).state.step) == 24
    same_as(bucket, url, finished[1])


@pytest.mark.slow
def test_a_table_that_cannot_be_fetched_is_not_empty(bucket, remote, finished, monkeypatch):
    """Catches: rows lost because one object was not to be had when the run went on."""
    monkeypatch.setattr(bucket, "trouble", ("eval.csv?alt=media", 404))
    with pytest.raises(FileNotFoundError, match=f"{remote[0].run_dir}: is not there"):
        train(remote[0], quiet=True)
    monkeypatch.setattr(bucket, "trouble", None)
    same_as(bucket, remote[0].run_dir, finished[1])


def test_an_error_is_not_hidden_by_the_copying_after_it(bucket, url, monkeypatch):
    """Catches: a run that diverged, or was preempted, and ends with what is wrong with the network."""
    with pytest.raises(ArithmeticError, match="diverged") as ended:
        with (run := RunDir(url)).lock():
            (run.folder / "metrics.csv").write_text("step\n1\n")
            monkeypatch.setattr(bucket, "trouble", ("/upload/", 403))
            raise ArithmeticError("diverged")
    assert f"were not uploaded either: {url}: the object store does not answer" in ended.value.__notes__[0]


def test_a_trainer_lets_go_of_what_it_holds_alone(bucket, url, monkeypatch):
    """Catches: the lock of the newer trainer, that came while the older one copied its last files, taken away."""
    real = mirror.upload_files

    def copy(*args):
        real(*args)
        bucket.files.pipe_file(f"{url}/lock", b"another")

    with RunDir(url).lock():
        monkeypatch.setattr(mirror, "upload_files", copy)
    assert bucket.files.cat_file(f"{url}/lock") == b"another"


class State(NamedTuple):
    step: jax.Array
    w: jax.Array


def saved(folder, steps):
    """Checkpoints of small states; the shapes to restore them."""
    checkpoints = Checkpointer(folder, keep=3)
    for step in steps:
        state = State(jnp.int32(step), jnp.arange(1000.0) * step)
        checkpoints.save(state, {"seconds": step})
        checkpoints.wait()
    checkpoints.close()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def test_a_save_that_was_not_finished_is_none(bucket, url):
    """Catches: whatever lies under a step's name, taken for a checkpoint: nothing is renamed in a bucket."""
    shapes = saved(url, [1, 2])
    bucket.files.rm(f"{url}/2/commit_success.txt")
    assert latest_step(url) == 1
    restored, _ = Checkpointer(url, keep=3).restore(shapes)
    assert restored.step == 1 and restored.w[1] == 1
    saved(url, [2])
    assert Checkpointer(url, keep=3).restore(shapes)[0].step == 2


def test_damaged_checkpoints_are_set_aside(bucket, url):
    """Catches: damaged objects trusted; a folder that cannot be renamed at once and so is left."""
    shapes = saved(url, [1, 2])
    (name,) = [name for name in bucket.files.find(f"{url}/2") if "/meta/metadata" in name]
    bucket.files.pipe(name, bucket.files.cat_file(name).replace(b'"seconds": 2', b'"seconds": 3'))
    with pytest.warns(UserWarning, match=rf"checkpoint {url}/2 is damaged .*moved to {url}/2.damaged"):
        restored, meta = Checkpointer(url, keep=3).restore(shapes)
    assert restored.step == 1 and meta == {"seconds": 1}
    assert bucket.files.exists(f"{url}/2.damaged/meta/metadata") and not bucket.files.exists(f"{url}/2")


def test_a_checkpoint_that_cannot_be_written(bucket, url, monkeypatch):
    """Catches: an error of TensorStore's in place of what to do; the newest one deleted for it, or not gone on from."""
    shapes = saved(url, [1])
    monkeypatch.setattr(bucket, "trouble", ("/2/state/d/", 403))
    with pytest.raises(OSError, match=rf"{url}: a checkpoint could not be written .*PERMISSION_DENIED.* still there"):
        saved(url, [2])
    monkeypatch.setattr(bucket, "trouble", None)
    assert Checkpointer(url, keep=3).restore(shapes)[0].step == 1
    saved(url, [2])
    assert Checkpointer(url, keep=3).restore(shapes)[0].step == 2


HOLD = "import sys; from lfr_jax.storage.run_dir import RunDir\nwith RunDir(sys.argv[1]).lock(): pass"


@pytest.mark.slow
def test_no_scratch_folder_is_left(bucket, url, tmp_path):
    """Catches: a folder on this machine for each start of a run, until its disk is full."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", HOLD, url], env=environment, check=True, timeout=PATIENCE)
    assert not list(tmp_path.iterdir())
    assert not bucket.files.exists(f"{url}/lock")


def test_runs_lie_on_gs_alone():
    """Catches: a run on s3://, where checkpoints do not appear whole."""
    with pytest.raises(ValueError, match="found the run s3://b/x, expected a path on this machine, or gs://"):
        RunDir("s3://b/x")
