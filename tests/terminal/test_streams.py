"""Nothing that is shown ends the work, and no name steers a terminal."""

import contextlib
import io
import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfr_jax import terminal
from lfr_jax.terminal import Unfailing, escaped, printable


class Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.failure = error

    def write(self, text=""):
        raise self.failure

    flush = isatty = write


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "hung up"), OSError(28, "full"), ValueError("closed")])
def test_a_failure_is_kept_and_not_raised(error):
    """Catches: an error of write, flush or isatty; a command that does not know that its output was lost."""
    stream = Unfailing(Failing(error))
    print("a line", file=stream, flush=True)
    assert stream.error is error and not stream.isatty()


def test_the_next_write_is_tried_again():
    """Catches: a log that stays silent, after its disk was full for a moment."""
    inner = io.StringIO()
    stream = Unfailing(Failing(OSError(28, "full")))
    stream.write("lost\n")
    stream.stream = inner
    stream.write("shown\n")
    assert inner.getvalue() == "shown\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16", "cp1252"])
@given(text=st.text(st.characters(exclude_characters="\n\r")))
def test_any_text_in_any_encoding(encoding, text):
    """Also lone surrogates. Catches: UnicodeEncodeError; a text that is lost for one letter of it."""
    inner = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    stream = Unfailing(inner)
    stream.write(text)
    stream.flush()
    assert stream.error is None
    assert inner.buffer.getvalue().decode(encoding) == text.encode(encoding, "backslashreplace").decode(encoding)


@given(st.text(st.characters()), st.sampled_from([1, 1, 10_000]))
def test_printable_text_is_one_line_and_steers_nothing(text, times):
    """Catches: a line separator that is not \\n; letters that are escaped and need not be; `keep` that is not kept; a
    name of 200,000 characters, shown in full."""
    shown = printable(text * times)
    assert shown.isprintable() and len(shown.splitlines()) <= 1 and len(shown) < 1100
    assert shown == text * times or not text.isprintable() or times > 1
    assert escaped(text, keep="\n").count("\n") == text.count("\n")


COMMAND = """
import sys, warnings
from lfr_jax import terminal
terminal.shield_standard_streams()
with open(sys.argv[1], "w") as file:
    for number in range(300):
        print("a result " * 100)
        terminal.show("progress " * 100)
        warnings.warn("a warning")
    with terminal.bar(total=10) as bar:
        bar.update(10)
    file.write(f"done {file.fileno() > 2}")
"""


@contextlib.contextmanager
def gone(how):
    """A descriptor to write to, whose other side is `how`."""
    if how == "full":
        with open("/dev/full", "w") as file:
            yield file.fileno()
        return
    reader, writer = pty.openpty() if how == "hung up" else os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("how", ["closed", "full", "unread", "hung up"])
def test_a_command_ends_well_whatever_became_of_its_streams(tmp_path, how):
    """Catches: exit code 120, or "Exception ignored", from the flush when Python ends; a file that gets number 2."""
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "file")]
    if how == "closed":
        ended = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *command])
        assert ended.returncode == 0
    else:
        with gone(how) as stream:
            assert subprocess.run(command, stdout=stream, stderr=stream).returncode == 0
            (tmp_path / "file").unlink()
            ended = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True)
        assert ended.returncode == 0 and "Exception" not in ended.stderr and "Errno" not in ended.stderr
    assert (tmp_path / "file").read_text() == "done True"


def test_a_bar_goes_to_terminals_alone(capfd):
    """Catches: a log full of bars."""
    with terminal.bar(total=3) as bar:
        bar.update(3)
    assert capfd.readouterr().err == ""
