"""From the names of files and folders to inputs, in a fixed order."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lfr_jax.prepare import parquet, text_files, text_source
from lfr_jax.prepare.folders import files_below
from lfr_jax.prepare.text_files import File
from lfr_jax.prepare.text_source import Chunk, Document, Fields, Input


def of_paths(paths: Iterable[str | os.PathLike], fields: Fields = Fields()) -> list[Input]:
    """The inputs that files and folders are, in the order given; a folder's files sorted, hidden ones left out.

    A `.jsonl`, `.ndjson` or `.json` file holds a JSON object a line, a `.parquet` file a document a row. Any
    other file is one document. All but `.parquet` may end in `.gz` or `.zst`. Symbolic links are followed.

    A folder is laid out as `domain/source`. A file's domain is the folder below the given one that it
    lies in, or else the given one; its source is the next folder, or else the file itself (its name up to
    the first dot) if it holds many documents, or else its domain: blocks do not cross sources, so
    short texts share one. A file given by its own path is a domain and a source. What a document
    says of itself comes before all that.

    Raises:
      FileNotFoundError: no such path, a folder without files, or a symbolic link that leads nowhere.
      PermissionError: a folder must not be read.
    """
    return [group_input(group) for group in groups(list(files(map(pathlib.Path, paths), fields)))]


def files(paths: Iterable[pathlib.Path], fields: Fields) -> Iterator[File]:
    for path in paths:
        if path.is_dir():
            inner = files_below(path)
            if not inner:
                raise FileNotFoundError(f"{path}: found no files in it; expected text, .jsonl or .parquet files")
            for name in inner:
                yield File(path / name, name.as_posix(), *domain_and_source(path.absolute().name, name), fields)
        elif path.is_file():
            yield File(path, path.name, first_name(path), first_name(path), fields)
        else:
            raise FileNotFoundError(f"{path}: found no such file or folder")


def domain_and_source(folder: str, file: pathlib.PurePath) -> tuple[str, str]:
    """The domain and the source of a file, by its place in the folder.

    >>> domain_and_source("text", pathlib.PurePath("web/cc/1.txt"))
    ('web', 'cc')
    >>> domain_and_source("text", pathlib.PurePath("web/cc.jsonl.gz"))
    ('web', 'cc')
    """
    domain, *inner = file.parts[:-1] or [folder]
    if inner:
        return domain, inner[0]
    return domain, first_name(file) if holds_many(file) else domain


def first_name(path: pathlib.PurePath) -> str:
    return path.name.split(".")[0] or path.name


def holds_many(path: pathlib.PurePath) -> bool:
    return is_parquet(path) or text_files.is_lines(path)


def is_parquet(path: pathlib.PurePath) -> bool:
    return path.suffix.lower() == ".parquet"


def chunks_of(file: File) -> Iterator[Chunk]:
    return parquet.chunks(file) if is_parquet(file.path) else text_files.chunks(file)


def groups(found: list[File]) -> Iterator[list[File]]:
    """Runs of small files, of a chunk's size together; a large file is a group by itself."""
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


def group_input(group: list[File]) -> Input:
    found = [file.path.stat() for file in group]
    size = sum(status.st_size for status in found)
    facts = [
        (str(file.path.absolute()), *file[1:], status.st_size, status.st_mtime_ns) for file, status in zip(group, found)
    ]
    small = size <= text_source.CHUNK_BYTES
    chunks = (lambda: iter([Small(tuple(group), size)])) if small else (lambda: chunks_of(group[0]))
    return Input(text_source.stamp(facts), size, chunks)


class Small(NamedTuple):
    """A chunk of whole files."""

    files: tuple[File, ...]
    size: int

    def documents(self) -> Iterator[Document]:
        for file in self.files:
            for chunk in chunks_of(file):
                yield from chunk.documents()
