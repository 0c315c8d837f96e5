"""The run's folder: one trainer at a time, settings that read back, and settings that may not change."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from helpers import UNUSUAL, replaced

from lfr_jax.config import MeshConfig
from lfr_jax.storage.run_dir import RunDir, RunInUse


def with_a_checkpoint(run):
    (run.path / "checkpoints" / "10").mkdir(parents=True)
    return run


def test_config_reads_back(tmp_path):
    """Catches: nested dataclasses left as dicts; floats rounded; a temporary file left behind."""
    run = RunDir(tmp_path)
    run.save_config(UNUSUAL)
    assert run.load_config() == UNUSUAL
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_an_older_config_lacks_new_fields(tmp_path):
    """Catches: refusing a run because a setting was invented since."""
    run = RunDir(tmp_path)
    run.save_config(UNUSUAL)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["train"]["seed"], values["mesh"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert run.load_config() == replaced(replaced(UNUSUAL, "train.seed", 0), "mesh", MeshConfig())


def test_unreadable_configs_say_what_to_do(tmp_path):
    """Catches: ignoring unknown keys; naming the file, the section or the likely key no more."""
    with pytest.raises(FileNotFoundError, match="no run in .*none"):
        RunDir(tmp_path / "none").load_config()
    path = tmp_path / "config.json"
    path.write_text('{"train": {"sedd": 3}}')
    with pytest.raises(ValueError, match="config.json: train: unknown setting 'sedd'; did you mean 'seed'"):
        RunDir(tmp_path).load_config()
    path.write_text('{"train": ')
    with pytest.raises(ValueError, match="config.json: found no valid JSON"):
        RunDir(tmp_path).load_config()


def test_settings_may_change_freely_until_the_first_checkpoint(tmp_path):
    """Catches: refusing before anything would be lost; overwriting the settings of a run that has begun."""
    run = RunDir(tmp_path)
    run.save_config(UNUSUAL)
    run.save_config(replaced(UNUSUAL, "train.seed", 4))
    with_a_checkpoint(run)
    run.save_config(replaced(replaced(UNUSUAL, "train.seed", 4), "train.log_every", 99))
    with pytest.raises(ValueError, match="train.seed: 4 when it began, now 5"):
        run.save_config(replaced(UNUSUAL, "train.seed", 5))
    assert (run.load_config().train.seed, run.load_config().train.log_every) == (4, 99)


def test_a_full_disk_is_named(tmp_path):
    """Catches: `No space left on device`, without the disk; the file's own name lost; other errors changed."""
    for given, named in [((28, "full"), ""), ((28, "full", "a"), "'a'")]:
        with pytest.raises(OSError, match=f"{tmp_path}: the disk is full .*{named}.*; make room") as error:
            with RunDir(tmp_path).lock():
                raise OSError(*given)
    for given in [(5, "broken"), ("other",)]:
        with pytest.raises(OSError) as error, RunDir(tmp_path).lock():
            raise OSError(*given)
        assert error.value.args == given and error.value.filename is None


def test_summary(tmp_path):
    """Catches: writing the summary elsewhere."""
    RunDir(tmp_path).write_summary({"steps": 3})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"steps": 3}


EXPORTED = {"config.json": '{"model_type": "llama"}', "model.safetensors": "x", "tokenizer.json": "{}"}


