"""What a finished folder was made from: so the same command, started again, knows that its work is done.

A command may be killed after its output has appeared, and before it has said so. `made_from.json` in the output holds
the settings and the input that decided its content, and the sizes of the files that were made.
"""

import json
import os
import pathlib
from typing import Any

from lfr_jax.storage.paths import refuse_existing, require_local
from lfr_jax.storage.unfinished import remove_leftovers

FILE = "made_from.json"


def refuse_unless_finished(target: str | os.PathLike) -> None:
    """Raises FileExistsError if `target` exists and does not say what it was made from. Called before any work."""
    if not (require_local(target) / FILE).is_file():
        refuse_existing(target)


def is_finished(target: str | os.PathLike, made_from: dict[str, Any]) -> bool:
    """Whether the folder `target` is complete and was made from the same settings and input, which must be JSON.

    If so, removes what processes that were killed left of it.
    """
    target = require_local(target).absolute()
    try:
        found = json.loads((target / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if found != {"made_from": json.loads(json.dumps(made_from)), "bytes": sizes(target)}:
        return False
    remove_leftovers(target)
    return True


def finished(target: str | os.PathLike) -> str:
    """What a command says that finds its work done."""
    return f"{os.fspath(target)}: is finished already, by the same command from the same input"


def write_made_from(folder: pathlib.Path, made_from: dict[str, Any]) -> None:
    """Writes what `folder` was made from, when all else is in it."""
    text = json.dumps({"made_from": made_from, "bytes": sizes(folder)}, indent=1) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def sizes(folder: pathlib.Path) -> dict[str, int]:
    """The size of each file in a folder, but not of those that links lead to."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path != folder / FILE}
