"""Packed files: all of them read, in bounded pieces, and nothing taken for the end but the end."""

import bz2
import gzip
import lzma

import pytest
import zstandard

from lfr_jax.prepare import compression

PACK = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".ZSTD": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
BLOCK = 1 << 17  # the most that a block of zstd unpacks to


@pytest.fixture
def unpacked(tmp_path):
    def read(suffix: str, packed: bytes) -> list[bytes]:
        path = tmp_path / f"x.txt{suffix}"
        path.write_bytes(packed)
        parts = list(compression.decompressed(path))
        assert sum(size for _, size in parts) == len(packed)
        return [part for part, _ in parts]

    return read


@pytest.mark.parametrize("suffix", PACK)
def test_pieces_are_bounded_whatever_the_stream_says(unpacked, monkeypatch, suffix):
    """Catches: a few bytes that unpack to one piece of any length."""
    monkeypatch.setattr(compression, "READ_BYTES", BLOCK)
    packed = PACK[suffix](b"x" * 5_000_000)
    parts = unpacked(suffix, packed)
    assert b"".join(parts) == b"x" * 5_000_000 and max(map(len, parts)) <= BLOCK and len(packed) < 20_000


@pytest.mark.parametrize("suffix", PACK)
def test_several_streams_are_one_content(unpacked, suffix):
    """Catches: what follows the first stream, or an empty one, left out; a cut in a later stream taken for the end;
    what is no stream passed over (Python's own readers of xz and bzip2 do)."""
    streams = [PACK[suffix](content) for content in (b"one ", b"", b"two " * 99)]
    packed = b"".join(streams)
    assert b"".join(unpacked(suffix, packed)) == b"one " + b"two " * 99
    ends = {0, len(streams[0]), len(streams[0]) + len(streams[1])}
    for size in set(range(len(packed))) - ends:
        with pytest.raises(ValueError, match=f"x.txt{suffix}: found a broken {suffix.lower()} stream"):
            unpacked(suffix, packed[:size])
    with pytest.raises(ValueError, match="found a broken"):
        unpacked(suffix, packed + b"junk")
    with pytest.raises(ValueError, match=f"x.txt{suffix}: found no byte in it"):
        unpacked(suffix, b"")


def test_padding_and_frames_to_be_skipped(unpacked):
    """Catches: a block of zeros behind a stream, or a frame of somebody's own data, taken for damage."""
    for suffix in (".gz", ".xz"):
        assert b"".join(unpacked(suffix, PACK[suffix](b"one") + b"\0" * 8)) == b"one"
    skipped = b"\x5f\x2a\x4d\x18\x03\0\0\0abc"
    assert b"".join(unpacked(".zst", skipped + zstandard.compress(b"one") + skipped)) == b"one"
    with pytest.raises(ValueError, match="the last frame is not complete"):
        unpacked(".zst", zstandard.compress(b"one") + skipped[:-1])


def frame_with_window(window_byte: int) -> bytes:
    """A frame of zstd; the byte is its header's window: five bits of the logarithm less ten, three of a fraction."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()  # of unknown length, so the header names a window
    frame = bytearray(packer.compress(b"some text ") + packer.flush())
    frame[5] = window_byte
    return bytes(frame)


def test_long_windows_are_read(unpacked):
    """As `zstd --long=31` makes them. Catches: such a file called broken; a window without a bound, or its true reason
    not said."""
    assert b"".join(unpacked(".zst", frame_with_window(21 << 3))) == b"some text "
    with pytest.raises(ValueError, match=r"x.txt.zst: found a window of 2,415,919,104 bytes, .*without --long$"):
        unpacked(".zst", frame_with_window(21 << 3 | 1))


def test_an_error_of_the_disk_is_no_damage(tmp_path, monkeypatch):
    """Catches: the advice to copy a file anew that a network drive did not give."""

    def failing(file):
        raise OSError(5, "Input/output error")
        yield

    (tmp_path / "x.gz").write_bytes(b"x")
    monkeypatch.setitem(compression.READERS, ".gz", failing)
    with pytest.raises(OSError, match="Input/output error"):
        list(compression.decompressed(tmp_path / "x.gz"))
