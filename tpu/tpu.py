#!/usr/bin/env python3
"""Creates a TPU with gcloud and trains on it: tpu/tpu.py COMMAND SETTINGS.toml [--SETTING VALUE ...] [--dry-run]

up      creates the TPU and waits until it is ready         run     up, push, setup, launch; then watches the run, and
push    copies the code that git tracks to every worker             resumes it after preemptions until it is done
setup   installs the code                                   status  state of the TPU, the workers and the run
launch  starts the run on every worker, in the background   logs    of all workers; --follow: new lines as they come
stop    ends the run after it has saved                     ssh     a shell on one worker, or: ssh FILE -- COMMAND
down    deletes the TPU and checks that nothing is left

A TPU costs money until `down`, also when nothing runs on it. See README.md.
"""

import argparse
import dataclasses
import shlex
import sys

import gcloud
import settings
from commands import COMMANDS, Session

ALONE = {"up", "push", "setup", "launch", "run", "down"}  # only one of these runs at a time
COSTLY = {"up", "launch", "run", "down"}  # after an error in these, a TPU may exist and cost money unnoticed


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = top.add_subparsers(dest="command_name", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = several.add_parser(name)
        command.add_argument("file", metavar="SETTINGS.toml")
        command.add_argument("--dry-run", action="store_true", help="print the lines, change nothing")
        if name in ("logs", "ssh"):
            command.add_argument("--slice", type=int)
            command.add_argument("--worker", type=int)
        if name == "logs":
            command.add_argument("--follow", action="store_true")
            command.add_argument("--lines", type=int, default=20)
        settings.add_flags(command)
    return top


def main(words: list[str]) -> int:
    words, rest = split(words)
    args = parser().parse_args(words)
    args.words, args.prog = rest, sys.argv[0]
    if rest and args.command_name != "ssh":
        print(f"found {shlex.join(rest)} after --, which only ssh accepts", file=sys.stderr)
        return 2
    try:
        asked = settings.load(args.file, vars(args))
        if not asked.project:
            asked = dataclasses.replace(asked, project=gcloud.own_project())
        return do(args.command_name, Session(asked, args))
    except (OSError, ValueError) as error:
        print(f"tpu.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntpu.py: stopped watching; the run on the TPU goes on, and costs money until down", file=sys.stderr)
        return 130


def do(name: str, session: Session) -> int:
    """Runs one command, under the lock if it must be alone."""
    if session.args.dry_run or name not in ALONE:
        return COMMANDS[name](session)
    with session.store.lock(name):
        try:
            return COMMANDS[name](session)
        except OSError:
            if name in COSTLY:
                words = f"{session.args.prog} status {session.args.file}, then down"
                print(f"tpu.py: a TPU that was made may be there, and costs money: {words}", file=sys.stderr)
            raise


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before and after `--`."""
    if "--" not in words:
        return words, []
    return words[: words.index("--")], words[words.index("--") + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
