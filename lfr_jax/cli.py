"""The command `lfr`: a subcommand for each thing to do with text, a run, or several runs.

A subcommand imports what it needs when it is called, so that help and mistakes answer at once.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    working = sys.path.pop(0)  # `python -m` puts it first: any tqdm.py in it would be run, and, put last, any orbax.py
    if __file__ == f"{working}/lfr_jax/cli.py":  # nothing else says where this package is
        sys.path.append(working)

import contextlib
import os
from collections.abc import Iterator

from lfr_jax.terminal import shield_standard_streams
from lfr_jax.terminal.faults import (
    check_written,
    exit_at_once,
    explained,
    interrupt_kills,
    one_line,
    second_interrupt_kills,
    warnings_on_one_line,
)

try:
    with interrupt_kills():  # these take a while, and an interrupt would end in a traceback
        from lfr_jax.commands import experiments, runs, text, tpu
        from lfr_jax.config import nearest
        from lfr_jax.distributed.peers import log_prefix
        from lfr_jax.storage.background import threads_left
except ModuleNotFoundError as error:  # lfr_jax was installed without the extra `train`
    sys.exit(one_line(f"lfr: {explained(error)}"))

COMMANDS = {
    command.__name__: command
    for command in (
        *(text.prepare, text.link, text.data),
        *(tpu.compile, runs.train),
        *(experiments.compare, experiments.mixture, experiments.experiment),
        *(runs.evaluate, runs.score, runs.generate),
        experiments.report,
    )
}
RESULT_IS_TEXT = ("data", "compile", "evaluate", "generate")  # on standard output; the others make files


def entry_point() -> None:
    """The program `lfr`: `main`, and the end of this process."""
    try:
        main()
    except SystemExit as end:
        if threads_left.is_set():
            exit_at_once(end.code)
        raise


def main() -> None:
    """Runs one subcommand. Whatever fails ends in one line on standard error and exit code 1, not in a traceback.

    With the environment variable LFR_TRACEBACK the traceback is shown.
    """
    shield_standard_streams()
    # XLA's errors come as exceptions. What it logs as one may be none: that a processor lacks a feature which says how
    # to tune code, a page for each program in the cache (jax#38445).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name, *rest = sys.argv[1:] or ["--help"]
    result_is_text = name not in COMMANDS or name in RESULT_IS_TEXT
    try:
        with second_interrupt_kills(), safe_path_in_workers(), warnings_on_one_line():
            if name in ("-h", "--help"):
                print("usage: lfr COMMAND ...   (lfr COMMAND --help tells more)\n")
                print("\n".join(f"  {name:<10} {command.__doc__.strip()}" for name, command in COMMANDS.items()))
            elif name in COMMANDS:
                COMMANDS[name](rest)
            else:
                sys.exit(f"lfr: no command {name!r}; {nearest(name, COMMANDS)}there are {', '.join(COMMANDS)}")
    except SystemExit as end:
        if end.code:
            raise
        result_is_text = True  # the help of a command
    except KeyboardInterrupt:
        threads_left.set()  # anything may have been going on, also in threads of libraries
        sys.exit(f"\nlfr {name}: interrupted; the same command goes on from what was saved")
    except BaseException as error:
        if os.environ.get("LFR_TRACEBACK"):
            raise
        sys.exit(one_line(f"lfr {name}: {log_prefix()}{explained(error)}"))
    finally:
        sys.stdout.flush()
    if result_is_text:
        check_written(name)


@contextlib.contextmanager
def safe_path_in_workers() -> Iterator[None]:
    """Within it, processes that begin do not look for Python modules in the working directory."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


if __name__ == "__main__":
    entry_point()
