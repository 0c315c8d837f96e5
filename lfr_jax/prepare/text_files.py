"""Files of text: JSON lines and plain text, packed with gzip or zstd or not, read in bounded memory."""

import codecs
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import zstandard

from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Chunk, Document, Fields, MemoryChunk

READ_BYTES = 1 << 20
JSON_LINES = (".jsonl", ".ndjson", ".json")  # `.json`: as data sets on the Hub name their JSON lines


class File(NamedTuple):
    """A file, and what its documents are called if they do not say so themselves."""

    path: pathlib.Path
    name: str  # their ids begin with it
    domain: str
    source: str
    fields: Fields

    @property
    def document(self) -> Document:
        return Document(self.name, "", self.domain, self.source)


class Lines(NamedTuple):
    """A chunk of a file of JSON lines: whole ones."""

    file: File
    first: int  # the number of the first line, from 1
    raw: bytes
    size: int

    def documents(self) -> Iterator[Document]:
        raw = self.raw.removeprefix(codecs.BOM_UTF8) if self.first == 1 else self.raw
        for number, line in enumerate(raw.split(b"\n"), start=self.first):
            if line.strip():
                yield parse(line, self.file, number)


def parse(line: bytes, file: File, number: int) -> Document:
    """One line of a file of JSON lines."""
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
    """The lines of a file in chunks of about `corpus.CHUNK_BYTES`; a longer line is held in memory whole.

    Raises:
      ValueError: the file is no JSON lines but one JSON value.
    """
    first, raw, read = 1, bytearray(), 0
    for piece, consumed in unpacked(file.path):
        if first == 1 and not raw:
            refuse_one_value(file.path, piece)
        raw += piece
        read += consumed
        if len(raw) >= text_source.CHUNK_BYTES and b"\n" in piece:
            end = raw.rindex(b"\n") + 1
            yield Lines(file, first, bytes(raw[:end]), read)
            first, read = first + raw.count(b"\n", 0, end), 0
            del raw[:end]
    if raw or read:
        yield Lines(file, first, bytes(raw), read)


def refuse_one_value(path: pathlib.Path, head: bytes) -> None:
    """Refuses a file that is a JSON array, or an object over several lines, by how it begins."""
    line, _, rest = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if line.startswith(b"["):
        found, program = "a JSON array", ".[]"
    elif is_begun(line) and rest.lstrip()[:1] not in (b"{", b""):
        found, program = "a JSON object over several lines", "."
    else:
        return
    raise ValueError(
        f"{path}: found {found}, expected JSON lines, an object on each; convert it (unpacked: "
        f"jq -c '{program}' OLD > NEW.jsonl) or take it away"
    )


def is_begun(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON object, without its end.

    >>> is_begun(b'{"text":'), is_begun(b'{"text": "x"}'), is_begun(b'{"text": x')
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
    """The one document of a file, in pieces of `corpus.PIECE_CHARS` characters, a few to a chunk."""
    progress, chars, held = Progress(), 0, []
    try:
        for text, more in text_source.cut_text(decoded(file.path, progress)):
            held.append(file.document._replace(text=text, more=more))
            chars += len(text)
            if chars >= text_source.CHUNK_BYTES and more:
                yield MemoryChunk(tuple(held), progress.take())
                chars, held = 0, []
    except UnicodeDecodeError as error:
        line = progress.line + error.object.count(b"\n", 0, error.start)
        byte = f"the byte 0x{error.object[error.start]:02x}"
        found = f"{file.path}, line {line}: found {byte}, which is not UTF-8 text here ({error.reason})"
        held = [text_source.with_problem(file.document, "not UTF-8", found)]
    yield MemoryChunk(tuple(held), progress.take())


class Progress:
    """How far a file was read: bytes since it was last asked, and the number of the line, from 1."""

    read, line = 0, 1

    def take(self) -> int:
        read, self.read = self.read, 0
        return read


def decoded(path: pathlib.Path, progress: Progress) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    for piece, consumed in unpacked(path):
        progress.read += consumed
        text = decode(piece)
        progress.line += text.count("\n")
        yield text
    yield decode(b"", final=True)


def unpacked(path: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """The bytes of a file in pieces, unpacked if its name says that it is packed, and how many were read for each.

    Raises:
      ValueError: the stream was cut off, or is none.
    """
    unpack = PACKED.get(path.suffix.lower(), unpack_nothing)
    before = 0
    with open(path, "rb") as file:
        try:
            for piece in unpack(file):
                yield piece, file.tell() - before
                before = file.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise ValueError(f"{path}: found a broken {path.suffix} stream ({error}); copy it anew") from None


def unpack_nothing(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(READ_BYTES):
        yield piece


def unpack_gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.open(file, "rb") as stream:
        while piece := stream.read(READ_BYTES):
            yield piece


def unpack_zstd(file: BinaryIO) -> Iterator[bytes]:
    """zstandard's own reader takes a cut-off stream for a whole one, so frames are counted here."""
    frame = None
    for piece in unpack_nothing(file):
        while piece:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(piece)
            piece, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame is not complete")


PACKED = {".gz": unpack_gzip, ".zst": unpack_zstd}


def chunks(file: File) -> Iterator[Chunk]:
    return line_chunks(file) if is_lines(file.path) else text_chunks(file)


def is_lines(path: pathlib.PurePath) -> bool:
    """Whether the name says that a file holds JSON lines, packed or not.

    >>> is_lines(pathlib.PurePath("c4-train.00000-of-01024.json.gz")), is_lines(pathlib.PurePath("lines.jsonl.txt"))
    (True, False)
    """
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower() in JSON_LINES
