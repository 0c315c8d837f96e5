"""What killed processes left is removed by the next one, and what living processes make is not."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest

from lfr_jax.config import Config
from lfr_jax.storage import unfinished
from lfr_jax.storage.files import atomic_file, atomic_folder
from lfr_jax.storage.run_dir import RunDir

WAYS = {
    "file": "with files.atomic_file('out') as f: f.write('half'); f.flush(); wait()",
    "folder": "with files.atomic_folder('out') as d: (d / 'x').write_text('half'); wait()",
    "temporary": "with unfinished.temporary_folder() as d: (d / 'x').write_text('half'); wait()",
}
PROGRAM = """
import sys
from lfr_jax.storage import files, unfinished
def wait(): print("there", flush=True); sys.stdin.read()
"""


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """Starts a process that makes something in `tmp_path`, and waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    started = []

    def start(way):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        started.append(subprocess.Popen([sys.executable, "-c", PROGRAM + WAYS[way]], **pipes))
        assert started[-1].stdout.readline() == b"there\n"
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def make(way, text):
    if way == "file":
        with atomic_file("out") as file:
            file.write(text)
    elif way == "folder":
        with atomic_folder("out") as folder:
            (folder / "x").write_text(text)
    else:
        with unfinished.temporary_folder():
            pass


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_living_keep_theirs_and_the_dead_do_not(tmp_path, maker, way):
    """Catches: leftovers of every kill; a living process's folder removed by the same command, started beside it."""
    killed, living = maker(way), maker(way)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = set(os.listdir(tmp_path))
    assert len(left) == 2
    make(way, "whole")
    (kept,) = left & set(os.listdir(tmp_path))
    if way == "folder":
        (tmp_path / "out").rename(tmp_path / "first")  # so that the other may have the name
    living.communicate(b"")
    assert living.returncode == 0 and not (tmp_path / kept).exists()
    if way != "temporary":
        made = tmp_path / ("out" if way == "file" else "out/x")
        assert made.read_text() == "half"  # of the one that was the last to end


def test_what_a_dead_process_left_is_taken_over(tmp_path):
    """Catches: half of a dead one's files in the new output; a number for each kill."""
    for number in (1, 3):
        left = tmp_path / f".out.partial-{number}"
        (left / "content").mkdir(parents=True)
        (left / "content" / "half").touch()
        (left / "lock").touch()
    with atomic_folder(tmp_path / "out") as folder:
        assert os.listdir(folder) == [] and os.listdir(tmp_path) == [".out.partial-1"]
    assert os.listdir(tmp_path) == ["out"]


def test_too_many_at_once(tmp_path):
    """Catches: a search without an end."""
    with pytest.raises(BlockingIOError, match="8 processes are making it"):
        make_within_itself(tmp_path / "out", unfinished.AT_ONCE + 1)
    assert os.listdir(tmp_path) == []


def make_within_itself(path, times):
    with unfinished.unfinished(path):
        if times > 1:
            make_within_itself(path, times - 1)


def test_a_run_removes_what_is_left_in_its_folder(tmp_path):
    """Catches: leftovers of a table that this time is not written anew; a file of somebody else removed."""
    RunDir(tmp_path).save_config(Config())
    for name in ("", "scores"):
        for target in ("metrics.csv", "a\nb"):
            (tmp_path / name / f".{target}.partial-1" / "content").mkdir(parents=True)
    (tmp_path / ".gitignore").touch()
    with RunDir(tmp_path).lock():
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".gitignore", "config.json", "lock", "scores"]


def test_other_folders_of_the_system_stay(tmp_path, monkeypatch):
    """Catches: an older release's folder, which has no lock, or another user's, or another program's, removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("lfr-without-lock", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "lock").touch()
    (tmp_path / "lfr-file").touch()
    with unfinished.temporary_folder() as folder:
        kept = folder.rename(tmp_path / "kept")
    assert sorted(os.listdir(tmp_path)) == ["kept", "lfr-file", "lfr-without-lock", "other"] and kept.is_dir()
