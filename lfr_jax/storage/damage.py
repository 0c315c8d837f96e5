"""Tells damage to a checkpoint from an error that may pass, such as a network that is down.

Only a damaged checkpoint may be set aside. So the list is of damage: the errors that the libraries raise when
each file of a checkpoint in turn is missing, cut off, or has a flipped bit. Any other error (of a network, a
server, a disk, missing rights, memory or open files) says nothing about what was written.
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
    """A checkpoint cannot be read, for a reason that is not known to be damage."""


# TensorStore's messages begin with the name of a status, except for INVALID_ARGUMENT. These mean wrong or missing
# content; UNAVAILABLE, PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNKNOWN and others may pass.
STATUS = re.compile(r"([A-Z]+(?:_[A-Z]+)*): ")
WRONG_CONTENT = {"DATA_LOSS", "FAILED_PRECONDITION", "NOT_FOUND", "OUT_OF_RANGE"}
# A code of the operating system or of a server is not about the content, except: no such object (404), or the object
# is too short (416).
CODE = re.compile(r"(?:os_error|http_response)_code='(?!404'|416')")
# Modules that decode bytes which other modules have read.
DECODERS = {"codecs", "enum", "json", "orbax"}


def is_damage(error: BaseException) -> bool:
    """Whether `error`, raised while a checkpoint was read, shows that the checkpoint is damaged."""
    error = root_cause(error)
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


def root_cause(error: BaseException) -> BaseException:
    """The error itself, or its cause if it is a bare Exception: Orbax wraps TensorStore's errors in one."""
    while type(error) is Exception and error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """The error on one line, without the array specification that TensorStore appends."""
    error = root_cause(error)
    text = str(error).partition(" [tensorstore_spec")[0]
    return " ".join(f"{type(error).__name__}: {text}".split())[:500]


def try_read(read: Callable[..., Any], path: Path, *args: Any) -> tuple[Any, str]:
    """(the result of `read(path, *args)`, ""), or (None, how the checkpoint is damaged).

    Raises:
      Unreadable: `read` failed, and the error is not known to be damage.
    """
    try:
        return read(path, *args), ""
    except Exception as error:
        if is_damage(error):
            return None, one_line(error)
        raise Unreadable(
            f"{path} cannot be read ({one_line(error)}). It is not known to be damaged, and nothing was moved: check "
            "the network, the disk, the memory and your rights to it, and start again"
        ) from error


def try_read_on_all(read: Callable[..., Any], path: Path, *args: Any) -> tuple[Any, str]:
    """`try_read` on every process, with one outcome for all: if one process fails, all do."""
    result, reason, unreadable = None, "", None
    try:
        result, reason = try_read(read, path, *args)
    except Unreadable as error:
        unreadable = error
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.array([reason != "", unreadable is not None]))
        any_damaged, any_unreadable = np.any(found, axis=0)
        if any_damaged and not reason:
            result, reason = None, "another process found it damaged"
        if any_unreadable and not unreadable:
            unreadable = Unreadable(f"{path} cannot be read by another process, which says why; nothing was moved")
    if unreadable:
        raise unreadable
    return result, reason
