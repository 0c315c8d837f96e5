"""The token store: text as one array of token ids on disk, read at random positions.

A store is a folder of these files:

- `tokens.bin`: the tokens, little-endian uint16, or uint32 if the vocabulary has more than 65,536 ids.
  A linked store (`lfr link`) has links to the token files of other programs instead.
- `docs.npy`: int64, the first token of each document.
- `store.json`: everything else, see `store_card`.
- `chunk_digests.npy`: to notice changed tokens without reading all of them, see `chunk_digests`. It may be missing.

A store has no sequence length: `Blocks` cuts it into blocks of any length.
"""

import functools
import hashlib
import os
import threading

import numpy as np

from lfr_jax.data import store_card
from lfr_jax.data.store_card import DOCS, Part, StoreCard, parts_of
from lfr_jax.storage.files import require_regular
from lfr_jax.storage.npy import parse_npy
from lfr_jax.storage.paths import Path, absolute, is_remote
from lfr_jax.storage.remote_files import Version, cache_folder, open_tokens, read_bytes, stamp_of
from lfr_jax.storage.token_files import Stamp, TokenFile

OPEN_FILES = 256  # so many files of a store are open at once; by default a process may have 1,024


class Store:
    """A complete store, opened by `open_store`. It pickles as its path; the other process opens it again.

    The tokens lie in `parts`, and are numbered through from the first part to the last. A prepared store has
    one part, its `tokens.bin`. A part of a linked store is a range of another program's file.

    Attributes:
      card: what `store.json` says.
      sources: the sources, one after the other from token 0 on.
      domains: the names of the domains, in the order of their first sources.
      cache: the setting `data.cache`, if the store lies in an object store.
    """

    def __init__(self, path: Path, card: StoreCard, stamps: dict[str, Stamp | Version], cache: str | None = None):
        self.path, self.card, self.stamps, self.cache = path, card, stamps, cache
        self.fingerprint = card.fingerprint
        self.vocab_size, self.eos_id = card.vocab_size, card.eos_id
        self.tokenizer_kind, self.tokenizer_digest = card.tokenizer.kind, card.tokenizer.digest
        self.sources = card.sources
        self.domains = tuple(dict.fromkeys(source.domain for source in self.sources))
        self.parts = parts_of(card)
        tokens_P = np.array([part.tokens for part in self.parts])
        self.first_P = np.cumsum(tokens_P) - tokens_P  # first token
        # It does not refer to the store: so the files are closed with the last reference to the store.
        folder = cache_folder(cache, self.fingerprint)
        self._opened = functools.lru_cache(OPEN_FILES)(lambda name: open_tokens(path / name, stamps[name], folder))
        self._opening = threading.Lock()

    def opened(self, name: str) -> TokenFile:
        """A file of the store, opened once for all threads."""
        with self._opening:
            return self._opened(name)

    def read_file(self, name: str, starts: list[int], size: int) -> bytes:
        """`size` bytes from each start of a file, concatenated.

        Raises:
          StoreChanged: the file changed since the store was opened.
          OSError: the bytes cannot be read; it names the file, which the system call does not know.
        """
        try:
            return self.opened(name).read(starts, size)
        except OSError as error:
            if error.errno and not error.filename:
                error.filename = os.fspath(self.path / name)
            raise

    def read(self, start_B: np.ndarray, count: int) -> np.ndarray:
        """Reads `count` tokens from each position in `start_B`: int32[B, count]. None may cross the end of a part.

        Raises:
          ValueError: a token is not in the vocabulary.
          StoreChanged: a file changed since the store was opened.
        """
        part_B = np.searchsorted(self.first_P, start_B, side="right") - 1
        reads = []
        for number in np.unique(part_B).tolist():
            part, of_part_B = self.parts[number], part_B == number
            itemsize = np.dtype(part.dtype).itemsize
            starts = part.offset + (start_B[of_part_B] - self.first_P[number]) * itemsize
            reads.append((of_part_B, part, starts.tolist(), count * itemsize))
        for _, part, starts, size in reads:
            self.opened(part.file).prefetch(starts, size)
        tokens_BxT = np.empty((len(start_B), count), np.int32)
        for of_part_B, part, starts, size in reads:
            found = np.frombuffer(self.read_file(part.file, starts, size), part.dtype).reshape(-1, count)
            if not in_vocabulary(found, self.vocab_size):
                raise self.foreign_token(found, start_B[of_part_B], part)
            tokens_BxT[of_part_B] = found
        return tokens_BxT

    def foreign_token(self, tokens_RxT: np.ndarray, start_R: np.ndarray, part: Part) -> ValueError:
        """The error about the first token that is not in the vocabulary."""
        row, column = np.argwhere((tokens_RxT < 0) | (tokens_RxT >= self.vocab_size))[0]
        at = int(start_R[row]) + int(column)
        source = next(source for source in self.sources if source.first <= at < source.first + source.count)
        return ValueError(
            f"{self.path / part.file}: found the id {tokens_RxT[row, column]} at token {at:,} (source {source.name!r} "
            f"of domain {source.domain!r}), expected 0 to {self.vocab_size - 1}: its bytes have changed, or are of "
            "another store; `lfr data verify` lists all that is wrong; restore the file or prepare the data again"
        )

    def read_part(self, part: Part, start: int, count: int) -> np.ndarray:
        """Reads `count` tokens of a part, fewer at its end. They keep the number type of the file."""
        size, count = np.dtype(part.dtype).itemsize, min(count, part.tokens - start)
        return np.frombuffer(self.read_file(part.file, [part.offset + start * size], count * size), part.dtype)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """All tokens, to look at: a memory map of the file, or a copy in memory if there are several parts."""
        if is_remote(self.path):
            return np.concatenate([self.read_part(part, 0, part.tokens) for part in self.parts])
        arrays = [np.memmap(self.path / p.file, p.dtype, "r", p.offset, p.tokens) for p in self.parts]
        return np.asarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)

    @functools.cached_property
    def doc_starts(self) -> np.ndarray:
        """int64[documents]: the first token of each document, rising from 0; each source begins with one.

        Raises:
          ValueError: the file is not what was written.
        """
        file = self.path / DOCS
        raw = read_bytes(file)
        check_digest(file, hashlib.sha256(raw).hexdigest(), self.card)
        starts = parse_npy(raw, file, "<i8", (self.card.documents,))
        firsts = np.array([source.first for source in self.sources if source.count])
        begins = starts.take(np.searchsorted(starts, firsts), mode="clip") == firsts
        if np.any(starts[1:] <= starts[:-1]) or not 0 <= starts[0] <= starts[-1] < self.card.tokens or not begins.all():
            raise ValueError(
                f"{file}: its documents do not begin in order, or not where its sources do; restore the file or "
                "prepare the data again"
            )
        return starts

    def verify(self) -> None:
        """Reads every byte. Raises ValueError if a file is not what was written."""
        for name in self.card.files:
            self.verify_file(name)

    def verify_file(self, name: str) -> None:
        """Reads a file whole. Raises ValueError if it is not what was written."""
        if name == DOCS:
            _ = self.doc_starts  # it is checked when it is read
        else:
            check_digest(self.path / name, file_sha256(self.path / name), self.card)

    def __reduce__(self):
        return reopen, (self.path, self.fingerprint, self.stamps, self.cache)


