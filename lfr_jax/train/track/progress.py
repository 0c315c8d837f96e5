"""How far a run is: a bar on a terminal, elsewhere a plain line now and then.

step 120/400  focus  kept 50 %  loss 4.812  12.3k tok/s  ~00:34 left
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from lfr_jax.terminal import Unfailing, printable

WINDOW = 30.0  # seconds of training over which the speed is measured


class Progress:
    """Shows a run of `total_steps` on `stream` (default: standard error). What cannot be shown is lost, and no error.

    Args:
      quiet: show nothing.
      every: seconds between two lines where the stream is not a terminal.
      now: the clock, in seconds.
    """

    def __init__(
        self,
        total_steps: int,
        quiet: bool = False,
        stream: TextIO | None = None,
        every: float = 5.0,
        now: Callable[[], float] = time.monotonic,
    ):
        self.total_steps, self.quiet, self.now = total_steps, quiet, now
        self.stream = Unfailing(stream or sys.stderr)
        terminal = self.stream.isatty() and not quiet
        form = "{percentage:3.0f}%|{bar:16}| {desc}"
        self.bar = None
        if terminal:
            width = dict(dynamic_ncols=True) if self._has_width() else dict(ncols=120, nrows=25)
            self.bar = tqdm(total=total_steps, file=self.stream, bar_format=form, **width)
        self.interval = 0.1 if terminal else every
        self.shown_at, self.unshown = -float("inf"), ""
        self.away = 0.0  # seconds spent in stages
        self.marks: deque[tuple[float, int]] = deque()  # (seconds of training, step)
        self.about_phase = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def phase(self, name: str, kept: float) -> None:
        """A phase begins. It draws from the share `kept` of all blocks."""
        self.about_phase = f"{name}  kept {100 * kept:.0f} %"

    def update(self, step: int, loss: float, tokens_per_step: int) -> None:
        """`step` steps are done, the last one at `loss` nats per token.

        Speed is measured from the first call on, so compiling does not count. Stages do not count either.
        """
        time_trained = self.now() - self.away
        self.marks.append((time_trained, step))
        while len(self.marks) > 2 and self.marks[1][0] < time_trained - WINDOW:
            self.marks.popleft()
        (began, first), speed = self.marks[0], ""
        if step > first and time_trained > began:
            steps_per_second = (step - first) / (time_trained - began)
            speed = f"  {short(steps_per_second * tokens_per_step)} tok/s"
            speed += f"  ~{duration((self.total_steps - step) / steps_per_second)} left"
        if self.bar is not None:
            self.bar.n = step
        self.show(f"step {step}/{self.total_steps}  {self.about_phase}  loss {loss:.3f}{speed}")

    @contextlib.contextmanager
    def stage(self, name: str, total_blocks: int) -> Iterator[Callable[[int], None]]:
        """Shows a pass over blocks, such as scoring. Yields a function to call with each number of blocks done."""
        began, done = self.now(), 0

        def advance(blocks: int) -> None:
            nonlocal done
            done += blocks
            passed = self.now() - began
            left = f"  ~{duration(passed * (total_blocks - done) / done)} left" if done and passed else ""
            self.show(f"{name}  {done}/{total_blocks} blocks{left}")

        try:
            yield advance
        finally:
            self.away += self.now() - began
            self.unshown = ""  # a stage that is over needs no last line

    def note(self, text: str) -> None:
        """Prints a line that stays, such as the result of an evaluation."""
        text = printable(text)
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        elif not self.quiet:
            print(text, file=self.stream, flush=True)

    def _has_width(self) -> bool:
        """False for some terminals (in containers, under `script`): tqdm would draw nothing in their width of 0."""
        try:
            return os.get_terminal_size(self.stream.fileno()).columns > 0
        except OSError:
            return False

    def show(self, text: str) -> None:
        """Shows `text` in place of the last text, unless that was shown less than `interval` seconds ago."""
        self.unshown = printable(text)
        if self.now() - self.shown_at >= self.interval:
            self.show_now()

    def show_now(self) -> None:
        if self.bar is not None:
            self.bar.set_description_str(self.unshown)
        elif not self.quiet:
            print(self.unshown, file=self.stream, flush=True)
        self.shown_at, self.unshown = self.now(), ""

    def close(self) -> None:
        """Shows the last state and leaves the terminal on a fresh line; may be called twice."""
        if self.unshown:
            self.show_now()
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any.

    >>> duration(33.7), duration(3661)
    ('00:34', '1:01:01')
    """
    return tqdm.format_interval(round(seconds))


def short(number: float) -> str:
    """Three digits and a unit.

    >>> short(12345.0), short(950.0), short(3.2e6)
    ('12.3k', '950', '3.20M')
    """
    return tqdm.format_sizeof(number) if number >= 999.5 else f"{number:.0f}"
