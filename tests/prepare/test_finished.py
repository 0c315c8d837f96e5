"""The same command again: it finds its work done, whatever moment it was killed at."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import files

from lfr_jax import cli

COMMANDS = {
    "prepare": ["prepare", "text.txt", "--byte-tokenizer"],
    "link": ["link", "tokens.npy", "--vocab-size", "300", "--eos-id", "299"],
    "noise": ["data", "noise", "corpus", "--seq-len", "8", "--kinds", "shuffled"],
    "clean": ["data", "clean", "corpus", "--duplicates"],
    "corrupt": ["data", "corrupt", "corpus"],
    "subset": ["data", "subset", "corpus", "--tokens", "900"],
}
OTHER = {
    "prepare": ["--valid-fraction", "0.3"],
    "link": ["--valid-fraction", "0.3"],
    "noise": ["--seed", "1"],
    "clean": ["--overlap", "0.9"],
    "corrupt": ["--seed", "1"],
    "subset": ["--seed", "1"],
}


@pytest.fixture
def lfr(tmp_path, monkeypatch, capsys):
    """Runs a command where its input is."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("text.txt").write_text("".join(f"line {number} of some text\n" for number in range(200)))
    np.save("tokens.npy", np.arange(3000, dtype=np.uint16) % 300)

    def run(*command):
        monkeypatch.setattr("sys.argv", ["lfr", *command])
        cli.main()
        return capsys.readouterr().out

    run("prepare", "text.txt", "--byte-tokenizer", "--out", "corpus")
    return run


def change_input(name):
    """Another modification time: the content may have changed with it."""
    for path in ("text.txt", "tokens.npy"):
        os.utime(path, ns=(0, 1))
    return name in ("prepare", "link")  # the others know their input by its fingerprint


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_again_is_done_and_another_is_refused(lfr, tmp_path, name):
    """Catches: the same command refused after a kill between its rename and its last word; another's output taken
    for this one's; one from which a file was removed; leftovers of the killed one."""
    command = [*COMMANDS[name], "--out", "out"]
    lfr(*command)
    before = files(tmp_path)
    (tmp_path / ".out.partial-1").mkdir()
    (tmp_path / ".out.partial-1/lock").touch()
    (tmp_path / ".out.preparing").mkdir()
    assert lfr(*command) == "out: is finished already, by the same command from the same input\n"
    assert files(tmp_path) == before and not (tmp_path / ".out.partial-1").exists()
    assert (tmp_path / ".out.preparing").exists() == (name != "prepare")
    with pytest.raises(SystemExit, match="out: exists, and is never overwritten"):
        lfr(*command, *OTHER[name])
    if change_input(name):
        with pytest.raises(SystemExit, match="out: exists, and is never overwritten"):
            lfr(*command)
    else:
        next(path for path in (tmp_path / "out/train").iterdir() if path.name == "docs.npy").unlink()
        with pytest.raises(SystemExit, match="out: exists, and is never overwritten"):
            lfr(*command)


KILLED = """
import os, signal, sys
from lfr_jax import cli
from lfr_jax.storage import files
rename = os.rename
def rename_and_die(source, target):
    rename(source, target)
    if os.path.basename(target) == "out":
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename_and_die
sys.argv = ["lfr", *{command!r}]
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_just_after_the_rename(lfr, tmp_path, name):
    """Catches: a record of the output that is written after the output appears."""
    command = [*COMMANDS[name], "--out", "out"]
    program = KILLED.format(command=command)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path) if name.startswith(".out")]
    assert "out: is finished already" in lfr(*command)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".out")]
    lfr(*COMMANDS[name], "--out", "again")
    assert files(tmp_path / "out") == files(tmp_path / "again")