@pytest.mark.parametrize(
    "files, shown",
    [
        (EXPORTED, "'config.json', 'model.safetensors', 'tokenizer.json' and no config.json of a run"),
        ({"metrics.csv": "step,loss\n"}, "'metrics.csv'"),
        ({"tokenizer/tokenizer.json": "{}"}, "'tokenizer'"),
        ({"catalog.csv": "", "notes.md": ""}, "'catalog.csv', 'notes.md'"),
        ({"config.json": "[]"}, "'config.json'"),
        ({"config.json": "{"}, "'config.json'"),
        ({f"{n}.csv": "" for n in range(5)}, "'0.csv', '1.csv', '2.csv' and 2 more"),
    ],
)
def test_a_folder_that_is_no_run_stays_as_it_is(tmp_path, files, shown):
    """Catches: somebody's results or model overwritten; a `lock` left in their folder; any config.json taken for a
    run's."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=f"{tmp_path}: found {shown}"), RunDir(tmp_path).lock():
        raise AssertionError("was entered")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("names", [(), ("lock", ".config.json.7.tmp"), ("log", "train.log.1", "slurm-7.out", "a.txt")])
def test_a_new_folder_may_hold_a_lock_and_logs(tmp_path, names):
    """Catches: a start that was killed, whose output goes there, or that has a disk for checkpoints, refused."""
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    with RunDir(tmp_path).lock():
        RunDir(tmp_path).save_config(UNUSUAL)
        (tmp_path / "metrics.csv").touch()
    with RunDir(tmp_path).lock():
        pass


def test_a_run_without_its_settings_is_told_to_put_them_back(tmp_path):
    """Catches: "no run here", said by the start of a run of which checkpoints are there."""
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    with pytest.raises(
        ValueError, match="found .checkpoints. and no config.json of a run.*put the config.json .* back"
    ):
        RunDir(tmp_path).check_config(UNUSUAL)


def test_a_path_that_the_libraries_misread_is_refused_before_anything_is_written(tmp_path):
    """Catches: the check made by the first checkpoint, after hours."""
    with pytest.raises(ValueError, match=r"seed\[1\]/checkpoints: found '\['.*choose another run_dir"):
        with RunDir(tmp_path / "seed[1]").lock():
            raise AssertionError("was entered")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("put", [lambda path: path.touch(), lambda path: path.symlink_to("/gone/disk")])
def test_checkpoints_that_cannot_be_written_are_noticed_before_the_first_step(tmp_path, put):
    """Catches: a run that trains to its first save, and ends there without having saved anything."""
    (tmp_path / "run").mkdir()
    run = RunDir(tmp_path / "run")
    with run.lock():
        run.save_config(UNUSUAL)
    put(tmp_path / "run/checkpoints")
    with pytest.raises(NotADirectoryError, match="run/checkpoints: found no folder"), run.lock():
        pass


def test_a_finished_run_without_checkpoints_does_not_begin_anew(tmp_path):
    """Catches: tables and summary overwritten by a run from step 0, because a disk was not mounted."""
    run = RunDir(tmp_path)
    run.save_config(UNUSUAL)
    with_a_checkpoint(run).write_summary({"policy": UNUSUAL.schedule.policy})
    (tmp_path / "checkpoints/10").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="found the summary of a finished run, and no checkpoint"):
        run.save_config(UNUSUAL)


def test_the_summary_of_another_run_is_refused(tmp_path):
    """Catches: a finished run that answers with somebody else's losses."""
    run = RunDir(tmp_path)
    run.save_config(replaced(UNUSUAL, "schedule.policy", "lfr"))
    run.write_summary({"policy": "lfr", "steps": 3})
    assert run.load_summary()["steps"] == 3
    run.write_summary({"policy": "uniform", "steps": 3})
    with pytest.raises(ValueError, match="summary.json: found the policy 'uniform', expected 'lfr'"):
        run.load_summary()


HOLD = "import sys; sys.path.insert(0, {root!r}); from lfr_jax.storage.run_dir import RunDir\n" \
       "with RunDir({path!r}).lock(): print('held', flush=True); sys.stdin.read()"  # fmt: skip


def test_lock_keeps_a_second_trainer_out_until_the_first_ends_or_is_killed(tmp_path):
    """Catches: a lock file that outlives kill -9; no lock; a failed try that wipes its holder."""
    root, path = str(pathlib.Path(__file__).parents[2]), tmp_path / "new" / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(root=root, path=str(path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):
            message = rf"run is in use by .*pid {holder.pid}, host .+, since \d{{4}}-.*choose"
            with pytest.raises(RunInUse, match=message):
                with RunDir(path).lock():
                    pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with RunDir(path).lock():
        with pytest.raises(RunInUse):
            with RunDir(path).lock():
                pass
    with RunDir(path).lock():
        pass


def test_a_lock_that_is_no_file(tmp_path):
    """Catches: an error of the library, without the name of the file."""
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="lock: found a named pipe, expected a regular file"), RunDir(tmp_path).lock():
        pass
