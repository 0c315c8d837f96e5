"""Checkpoints of the train state: written by Orbax in the background, verified when they are read.

Orbax restores a flipped bit without an error. So each leaf of the state has a digest, which is computed on the
devices, stored beside the state, and compared after reading. A damaged checkpoint is set aside, and the one before it
is used. One that cannot be read for another reason is left in place (see `damage`).

Leaves are stored flat, by name (`params.embedding`, ...). So a reader needs none of our classes, and may read the
parameters alone.
"""

import contextlib
import functools
import json
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lfr_jax.storage.background import failures, in_daemon_thread, watch_orbax
from lfr_jax.storage.damage import Damaged, one_line, try_read_on_all
from lfr_jax.storage.digests import (
    dtypes_and_shapes,
    first_mismatch,
    is_of_step,
    leaf_digests,
    leaves_by_name,
    verify_checksum,
    with_checksum,
)
from lfr_jax.storage.files import require_regular
from lfr_jax.storage.paths import Path, as_path, is_remote, require_storable
from lfr_jax.storage.remote_files import exists, explain_errors, read_bytes

STEP = re.compile("0|[1-9][0-9]*")  # the name of a checkpoint's folder


class DamagedCheckpoint(OSError):
    """A run has checkpoints, and every one of them is damaged."""


