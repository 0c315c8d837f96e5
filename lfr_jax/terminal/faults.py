"""How a command ends when something fails: with one line that says what, and not with a traceback."""

import contextlib
import os
import re
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterator
from typing import NoReturn

from lfr_jax.terminal.streams import flush_standard_streams, lost_output, printable, show


def may_handle_interrupts() -> bool:
    """Whether this is the main thread, which alone sets handlers, and no shell asked to ignore SIGINT (`&`)."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@contextlib.contextmanager
def interrupt_kills() -> Iterator[None]:
    """Within it, SIGINT (Ctrl-C) ends the process at once, without a word."""
    if not may_handle_interrupts():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def second_interrupt_kills() -> Iterator[None]:
    """Within it, a first SIGINT (Ctrl-C) raises KeyboardInterrupt. Thereafter a second one ends the process at once.

    So does the first one while a module is imported: there a library in C may print the exception, and go on.
    """

    def first(number: int, frame: types.FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if is_importing(frame):
            signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    def unraisable(lost: "sys.UnraisableHookArgs") -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            return hook(lost)
        # It came while an object was deleted, where nothing can be raised, nor in this hook: so it comes again, later.
        signal.signal(signal.SIGINT, first)
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

    if not may_handle_interrupts():
        yield
        return
    before, hook = signal.signal(signal.SIGINT, first), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        if sys.unraisablehook is unraisable:  # else a command has set another one, for its end too
            sys.unraisablehook = hook
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, before)


def is_importing(frame: types.FrameType | None) -> bool:
    """Whether an import has called what is at this frame."""
    return any(of_it.f_code.co_filename.startswith("<frozen importlib") for of_it, _ in traceback.walk_stack(frame))


@contextlib.contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Within it, a warning is shown as one line, without the place in the source that gave it."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: one_line(f"warning: {message}") + "\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def check_written(name: str) -> None:
    """Exits with 1 if the result of the command, which is what it wrote to standard output, was lost."""
    if lost := lost_output():
        sys.exit(one_line(f"lfr {name}: standard output could not be written: {lost}"))


def exit_at_once(code: str | int | None) -> NoReturn:
    """`sys.exit(code)`, without Python's own end: a thread that comes back from a library then aborts the process."""
    if isinstance(code, str):
        show(code)
        code = 1
    flush_standard_streams()
    os._exit(code or 0)


def explained(error: BaseException) -> str:
    """What failed, in words, with the notes of the error, which say where."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        text = (
            f"this machine's memory is full ({str(error) or 'no more is free'}); take less at once, or a larger machine"
        )
    elif isinstance(error, RecursionError):
        text = f"found something that is nested too deeply ({error})"
    elif type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in text:
        text = f"the memory of a device is full ({text}); lower train.batch_size, or raise train.grad_accum_steps"
    elif isinstance(error, ModuleNotFoundError) and not_installed("train"):
        text = f"{text}; this needs more packages than lfr_jax.schedule does; run: pip install 'lfr_jax[train]'"
    elif not isinstance(error, (ValueError, OSError, ArithmeticError, ImportError, RuntimeError)):
        text = (
            f"{type(error).__name__}: {error}; this is a fault in lfr_jax: please report it; "
            "LFR_TRACEBACK=1 shows where it is"
        )
    return "; ".join([text, *getattr(error, "__notes__", [])])


def not_installed(extra: str) -> list[str]:
    """The packages of an extra of setup.cfg that are not installed. None, if lfr_jax itself is used without installing.

    >>> not_installed("an extra that does not exist")
    []
    """
    import importlib.metadata

    try:
        requirements = importlib.metadata.requires("lfr_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    of_extra = re.compile(rf"""extra == (["']){re.escape(extra)}\1""")
    names = [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements if of_extra.search(requirement)]
    installed = {name.replace("_", "-").lower() for each in importlib.metadata.distributions() if (name := each.name)}
    return [name for name in names if name.replace("_", "-").lower() not in installed]


def one_line(text: str) -> str:
    r"""A message on one line, see `printable`.

    >>> one_line("a \x1b[1m name\n in two lines")
    'a \\x1b[1m name in two lines'
    """
    return printable(re.sub(r"\s*\n\s*", " ", text.strip()))
