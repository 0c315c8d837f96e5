"""Checkpoints of the train state: written by Orbax in the background, verified when they are read.

Orbax restores a flipped bit without a word. So each leaf of the state gets a digest, computed on
the devices, stored beside the state, and compared after reading; a checkpoint that fails is set
aside and the one before it is read. One that cannot be reached is left where it is, as `damage` says.
Leaves are stored flat, by name (`params.embed`, ...), so that a reader needs none of our classes
and may ask for the parameters alone.
"""

import contextlib
import functools
import json
import os
import warnings
from collections.abc import Container, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lfr_jax.storage.damage import Damaged, attempt_by_all, told
from lfr_jax.storage.digests import changed, described, digests, named, sealed, unsealed
from lfr_jax.storage.paths import Path, absolute, as_path, is_remote
from lfr_jax.storage.remote_files import exists, explained, read_bytes


class DamagedCheckpoint(OSError):
    """No checkpoint of a run can be read; each was found changed, cut short, or incomplete."""


class Checkpointer:
    """Saves to and restores from `folder`, one subfolder a step, keeping the `keep` newest."""

    def __init__(self, folder: str | os.PathLike, keep: int):
        self.folder = absolute(folder)
        self.keep = keep

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.LatestN(self.keep),
            cleanup_tmp_directories=True,  # what a killed save left behind
        )
        return ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest_good(self) -> int | None:
        """Step of the newest finished checkpoint: after `restore`, the verified one or one saved since."""
        return latest_step(self.folder)

    def save(self, state: Any, meta: dict[str, Any]) -> None:
        """Starts writing `state` (any pytree of arrays with a `step`) and `meta` (what JSON can hold).

        Returns once the state is in host memory: the caller may then donate its buffers. A
        step that is saved already is left as it is.

        Raises:
          ValueError: a later step is there.
          OSError: it cannot be written, nor could the one before, perhaps; what was finished is there still.
        """
        step = int(state.step)
        leaves = named(state)
        content = {
            "leaves": described(leaves),
            "digests": digests(leaves),
            "meta": json.loads(json.dumps(meta)),
        }
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(nonempty(leaves)),
            meta=ocp.args.JsonSave(sealed(content)),
        )
        with self._failure_explained():
            there = self._manager.save(step, args=args) or step in self._manager.all_steps()
        if not there:
            raise ValueError(
                f"step {step} cannot be saved: {self.folder} holds step {self.latest_good} already; "
                "continue from there, or choose another folder"
            )

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest sound (state, meta), or None if nothing was saved here yet.

        Args:
          abstract_state: the state as `jax.ShapeDtypeStruct`s; their shardings need not be those
            that it was saved with.

        Damaged checkpoints newer than the sound one are renamed to STEP.damaged, with a warning.

        Raises:
          ValueError: the checkpoint is of another state: a leaf's name, shape or type differs.
          DamagedCheckpoint: there are checkpoints, but none is sound. Nothing was renamed.
          Unreadable: one cannot be reached. Nothing was renamed.
        """
        found = newest_sound(self.folder, named(abstract_state), partial=False)
        if found is None:
            return None
        _, leaves, meta, damaged = found
        for step, reason in damaged.items():
            self._set_aside(step, reason)
        if damaged:
            self._manager.reload()  # it remembers the steps that it saw; those set aside will be saved again
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves.values()), meta

    def _set_aside(self, step: int, reason: str) -> None:
        # One process alone looks whether it is still there: the others might look after the renaming.
        if jax.process_index() == 0 and step in steps_in(self.folder):
            path = self.folder / str(step)
            names = [f"{step}.damaged", *(f"{step}.damaged-{n}" for n in range(2, 1000))]
            with explained(path):
                aside = next(free for free in map(self.folder.joinpath, names) if not free.exists())
                path.rename(aside)
            warnings.warn(f"checkpoint {path} is damaged ({reason}); moved to {aside}", stacklevel=3)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")

    def wait(self) -> None:
        """Blocks until all that was saved is on disk; raises OSError for what could not be written."""
        if "_manager" in self.__dict__:
            with self._failure_explained():
                self._manager.wait_until_finished()
                self._manager.check_for_errors()

    @contextlib.contextmanager
    def _failure_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise OSError(
                f"{self.folder}: a checkpoint could not be written ({told(error)}). Those finished before are there "
                "still. Once there are room, rights and a network for it, the same command goes on from the newest"
            ) from error

    def close(self) -> None:
        """Waits, and ends the background threads."""
        if "_manager" in self.__dict__:
            self.wait()
            self._manager.close()


def restore_params(folder: str | os.PathLike, abstract_params: Any) -> tuple[Any, int]:
    """The parameters alone and their step, from the newest sound checkpoint; changes nothing on disk.

    Raises:
      FileNotFoundError: no checkpoint is there.
      ValueError: the parameters are of another model.
      DamagedCheckpoint: there are checkpoints, but none is sound.
      Unreadable: one cannot be reached.
    """
    wanted = {f"params.{name}": leaf for name, leaf in named(abstract_params).items()}
    found = newest_sound(absolute(folder), wanted, partial=True)
    if found is None:
        raise FileNotFoundError(f"no checkpoint in {folder}; train first, or name another run")
    step, leaves, _, damaged = found
    there = steps_in(absolute(folder)) if damaged else []  # a trainer at work may have deleted it while it was read
    for bad, reason in ((bad, damaged[bad]) for bad in damaged if bad in there):
        warnings.warn(f"checkpoint {bad} in {folder} is damaged ({reason}); step {step} is used", stacklevel=2)
    return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves.values()), step


def latest_step(folder: str | os.PathLike) -> int | None:
    """The newest step written to the end, without opening it; None if there is none."""
    return max(steps_in(as_path(folder)), default=None)


def steps_in(folder: Path) -> list[int]:
    """Steps with a finished checkpoint.

    On a disk a save works under a temporary name, and renames at its end. In an object store nothing
    can be renamed, and it writes a file `commit_success.txt` at its end.

    Raises:
      OSError: it cannot be told, which is not the same as none.
    """
    with explained(folder):
        try:
            saves = [path for path in folder.iterdir() if path.name.isdecimal()]
        except FileNotFoundError:
            return []
    finished = [path for path in saves if (exists(path / "commit_success.txt") if is_remote(path) else path.is_dir())]
    return [int(path.name) for path in finished]


def newest_in(folder: Path, tried: Container[int]) -> int | None:
    """The newest step not among those `tried`, as process 0 sees it: a network file system may show others less."""
    newest = -1
    if jax.process_index() == 0:
        newest = max((step for step in steps_in(folder) if step not in tried), default=-1)
    if jax.process_count() > 1:
        newest = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
    return newest if newest >= 0 else None


def newest_sound(folder: Path, wanted: dict[str, jax.ShapeDtypeStruct], partial: bool):
    """(step, leaves, meta, damaged: {step: reason}) of the newest sound checkpoint; None if there is none."""
    damaged: dict[int, str] = {}
    # Looked for each time: a trainer that works there deletes old ones and writes new ones while they are read.
    while (step := newest_in(folder, tried=damaged)) is not None:
        content, reason = attempt_by_all(read_meta, folder / str(step))
        if not reason:
            check_same(content["leaves"], described(wanted), partial, folder / str(step))
            leaves, reason = verified(folder / str(step), wanted, content["digests"])
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


def verified(path: Path, wanted: dict[str, jax.ShapeDtypeStruct], expected: dict[str, str]) -> tuple[Any, str]:
    """(leaves, ""), or (None, why not) with their memory freed for the next try."""
    leaves, reason = attempt_by_all(read_leaves, path, wanted)
    reason = reason or changed(leaves, expected)
    return (None if reason else leaves), reason


def read_meta(path: Path) -> dict[str, Any]:
    """The checkpoint's own description: leaves, digests, meta."""
    file = path / "meta" / "metadata"  # where Orbax's JsonSave puts it
    text = read_bytes(file)
    try:
        return unsealed(text)
    except ValueError as error:
        raise Damaged(f"{file} {error}") from None


