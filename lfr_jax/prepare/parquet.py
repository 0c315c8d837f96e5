"""Parquet files: a document in each row. Row groups are chunks, and are read a few rows at a time."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Document, File, FileFormat, short_errors
from lfr_jax.storage.files import require_regular

if TYPE_CHECKING:
    import pyarrow.parquet

ROWS = 256  # read at once
COPY = "; copy it anew"
END_BYTES = 8  # of a file: the length of the footer before them, and a mark


class RowGroup(NamedTuple):
    """A chunk of a file: one of its row groups."""

    file: File
    number: int
    first: int  # the number of its first row, from 0
    size: int

    @property
    def name(self) -> str:
        return f"{self.file.path}, row group {self.number}"

    def documents(self) -> Iterator[Document]:
        file = self.file
        with opened(file) as table:
            wanted = [name for name in file.fields if name in leaves(table)]
            batches, number = table.iter_batches(ROWS, [self.number], wanted), self.first
            while True:
                with short_errors(f"{self.name}: found a damaged page", COPY):
                    batch = next(batches, None)
                if batch is None:
                    return
                for row in rows(batch):
                    where, default = f"{file.path}, row {number}", file.document._replace(id=f"{file.name}:{number}")
                    number += 1
                    if isinstance(row, Exception):
                        kind = "not UTF-8" if isinstance(row, UnicodeDecodeError) else "bad value"
                        yield text_source.with_problem(default, kind, f"{where}: {text_source.first_line(row)}")
                    else:
                        yield text_source.read_record(row, file.fields, where, default)


def rows(batch) -> list[dict[str, Any] | Exception]:
    """The rows of a batch; in place of a row that Python cannot hold, its error. Arrow does not check its strings."""
    try:
        return batch.to_pylist()
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [row for number in range(len(batch)) for row in rows(batch.slice(number, 1))]


@contextlib.contextmanager
def opened(file: File) -> Iterator["pyarrow.parquet.ParquetFile"]:
    """The opened file. Raises ValueError if it is not a complete Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet

    require_regular(file.path)
    with pa.OSFile(os.fsencode(file.path)) as source:  # bytes: a name need not be UTF-8
        with short_errors(f"{file.path}: found no complete Parquet file", COPY):
            metadata = pa.parquet.read_metadata(pa.BufferReader(footer(file.path)))
            table = pa.parquet.ParquetFile(
                source, metadata=metadata, buffer_size=1 << 20, page_checksum_verification=True
            )
        yield table


def footer(path: pathlib.Path) -> bytes:
    """The end of a file, which says where its columns lie, without Arrow's own schema.

    That may ask for Arrow's dictionaries, whose strings Arrow checks all at once: a bad one would cost its row group.
    """
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - END_BYTES))
        last = file.read(END_BYTES)
        size = END_BYTES + int.from_bytes(last[:4], "little") * (last[4:] == b"PAR1")  # else the library says so
        file.seek(max(0, end - size))
        return file.read(size).replace(b"ARROW:schema", b"arrow_schema")


def leaves(table) -> set[str]:
    """The names of all columns, and the dotted paths of columns in structs."""
    paths = [table.metadata.schema.column(i).path for i in range(table.metadata.num_columns)]
    return {".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 2)}


def chunks(file: File) -> Iterator[RowGroup]:
    """The row groups of a file.

    Raises:
      ValueError: it is not a Parquet file, or has no column of text.
    """
    with opened(file) as table:
        if file.fields.text not in leaves(table):
            raise ValueError(
                f"{file.path}: found the columns {', '.join(table.schema_arrow.names)}, expected {file.fields.text!r}; "
                "name the column of text with --text-field"
            )
        counts = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
    firsts = [0, *itertools.accumulate(counts)]
    sizes = text_source.split_evenly(file.path.stat().st_size, len(counts))
    for number, (first, size) in enumerate(zip(firsts, sizes)):
        yield RowGroup(file, number, first, size)


FORMAT = FileFormat((".parquet",), chunks, many=True)
