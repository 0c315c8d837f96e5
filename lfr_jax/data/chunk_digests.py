"""Digests of the chunks of a store's token files, and the check of some of them at each start of a run.

The sha256 in `store.json` is of a whole file, and to compare it takes a read of all of it. So a new store also has
`chunk_digests.npy`: uint32, the crc32 of each MiB of its token files, file after file. It is not part of the card, so
the fingerprint of a store is the same with and without it.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from lfr_jax.data.store import Store, check_digest
from lfr_jax.data.store_card import DOCS
from lfr_jax.storage.npy import parse_npy
from lfr_jax.storage.paths import Path, is_remote
from lfr_jax.storage.remote_files import cache_folder, read_bytes

FILE = "chunk_digests.npy"
CHUNK = 1 << 20  # bytes
CHECKED = 256  # chunks of a store that are checked at a start
AT_ONCE = 16  # chunks in memory


class FileDigests:
    """The digests of a file that comes in pieces of any size: of all of it, and of each chunk."""

    def __init__(self):
        self.whole, self.complete, self.last, self.size = hashlib.sha256(), [], 0, 0

    def update(self, raw: bytes) -> None:
        """Takes in the next bytes of the file."""
        self.whole.update(raw)
        left = memoryview(raw)
        while left:
            piece = left[: CHUNK - self.size % CHUNK]
            self.last, self.size, left = zlib.crc32(piece, self.last), self.size + len(piece), left[len(piece) :]
            if self.size % CHUNK == 0:
                self.complete.append(self.last)
                self.last = 0

    @property
    def sha256(self) -> str:
        """Of all bytes so far, in hex."""
        return self.whole.hexdigest()

    @property
    def chunks(self) -> np.ndarray:
        """uint32: the crc32 of each chunk so far. The last chunk may be shorter."""
        return np.array(self.complete + [self.last] * (self.size % CHUNK > 0), np.uint32)


def check_some(store: Store, rng: np.random.Generator, most: int = CHECKED) -> str:
    """Compares at most `most` chunks of a store's token files, chosen at random, with their digests.

    A store that an older release wrote has no digests of chunks. It is compared with the sha256 of its card if it has
    at most `most` chunks, and else not at all.

    Returns:
      What was left out, in words; "" if all was compared.

    Raises:
      ValueError: bytes have changed.
    """
    sizes = {name: content.bytes for name, content in store.card.files.items() if name != DOCS}
    chunks_F = [-(-size // CHUNK) for size in sizes.values()]
    total, known = sum(chunks_F), known_digests(store, sum(chunks_F))
    if known is None and total > most:
        return (
            f"{store.path}: its {total:,} MiB of tokens are not compared with what was written, as it has no {FILE}; "
            "`lfr data verify` compares them"
        )
    chosen, first = np.sort(rng.permutation(total)[:most]), 0
    for (name, size), chunks in zip(sizes.items(), chunks_F):
        numbers = (chosen[(first <= chosen) & (chosen < first + chunks)] - first).tolist()
        if known is None:
            check_whole(store, name, size, numbers)
        else:
            check_chunks(store, name, size, numbers, known[first : first + chunks])
        first += chunks
    if total <= most:
        return ""
    return (
        f"{store.path}: {most:,} of its {total:,} MiB of tokens, chosen at random, are what was written; "
        "`lfr data verify` compares all"
    )


def faults(store: Store) -> Iterator[str]:
    """What is wrong with a store's token files, or with the digests of their chunks, in words. Reads every byte."""
    found = {name: digests_of(store.path / name) for name in store.card.files if name != DOCS}
    sound = True
    for name, digests in found.items():
        try:
            check_digest(store.path / name, digests.sha256, store.card)
        except ValueError as error:
            sound = False
            yield str(error)
    chunks_C = np.concatenate([digests.chunks for digests in found.values()])
    try:
        known_C = known_digests(store, len(chunks_C))
    except (ValueError, OSError) as error:
        yield str(error)
        return
    if sound and known_C is not None and not np.array_equal(known_C, chunks_C):
        yield (
            f"{store.path / FILE}: {np.sum(known_C != chunks_C):,} of its digests are not those of the tokens, which "
            "are what was written: remove this file, a store may lack it"
        )


def digests_of(path: Path) -> FileDigests:
    """The digests of all bytes of a file."""
    digests = FileDigests()
    with path.open("rb") as file:
        while raw := file.read(AT_ONCE * CHUNK):
            digests.update(raw)
    return digests


def known_digests(store: Store, chunks: int) -> np.ndarray | None:
    """The digests that were written with the store, if there are any."""
    try:
        raw = read_bytes(store.path / FILE)
    except FileNotFoundError:
        return None
    return parse_npy(raw, store.path / FILE, "<u4", (chunks,))


def check_whole(store: Store, name: str, size: int, numbers: Sequence[int]) -> None:
    """Compares a file with the sha256 of the card, as `check_digest`. `numbers`: all of its chunks."""
    sha256 = hashlib.sha256()
    for _, raw in read_chunks(store, name, size, numbers):
        sha256.update(raw)
    check_digest(store.path / name, sha256.hexdigest(), store.card)


def check_chunks(store: Store, name: str, size: int, numbers: Sequence[int], known_C: np.ndarray) -> None:
    """Compares the chunks `numbers` of a file with their digests. Raises ValueError at the first that differs."""
    for number, raw in read_chunks(store, name, size, numbers):
        if zlib.crc32(raw) != known_C[number]:
            start, cache = number * CHUNK, cache_folder(store.cache, store.fingerprint)
            also = f", or its copy in {cache}: then remove that" if is_remote(store.path) and cache else ""
            raise ValueError(
                f"{store.path / name}: bytes {start:,} to {start + len(raw):,} have changed: found crc32 "
                f"{zlib.crc32(raw):08x}, expected {known_C[number]:08x}; `lfr data verify` lists all that is wrong: "
                f"restore the file or prepare the data again (or {FILE} has changed: then remove it{also})"
            )


def read_chunks(store: Store, name: str, size: int, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """The chunks `numbers`, in rising order, of a file of `size` bytes, and their bytes."""
    whole = [number for number in numbers if (number + 1) * CHUNK <= size]
    for first in range(0, len(whole), AT_ONCE):
        some = whole[first : first + AT_ONCE]
        starts = [number * CHUNK for number in some]
        store.opened(name).prefetch(starts, CHUNK)
        raw = memoryview(store.read_file(name, starts, CHUNK))
        yield from ((number, raw[at * CHUNK : (at + 1) * CHUNK]) for at, number in enumerate(some))
    for number in numbers[len(whole) :]:
        yield number, store.read_file(name, [number * CHUNK], size - number * CHUNK)
