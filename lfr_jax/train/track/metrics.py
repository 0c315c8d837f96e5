"""What a run measured, as two CSV files and as TensorBoard events.

`metrics.csv` has one row for each step, `eval.csv` one row for each evaluation and held-out domain. A run that
was killed and resumed leaves the same files as one that was not, except for the column `seconds`.
"""

import csv
import io
import itertools
import pathlib
import time
from typing import Any

import numpy as np

from lfr_jax.storage.files import write_atomically

TRAIN = ("step", "phase", "loss", "grad_norm", "learning_rate", "tokens", "flops", "blocks", "seconds")
EVAL = ("step", "split", "domain", "loss", "tokens")


class MetricsWriter:
    """Writes into `folder`. Call `rewind` first, with the step from which the run starts or goes on."""

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        self.train_table = Table(self.folder / "metrics.csv", TRAIN)
        self.eval_table = Table(self.folder / "eval.csv", EVAL)
        self.events: Events | None = None

    def rewind(self, step: int) -> None:
        """Drops the rows of later steps. At step 0 a run begins, and all rows go."""
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.train_table.rewind(step)
        self.eval_table.rewind(step)
        self.events = Events(self.folder / "tensorboard", step)

    def train(self, rows: list[dict[str, Any]]) -> None:
        """Writes one row a step, with the columns `TRAIN`, in the order of the steps."""
        self.train_table.append(rows)
        shown = ("loss", "grad_norm", "learning_rate")
        self.events.append([(row["step"], {f"train/{name}": row[name] for name in shown}) for row in rows])

    def evaluate(self, step: int, losses: dict[str, Any], split: str = "valid") -> None:
        """Writes the `loss` (nats per token) and number of `tokens` of each domain after `step` steps."""
        self.eval_table.append(
            [
                {
                    "step": step,
                    "split": split,
                    "domain": domain,
                    "loss": measured.loss,
                    "tokens": measured.tokens,
                }
                for domain, measured in losses.items()
            ]
        )
        self.events.append([(step, {f"{split}/{domain}/loss": measured.loss for domain, measured in losses.items()})])

    def close(self) -> None:
        if self.events:
            self.events.writer.close()


class Events:
    """TensorBoard's event files in `folder`, one for each start of the run.

    tensorboardX's own SummaryWriter hands events to a thread, and its flush does not wait for that thread. This class
    writes at once, so that events survive a kill after `append`.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        from tensorboardX import event_file_writer, proto  # imports torch wherever that is installed

        folder.mkdir(parents=True, exist_ok=True)
        self.protocol = proto
        # The step is part of the name: a run may start twice in one second.
        self.writer = event_file_writer.EventsWriter(str(folder / "events"), f".after-step-{step}")
        # This tells TensorBoard to drop the later steps that earlier files hold.
        log = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        first = step + 1 if step else 0
        self.writer.write_event(proto.event_pb2.Event(step=first, wall_time=time.time(), session_log=log))

    def append(self, scalars: list[tuple[int, dict[str, Any]]]) -> None:
        """Writes, for each step, values by tag."""
        for step, values in scalars:
            pairs = [
                self.protocol.summary_pb2.Summary.Value(tag=tag, simple_value=float(value))
                for tag, value in values.items()
            ]
            summary = self.protocol.summary_pb2.Summary(value=pairs)
            self.writer.write_event(self.protocol.event_pb2.Event(step=step, wall_time=time.time(), summary=summary))
        self.writer.flush()


class Table:
    """A CSV file whose first column is the step, in rising order.

    If each step has several rows (`rows_per_step`), `rewind` keeps all rows of a step or none. `last` is the last step
    in the file, −1 if there is none. If `writes` is false, another process owns the file; set `last` from it.
    """

    def __init__(self, path: pathlib.Path, columns: tuple[str, ...], rows_per_step: int = 1, writes: bool = True):
        self.path, self.columns, self.rows_per_step, self.writes = path, columns, rows_per_step, writes
        self.last = -1

    def rewind(self, step: int) -> None:
        """Keeps the rows up to `step`, or up to the first incomplete row: a kill may cut one off."""
        if not self.writes:
            return
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() and step else []
        header = ",".join(self.columns) + "\n"
        if lines and lines[0] != header:
            raise ValueError(
                f"{self.path} has the columns {lines[0].strip()}, and {header.strip()} are written now; "
                "move the file away, or go on with the version that began it"
            )
        rows = itertools.takewhile(lambda row: row and int(row[0]) <= step, map(self.whole, lines[1:]))
        kept = [int(row[0]) for row in rows]
        del kept[len(kept) // self.rows_per_step * self.rows_per_step :]
        self.last = kept[-1] if kept else -1
        write_atomically(self.path, header + "".join(lines[1 : 1 + len(kept)]))

    def whole(self, line: str) -> list[str] | None:
        """The fields of a complete row, or None."""
        fields = next(csv.reader([line])) if line.endswith("\n") else []
        return fields if len(fields) == len(self.columns) and fields[0].isdecimal() else None

    def append(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writerows({name: exact(value) for name, value in row.items()} for row in rows)
        if self.writes:
            with open(self.path, "a", newline="") as file:
                file.write(text.getvalue())
        self.last = rows[-1]["step"] if rows else self.last


def exact(value: Any) -> str:
    """The shortest text that reads back as the same number of the same type.

    >>> exact(np.float32(0.1)), exact(0.1), exact(np.float64(np.float32(0.1)))
    ('0.1', '0.1', '0.10000000149011612')
    """
    return str(value[()] if isinstance(value, np.ndarray) else value)