def open_store(path: str | os.PathLike, cache: str | None = None) -> Store:
    """Opens a store. It checks the card and the sizes of the files; `Store.verify` checks every byte.

    Args:
      path: the folder, or a URL such as gs://bucket/data/owt/train.
      cache: of a URL: the setting `data.cache`.

    Raises:
      FileNotFoundError: there is no store, or a file of it is missing.
      ModuleNotFoundError: URLs of this kind need a package that is not installed.
      ValueError: the card has another format or version, or was edited; or a file has the wrong size.
    """
    path = absolute(path)
    card_file = path / store_card.FILE
    try:
        text = read_bytes(card_file)
    except (FileNotFoundError, NotADirectoryError):
        inner = [name for name in ("train", "valid") if (path / name / store_card.FILE).is_file()]
        made = "copy one there (gcloud storage cp -r)" if is_remote(path) else "make one with `lfr prepare`"
        hint = f"open {path / inner[0]}" if inner else made
        raise FileNotFoundError(f"{path}: found no store.json, expected a token store; {hint}") from None
    card = store_card.parse_card(text, card_file)
    stamps = {name: checked_stamp(path / name, expected.bytes) for name, expected in card.files.items()}
    return Store(path, card, stamps, cache)


def checked_stamp(file: Path, size: int) -> Stamp | Version:
    """The stamp of a store's file. Raises an OSError or a ValueError unless it is a regular file of `size` bytes."""
    mend = "copy the whole store again"
    if not is_remote(file) and file.is_symlink():
        file, mend = file.parent / os.readlink(file), "put the linked file back, or link again"
    try:
        found = stamp_of(file)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{file}: is missing; {mend}") from None
    if not is_remote(file):
        require_regular(file)
    if found.size != size:
        raise ValueError(f"{file}: found {found.size} bytes, expected {size}: it was changed, or cut off; {mend}")
    return found


def reopen(path: Path, expected: str, stamps: dict[str, Stamp | Version], cache: str | None) -> Store:
    """Opens a store that another process pickled. `expected` is the fingerprint that it had there."""
    store = open_store(path, cache)
    if store.fingerprint != expected:
        raise ValueError(
            f"{path}: found a store of fingerprint {store.fingerprint[:12]}, expected {expected[:12]}: "
            "it was replaced while in use; start again"
        )
    return Store(path, store.card, stamps, cache)  # the old stamps: reading a file that changed meanwhile then fails


def in_vocabulary(tokens: np.ndarray, vocab_size: int) -> bool:
    """Whether all tokens, of any integer type, are 0 to `vocab_size` − 1."""
    return bool(tokens.max(initial=0) < vocab_size and (tokens.dtype.kind == "u" or tokens.min(initial=0) >= 0))


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ValueError unless all tokens are in the vocabulary."""
    if not in_vocabulary(np.asarray(tokens), vocab_size):
        raise ValueError(
            f"found token ids from {np.min(tokens)} to {np.max(tokens)}, expected 0 to {vocab_size - 1}: "
            f"vocab_size={vocab_size} does not fit the tokenizer that made them"
        )


def check_digest(file: Path, sha256: str, card: StoreCard) -> None:
    """Raises ValueError unless a file of the store has the sha256 that its card names."""
    expected = card.files[file.name].sha256
    if sha256 != expected:
        raise ValueError(
            f"{file}: found sha256 {sha256[:12]}, expected {expected[:12]}: its bytes have changed; restore the file "
            "or prepare the data again"
        )


def file_sha256(path: Path) -> str:
    """sha256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