class Checkpointer:
    """Saves to and restores from `folder`, one subfolder per step. Keeps the `keep` newest."""

    def __init__(self, folder: str | os.PathLike, keep: int):
        watch_orbax()
        self.folder = require_storable(folder)
        self.keep = keep

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        failures.clear()  # of another one
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.LatestN(self.keep),
            cleanup_tmp_directories=True,  # leftovers of a killed save
        )
        return ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest_good(self) -> int | None:
        """Step of the newest checkpoint, when all saves have ended. After `restore`: the verified one, or a later."""
        with contextlib.suppress(OSError):  # of a save that failed; those before it are there
            self.wait()
        return latest_step(self.folder)

    def save(self, state: Any, meta: dict[str, Any]) -> None:
        """Starts to write `state` (any pytree of arrays with a `step`) and `meta` (must be JSON).

        Returns when the state is in host memory: the caller may then donate its buffers. Does nothing if the step is
        saved already.

        Raises:
          ValueError: the folder holds a later step.
          OSError: this checkpoint, or the one before it, could not be written. Finished ones are still there.
        """
        step = int(state.step)
        leaves = leaves_by_name(state)
        content = {
            "leaves": dtypes_and_shapes(leaves),
            "digests": leaf_digests(leaves),
            "meta": json.loads(json.dumps(meta)),
        }
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(without_empty(leaves)),
            meta=ocp.args.JsonSave(with_checksum(content)),
        )
        with self._write_errors():
            save = functools.partial(self._manager.save, step, args=args)
            there = in_daemon_thread(save) or step in self._manager.all_steps()
        if not there:
            raise ValueError(
                f"step {step} cannot be saved: {self.folder} holds step {self.latest_good} already; "
                "continue from there, or choose another folder"
            )

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, meta) of the newest valid checkpoint, or None if there is no checkpoint.

        Damaged checkpoints newer than that are renamed to STEP.damaged, with a warning.

        Args:
          abstract_state: the state as `jax.ShapeDtypeStruct`s. Their shardings may differ from those it was saved with.

        Raises:
          ValueError: the checkpoint holds another state: the name, shape or dtype of a leaf differs.
          DamagedCheckpoint: every checkpoint is damaged. Nothing was renamed.
          Unreadable: a checkpoint cannot be read, for a reason that may pass. Nothing was renamed.
        """
        found = newest_valid(self.folder, leaves_by_name(abstract_state), partial=False)
        if found is None:
            return None
        _, leaves, meta, damaged = found
        for step, reason in damaged.items():
            self._set_aside(step, reason)
        if damaged:
            self._manager.reload()  # Orbax caches the list of steps; those set aside will be saved again
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves.values()), meta

    def _set_aside(self, step: int, reason: str) -> None:
        # Only one process checks that the folder is still there: another one might check after it is renamed.
        if jax.process_index() == 0 and step in steps_in(self.folder):
            path = self.folder / str(step)
            names = [f"{step}.damaged", *(f"{step}.damaged-{n}" for n in range(2, 1000))]
            with explain_errors(path):
                aside = next(free for free in map(self.folder.joinpath, names) if not free.exists())
                path.rename(aside)
            warnings.warn(f"checkpoint {path} is damaged ({reason}); moved to {aside}", stacklevel=3)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")

    def wait(self) -> None:
        """Blocks until every save is on disk. Raises OSError if one could not be written."""
        if "_manager" in self.__dict__:
            with self._write_errors():
                in_daemon_thread(self._manager.wait_until_finished)

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.__dict__.pop("_manager", None)  # or it would raise the same error again, when it is closed
            raise OSError(
                f"{self.folder}: a checkpoint could not be written ({one_line(error)}). Finished ones are "
                "still there. Check the room on the disk, your rights and the network. The same command continues "
                "from the newest"
            ) from error

    def close(self) -> None:
        """Waits for every save, and ends the background threads."""
        if "_manager" in self.__dict__:
            self.wait()
            self._manager.close()


def restore_params(folder: str | os.PathLike, abstract_params: Any) -> tuple[Any, int]:
    """(params, step) of the newest valid checkpoint. Changes nothing on disk.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the parameters are those of another model.
      DamagedCheckpoint: every checkpoint is damaged.
      Unreadable: a checkpoint cannot be read, for a reason that may pass.
    """
    watch_orbax()
    wanted = {f"params.{name}": leaf for name, leaf in leaves_by_name(abstract_params).items()}
    folder = require_storable(folder)
    found = newest_valid(folder, wanted, partial=True)
    if found is None:
        raise FileNotFoundError(f"no checkpoint in {folder}; train first, or name another run")
    step, leaves, _, damaged = found
    there = steps_in(folder) if damaged else []  # a running trainer may have deleted it meanwhile
    for bad, reason in ((bad, damaged[bad]) for bad in damaged if bad in there):
        warnings.warn(f"checkpoint {bad} in {folder} is damaged ({reason}); step {step} is used", stacklevel=2)
    return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves.values()), step


def latest_step(folder: str | os.PathLike) -> int | None:
    """Step of the newest finished checkpoint, which is not opened; None if there is none."""
    return max(steps_in(as_path(folder)), default=None)


def steps_in(folder: Path) -> list[int]:
    """Steps with a finished checkpoint.

    On a disk, Orbax writes to a temporary name and renames it at the end. In an object store nothing can be
    renamed, and Orbax writes the file `commit_success.txt` last.

    Raises:
      OSError: the folder cannot be listed, which does not mean that it is empty.
    """
    with explain_errors(folder):
        try:
            saves = [path for path in folder.iterdir() if STEP.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise NotADirectoryError(
                f"{folder}: found a file, expected the folder of checkpoints; put it back"
            ) from None
    finished = [path for path in saves if (exists(path / "commit_success.txt") if is_remote(path) else path.is_dir())]
    return [int(path.name) for path in finished]


def newest_step_in(folder: Path, tried: dict[int, str]) -> int | None:
    """The newest step that is not in `tried`. Process 0 decides: others may see a network file system later."""
    newest = max(set(steps_in(folder)) - tried.keys(), default=-1) if jax.process_index() == 0 else -1
    if jax.process_count() > 1:
        newest = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
    return newest if newest >= 0 else None


def newest_valid(folder: Path, wanted: dict[str, jax.ShapeDtypeStruct], partial: bool):
    """(step, leaves, meta, damaged: {step: reason}) of the newest valid checkpoint; None if there is no checkpoint."""
    damaged: dict[int, str] = {}
    # List again each time: a running trainer may delete and write checkpoints meanwhile.
    while (step := newest_step_in(folder, tried=damaged)) is not None:
        content, reason = try_read_on_all(read_meta, folder / str(step))
        if not reason:
            check_leaves(content["leaves"], dtypes_and_shapes(wanted), partial, folder / str(step))
            leaves, reason = read_verified(folder / str(step), wanted, content["digests"])
            if not reason:
                return step, leaves, content["meta"], damaged
        damaged[step] = reason
    if damaged:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise DamagedCheckpoint(
            f"every checkpoint in {folder} is damaged ({reasons}). Put a copy back, or delete the folder "
            "to start again from step 0"
        )
    return None


def read_verified(path: Path, wanted: dict[str, jax.ShapeDtypeStruct], expected: dict[str, str]) -> tuple[Any, str]:
    """(leaves, ""), or (None, how the checkpoint is damaged); then their memory is free for the next try."""
    leaves, reason = try_read_on_all(read_leaves, path, wanted)
    reason = reason or first_mismatch(leaves, expected)
    return (None if reason else leaves), reason


def read_meta(path: Path) -> dict[str, Any]:
    """What the checkpoint says about itself: leaves, digests, meta."""
    file = path / "meta" / "metadata"  # where Orbax's JsonSave puts it
    text = read_bytes(file)
    try:
        content = verify_checksum(text)
    except ValueError as error:
        raise Damaged(f"{file} {error}") from None
    if not is_of_step(content["digests"], int(path.name)):
        raise Damaged(f"its name says step {path.name}, and the state in it is of another step")
    return content


def read_leaves(path: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads the arrays `wanted`, in that order. Their digests are not compared."""
    if not is_remote(path):
        for file in path.rglob("*"):
            if file.exists() and not file.is_dir():  # what is out of reach may be another process's
                require_regular(file)
    stored = without_empty(wanted)
    shardings = ocp.checkpoint_utils.construct_restore_args(stored)
    args = ocp.args.PyTreeRestore(stored, restore_args=shardings, partial_restore=True)
    # Each process reads on its own: with barriers, one would wait forever for another that has failed.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process {jax.process_index()}",
    )
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone)
    restored = reader.restore(path / "state", args=args)
    # If a leaf is missing from the checkpoint, Orbax returns the ShapeDtypeStruct that was passed in.
    for name in stored:
        if not isinstance(restored.get(name), jax.Array):
            raise Damaged(f"{path / 'state'} lacks {name}")
    empty = {name: jnp.zeros(x.shape, x.dtype, device=x.sharding) for name, x in wanted.items() if x.size == 0}
    return {name: (restored | empty)[name] for name in wanted}


def check_leaves(found: dict[str, str], expected: dict[str, str], partial: bool, path: Path) -> None:
    """Raises ValueError at the first leaf that differs between the checkpoint and the program."""
    for name in expected if partial else expected | found:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{path} is of another model, optimizer, schedule or corpus: {name} is {found.get(name, 'absent')} in "
                f"the checkpoint, and {expected.get(name, 'absent')} in this run; use the settings that it was saved "
                "with, or choose another run_dir"
            )


def without_empty(leaves: dict[str, Any]) -> dict[str, Any]:
    """Removes the arrays of size 0, which Orbax cannot store."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}
