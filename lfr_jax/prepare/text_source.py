"""What text is made of on its way into a store: documents, and inputs, which give them chunk by chunk."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

PIECE_CHARS = 1_000_000  # a longer text comes in pieces, cut after a newline if there is one
CHUNK_BYTES = 2 << 20  # about so much of an input is one chunk: the last ones should not keep one worker busy alone


class Problem(NamedTuple):
    """Why a document cannot be used."""

    kind: str  # such as 'not UTF-8': what is counted
    where: str  # file and line, and what was found there


class Document(NamedTuple):
    """One text, or a piece of one. Documents of one source lie together in a store; a domain is one source or more."""

    id: str  # decides on which side of the held-out split the document falls
    text: str
    domain: str
    source: str
    more: bool = False  # the text goes on in the next piece, which has the same id
    problem: Problem | None = None  # of the whole document, if a piece has one


class Fields(NamedTuple):
    """Under which names a record (a JSON object, a row, an example) holds a document; dots lead into inner records."""

    text: str = "text"
    id: str = "id"
    domain: str = "domain"
    source: str = "source"


class Chunk(Protocol):
    """A part of an input, small enough to be read by one worker process. It pickles."""

    size: int  # bytes of the input that it stands for

    def documents(self) -> Iterator[Document]:
        """The documents of this part; a worker may read them, in a process of its own."""


class Input(NamedTuple):
    """A place that text comes from: a file, a few small files, a data set."""

    stamp: str  # equal for as long as the chunks are; '' if they are to be compared themselves
    size: int  # bytes, the sum over the chunks; 0 if unknown
    chunks: Callable[[], Iterator[Chunk]]
    origin: str = ""  # of a data set: which one, and which version of it


def documents(inputs: Iterable[Input]) -> Iterator[Document]:
    """All documents, in order: the problematic ones too, long ones in pieces."""
    for text_input in inputs:
        for chunk in text_input.chunks():
            yield from chunk.documents()


class MemoryChunk(NamedTuple):
    """A chunk of documents that are in memory."""

    items: tuple[Document, ...]
    size: int

    def documents(self) -> Iterator[Document]:
        return iter(self.items)

    def digest(self) -> str:
        """Equal for equal documents."""
        whole = hashlib.blake2b(digest_size=16)
        for document in self.items:
            whole.update(repr(document).encode())
        return whole.hexdigest()


def from_documents(found: Callable[[], Iterable[Document]], stamp: str = "") -> Input:
    """An input of documents that are in memory, or are made one after the other each time that `found` is called."""
    return Input(stamp, 0, lambda: memory_chunks(iter(found()), CHUNK_BYTES))


def memory_chunks(found: Iterator[Document], chars: int) -> Iterator[MemoryChunk]:
    """The documents in groups of at least `chars` characters, but for the last one."""
    while batch := tuple(take_chars(found, chars)):
        yield MemoryChunk(batch, sum(len(document.text) for document in batch))


def take_chars(found: Iterator[Document], chars: int) -> Iterator[Document]:
    for document in found:
        yield document
        chars -= len(document.text)
        if chars <= 0:
            return


def read_record(fields: dict[str, Any], names: Fields, where: str, default: Document) -> Document:
    """The document that a record holds; what the record leaves out is taken from `default`."""
    text = look_up(fields, names.text)
    if text is Missing:
        return with_problem(default, "no text", f"{where}: found the fields {sorted(fields)}, expected {names.text!r}")
    if isinstance(text, bytes):
        return with_problem(default, "not UTF-8", f"{where}: found bytes that are not UTF-8 text: {text[:40]!r}")
    if not isinstance(text, str | None):
        return with_problem(default, "no text", f"{where}: found {names.text} = {text!r}; expected a string")
    try:
        (text or "").encode()  # JSON can spell half of a surrogate pair, which is no character
    except UnicodeEncodeError as error:
        return with_problem(default, "not UTF-8", f"{where}: found text that is not Unicode ({error})")
    named = {}
    for field in ("id", "domain", "source"):
        value = look_up(fields, getattr(names, field))
        if value is Missing or value is None:
            continue
        if isinstance(value, int):
            value = str(value)
        if not isinstance(value, str) or not value:
            found = f"{where}: found {getattr(names, field)} = {value!r}; expected a string that is not empty"
            return with_problem(default, f"bad {field}", found)
        named[field] = value
    return default._replace(text=text or "", **named)


class Missing:
    """Stands for the value of a field that is not there."""


def look_up(fields: dict[str, Any], name: str) -> Any:
    """The value of a field, by its whole name or by a path of names with dots between them; bytes as text.

    >>> look_up({"meta": {"set": b"Books"}}, "meta.set")
    'Books'
    """
    if name in fields:
        value = fields[name]
        try:
            return value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            return value
    outer, _, inner = name.partition(".")
    return look_up(fields[outer], inner) if inner and isinstance(fields.get(outer), dict) else Missing


def with_problem(document: Document, kind: str, where: str) -> Document:
    return document._replace(text="", problem=Problem(kind, where))


def cut_text(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """One text that comes in parts, cut anew into (piece, whether more follow), wherever the parts ended."""
    rest = ""
    for text in texts:
        rest, start = rest + text, 0
        while len(rest) - start > PIECE_CHARS:
            end = rest.rfind("\n", start, start + PIECE_CHARS) + 1 or start + PIECE_CHARS
            yield rest[start:end], True
            start = end
        rest = rest[start:]
    yield rest, False


def cut_long_documents(found: Iterable[Document]) -> Iterator[Document]:
    """The documents, the long ones cut into pieces."""
    for document in found:
        if len(document.text) <= PIECE_CHARS:
            yield document
        else:
            for text, more in cut_text([document.text]):
                yield document._replace(text=text, more=more or document.more)


def split_evenly(size: int, parts: int) -> Iterator[int]:
    """`size` cut into whole numbers that sum to it."""
    return (size * (part + 1) // parts - size * part // parts for part in range(parts))


def stamp(*facts: object) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
