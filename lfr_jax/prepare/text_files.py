"""JSON lines and plain text files, packed or not, read in bounded memory."""

import codecs
import functools
import json
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax.prepare import content, text_source
from lfr_jax.prepare.compression import decompressed
from lfr_jax.prepare.text_source import Document, File, FileFormat, MemoryChunk

LONGEST_LINE = 1 << 30  # bytes


class Lines(NamedTuple):
    """A chunk of a file of JSON lines. It begins and ends with a line."""

    file: File
    first: int  # the number of the first line, from 1
    raw: bytes
    size: int  # bytes of the file that were read for these lines

    @property
    def name(self) -> str:
        return f"{self.file.path}, from line {self.first} on"

    def documents(self) -> Iterator[Document]:
        raw = self.raw.removeprefix(codecs.BOM_UTF8) if self.first == 1 else self.raw
        for number, line in enumerate(raw.split(b"\n"), start=self.first):
            if line.strip():
                yield parse_line(line, self.file, number)


def parse_line(line: bytes, file: File, number: int) -> Document:
    """The document on a line."""
    where, default = f"{file.path}, line {number}", file.document._replace(id=f"{file.name}:{number}")
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
        return text_source.with_problem(default, kind, f"{where}: found no valid JSON in UTF-8 ({error})")
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        return text_source.with_problem(
            default, "not JSON", f"{where}: found a JSON {kind}; expected an object with a 'text'"
        )
    return text_source.read_record(fields, file.fields, where, default)


def line_chunks(file: File) -> Iterator[Lines]:
    """Cuts a file into chunks of about `text_source.CHUNK_BYTES`, at ends of lines. All of one line is in memory.

    Raises:
      ValueError: the file does not hold JSON lines, or one of more than `LONGEST_LINE` bytes.
    """
    first, raw, read = 1, bytearray(), 0
    look = functools.partial(content.refuse_other_than_lines, file.path)
    for part, consumed in content.looked_at(decompressed(file.path), look):
        raw += part
        read += consumed
        if len(raw) >= text_source.CHUNK_BYTES and b"\n" in part:
            end = raw.rindex(b"\n") + 1
            yield Lines(file, first, bytes(raw[:end]), read)
            first, read = first + raw.count(b"\n", 0, end), 0
            del raw[:end]
        if len(raw) > LONGEST_LINE:
            raise ValueError(
                f"{file.path}, line {first}: found more than {LONGEST_LINE:,} bytes without an end of line; expected "
                "a document on each line: split it, or take it away"
            )
    if raw or read:
        yield Lines(file, first, bytes(raw), read)


def text_chunks(file: File) -> Iterator[MemoryChunk]:
    """The document that a file is, in pieces of `text_source.PIECE_CHARS` characters, several pieces in a chunk.

    Raises:
      ValueError: the file holds something else than text.
    """
    position, chars, held = Position(), 0, []
    try:
        for text, more in text_source.cut_text(decoded(file, position)):
            held.append(file.document._replace(text=text, more=more))
            chars += len(text)
            if chars >= text_source.CHUNK_BYTES and more:
                yield MemoryChunk(tuple(held), position.take())
                chars, held = 0, []
    except UnicodeDecodeError as error:
        line = position.line + error.object.count(b"\n", 0, error.start)
        byte = f"the byte 0x{error.object[error.start]:02x}"
        found = f"{file.path}, line {line}: found {byte}, which is not UTF-8 text here ({error.reason})"
        held = [text_source.with_problem(file.document, "not UTF-8", found)]
    yield MemoryChunk(tuple(held), position.take())


class Position:
    """How far a file was read: the bytes since `take` was last called, and the number of the line, from 1."""

    read, line = 0, 1

    def take(self) -> int:
        read, self.read = self.read, 0
        return read


def decoded(file: File, position: Position) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode

    def look(head: bytes) -> None:
        content.refuse_other_than_text(file.path, head, file.fields.text)

    for part, consumed in content.looked_at(decompressed(file.path), look):
        position.read += consumed
        text = decode(part)
        position.line += text.count("\n")
        yield text
    yield decode(b"", final=True)


# .json: as on the Hub
JSON_LINES = FileFormat((".jsonl", ".jsonlines", ".ndjson", ".json"), line_chunks, many=True, compressed=True)
PLAIN_TEXT = FileFormat((), text_chunks, many=False, compressed=True)  # of any other name
