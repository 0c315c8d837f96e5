"""Files that may be compressed with gzip or zstd, read in bounded memory."""

import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

READ_BYTES = 1 << 20


def decompressed(path: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """Reads a file, and decompresses it if its name ends in `.gz` or `.zst`.

    Yields:
      Some bytes of the content, and how many bytes of the file were read for them.

    Raises:
      ValueError: the compressed stream is cut off, or is none.
    """
    read = READERS.get(path.suffix.lower(), read_plain)
    before = 0
    with open(path, "rb") as file:
        try:
            for part in read(file):
                yield part, file.tell() - before
                before = file.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise ValueError(f"{path}: found a broken {path.suffix} stream ({error}); copy it anew") from None


def read_plain(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(READ_BYTES):
        yield part


def read_gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.open(file, "rb") as stream:
        while part := stream.read(READ_BYTES):
            yield part


def read_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Counts the frames: zstandard's own reader does not notice that a stream is cut off."""
    frame = None
    for part in read_plain(file):
        while part:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(part)
            part, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame is not complete")


READERS = {".gz": read_gzip, ".zst": read_zstd}


def without_suffix(path: pathlib.PurePath) -> pathlib.PurePath:
    """The name that the file has once it is decompressed.

    >>> without_suffix(pathlib.PurePath("c4.json.gz")), without_suffix(pathlib.PurePath("book.txt"))
    (PurePosixPath('c4.json'), PurePosixPath('book.txt'))
    """
    return path.with_suffix("") if path.suffix.lower() in READERS else path
