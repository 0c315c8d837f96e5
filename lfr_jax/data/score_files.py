"""Score files: the loss of each block under another model, as `lfr score` writes it. Schedules use it as reference."""

import csv
import os
import pathlib
import re

import numpy as np

from lfr_jax.config.values import shown
from lfr_jax.data.blocks import Blocks
from lfr_jax.storage.files import require_regular
from lfr_jax.storage.paths import Path, as_path, is_remote
from lfr_jax.storage.remote_files import exists, local_copy

LONGEST = 1 << 16  # characters of a line
COLUMNS = ["block", "domain", "loss"]
ORIGIN = re.compile(r"# store (\w+) (seq_len \d.*) step \d+\n")


def origin(blocks: Blocks, step: int) -> str:
    """The first line of a score file: which blocks, and after how many steps the model scored them."""
    return f"# store {blocks.store.fingerprint} {settings_text(blocks)} step {step}\n"


def settings_text(blocks: Blocks) -> str:
    """How the blocks were made, such as "seq_len 128 packing best_fit"."""
    return " ".join(f"{name} {value}" for name, value in blocks.settings.items())


def require_replaceable(path: Path, first_line: re.Pattern = ORIGIN, kind: str = "score file") -> None:
    """Refuses to write a file of a kind to `path`, unless nothing, an empty file or one of this kind is there.

    Args:
      first_line: how files of this kind begin.
      kind: what they are, for the error.

    Raises:
      FileExistsError: another file is there.
      OSError: a folder or a device is there, or there is no folder to write into.
    """
    if not is_remote(path) and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent}: found no folder, expected one to write {path.name} into; make it")
    if not exists(path):
        return
    if not is_remote(path):
        require_regular(path)
    with local_copy(path) as here, open(here, encoding="utf-8", errors="replace") as file:
        first = file.readline(LONGEST)
    if first and not first_line.fullmatch(first):
        raise FileExistsError(f"{path}: found a file that is no {kind}, and is never overwritten; choose another name")


def read_scores(path: str | os.PathLike, blocks: Blocks) -> np.ndarray:
    """Reads the losses from a score file. It must have one line for each of these blocks, in their order.

    A loss that is NaN or infinite counts as not measured. It takes 4 bytes and about 1 µs a block.

    Args:
      path: a file, or a URL.

    Returns:
      float32[N], nats per token; NaN = not measured.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be reached.
      ValueError: the file has other blocks, a line that is cut off or has no number, or no block was measured.
    """
    path = as_path(path)
    store = blocks.store.path.parent
    settings = {"packing": "concatenate"} | blocks.settings  # all of them: RUN may have another packing
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    remedy = f"write it with `lfr score RUN --store {store} {options} --out {path}`"
    if not exists(path):
        raise FileNotFoundError(
            f"found no file of scores {str(path)!r}; {remedy}, where RUN is a run of the reference model"
        )
    with local_copy(path) as here, open(here, newline="", encoding="utf-8", errors="replace") as file:
        # A piece of a line that is too long is no row, so that a file without line ends is not read into memory.
        lines = iter(lambda: file.readline(LONGEST), "")
        first = ORIGIN.fullmatch(next(lines, ""))
        if first is None or next(lines, "") != ",".join(COLUMNS) + "\n":
            raise ValueError(
                f"{path} does not begin as `lfr score` begins: expected a line '# store ... seq_len ... step ...', "
                f"then {','.join(COLUMNS)}; {remedy}"
            )
        fingerprint, found = first.groups()
        if (fingerprint, found) != (blocks.store.fingerprint, settings_text(blocks)):
            raise ValueError(
                f"{path}: found losses of the store {fingerprint[:12]}… in blocks of {found[:80]}, expected "
                f"those of {store} ({blocks.store.fingerprint[:12]}…) in blocks of {settings_text(blocks)}; {remedy}"
            )
        ended = ends_with_newline(here)
        rows = csv.reader(lines)
        loss_N = np.empty(blocks.num_blocks, np.float32)
        block, row = -1, []
        try:
            with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
                for block, row in enumerate(rows):
                    number, _, loss = row
                    if int(number) != block:
                        raise ValueError
                    loss_N[block] = float(loss)
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num + 2}: found no row of CSV ({error}); {remedy}") from None
        except (ValueError, IndexError):
            raise ValueError(
                f"{path}, line {rows.line_num + 2}: found {shown(','.join(row))}, expected block {block} of "
                f"{blocks.num_blocks}, its domain, and its loss; {remedy}"
            ) from None
    # A number that was cut off is still a number, but its line has no end.
    if block + 1 != blocks.num_blocks or not ended:
        raise ValueError(f"{path}: is cut off after block {block} of {blocks.num_blocks}; {remedy}")
    loss_N[np.isinf(loss_N)] = np.nan
    if np.isnan(loss_N).all():
        raise ValueError(f"{path}: found no finite loss: the model has diverged; score with another one")
    return loss_N


def ends_with_newline(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
