"""What people are shown: it never ends the work, and no name from the data steers their terminal.

The reader of a stream may be gone (`| head -1`, a connection that ended), its terminal hung up, its disk full, or the
stream closed from the start, as a daemon's are. Then what is shown is lost, and the work goes on.

Of a command whose result is what it writes, the work is lost too: `lost_output` says so at the end.
"""

import os
import sys
from typing import Any, TextIO

LONGEST = 1000  # characters of a name or a message


class Unfailing:
    """A text stream whose writes never fail: what cannot be written is lost, and the next write is tried again.

    Letters that the stream's encoding lacks are escaped. `error` is the last failure, for a command whose result is
    what it writes; None if there was none.

    Args:
      stream: a text stream; or None, which is what Python has for a stream that is closed when it starts.

    >>> import io
    >>> ascii = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    >>> print("Год", file=Unfailing(ascii), flush=True)
    >>> ascii.buffer.getvalue()
    b'\\\\u0413\\\\u043e\\\\u0434\\n'
    """

    def __init__(self, stream: TextIO | None):
        self.stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        try:
            if self.stream is not None:
                self.stream.write(self._encodable(text))
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.error = error
        return len(text)

    def flush(self) -> None:
        try:
            if self.stream is not None:
                self.stream.flush()
        except (OSError, ValueError) as error:
            self.error = error

    def isatty(self) -> bool:
        try:
            return self.stream is not None and self.stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _encodable(self, text: str) -> str:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)


def shield_standard_streams() -> None:
    """Makes `sys.stdout` and `sys.stderr` unfailing, to the end of this process: its exit code tells how the work went.

    A command calls this first. Where a standard descriptor is closed, the null device is opened: else the next file
    would get its number, and what libraries write to standard error would go into that file.

    What is then written to the stream counts as lost, see `lost_output`.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    # A file opened for reading refuses what is written to it, as the closed descriptor would.
    sys.stdout, sys.stderr = (Unfailing(x or open(os.devnull, encoding="utf-8")) for x in (sys.stdout, sys.stderr))


def lost_output() -> Exception | None:
    """Why standard output could not be written. None if it was, or if its reader has left and wants no more (`| head`).

    Before it, `shield_standard_streams` was called.
    """
    sys.stdout.flush()
    return None if isinstance(sys.stdout.error, BrokenPipeError) else sys.stdout.error


def flush_standard_streams() -> None:
    """For a process that exits at once, without Python's own end."""
    for stream in (sys.stdout, sys.stderr):
        Unfailing(stream).flush()


def show(text: str, stream: TextIO | None = None) -> None:
    """Prints a line; on standard error, unless a stream is given."""
    print(text, file=Unfailing(stream or sys.stderr), flush=True)


def bar(hidden: bool = False, **options: Any):
    """A bar of `tqdm` on standard error, with these options. Nothing is shown if it is hidden, or on no terminal."""
    from tqdm import tqdm

    return tqdm(file=Unfailing(sys.stderr), disable=hidden or None, **options)


def printable(text: str) -> str:
    r"""A name or a message in which nothing steers a terminal or ends a line, and not much longer than `LONGEST`.

    >>> print(printable("a\x1b[31m\nb"))
    a\x1b[31m\nb
    >>> printable("a" * 200_000).strip("a")
    ' … (200,000 characters) … '
    """
    text = escaped(text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST * 2 // 3]} … ({len(text):,} characters) … {text[-LONGEST // 3 :]}"


def escaped(text: str, keep: str = "") -> str:
    """Text of any length in which what is not printable is escaped, except for the letters in `keep`."""
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode()
        for letter in text
    )
