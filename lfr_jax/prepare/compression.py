"""Packed files, read in bounded memory: gzip, zstd, xz and bzip2.

A small file may unpack to any length, so each reader gives pieces of about `READ_BYTES` at most, whatever the stream
says. Beside a piece, memory holds what the stream refers back to: its window, of 2 GiB at most.
"""

import bz2
import functools
import gzip
import lzma
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

from lfr_jax.storage.files import require_regular

READ_BYTES = 1 << 20
PACKED_BYTES = 1 << 16  # of a stream of xz or bzip2, read at once
MAX_WINDOW = 1 << 31  # the largest that the zstd program makes, with --long=31
BROKEN = (EOFError, OSError, zlib.error, zstandard.ZstdError, lzma.LZMAError)  # gzip and bz2 raise OSError


def decompressed(path: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """Reads a file, and decompresses it if its name ends in one of `SUFFIXES`. Packed files may hold several streams.

    Yields:
      Some bytes of the content, and how many bytes of the file were read for them.

    Raises:
      OSError: the file cannot be read.
      ValueError: the compressed stream is cut off, or damaged, or is none, or its window is too large.
    """
    require_regular(path)
    suffix = path.suffix.lower()
    before = 0
    with open(path, "rb") as file:
        if suffix in READERS and not file.peek(1):
            raise ValueError(f"{path}: found no byte in it, expected a {suffix} stream; copy it anew")
        parts = READERS.get(suffix, read_plain)(file)
        while True:
            try:
                part = next(parts, None)
            except BROKEN as error:
                if getattr(error, "errno", None) is not None:
                    raise  # the disk, not the stream
                raise ValueError(f"{path}: found a broken {suffix} stream ({error}); copy it anew") from None
            except WindowError as error:
                raise ValueError(f"{path}: {error}") from None
            if part is None:
                return
            yield part, file.tell() - before
            before = file.tell()


class WindowError(ValueError):
    """A stream refers back farther than memory should hold."""


def read_plain(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(READ_BYTES):
        yield part


def read_gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.open(file, "rb") as stream:
        while part := stream.read(READ_BYTES):
            yield part


def read_members(file: BinaryIO, begin: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor]) -> Iterator[bytes]:
    """Streams of xz or bzip2, one after the other. Raises EOFError if the last one is cut off.

    The library's own files do not notice damage behind the first stream.
    """
    member, packed = None, b""
    while packed := packed or file.read(PACKED_BYTES):
        if member is None:
            packed = packed.lstrip(b"\0")  # between streams, zeros are padding
            if not packed:
                continue
            member = begin()
        yield member.decompress(packed, READ_BYTES)
        while not member.eof and not member.needs_input:
            yield member.decompress(b"", READ_BYTES)
        packed = b""
        if member.eof:
            packed, member = member.unused_data, None
    if member is not None:
        raise EOFError("the last stream is not complete")


def read_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Goes from block to block, none of which unpacks to more than 128 KiB, as the format has it (RFC 8878, 3.1.1).

    zstandard's own readers give all that a piece of the file unpacks to at once, or do not notice a stream cut off.
    """
    while magic := file.read(4):
        if magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:  # a frame to be skipped
            left = int.from_bytes(exactly(file, 4), "little")
            while left:
                left -= len(exactly(file, min(left, READ_BYTES)))
            yield b""
            continue
        frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        header, checksum = frame_header(magic, file)
        frame.decompress(header)
        last = False
        while not last:
            block = exactly(file, 3)
            bits = int.from_bytes(block, "little")
            last, kind, size = bits & 1, bits >> 1 & 3, bits >> 3
            block += exactly(file, 1 if kind == 1 else size)  # 1: a byte that is repeated
            yield frame.decompress(block)
        if checksum:
            yield frame.decompress(exactly(file, 4))
        if not frame.eof:
            raise EOFError("a frame ends before its content does")


def frame_header(magic: bytes, file: BinaryIO) -> tuple[bytes, bool]:
    """The header of a zstd frame with its magic number, and whether a checksum ends the frame.

    Raises:
      WindowError: the frame needs a window that is larger than `MAX_WINDOW`.
      ZstdError: it is no header.
    """
    if magic != zstandard.FRAME_HEADER:
        raise zstandard.ZstdError(f"found {magic!r} where a frame begins, expected {zstandard.FRAME_HEADER!r}")
    header = magic + exactly(file, 1)
    flags = header[4]
    one_segment = flags >> 5 & 1
    header += exactly(file, (1 - one_segment) + (0, 1, 2, 4)[flags & 3] + (one_segment, 2, 4, 8)[flags >> 6])
    window = zstandard.get_frame_parameters(header).window_size
    if window > MAX_WINDOW:
        raise WindowError(
            f"found a window of {window:,} bytes, expected at most {MAX_WINDOW:,}; pack it anew, without --long"
        )
    return header, bool(flags >> 2 & 1)


def exactly(file: BinaryIO, size: int) -> bytes:
    """Raises EOFError if there are not so many bytes."""
    found = file.read(size)
    if len(found) < size:
        raise EOFError("the last frame is not complete")
    return found


READERS = {
    ".gz": read_gzip,
    ".zst": read_zstd,
    ".zstd": read_zstd,
    ".xz": lambda file: read_members(file, functools.partial(lzma.LZMADecompressor, memlimit=MAX_WINDOW)),
    ".bz2": lambda file: read_members(file, bz2.BZ2Decompressor),
}
SUFFIXES = tuple(READERS)


def without_suffix(path: pathlib.PurePath) -> pathlib.PurePath:
    """The name that the file has once it is decompressed.

    >>> without_suffix(pathlib.PurePath("c4.json.gz")), without_suffix(pathlib.PurePath("book.txt"))
    (PurePosixPath('c4.json'), PurePosixPath('book.txt'))
    """
    return path.with_suffix("") if path.suffix.lower() in READERS else path
