"""How a command ends when something fails: in one line, whatever it is, and whatever it is told."""

import importlib.metadata
import signal
import subprocess
import sys
import warnings
from typing import NamedTuple

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfr_jax import cli
from lfr_jax.terminal import faults


class Odd(BaseException):
    """Such as a panic of a library in Rust."""


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


ENDS = {
    "value": (ValueError("a is 1, expected 2"), "lfr train: a is 1, expected 2"),
    "no words": (ValueError(), "lfr train: ValueError"),
    "note": (noted(OSError("it broke"), "in data/a"), "lfr train: it broke; in data/a"),
    "memory": (MemoryError(), "lfr train: this machine's memory is full (no more is free); take less at once"),
    "array": (MemoryError("Unable to allocate 7 TiB"), "memory is full (Unable to allocate 7 TiB)"),
    "depth": (RecursionError("maximum recursion depth exceeded"), "found something that is nested too deeply"),
    "device": (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\n  allocating 9 bytes"),
        "the memory of a device is full (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes); lower train.batch_size",
    ),
    "jax": (jax.errors.JaxRuntimeError("INTERNAL: x\n y"), "lfr train: INTERNAL: x y"),
    "ours": (KeyError("x"), "lfr train: KeyError: 'x'; this is a fault in lfr_jax: please report it; LFR_TRACEBACK=1"),
    "assertion": (AssertionError(), "AssertionError: ; this is a fault in lfr_jax"),
    "odd": (Odd("panic"), "Odd: panic; this is a fault in lfr_jax"),
    "group": (ExceptionGroup("some", [ValueError()]), "ExceptionGroup: some (1 sub-exception); this is a fault"),
    "long": (ValueError("x" * 65_000 + "; make it shorter"), "… (65,028 characters) … "),
    "long end": (ValueError("x" * 65_000 + "; make it shorter"), "xxx; make it shorter\n"),
    "steering": (ValueError("\x1b[31m\r\ud800"), "lfr train: \\x1b[31m\\r\\ud800"),
}


@pytest.mark.parametrize("error, said", ENDS.values(), ids=ENDS)
def test_whatever_a_command_raises_is_one_line(lfr, monkeypatch, error, said):
    """Catches: a traceback; a kind of error that is not caught, or has no message; LFR_TRACEBACK without one."""

    def failing(args):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "train", failing)
    code, out, err = lfr("train")
    assert code == 1 and out == "" and said in err and err.count("\n") == 1 and len(err) < 1100
    monkeypatch.setenv("LFR_TRACEBACK", "1")
    with pytest.raises(type(error)):
        lfr("train")


@given(st.text(st.characters(), max_size=3000))
def test_any_message_is_one_printable_line(text):
    """Catches: a line separator that is not \\n; an escape code; a message without a limit."""
    line = faults.one_line(text)
    assert line.isprintable() and len(line) < 1100


INTERRUPTED = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from lfr_jax import cli
class Interrupt:
    def find_spec(name, path=None, target=None):
        os.kill(os.getpid(), signal.SIGINT)
def command(args):
    if "importing" in args:
        sys.meta_path.insert(0, Interrupt)
        import tabnanny
    class Object:
        def __del__(self):
            if "deleting" in args:
                os.kill(os.getpid(), signal.SIGINT)
                [None for _ in range(9)]
    try:
        gone = Object()
        del gone
        os.kill(os.getpid(), signal.SIGINT) if "deleting" not in args else time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT) if "twice" in args else None
        print("closed")
cli.COMMANDS["train"] = command
cli.entry_point()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, code, out",
    [
        ("once", 1, "closed\n"),
        ("twice", -signal.SIGINT, ""),
        ("deleting", 1, "closed\n"),
        ("importing", -signal.SIGINT, ""),
    ],
)
def test_interruptions(how, code, out):
    """Catches: a traceback at the second Ctrl-C; one that comes while an object is deleted, and is lost; one that comes
    while a library is imported, such as NumPy, which prints a traceback of its own."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, "train", how], capture_output=True, text=True)
    said = "\nlfr train: interrupted; the same command goes on from what was saved\n" if code == 1 else ""
    assert (done.returncode, done.stdout, done.stderr) == (code, out, said)


INTERRUPTED_EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == "msgspec":  # a package that the command line needs
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
from lfr_jax import cli
"""


def test_an_interruption_while_the_command_is_loaded():
    """Catches: a traceback of what was being imported."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_EARLY], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_that_is_ignored_stays_so():
    """Catches: a background job (`lfr train ... &` in a script) that ends with the Ctrl-C that another program gets."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for context in (faults.interrupt_kills, faults.second_interrupt_kills):
            with context():
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_command_has_silenced_stays_silent(monkeypatch):
    """Catches: what libraries print late, such as after a save that failed, below the one line of the command."""
    before = sys.unraisablehook
    with faults.second_interrupt_kills():
        pass
    assert sys.unraisablehook is before
    with faults.second_interrupt_kills():
        monkeypatch.setattr(sys, "unraisablehook", silent := lambda lost: None)
    assert sys.unraisablehook is silent


def test_a_warning_is_one_line_of_its_own_words():
    """Catches: the path and the code of the line that gave it; a name in it that steers the terminal."""
    before, warning = warnings.formatwarning, UserWarning("metrics.csv lacks\na \x1b[2J row")
    with faults.warnings_on_one_line():
        shown = warnings.formatwarning(warning, UserWarning, "metrics.py", 39, line="self.rewind(step)")
    assert shown == "warning: metrics.csv lacks a \\x1b[2J row\n"
    assert warnings.formatwarning is before


def test_a_missing_package_names_the_extra_that_has_it(monkeypatch):
    """Catches: an extra that is not asked for; a package that counts as missing by the spelling of its name; the
    advice to install what is installed, where a policy of the user's own imports something else."""
    missing = ModuleNotFoundError("No module named 'msgspec'")
    requires = ['flax>=0.12; extra == "train"', "Ruff_X>1; extra == 'train'", "other; extra == 'hf'", "jax>=0.8"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [Installed("jax"), Installed("ruff-x")])
    assert faults.not_installed("train") == ["flax"] and faults.not_installed("hf") == ["other"]
    assert faults.explained(missing).endswith("run: pip install 'lfr_jax[train]'")
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [Installed("Flax"), Installed("ruff_x")])
    assert faults.explained(missing) == "No module named 'msgspec'"


class Installed(NamedTuple):
    name: str
