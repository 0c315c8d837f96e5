"""What is known to be damage to a checkpoint, and what is trouble in reaching it, which may pass.

Only damage may set a checkpoint aside. So it is damage that is listed here, as it comes out of the libraries when
each file of a checkpoint in turn is missing, cut off, or has a bit flipped. Whatever else is raised, by a
network, a server, a disk, or a want of rights, memory or open files, tells nothing of what was written.
"""

import re
import traceback
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lfr_jax.storage.paths import Path


class Damaged(ValueError):
    """What was read is not what was written."""


class Unreadable(OSError):
    """It cannot be told whether a checkpoint is sound."""


# TensorStore begins its messages with the name of a status, but for INVALID_ARGUMENT. Of wrong or missing content it
# says one of these; of what may pass UNAVAILABLE, PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNKNOWN and more.
STATUS = re.compile(r"([A-Z]+(?:_[A-Z]+)*): ")
WRONG_CONTENT = {"DATA_LOSS", "FAILED_PRECONDITION", "NOT_FOUND", "OUT_OF_RANGE"}
# An operating system's or a server's own word is about itself, but for: no such object, and none so long.
CODE = re.compile(r"(?:os_error|http_response)_code='(?!404'|416')")
# Libraries that make something of bytes which others have read.
DECODERS = {"codecs", "enum", "json", "orbax"}


def is_damage(error: BaseException) -> bool:
    """Whether this, raised while a checkpoint was read, shows that the checkpoint is damaged."""
    error = root(error)
    if isinstance(error, (Damaged, FileNotFoundError)):
        return True
    status = STATUS.match(str(error))
    raised_in = [""] + [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return (
        isinstance(error, (ValueError, LookupError, TypeError, AttributeError))
        and raised_in[-1].partition(".")[0] in DECODERS
        and (status is None or status[1] in WRONG_CONTENT)
        and CODE.search(str(error)) is None
    )


def root(error: BaseException) -> BaseException:
    """The same; or, of a bare Exception, in which Orbax wraps what TensorStore says, what it was raised from."""
    while type(error) is Exception and error.__cause__ is not None:
        error = error.__cause__
    return error


def told(error: BaseException) -> str:
    """The error on one line, without the specification of a whole array that TensorStore appends."""
    error = root(error)
    text = str(error).partition(" [tensorstore_spec")[0]
    return " ".join(f"{type(error).__name__}: {text}".split())[:500]


def attempt(read: Callable[..., Any], path: Path, *args: Any) -> tuple[Any, str]:
    """(what `read(path, *args)` gives, ""), or (None, in what it is damaged).

    Raises:
      Unreadable: it cannot be read, for a reason that is not known to be damage.
    """
    try:
        return read(path, *args), ""
    except Exception as error:
        if is_damage(error):
            return None, told(error)
        raise Unreadable(
            f"{path} cannot be read ({told(error)}). It is not known to be damaged, and nothing was moved: look at the "
            "network, the disk, the memory, and your rights to it, and start again"
        ) from error


def attempt_by_all(read: Callable[..., Any], path: Path, *args: Any) -> tuple[Any, str]:
    """The same where all processes read: what one of them finds holds for all."""
    result, reason, trouble = None, "", None
    try:
        result, reason = attempt(read, path, *args)
    except Unreadable as error:
        trouble = error
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.array([reason != "", trouble is not None]))
        damaged, unreadable = np.any(found, axis=0)
        if damaged and not reason:
            result, reason = None, "another process found it damaged"
        if unreadable and not trouble:
            trouble = Unreadable(f"{path} cannot be read by another process, which says why; nothing was moved")
    if trouble:
        raise trouble
    return result, reason
