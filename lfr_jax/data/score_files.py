"""Files of losses that `lfr score` wrote under other models: what a schedule knows as reference losses."""

import csv
import os
import pathlib
import re

import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.storage.paths import as_path
from lfr_jax.storage.remote_files import exists, local_copy

COLUMNS = ["block", "domain", "loss"]
ORIGIN = re.compile(r"# store (\w+) (seq_len \d+.*) step \d+\n")


def origin(blocks: Blocks, step: int) -> str:
    """The first line of a file of scores: which blocks, and under the parameters after how many steps."""
    return f"# store {blocks.store.fingerprint} {cut_of(blocks)} step {step}\n"


def cut_of(blocks: Blocks) -> str:
    return " ".join(f"{name} {value}" for name, value in blocks.cut.items())


def read_scores(path: str | os.PathLike, blocks: Blocks) -> np.ndarray:
    """The losses in a file that `lfr score` wrote, if it is about these blocks, all of them, in order.

    `path` may be a URL. A loss that is NaN or infinite counts as not measured. Memory is 4 bytes a block, time
    about 1 µs.

    Returns:
      f32[N], nats per token; NaN = not measured.

    Raises:
      FileNotFoundError: no such file.
      OSError: it cannot be reached.
      ValueError: other blocks, or more or fewer; a line that is cut off or no number; or no block was measured.
    """
    path = as_path(path)
    store = blocks.store.path.parent
    cut = {"packing": "concatenate"} | blocks.cut  # RUN may have another packing
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in cut.items())
    remedy = f"write it with `lfr score RUN --store {store} {options} --out {path}`"
    if not exists(path):
        raise FileNotFoundError(
            f"found no file of scores {str(path)!r}; {remedy}, RUN being a run of the reference model"
        )
    with local_copy(path) as here, open(here, newline="", errors="replace") as file:
        first = ORIGIN.fullmatch(file.readline())
        rows = csv.reader(file)
        if first is None or next(rows, None) != COLUMNS:
            raise ValueError(
                f"{path} does not begin as `lfr score` begins: expected a line '# store ... seq_len ... step ...', "
                f"then {','.join(COLUMNS)}; {remedy}"
            )
        fingerprint, cut = first.groups()
        if (fingerprint, cut) != (blocks.store.fingerprint, cut_of(blocks)):
            raise ValueError(
                f"{path}: found losses of the store {fingerprint[:12]}… in blocks of {cut}, expected "
                f"those of {store} ({blocks.store.fingerprint[:12]}…) in blocks of {cut_of(blocks)}; {remedy}"
            )
        ended = ends_with_newline(here)
        loss_N = np.empty(blocks.num_blocks, np.float32)
        block = -1
        for block, row in enumerate(rows):
            try:
                number, _, loss = row
                if int(number) != block:
                    raise ValueError
                loss_N[block] = float(loss)
            except (ValueError, IndexError):
                raise ValueError(
                    f"{path}, line {rows.line_num + 1}: found {','.join(row)!r}, expected block {block} of "
                    f"{blocks.num_blocks}, its domain, and its loss; {remedy}"
                ) from None
    # A number that was cut off is still a number, but its line has no end.
    if block + 1 != blocks.num_blocks or not ended:
        raise ValueError(f"{path}: is cut off after block {block} of {blocks.num_blocks}; {remedy}")
    loss_N[np.isinf(loss_N)] = np.nan
    if np.isnan(loss_N).all():
        raise ValueError(f"{path}: found no finite loss: the model had diverged; score under another one")
    return loss_N


def ends_with_newline(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
