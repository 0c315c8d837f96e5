"""Checkpoints of the train state: written by Orbax in the background, verified when they are read.

Orbax restores a flipped bit without a word. So each leaf of the state gets a digest, computed on
the devices, stored beside the state, and compared after reading; a checkpoint that fails is set
aside and the one before it is read. Leaves are stored flat, by name (`params.embed`, ...), so that
a reader needs none of our classes and may ask for the parameters alone.
"""

import functools
import json
import os
import warnings
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lfr_jax.paths import Path, absolute, as_path


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
          ValueError: a later step is there. An earlier save that failed raises here or in `wait`.
        """
        step = int(state.step)
        leaves = named(state)
        content = {
            "leaves": described(leaves),
            "digests": digests(leaves),
            "meta": json.loads(json.dumps(meta)),
        }
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(nonempty(leaves)),
                meta=ocp.args.JsonSave({"content": content, "crc32": crc32(content)}),
            ),
        )
        if not saved and step not in self._manager.all_steps():
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
        """
        found = newest_sound(self.folder, named(abstract_state), partial=False)
        if found is None:
            return None
        _, leaves, meta, damaged = found
        for step, reason in damaged.items():
            path, aside = self.folder / str(step), self._set_aside(step)
            warnings.warn(f"checkpoint {path} is damaged ({reason}); moved to {aside}", stacklevel=2)
        if damaged:
            self._manager.reload()  # it remembers the steps that it saw; those set aside will be saved again
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves.values()), meta

    def _set_aside(self, step: int) -> Path:
        names = [f"{step}.damaged", *(f"{step}.damaged-{n}" for n in range(2, 1000))]
        aside = next(path for path in map(self.folder.joinpath, names) if not path.exists())
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        return aside

    def wait(self) -> None:
        """Blocks until all that was saved is on disk; raises what went wrong in the background."""
        if "_manager" in self.__dict__:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

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
    """
    wanted = {f"params.{name}": leaf for name, leaf in named(abstract_params).items()}
    found = newest_sound(absolute(folder), wanted, partial=True)
    if found is None:
        raise FileNotFoundError(f"no checkpoint in {folder}; train first, or name another run")
    step, leaves, _, damaged = found
    for bad, reason in damaged.items():
        warnings.warn(f"checkpoint {bad} in {folder} is damaged ({reason}); step {step} is used", stacklevel=2)
    return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves.values()), step


def latest_step(folder: str | os.PathLike) -> int | None:
    """The newest step written to the end, without opening it; None if there is none."""
    return max(steps_in(as_path(folder)), default=None)


def steps_in(folder: Path) -> list[int]:
    """Steps with a finished checkpoint.

    On a disk a save works under a temporary name, and renames at its end. In an object store nothing
    can be renamed, and it writes a file `commit_success.txt` at its end.
    """
    saves = [path for path in folder.glob("*") if path.name.isdecimal()]
    return [int(path.name) for path in saves if ocp.utils.is_checkpoint_finalized(path)]


def newest_sound(folder: Path, wanted: dict[str, jax.ShapeDtypeStruct], partial: bool):
    """(step, leaves, meta, damaged: {step: reason}) of the newest sound checkpoint; None if there is none."""
    damaged = {}
    for step in sorted(steps_in(folder), reverse=True):
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


def attempt(read, path: Path, *args) -> tuple[Any, str]:
    """(what was read, ""), or (None, why not).

    Whatever is raised counts as damage: broken files come out of Orbax, TensorStore and JSON as any
    kind of error. That is safe because nothing is moved unless another checkpoint reads well.
    """
    try:
        return read(path, *args), ""
    except Exception as error:
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]


def attempt_by_all(read, path: Path, *args) -> tuple[Any, str]:
    """The same where all processes read: if one fails, all have failed."""
    result, reason = attempt(read, path, *args)
    if jax.process_count() > 1 and not np.all(multihost_utils.process_allgather(np.array(not reason))):
        result, reason = None, reason or "another process could not read it"
    return result, reason


def read_meta(path: Path) -> dict[str, Any]:
    """The checkpoint's own description: leaves, digests, meta."""
    sealed = json.loads((path / "meta" / "metadata").read_text())  # where Orbax's JsonSave puts it
    if crc32(sealed["content"]) != sealed["crc32"]:
        raise ValueError("its description was changed after it was written")
    return sealed["content"]


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
    empty = {name: jnp.zeros(x.shape, x.dtype, device=x.sharding) for name, x in wanted.items() if x.size == 0}
    return {name: (restored | empty)[name] for name in wanted}


def changed(leaves: dict[str, jax.Array], expected: dict[str, str]) -> str:
    """Which leaf is not as it was when its digest was taken, in words; nothing if all are."""
    for name, found in digests(leaves).items():
        if found != expected[name]:
            return f"{name} has digest {found}, and had {expected[name]} when it was saved"
    return ""


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


def named(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the tree's order.

    >>> named({"a": [1, 2], "b": 3})
    {'a.0': 1, 'a.1': 2, 'b': 3}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def nonempty(leaves: dict[str, Any]) -> dict[str, Any]:
    """Without the arrays of size 0, which Orbax refuses."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def described(leaves: dict[str, Any]) -> dict[str, str]:
    """Each leaf's type and shape as text, such as float32[3,4]."""
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in leaves.items()}


def crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def digests(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """The digest of each leaf, 8 hexadecimal digits: the same on any mesh, in any sharding."""
    values = np.asarray(_digests(list(leaves.values())))
    return {name: f"{digest:08x}" for name, digest in zip(leaves, values)}


@jax.jit
def _digests(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([digest(leaf) for leaf in leaves])


def digest(x: jax.Array) -> jax.Array:
    """u32[]: sum, modulo 2^32, of a hash of each element's bits and position.

    Integer sums may be taken in any order, so shards are summed where they lie. The hash
    (MurmurHash3's finaliser, Appleby 2011) is a bijection: a change of one element is always seen,
    any other change but for one chance in 2^32.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = x.astype(unsigned) if x.dtype == bool else jax.lax.bitcast_convert_type(x, unsigned)
    position = jnp.zeros_like(bits, jnp.uint32)
    for axis, size in enumerate(x.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        position = position * jnp.uint32(size % 2**32) + along
    h = bits.astype(jnp.uint32) + position * jnp.uint32(0x9E3779B9)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)
