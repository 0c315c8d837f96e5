"""JSON lines and plain text files, compressed or not, read in bounded memory."""

import codecs
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax.prepare import text_source
from lfr_jax.prepare.compression import decompressed
from lfr_jax.prepare.text_source import Document, File, FileFormat, MemoryChunk


class Lines(NamedTuple):
    """A chunk of a file of JSON lines. It begins and ends with a line."""

    file: File
    first: int  # the number of the first line, from 1
    raw: bytes
    size: int  # bytes of the file that were read for these lines

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
      ValueError: the file does not hold JSON lines, but one JSON value.
    """
    first, raw, read = 1, bytearray(), 0
    for part, consumed in decompressed(file.path):
        if first == 1 and not raw:
            refuse_one_value(file.path, part)
        raw += part
        read += consumed
        if len(raw) >= text_source.CHUNK_BYTES and b"\n" in part:
            end = raw.rindex(b"\n") + 1
            yield Lines(file, first, bytes(raw[:end]), read)
            first, read = first + raw.count(b"\n", 0, end), 0
            del raw[:end]
    if raw or read:
        yield Lines(file, first, bytes(raw), read)


def refuse_one_value(path: pathlib.Path, head: bytes) -> None:
    """Raises ValueError if a file begins as a JSON array, or as one object over several lines."""
    line, _, rest = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if line.startswith(b"["):
        found, program = "a JSON array", ".[]"
    elif begins_object(line) and rest.lstrip()[:1] not in (b"{", b""):
        found, program = "a JSON object over several lines", "."
    else:
        return
    raise ValueError(
        f"{path}: found {found}, expected JSON lines, an object on each; convert it (decompressed: "
        f"jq -c '{program}' OLD > NEW.jsonl) or take it away"
    )


def begins_object(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON object, without its end.

    >>> begins_object(b'{"text":'), begins_object(b'{"text": "x"}'), begins_object(b'{"text": x')
    (True, False, False)
    """
    text = line.decode(errors="replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return text.startswith("{") and error.pos >= len(text)
    except RecursionError:
        pass
    return False


def text_chunks(file: File) -> Iterator[MemoryChunk]:
    """The document that a file is, in pieces of `text_source.PIECE_CHARS` characters, several pieces in a chunk."""
    position, chars, held = Position(), 0, []
    try:
        for text, more in text_source.cut_text(decoded(file.path, position)):
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


def decoded(path: pathlib.Path, position: Position) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    for part, consumed in decompressed(path):
        position.read += consumed
        text = decode(part)
        position.line += text.count("\n")
        yield text
    yield decode(b"", final=True)


JSON_LINES = FileFormat((".jsonl", ".ndjson", ".json"), line_chunks, many=True, compressed=True)  # .json: as on the Hub
PLAIN_TEXT = FileFormat((), text_chunks, many=False, compressed=True)  # of any other name
