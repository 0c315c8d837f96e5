"""From the names of files and folders to inputs, in a fixed order; and which formats of files there are."""

import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lfr_jax.prepare import parquet, text_files, text_source
from lfr_jax.prepare.compression import without_suffix
from lfr_jax.prepare.folders import files_below
from lfr_jax.prepare.text_source import Chunk, Document, Fields, File, FileFormat, Input, MemoryChunk
from lfr_jax.storage.files import require_regular
from lfr_jax.terminal import printable

# A new format of files is one more line here: docs/add_a_text_source.md.
FORMATS: tuple[FileFormat, ...] = (
    text_files.JSON_LINES,
    parquet.FORMAT,
)


def of_paths(paths: Iterable[str | os.PathLike], fields: Fields = Fields()) -> list[Input]:
    """The inputs for files and folders, in the order given. Files of a folder are sorted; some are left out, see there.

    The name of a file tells its format, see `FORMATS`. A file of any other name is one document. Its content is checked
    when it is read: see `content.py`. Symbolic links are followed.

    A folder is laid out as `domain/source`. Of a file in it:

    - The domain is the folder below the given one, or else the given one.
    - The source is the next folder. Without one, a file of many documents is a source of its own, called by its
      name up to the first dot; other files share a source, called as the domain. (Blocks do not cross sources, so short
      texts would be too short for a block alone.)

    A file given by its own path is a domain and a source. What a document says of itself comes before all that.

    Raises:
      FileNotFoundError: no such path, a folder without files, or a symbolic link that leads nowhere.
      OSError: a path is neither a file nor a folder, but a named pipe, for example.
      PermissionError: a folder must not be read.
    """
    return of_files(list(files(paths, fields)))


def of_files(found: list[File]) -> list[Input]:
    """The inputs for these files, in their order."""
    return [input_of(group) for group in groups(found)]


def in_words(found: list[File]) -> str:
    """How many files are read as what, with examples of those that are one text each, and of those of no byte."""
    kinds = [format_of(file.path) for file in found]
    words = [f"{count:,} {kind.suffixes[0]}" for kind, count in Counter(kinds).items() if kind.many]
    words += with_examples("read as one text each", [file for file, kind in zip(found, kinds) if not kind.many])
    words += with_examples("of no byte", [file for file in found if not file.path.stat().st_size])
    return f"{len(found):,} file{'s' * (len(found) != 1)}: {', '.join(words)}"


def with_examples(what: str, found: list[File]) -> list[str]:
    """How many files these are, with examples; nothing if there are none."""
    names = ", ".join([printable(file.name) for file in found[:3]] + ["..."] * (len(found) > 3))
    return [f"{len(found):,} {what} ({names})"] if found else []


def format_of(path: pathlib.PurePath) -> FileFormat:
    """The format of a file, by its name.

    >>> format_of(pathlib.PurePath("c4-train.00000-of-01024.json.gz")) == text_files.JSON_LINES
    True
    >>> format_of(pathlib.PurePath("lines.jsonl.txt")) == text_files.PLAIN_TEXT
    True
    """
    for known in FORMATS:
        name = without_suffix(path) if known.compressed else path
        if name.suffix.lower() in known.suffixes:
            return known
    return text_files.PLAIN_TEXT


def chunks_of(file: File) -> Iterator[Chunk]:
    """The chunks of a file, read by its format. There is one at least, so that no file goes uncounted."""
    found = format_of(file.path)
    chunks = found.chunks(file)
    if found.many:
        yield FirstChunk(file, next(chunks, MemoryChunk((file.document,), 0)))
    yield from chunks


class FirstChunk(NamedTuple):
    """The first chunk of a file of many documents. If none of them can be read, the file is something else.

    If there is none, it gives a blank one, to be counted.
    """

    file: File
    chunk: Chunk

    @property
    def size(self) -> int:
        return self.chunk.size

    @property
    def name(self) -> str:
        return self.chunk.name

    def documents(self) -> Iterator[Document]:
        """The chunk's documents. Raises ValueError at the end, if each of them has a problem."""
        first, number, readable = None, 0, False
        for number, document in enumerate(self.chunk.documents(), start=1):
            first = first or document.problem
            readable = readable or not document.problem
            yield document
        if not number:
            yield self.file.document
        elif not readable:
            names = ", or name the field of the text with --text-field" if first.kind == "no text" else ""
            raise ValueError(
                f"{first.where}; nothing in this file can be read ({number:,} tried), which --tolerate does not cover: "
                f"mend it, or take it away{names}"
            )


def files(paths: Iterable[str | os.PathLike], fields: Fields = Fields(), held_out: bool = False) -> Iterator[File]:
    """The files at the paths and in the folders there, with their domains and sources. `held_out`: all of them are."""
    for path in paths:
        if not os.fspath(path):
            raise FileNotFoundError("found an empty path, expected a file or folder ('.' for the one you are in)")
        path = pathlib.Path(path)
        if path.is_dir():
            inner = files_below(path)
            if not inner:
                suffixes = ", ".join(known.suffixes[0] for known in FORMATS)
                raise FileNotFoundError(f"{path}: found no files in it; expected text, {suffixes} files")
            for name in inner:
                places = domain_and_source(path.absolute().name, name)
                yield File(path / name, *map(unicode_name, (name.as_posix(), *places)), fields, held_out)
        elif path.exists():
            require_regular(path)
            names = path.name, short_name(path), short_name(path)
            yield File(path, *map(unicode_name, names), fields, held_out)
        else:
            raise FileNotFoundError(f"{path}: found no such file or folder")


def unicode_name(name: str) -> str:
    r"""A name of a file or folder as Unicode: what is not UTF-8 in it is escaped.

    >>> print(unicode_name(os.fsdecode(b"caf\xe9")))
    caf\xe9
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def domain_and_source(folder: str, file: pathlib.PurePath) -> tuple[str, str]:
    """The domain and the source of a file, by its path in the folder.

    >>> domain_and_source("text", pathlib.PurePath("web/cc/1.txt"))
    ('web', 'cc')
    >>> domain_and_source("text", pathlib.PurePath("web/cc.jsonl.gz"))
    ('web', 'cc')
    """
    domain, *inner = file.parts[:-1] or [folder]
    if inner:
        return domain, inner[0]
    return domain, short_name(file) if format_of(file).many else domain


def short_name(path: pathlib.PurePath) -> str:
    """The name up to the first dot."""
    return path.name.split(".")[0] or path.name


def groups(found: list[File]) -> Iterator[list[File]]:
    """Small files in groups, each about as large as a chunk. A large file is a group by itself."""
    group, total = [], 0
    for file in found:
        size = file.path.stat().st_size
        if group and total + size > text_source.CHUNK_BYTES:
            yield group
            group, total = [], 0
        group.append(file)
        total += size
    if group:
        yield group


def input_of(group: list[File]) -> Input:
    """One input for a group of files."""
    found = [file.path.stat() for file in group]
    size = sum(status.st_size for status in found)
    facts = [
        (str(file.path.absolute()), *file[1:], status.st_size, status.st_mtime_ns) for file, status in zip(group, found)
    ]
    small = size <= text_source.CHUNK_BYTES
    chunks = (lambda: iter([SmallFiles(tuple(group), size)])) if small else (lambda: chunks_of(group[0]))
    return Input(text_source.stamp(facts), size, chunks)


class SmallFiles(NamedTuple):
    """A chunk of complete files."""

    files: tuple[File, ...]
    size: int

    @property
    def name(self) -> str:
        paths = [str(file.path) for file in self.files]
        return paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            for chunk in chunks_of(file):
                yield from chunk.documents()
