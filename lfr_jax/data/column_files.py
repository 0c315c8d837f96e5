"""Files of columns: a number for each block or for each document, such as a quality score, for schedules to use.

A CSV or Parquet file has two columns that count: `block` or `document`, with ids, and one with the numbers, of the
name that it is asked for by, or the only other one. Blocks are numbered as `lfr score` numbers them, documents from 0
in the order of the store. Each id is there once, in any order. What `lfr score` wrote is read too.
"""

import csv
import os
from typing import TYPE_CHECKING

import numpy as np

from lfr_jax.config.values import shown
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.documents import block_means
from lfr_jax.data.score_files import ORIGIN, read_scores
from lfr_jax.storage.paths import Path, as_path
from lfr_jax.storage.remote_files import exists, local_copy

if TYPE_CHECKING:
    import pyarrow

IDS = ("block", "document")
LONGEST = 1 << 16  # characters of the first line


def read_column(path: str | os.PathLike, name: str, blocks: Blocks) -> np.ndarray:
    """Reads a number for each block. A block gets the mean over its documents, by tokens, if the file has documents.

    An empty cell or NaN means "not known". A block is NaN if nothing is known of it or of any of its documents.

    Args:
      path: a file, or a URL.
      name: of the column.
      blocks: those of the run.

    Returns:
      int32[N], if the file has blocks and all numbers are whole, known and below 2**31; otherwise float32[N].

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be reached.
      ValueError: it is no table, lacks ids or numbers, has an id twice or one that does not exist, or a number
        that is infinite in float32, or nothing is known.
    """
    path = as_path(path)
    if not exists(path):
        raise FileNotFoundError(f"found no file of the column {name!r}: {str(path)!r}; expected CSV or Parquet")
    with local_copy(path) as here:
        with open(here, "rb") as file:
            first = file.readline(LONGEST)
        if ORIGIN.fullmatch(first.decode(errors="replace")):
            return read_scores(path, blocks)
        by, ids, x = table_of(here, first, path, name)
    count = blocks.num_blocks if by == "block" else len(blocks.store.doc_starts)
    x_N = in_order(ids, x, count, f"{path}: {by}")
    if by == "document":
        x_N = block_means(x_N, blocks.documents(), blocks.num_blocks)
    if np.isnan(x_N).all():
        raise ValueError(f"{path}: found no number in the column {name!r}, expected some that are not empty or NaN")
    whole = by == "block" and not np.isnan(x_N).any() and np.all(x_N == np.rint(x_N)) and np.abs(x_N).max() < 2**31
    return x_N.astype(np.int32 if whole else np.float32)


def table_of(here: os.PathLike, first: bytes, path: Path, name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """(what the ids are of, ids int64[R], numbers float64[R]) of a file whose first bytes are `first`."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if first.startswith(b"PAR1"):
            by, value = names_of(pyarrow.parquet.read_schema(here).names, path, name)
            table = pyarrow.parquet.read_table(here, columns=[by, value])
        else:
            by, value = names_of(first_row(first), path, name)
            types = {by: pyarrow.int64(), value: pyarrow.float64()}
            options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=[by, value])
            table = pyarrow.csv.read_csv(here, convert_options=options)
        return by, whole_numbers(table[by], path, by), table[value].cast(pyarrow.float64()).to_numpy()
    except pyarrow.ArrowException as error:
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: found no sound table of numbers ({what}); expected CSV or Parquet") from None


def first_row(first: bytes) -> list[str]:
    """The cells of the first line of a CSV file, which may begin with a byte order mark."""
    try:
        return next(csv.reader([first.decode("utf-8-sig", "replace").strip()]), [])
    except csv.Error:  # bytes that are no text
        return []


def names_of(found: list[str], path: Path, name: str) -> tuple[str, str]:
    """The names of the columns with the ids and with the numbers."""
    ids = [column for column in found if column in IDS]
    others = [column for column in found if column not in IDS]
    value = name if name in others else others[0] if len(others) == 1 else None
    if len(ids) != 1 or value is None or len(set(found)) < len(found):
        raise ValueError(
            f"{path}: found the columns {shown(found)}, expected 'block' or 'document', which holds ids, and {name!r}"
        )
    return ids[0], value


def whole_numbers(column: "pyarrow.ChunkedArray", path: Path, by: str) -> np.ndarray:
    """int64[R]: ids."""
    import pyarrow

    if column.null_count or not pyarrow.types.is_integer(column.type):
        raise ValueError(
            f"{path}: found {column.null_count} empty cells and the type {column.type} in the column {by!r}, expected "
            "whole numbers"
        )
    return column.cast(pyarrow.int64()).to_numpy()


def in_order(ids: np.ndarray, x: np.ndarray, count: int, where: str) -> np.ndarray:
    """float64[count]: the numbers in the order of their ids.

    Raises:
      ValueError: not each id from 0 to `count` − 1 is there once, or a number is infinite.
    """
    outside = ids[(ids < 0) | (ids >= count)]
    if len(outside):
        raise ValueError(f"{where} {outside[0]} does not exist, expected 0 to {count - 1}: is the file of other data?")
    times = np.bincount(ids, minlength=count)
    for wrong, what in ((times > 1, "is there more than once"), (times == 0, "is missing")):
        if wrong.any():
            raise ValueError(f"{where} {np.argmax(wrong)} {what} ({wrong.sum()} are), expected each of {count} once")
    infinite = np.abs(x) > np.finfo(np.float32).max
    if infinite.any():
        raise ValueError(
            f"{where} {ids[np.argmax(infinite)]} has a number that is infinite, or too large for float32; leave it "
            "empty if it is not known"
        )
    ordered = np.empty(count)
    ordered[ids] = x
    return ordered
