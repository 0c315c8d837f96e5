"""What a run shows and writes down: the metrics of each step, the phases, the evaluations."""

import contextlib
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
import optax

from lfr_jax.config import TrainConfig
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.domain_names import unreserved
from lfr_jax.schedule import Phase
from lfr_jax.train.evaluate import Loss
from lfr_jax.train.track.clock import Clock
from lfr_jax.train.track.metrics import MetricsWriter
from lfr_jax.train.track.progress import Progress
from lfr_jax.train.track.recorder import NonFiniteLoss, Recorder, StepRecord


class Tracker:
    """Metrics, TensorBoard events and progress of one run. Call `rewind` first. A context manager, which closes them.

    Args:
      folder: where the tables and events go.
      num_steps: of the whole run.
      learning_rate: of each step, for the tables.
      clock: gives the column `seconds`.
      writes: False in all processes of a run but one: they read the same metrics, and write and show nothing.
      quiet: show nothing.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        num_steps: int,
        config: TrainConfig,
        tokens_per_step: int,
        learning_rate: optax.Schedule,
        clock: Clock,
        writes: bool,
        quiet: bool,
    ):
        self.num_steps, self.tokens_per_step = num_steps, tokens_per_step
        self.clock, self.writes = clock, writes
        # All at once: what is computed for a few rows at a time may differ in the last digit by how many they are.
        rates = np.asarray(jax.jit(learning_rate)(np.arange(num_steps)), np.float32)
        self.learning_rates = np.broadcast_to(rates, num_steps)
        self.metrics = MetricsWriter(folder)
        self.recorder = Recorder(config.log_every)
        self.progress = Progress(num_steps, quiet=quiet or not writes)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_) -> None:
        self.progress.close()
        self.metrics.close()

    def rewind(self, step: int, evaluated: Iterable[int] = (), num_losses: int = 1, began: int = 0) -> None:
        """Drops what the tables hold of steps after `step`: they are taken again. See `MetricsWriter.rewind`."""
        if self.writes:
            if step == began and self.metrics.train_table.has_rows:
                self.note(step, "there is no checkpoint: the run begins anew, and what its tables held is dropped")
            self.metrics.rewind(step, evaluated, num_losses, began)

    def step(self, record: StepRecord) -> None:
        """Takes in a step that was just dispatched; writes and shows earlier ones when `log_every` of them wait.

        Raises:
          NonFiniteLoss: one of the earlier ones diverged. The steps before it are written.
        """
        with self._good_steps_written():
            self._write(self.recorder.add(record))

    def flush(self) -> None:
        """Waits for all steps so far, and writes and shows them.

        Raises:
          NonFiniteLoss: one of them diverged. The steps before it are written.
        """
        with self._good_steps_written():
            self._write(self.recorder.read())

    @contextlib.contextmanager
    def _good_steps_written(self) -> Iterator[None]:
        """Writes the steps before the one that diverged, so that the tables show how it came."""
        try:
            yield
        except NonFiniteLoss as diverged:
            self._write(diverged.before)
            raise

    def _write(self, ready: list[tuple[StepRecord, dict[str, np.ndarray]]]) -> None:
        if not ready:
            return
        rows = [
            {
                "step": record.step,
                "phase": record.phase,
                "loss": numbers["loss"],
                "grad_norm": numbers["grad_norm"],
                "learning_rate": self.learning_rates[record.step - 1],
                "tokens": record.tokens,
                "flops": record.flops,
                "blocks": f"{zlib.crc32(record.ids_B.tobytes()):08x}",  # shows which blocks, in which order
                "seconds": self.clock.seconds,
            }
            for record, numbers in ready
        ]
        if self.writes:
            self.metrics.train(rows)
        self.progress.update(rows[-1]["step"], rows[-1]["loss"], self.tokens_per_step)

    def phase(self, phase: Phase, drawn_N: np.ndarray, blocks: Blocks) -> None:
        """Shows a phase and, where it leaves blocks out, how much of each domain it draws from."""
        self.progress.phase(phase.name, kept=np.mean(drawn_N))
        if not drawn_N.all():
            of_domain = {unreserved(name): drawn_N[blocks.domain_N == i] for i, name in enumerate(blocks.domains)}
            parts = "  ".join(f"{name} {100 * np.mean(of):.0f} %" for name, of in of_domain.items() if len(of))
            self.note(phase.start, f"{phase.name} keeps  {parts}")

    def evaluation(self, step: int, losses: dict[str, Loss]) -> None:
        """Writes and shows the held-out loss of each domain."""
        if self.writes:
            self.metrics.evaluate(step, losses)
        parts = "  ".join(f"{domain} {measured.loss:.3f}" for domain, measured in losses.items())
        self.note(step, f"held-out loss  {parts}")

    def note(self, step: int, text: str) -> None:
        """Shows a line that stays."""
        self.progress.note(f"step {step}/{self.num_steps}  {text}")

    def stage(self, name: str, num_blocks: int) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Shows a pass over blocks while it goes on; gives the function to call with each number of blocks done."""
        return self.progress.stage(name, num_blocks)
