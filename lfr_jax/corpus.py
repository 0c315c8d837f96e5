"""Where text comes from: text and JSON-lines files, folders of them, TFDS data sets."""

import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zstandard


class Document(NamedTuple):
    """One text. Documents of one source lie together in a store; a domain is one source or more."""

    id: str  # decides on which side of the held-out split the document falls
    text: str
    domain: str
    source: str


def read(paths: Iterable[str | os.PathLike]) -> Iterator[Document]:
    """The documents of files and folders, in the order given; a folder's files sorted, hidden ones left out.

    `.jsonl` files hold a JSON object a line, its text under `text`, with `id`, `domain` and
    `source` if it has them. Any other file is one document. Both may end in `.gz` or `.zst`.
    A document that names no domain is in that of its folder (the name of the file's own folder);
    a file given by its own path is a domain by itself (the file's name up to the first dot).

    Raises:
      FileNotFoundError: no such path, or a folder without files.
      ValueError: naming file and line: no text, not UTF-8, broken JSON, or a broken compressed stream.
    """
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.is_file())
            files = sorted(file for file in found if not hidden(file.relative_to(path)))
            if not files:
                raise FileNotFoundError(f"{path}: found no files in it; expected text or .jsonl files")
            for file in files:
                yield from read_file(file, file.relative_to(path).as_posix(), file.absolute().parent.name)
        elif path.is_file():
            yield from read_file(path, path.name, stem(path))
        else:
            raise FileNotFoundError(f"{path}: found no such file or folder")


def hidden(path: pathlib.PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def stem(path: pathlib.PurePath) -> str:
    return path.name.split(".")[0] or path.name


def read_file(path: pathlib.Path, name: str, domain: str) -> Iterator[Document]:
    """The documents of one file, their ids starting with `name`; `domain` for those that name none."""
    if ".jsonl" in path.suffixes[-2:]:
        for number, line in enumerate(lines(path), start=1):
            if line.strip():
                default = Document(f"{name}:{number}", "", domain, stem(path))
                yield parse(line, f"{path}, line {number}", default)
        return
    try:
        text = b"".join(chunks(path, 1 << 20)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: bytes that are not UTF-8 text ({error}); convert or remove it") from None
    if not text.strip():
        raise ValueError(f"{path}: found no text in it; expected a document; remove the file")
    yield Document(name, text, domain, domain)


def parse(line: bytes, where: str, default: Document) -> Document:
    """One line of a `.jsonl` file; what it leaves out is taken from `default`."""
    try:
        fields = json.loads(line.decode())
    except ValueError as error:
        raise ValueError(f"{where}: found no valid JSON in UTF-8 ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: found a JSON {type(fields).__name__}; expected an object with a 'text'")
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        found = f"text = {text!r}" if "text" in fields else f"the fields {sorted(fields)}"
        raise ValueError(f"{where}: found {found}; expected a field 'text' with a string that is not empty")
    try:
        text.encode()  # JSON can spell half of a surrogate pair, which is no character
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: found text that is not Unicode ({error}); repair it") from None
    named = {}
    for field in ("id", "domain", "source"):
        if fields.get(field) is not None:
            value = str(fields[field]) if field == "id" else fields[field]
            if not isinstance(value, str) or not value:
                raise ValueError(f"{where}: found {field} = {value!r}; expected a string that is not empty")
            named[field] = value
    return default._replace(text=text, **named)


def lines(path: pathlib.Path, chunk_size: int = 1 << 20) -> Iterator[bytes]:
    """The lines of a file, unpacked if its name says that it is packed."""
    rest = b""
    for chunk in chunks(path, chunk_size):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def chunks(path: pathlib.Path, size: int) -> Iterator[bytes]:
    """The bytes of a file in pieces, unpacked; a stream that was cut off is an error, not an end."""
    unpack = {".gz": unpack_gzip, ".zst": unpack_zstd}.get(path.suffix, unpack_nothing)
    try:
        yield from unpack(path, size)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path}: found a broken {path.suffix} stream ({error}); copy it anew") from None


def unpack_nothing(path: pathlib.Path, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(size):
            yield chunk


def unpack_gzip(path: pathlib.Path, size: int) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        while chunk := file.read(size):
            yield chunk


def unpack_zstd(path: pathlib.Path, size: int) -> Iterator[bytes]:
    """zstandard's own reader takes a cut-off stream for a whole one, so frames are counted here."""
    frame = None
    for chunk in unpack_nothing(path, size):
        while chunk:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(chunk)
            chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame is not complete")


def read_tfds(
    name: str, split: str = "train", text_feature: str = "text", data_dir: str | None = None
) -> Iterator[Document]:
    """The documents of a TFDS data set that is on disk in a random-access format; TensorFlow is not needed.

    Args:
      name: as TFDS writes it: `c4/en:3.0.1`, `lm1b`, ... It is the domain and the source.
      text_feature: the feature that holds the text.
      data_dir: the folder of the data sets; TFDS's own default if None.

    Raises:
      ValueError: no such data set, split or feature, or an example without text.
    """
    import tensorflow_datasets as tfds  # here, for those who read files alone

    try:
        if name.split("/")[0] == "c4":
            from tensorflow_datasets.text.c4 import C4  # noqa: F401  its import makes the name known
        builder = tfds.builder(name, data_dir=data_dir)
        data = builder.as_data_source(split=split)
    except (AssertionError, NotImplementedError, OSError, ValueError) as error:
        raise ValueError(
            f"TFDS data set {name!r}, split {split!r}, in {data_dir or 'the default folder'}: "
            f"{str(error).splitlines()[0]} Expected one prepared with file_format='array_record'."
        ) from error
    for index, example in enumerate(examples(data)):
        where = f"TFDS data set {name!r}, split {split!r}, example {index}"
        if text_feature not in example:
            raise ValueError(f"{where}: found the features {sorted(example)}, expected {text_feature!r}")
        text = example[text_feature]
        try:
            text = text.decode() if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: found bytes that are not UTF-8 text ({error})") from None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: found {text_feature} = {text!r}; expected a text that is not empty")
        yield Document(f"{name}/{split}:{index}", text, name, name)


def examples(data, at_once: int = 1024) -> Iterator[dict]:
    for start in range(0, len(data), at_once):
        yield from data.__getitems__(range(start, min(start + at_once, len(data))))
