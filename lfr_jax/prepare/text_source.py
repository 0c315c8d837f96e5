"""What a source of text gives: documents, in chunks that worker processes can read.

An `Input` is a file, a few small files, or a data set. It gives chunks, and a chunk gives documents.
docs/add_a_text_source.md shows how to add a source.
"""

import contextlib
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from lfr_jax.config.values import shown

PIECE_CHARS = 1_000_000  # a longer text comes in pieces, which end after a newline if there is one
CHUNK_BYTES = 2 << 20  # about the size of a chunk: small, so that at the end of the work no worker is busy alone


class Problem(NamedTuple):
    """Why a document cannot be used."""

    kind: str  # such as 'not UTF-8'; documents are counted by it
    where: str  # file and line, and what was found there


class Document(NamedTuple):
    """One text, or a piece of a long one."""

    id: str  # decides whether the document is held out, unless held-out text is given
    text: str
    domain: str
    source: str  # documents of one domain and source lie together in the store
    more: bool = False  # the text goes on in the next document, which has the same id
    problem: Problem | None = None  # if a piece has one, the document is left out
    held_out: bool = False  # whatever its id


class Chunk(Protocol):
    """A part of an input, small enough for one worker process. It pickles."""

    size: int  # bytes of the input that this chunk stands for
    name: str  # where it lies, for errors: file and line

    def documents(self) -> Iterator[Document]:
        """Reads the documents of this part. A worker process may call it."""


class Input(NamedTuple):
    """Where text comes from: a file, a few small files, a data set."""

    stamp: str  # equal stamps mean equal chunks; '' if only the chunks' contents can tell
    size: int  # bytes, the sum over the chunks; 0 if unknown
    chunks: Callable[[], Iterator[Chunk]]
    origin: str = ""  # of a data set: its name and version, for prepared.json


class Fields(NamedTuple):
    """The names under which a record (a JSON object, a row) holds a document. A dot leads into an inner record."""

    text: str = "text"
    id: str = "id"
    domain: str = "domain"
    source: str = "source"


class File(NamedTuple):
    """A file, and what its documents are called if they do not say so themselves."""

    path: pathlib.Path
    name: str  # document ids begin with it
    domain: str
    source: str
    fields: Fields
    held_out: bool = False  # all of it

    @property
    def document(self) -> Document:
        """An empty document with the file's id, domain and source."""
        return Document(self.name, "", self.domain, self.source, held_out=self.held_out)


class FileFormat(NamedTuple):
    """A kind of file, and the function that reads it. `inputs.FORMATS` lists them all."""

    suffixes: tuple[str, ...]  # of file names, in lower case, such as ('.parquet',)
    chunks: Callable[[File], Iterator[Chunk]]
    many: bool  # a file holds many documents, so it is a source by itself; False: short files share a source
    compressed: bool = False  # '.gz', '.zst' or others may follow the suffix; `chunks` then reads by `decompressed`


def read_record(record: dict[str, Any], fields: Fields, where: str, default: Document) -> Document:
    """Makes a document of a record. What the record leaves out is taken from `default`.

    Args:
      where: file and line, for the description of a problem.

    Returns:
      A document; one with a problem if the record has no text, or a field of a wrong type, or one that is not Unicode.
    """
    text = look_up(record, fields.text)
    if text is Missing:
        found = f"{where}: found the fields {shown(sorted(record))}, expected {fields.text!r}"
        return with_problem(default, "no text", found)
    if isinstance(text, bytes):
        return with_problem(default, "not UTF-8", f"{where}: found bytes that are not UTF-8 text: {shown(text)}")
    if not isinstance(text, str | None):
        return with_problem(default, "no text", f"{where}: found {fields.text} = {shown(text)}; expected a string")
    named = {}
    for field in ("id", "domain", "source"):
        value = look_up(record, getattr(fields, field))
        if value is Missing or value is None:
            continue
        if isinstance(value, int):
            value = str(value)
        if not isinstance(value, str) or not value:
            found = f"{where}: found {getattr(fields, field)} = {shown(value)}; expected a string that is not empty"
            return with_problem(default, f"bad {field}", found)
        named[field] = value
    document = default._replace(text=text or "", **named)
    problem = not_unicode(document, where)
    return with_problem(default, *problem) if problem else document


def not_unicode(document: Document, where: str) -> Problem | None:
    """The problem of a document that holds half of a surrogate pair, which is no character. JSON can spell it."""
    for name, part in zip(Document._fields, (document.id, document.text, document.domain, document.source)):
        try:
            part.encode()
        except UnicodeEncodeError as error:
            kind = "not UTF-8" if name == "text" else f"bad {name}"
            return Problem(kind, f"{where}: found {name} that is not Unicode ({error})")
    return None


