"""What a run measured, as two CSV files and as TensorBoard events.

`metrics.csv` has one row for each step, `eval.csv` one row for each evaluation and held-out domain. A run that
was killed and resumed leaves the same files as one that was not, except for the column `seconds`.
"""

import contextlib
import csv
import io
import pathlib
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from lfr_jax.storage.files import atomic_file, require_regular
from lfr_jax.terminal import printable
from lfr_jax.train.track.events import Events

TRAIN = ("step", "phase", "loss", "grad_norm", "learning_rate", "tokens", "flops", "blocks", "seconds")
EVAL = ("step", "split", "domain", "loss", "tokens")


class MetricsWriter:
    """Writes into `folder`. Call `rewind` first, with the step from which the run starts or goes on."""

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        self.train_table = Table(self.folder / "metrics.csv", TRAIN)
        self.eval_table = Table(self.folder / "eval.csv", EVAL)
        self.events: Events | None = None

    def rewind(self, step: int, evaluated: Iterable[int] = (), num_losses: int = 1, began: int = 0) -> None:
        """Drops the rows of later steps. Where the run begins, after `began` steps of another one, all rows go.

        Warns if rows of earlier steps are missing, or of the evaluations after the steps `evaluated`, each of which has
        `num_losses`.
        """
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        last = step if step > began else 0
        self.train_table.rewind(last, due=range(began + 1, last + 1))
        self.eval_table.rewind(last, due=evaluated, rows_per_step=num_losses)
        self.events = Events(self.folder / "tensorboard", last)

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
        tags = {f"{split}/{printable(domain)}/loss": measured.loss for domain, measured in losses.items()}
        self.events.append([(step, tags)])

    def close(self) -> None:
        if self.events:
            self.events.close()


class Table:
    """A CSV file whose first column is the step, in rising order. UTF-8, whatever the locale; any name may stand in it.

    `last` is the last step in the file, −1 if there is none. If `writes` is false, another process owns the file; set
    `last` from it.
    """

    def __init__(self, path: pathlib.Path, columns: tuple[str, ...], writes: bool = True):
        self.path, self.columns, self.writes = path, columns, writes
        self.last = -1

    @property
    def has_rows(self) -> bool:
        return self.path.exists() and len(split_records(self.path.read_bytes())) > 1

    def rewind(self, step: int, due: Iterable[int] = (), rows_per_step: int = 1) -> None:
        """Keeps the complete rows up to `step`: a kill or a power cut may cut one off. At step 0 all rows go.

        Of a step that has several rows (`rows_per_step`), all are kept or none. Warns if a step in `due` is missing. It
        stays so: a table is no reason to stop a run.

        Raises:
          ValueError: the file has other columns.
          OSError: it is no regular file.
        """
        if not self.writes:
            return
        if exists := self.path.exists():
            require_regular(self.path)
        records = split_records(self.path.read_bytes()) if exists and step else []
        header = ",".join(self.columns)
        if records and records[0][1] != list(self.columns):
            raise ValueError(
                f"{self.path} has the columns {','.join(records[0][1])}, and {header} are written now; "
                "move the file away, or go on with the version that began it"
            )
        whole = [(int(fields[0]), raw) for raw, fields in records[1:] if self.is_whole(raw, fields)]
        rows = Counter(at for at, _ in whole)
        kept = [(at, raw) for at, raw in whole if at <= step and rows[at] % rows_per_step == 0]
        if missing := sorted(set(due) - {at for at, _ in kept}):
            warnings.warn(
                f"{self.path} lacks rows of {len(missing)} of the steps up to {step}, the first of them {missing[0]}: "
                "it was removed, or damaged. The run goes on without these steps; if you have a copy of the file, stop "
                "the run, put it there, and start again",
                stacklevel=2,
            )
        self.last = kept[-1][0] if kept else -1
        with atomic_file(self.path) as file:
            file.buffer.write(b"".join([header.encode() + b"\n", *(raw for _, raw in kept)]))

    def is_whole(self, raw: bytes, fields: list[str]) -> bool:
        return raw.endswith(b"\n") and len(fields) == len(self.columns) and fields[0].isdecimal()

    def append(self, rows: list[dict[str, Any]]) -> None:
        if self.writes:
            with open(self.path, "a", newline="", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(csv_line([exact(row[name]) for name in self.columns]) for row in rows))
        self.last = rows[-1]["step"] if rows else self.last


def csv_line(fields: Iterable[Any]) -> str:
    """A row of a CSV file, with the line's end. Fields with a line separator of any kind are quoted, "\\r" too."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(fields)  # Python 3.11 quotes the letters of the terminator alone
    return text.getvalue().removesuffix("\r\n") + "\n"


def split_records(content: bytes) -> list[tuple[bytes, list[str]]]:
    """Each row of a CSV file, and its fields. What follows a quote that is never closed belongs to no row."""
    # Latin-1 has a letter for each byte, and the letters that have a meaning in CSV are the same in UTF-8.
    lines = list(io.StringIO(content.decode("latin-1"), newline=""))
    reader, begin, records = csv.reader(lines), 0, []
    with contextlib.suppress(csv.Error):
        for fields in reader:
            raw = "".join(lines[begin : reader.line_num])
            records.append((raw.encode("latin-1"), fields))
            begin = reader.line_num
    return records


def exact(value: Any) -> str:
    """The shortest text that reads back as the same number of the same type.

    >>> exact(np.float32(0.1)), exact(0.1), exact(np.float64(np.float32(0.1)))
    ('0.1', '0.1', '0.10000000149011612')
    """
    return str(value[()] if isinstance(value, np.ndarray) else value)