def read_leaves(path: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The arrays `wanted`, in that order, as they stand there."""
    stored = nonempty(wanted)
    args = ocp.args.PyTreeRestore(
        stored, restore_args=ocp.checkpoint_utils.construct_restore_args(stored), partial_restore=True
    )
    # Each process reads alone what it needs: one that waits for another, which has failed, waits forever.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process {jax.process_index()}",
    )
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone)
    restored = reader.restore(path / "state", args=args)
    # Where its own list of the leaves lacks one, Orbax gives back what was asked with.
    for name in stored:
        if not isinstance(restored.get(name), jax.Array):
            raise Damaged(f"{path / 'state'} lacks {name}")
    empty = {name: jnp.zeros(x.shape, x.dtype, device=x.sharding) for name, x in wanted.items() if x.size == 0}
    return {name: (restored | empty)[name] for name in wanted}


def check_same(found: dict[str, str], expected: dict[str, str], partial: bool, path: Path) -> None:
    """Raises ValueError at the first leaf that the checkpoint and the program do not have alike."""
    for name in expected if partial else expected | found:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{path} is of another model, optimizer, schedule or corpus: "
                f"{name} is {found.get(name, 'absent')} in the checkpoint, "
                f"and {expected.get(name, 'absent')} in this run; "
                "go back to the settings that it was saved with, or choose another run_dir"
            )


def nonempty(leaves: dict[str, Any]) -> dict[str, Any]:
    """Without the arrays of size 0, which Orbax refuses."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}