def with_problem(document: Document, kind: str, where: str) -> Document:
    """The document without its text, to be counted under `kind` and left out of the store."""
    return document._replace(text="", problem=Problem(kind, as_unicode(where)))  # names of files need not be Unicode


def as_unicode(text: str) -> str:
    """The text, with halves of surrogate pairs escaped."""
    return text.encode(errors="backslashreplace").decode()


class Missing:
    """Stands for the value of a field that is not there."""


def look_up(record: dict[str, Any], name: str) -> Any:
    """The value of a field, by its full name or by a path of names with dots between them. Bytes become text.

    >>> look_up({"meta": {"set": b"Books"}}, "meta.set")
    'Books'
    """
    if name in record:
        value = record[name]
        try:
            return value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            return value
    outer, _, inner = name.partition(".")
    return look_up(record[outer], inner) if inner and isinstance(record.get(outer), dict) else Missing


def has_field(record: dict[str, Any], name: str) -> bool:
    """Whether a record has the field, by its full name or by a path of names."""
    return look_up(record, name) is not Missing


class MemoryChunk(NamedTuple):
    """A chunk of documents in memory."""

    items: tuple[Document, ...]
    size: int

    @property
    def name(self) -> str:
        return f"the documents {self.items[0].id!r} to {self.items[-1].id!r}"

    def documents(self) -> Iterator[Document]:
        return iter(self.items)

    def digest(self) -> str:
        """Equal for equal documents."""
        hasher = hashlib.blake2b(digest_size=16)
        for document in self.items:
            hasher.update(repr(document).encode())
        return hasher.hexdigest()


def from_documents(make: Callable[[], Iterable[Document]], stamp: str = "") -> Input:
    """An input of documents in memory. Each call of `make` gives all of them, from the first on."""
    return Input(stamp, 0, lambda: memory_chunks(map(checked, make()), CHUNK_BYTES))


def checked(document: Document) -> Document:
    """The document; one that is not Unicode has a problem, and its names are escaped."""
    problem = document.problem or not_unicode(document, f"document {document.id!r}")
    if not problem:
        return document
    names = document._replace(**{name: as_unicode(getattr(document, name)) for name in ("id", "domain", "source")})
    return with_problem(names, *problem)


def memory_chunks(found: Iterator[Document], chars: int) -> Iterator[MemoryChunk]:
    """The documents in groups of at least `chars` characters; the last group may be smaller."""
    while group := tuple(take_chars(found, chars)):
        yield MemoryChunk(group, sum(len(document.text) for document in group))


def take_chars(found: Iterator[Document], chars: int) -> Iterator[Document]:
    """The next documents, until they have `chars` characters together."""
    for document in found:
        yield document
        chars -= len(document.text)
        if chars <= 0:
            return


def documents(inputs: Iterable[Input]) -> Iterator[Document]:
    """All documents of the inputs, in order: also those with a problem, and long ones as they come, in pieces."""
    for text_input in inputs:
        for chunk in text_input.chunks():
            yield from chunk.documents()


def cut_long_documents(found: Iterable[Document]) -> Iterator[Document]:
    """The documents; those longer than `PIECE_CHARS` in pieces."""
    for document in found:
        if len(document.text) <= PIECE_CHARS:
            yield document
        else:
            for text, more in cut_text([document.text]):
                yield document._replace(text=text, more=more or document.more)


def cut_text(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Cuts one text, which comes in parts, into pieces: (piece, whether more follow).

    The pieces depend on the text alone, and not on where its parts end.
    """
    rest = ""
    for text in texts:
        rest, start = rest + text, 0
        while len(rest) - start > PIECE_CHARS:
            end = rest.rfind("\n", start, start + PIECE_CHARS) + 1 or start + PIECE_CHARS
            yield rest[start:end], True
            start = end
        rest = rest[start:]
    yield rest, False


def split_evenly(size: int, parts: int) -> Iterator[int]:
    """`parts` whole numbers, as equal as can be, whose sum is `size`.

    >>> list(split_evenly(10, 4))
    [2, 3, 2, 3]
    """
    return (size * (part + 1) // parts - size * part // parts for part in range(parts))


def stamp(*facts: object) -> str:
    """A name that is equal for equal facts."""
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def short_errors(what: str, advice: str = "") -> Iterator[None]:
    """Raises any error of a library as ValueError, with its first line alone.

    It catches every kind, since libraries change what is below them, and so the kinds of errors.

    Args:
      what: names the file or data set.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {first_line(error)}{advice}") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line: libraries say more than that, or nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
