"""A checkpoint that a setting names: RUN@STEP, or RUN for its newest. It is read and verified, and left as it is."""

import re
from typing import Any

import jax

from lfr_jax.storage.background import watch_orbax
from lfr_jax.storage.checkpoint import DamagedCheckpoint, newest_step_in, read_meta, read_verified, steps_in
from lfr_jax.storage.damage import try_read_on_all
from lfr_jax.storage.digests import dtypes_and_shapes, leaves_by_name
from lfr_jax.storage.paths import require_storable
from lfr_jax.storage.run_dir import RunDir


class NamedCheckpoint:
    """One checkpoint of a run, which may still be training.

    Attributes:
      name: RUN@STEP.
      run: the run.
      step: of the checkpoint.
      meta: what was saved beside the state.

    Args:
      name: RUN@STEP, or RUN for the newest checkpoint that it has now.

    Raises:
      FileNotFoundError: there is no run, or no such checkpoint.
      DamagedCheckpoint: it is damaged. Another one is never taken in its place.
      Unreadable: it cannot be read, for a reason that may pass.
    """

    def __init__(self, name: str):
        watch_orbax()
        run, step = parts_of(name)
        self.run = RunDir(run)
        if not self.run.exists:
            raise FileNotFoundError(f"no run in {run}: found no config.json of one; name it as RUN or RUN@STEP")
        self.folder = require_storable(self.run.path / "checkpoints")
        self.step = newest_step_in(self.folder, tried={}) if step is None else step
        if self.step is None:
            raise FileNotFoundError(f"no checkpoint in {self.folder}: train the run first, or name another")
        self.name = f"{run}@{self.step}"
        if self.step not in steps_in(self.folder):
            raise FileNotFoundError(
                f"no checkpoint of step {self.step} in {self.folder}, {self._others()}. A run writes one every "
                "train.checkpoint_every steps and at its end, and keeps the newest train.keep_checkpoints"
            )
        content, reason = try_read_on_all(read_meta, self.folder / str(self.step))
        self._require_sound(reason)
        self.leaves, self._digests, self.meta = content["leaves"], content["digests"], content["meta"]

    def restore(self, abstract: Any, prefix: str = "") -> Any:
        """The state, or the part of it whose leaves are named `prefix`..., such as "params.".

        Args:
          abstract: the wanted tree as `jax.ShapeDtypeStruct`s. Shardings may differ from those it was saved with.

        Raises:
          ValueError: the checkpoint has another tree there; the message names the first leaf that differs.
          DamagedCheckpoint, Unreadable: as above.
        """
        wanted = {prefix + name: leaf for name, leaf in leaves_by_name(abstract).items()}
        expected = dtypes_and_shapes(wanted)
        found = {name: leaf for name, leaf in self.leaves.items() if name.startswith(prefix)}
        for name in expected | found:
            if found.get(name) != expected.get(name):
                raise ValueError(
                    f"{name} is {found.get(name, 'absent')} in {self.name}, and {expected.get(name, 'absent')} in this "
                    "run"
                )
        leaves, reason = read_verified(self.folder / str(self.step), wanted, self._digests)
        self._require_sound(reason)
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves.values())

    def _require_sound(self, reason: str) -> None:
        if reason:
            raise DamagedCheckpoint(
                f"{self.folder / str(self.step)} is damaged ({reason}). Put a copy back, or name another checkpoint, "
                f"RUN@STEP: {self._others()}"
            )

    def _others(self) -> str:
        others = ", ".join(str(step) for step in sorted(steps_in(self.folder)) if step != self.step)
        return f"where those of {others} are" if others else "where no other is"


def parts_of(name: str) -> tuple[str, int | None]:
    """The run and the step that a name has; None for the newest checkpoint.

    >>> parts_of("runs/trunk@400"), parts_of("gs://bucket/me@home/run")
    (('runs/trunk', 400), ('gs://bucket/me@home/run', None))
    """
    found = re.fullmatch(r"(.+)@(0|[1-9][0-9]{0,18})", name, re.DOTALL)
    return (found[1], int(found[2])) if found else (name, None)
