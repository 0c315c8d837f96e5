"""What the person in front of it sees: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import fcntl
import io
import os
import pty
import struct
import termios
import threading

import pytest

from lfr_jax.train.track.progress import Progress, short


class Time:
    """A clock that the test moves."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def time():
    return Time()


def steps(progress, time, first, last, seconds_each, loss=4.8123):
    for step in range(first, last + 1):
        time.seconds += seconds_each
        progress.update(step, loss, tokens_per_step=1000)


def test_plain_line(time):
    """Catches: each fact missing or wrong: step, phase, share, loss, speed, time left."""
    out = io.StringIO()
    progress = Progress(400, stream=out, now=time, every=0)
    progress.phase("focus", kept=0.5)
    steps(progress, time, 1, 120, 0.1)
    last = out.getvalue().splitlines()[-1]
    assert last == "step 120/400  focus  kept 50 %  loss 4.812  10.0k tok/s  ~00:28 left"


def test_plain_lines_come_now_and_then_and_the_last_one_always(time):
    """Catches: a line a step; losing the last state; printing it twice on a second close."""
    out = io.StringIO()
    progress = Progress(100, stream=out, now=time, every=5.0)
    progress.phase("learn", kept=1.0)
    steps(progress, time, 1, 100, 0.13)
    progress.close()
    progress.close()
    shown = [line.split()[1] for line in out.getvalue().splitlines()]
    assert shown == ["1/100", "40/100", "79/100", "100/100"]


def test_speed_leaves_out_compiling_and_stages_and_follows_changes(time):
    """Catches: counting the time before the first step, or in a stage; an average over the whole run."""
    out = io.StringIO()
    progress = Progress(1000, stream=out, now=time, every=0)
    progress.phase("learn", kept=1.0)
    time.seconds += 60  # compiling
    steps(progress, time, 1, 10, 0.5)
    assert "2.00k tok/s" in out.getvalue().splitlines()[-1]
    with progress.stage("scoring", 10) as advance:
        time.seconds += 60
        advance(10)
    steps(progress, time, 11, 12, 0.5)
    assert "2.00k tok/s" in out.getvalue().splitlines()[-1]
    steps(progress, time, 13, 100, 1.0)
    assert "1.00k tok/s  ~15:00 left" in out.getvalue().splitlines()[-1]


def test_stage_lines(time):
    """Catches: blocks counted wrongly; the time left of the stage taken from the start of the run."""
    out = io.StringIO()
    progress = Progress(10, stream=out, now=time, every=0)
    with progress.stage("scoring", 100) as advance:
        for _ in range(2):
            time.seconds += 2
            advance(25)
    assert out.getvalue().splitlines() == [
        "scoring  25/100 blocks  ~00:06 left",
        "scoring  50/100 blocks  ~00:04 left",
    ]


def test_quiet_shows_nothing(time, capfd):
    """Catches: a forgotten print, here or in a stage."""
    progress = Progress(10, quiet=True, now=time)
    steps(progress, time, 1, 10, 10.0)
    with progress.stage("scoring", 10) as advance:
        advance(10)
    progress.note("held-out loss 4")
    progress.close()
    assert capfd.readouterr() == ("", "")


def read_until_hangup(master, pieces):
    while True:
        try:
            pieces.append(os.read(master, 4096))
        except OSError:  # the other side is closed
            return


def on_terminal(use):
    """What `use(progress)` writes on a terminal of 120 columns, and the exception that it ends with."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 25, 120, 0, 0))
    raised, clock, pieces = None, Time(), []
    reader = threading.Thread(target=read_until_hangup, args=(master, pieces))
    reader.start()
    with open(slave, "w") as stream:
        try:
            with Progress(400, stream=stream, now=clock) as progress:
                use(progress, clock)
        except ArithmeticError as error:
            raised = error
    reader.join()
    os.close(master)
    text = b"".join(pieces).decode()
    return text, raised


def test_terminal_shows_one_bar_in_place():
    """Catches: a new line a step; a bar that does not fill; facts missing from it."""

    def use(progress, time):
        progress.phase("focus", kept=0.5)
        steps(progress, time, 1, 120, 0.1)

    text, raised = on_terminal(use)
    last = text.rstrip().split("\r")[-1]
    assert last.startswith(" 30%|████▊") and raised is None
    assert "step 120/400  focus  kept 50 %  loss 4.812  10.0k tok/s  ~00:28 left" in last
    assert text.count("\n") == 1 and text.count("\r") > 50


def test_terminal_note_stays_above_the_bar():
    """Catches: a note written into the bar's own line."""

    def use(progress, time):
        steps(progress, time, 1, 2, 1.0)
        progress.note("step 2  held-out loss 4.1")
        steps(progress, time, 3, 3, 1.0)

    text, _ = on_terminal(use)
    assert "\rstep 2  held-out loss 4.1\r\n" in text
    assert "step 3/400" in text.split("held-out")[1]


def test_an_exception_leaves_a_fresh_line():
    """Catches: a traceback that begins in the middle of the bar; a swallowed exception; an open stage."""

    def use(progress, time):
        steps(progress, time, 1, 2, 1.0)
        with progress.stage("scoring", 10) as advance:
            advance(1)
            raise ArithmeticError("diverged")

    text, raised = on_terminal(use)
    assert str(raised) == "diverged"
    assert text.endswith("\n")


def test_short():
    """Catches: wrong unit at its border."""
    assert [short(x) for x in (0.4, 12.3, 999.0, 1000.0, 12345.0, 3.2e6)] == [
        "0",
        "12",
        "999",
        "1.00k",
        "12.3k",
        "3.20M",
    ]


def test_a_terminal_of_unknown_width_shows_the_bar_too():
    """Catches: handing tqdm a width of 0, in which it draws nothing."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 0, 0, 0, 0))
    pieces = []
    reader = threading.Thread(target=read_until_hangup, args=(master, pieces))
    reader.start()
    with open(slave, "w") as stream, Progress(10, stream=stream) as progress:
        progress.phase("learn", 1.0)
        progress.update(5, 4.0, 100)
    reader.join()
    os.close(master)
    assert "step 5/10  learn  kept 100 %  loss 4.000" in b"".join(pieces).decode()
