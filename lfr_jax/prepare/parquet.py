"""Parquet files: a document in each row. Row groups are chunks, and are read a few rows at a time."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Document, File, FileFormat

ROWS = 256  # read at once


class RowGroup(NamedTuple):
    """A chunk of a file: one of its row groups."""

    file: File
    number: int
    first: int  # the number of its first row, from 0
    size: int

    def documents(self) -> Iterator[Document]:
        import pyarrow as pa

        def is_text(kind: pa.DataType) -> bool:
            return pa.types.is_string(kind) or pa.types.is_large_string(kind)

        file = self.file
        with opened(file) as table:
            wanted = [name for name in file.fields if name in leaves(table)]
            numbers = itertools.count(self.first)
            for batch in table.iter_batches(ROWS, [self.number], wanted):
                # Arrow does not check its strings. As bytes, each one that is not UTF-8 is found.
                columns = [c.cast(pa.large_binary()) if is_text(c.type) else c for c in batch.columns]
                for row in pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist():
                    number = next(numbers)
                    default = file.document._replace(id=f"{file.name}:{number}")
                    yield text_source.read_record(row, file.fields, f"{file.path}, row {number}", default)


def opened(file: File):
    """The opened file. Raises ValueError if it is not a complete Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file.path, buffer_size=1 << 20)
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise ValueError(
            f"{file.path}: found no complete Parquet file ({str(error).splitlines()[0]}); copy it anew"
        ) from None


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
