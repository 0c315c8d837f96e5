"""The run's folder: one trainer at a time, settings that read back, and settings that may not change."""

import json
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
    with pytest.raises(ValueError, match="config.json is not JSON"):
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
