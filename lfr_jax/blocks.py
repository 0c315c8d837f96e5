"""The token store: text as one array of token ids on disk, and its blocks, read at random.

A store is a folder: `tokens.bin` (little-endian uint16, or uint32 if the vocabulary exceeds
65,536), `docs.npy` (int64, where each document starts), `store.json` (all else). It fixes no
sequence length: block i of a source is its tokens i·T ... i·T + T, inputs and shifted targets.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np

from lfr_jax.files import complete_folder

FORMAT, VERSION = "lfr token store", 1


class Source(NamedTuple):
    """A run of documents from one place, contiguous in the store. Blocks never cross its ends."""

    name: str
    domain: str
    first: int  # its first token
    count: int  # its tokens


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@contextmanager
def write_store(
    path: str | os.PathLike, vocab_size: int, eos_id: int, tokenizer_kind: str, tokenizer_digest: str
) -> Iterator["StoreWriter"]:
    """Gives the writer of a new store, which appears at `path` once it is complete, or never.

    >>> with write_store("store", 257, 256, "bytes", digest) as writer:
    ...     writer.source("letters", domain="prose")
    ...     writer.add(np.array([104, 105, 256, 33, 256]), lengths=np.array([3, 2]))

    Raises:
      FileExistsError: `path` exists.
      ValueError: nothing was added, or what `StoreWriter` refuses.
    """
    facts = {
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "tokenizer": {"kind": tokenizer_kind, "digest": tokenizer_digest},
    }
    with complete_folder(path) as folder:
        with open(folder / "tokens.bin", "wb") as file:
            writer = StoreWriter(file, vocab_size)
            yield writer
        if not writer.total:
            raise ValueError(f"{path}: no tokens were added to this store; expected at least one document")
        starts = np.concatenate(writer.starts)
        np.save(folder / "docs.npy", starts)
        digests = {"tokens.bin": writer.sha256.hexdigest(), "docs.npy": file_sha256(folder / "docs.npy")}
        sizes = {name: (folder / name).stat().st_size for name in digests}
        contents = {
            "tokens": writer.total,
            "documents": len(starts),
            "sources": [source._asdict() for source in writer.sources],
        }
        card = {
            "format": FORMAT,
            "version": VERSION,
            **facts,
            **contents,
            "files": {name: {"bytes": sizes[name], "sha256": digests[name]} for name in digests},
        }
        card["fingerprint"] = fingerprint(card)
        (folder / "store.json").write_text(json.dumps(card, indent=1) + "\n")


class StoreWriter:
    """Appends documents to an open token file, source by source, in memory bounded by 8 bytes a document.

    Raises:
      ValueError: a token that is not in the vocabulary, or a source begun twice.
    """

    def __init__(self, file: BinaryIO, vocab_size: int):
        self.file, self.vocab_size, self.sha256 = file, vocab_size, hashlib.sha256()
        self.total, self.sources, self.starts, self.begun = 0, [], [], set()

    def source(self, name: str, domain: str) -> None:
        """Begins a source: what is added from now on belongs to it."""
        if (name, domain) in self.begun:
            raise ValueError(f"source {name!r} of domain {domain!r} was begun before; add all of it at once")
        self.begun.add((name, domain))
        self.sources.append(Source(name, domain, self.total, 0))

    def add(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Appends documents, one after the other in `tokens`, to the source begun last."""
        if len(tokens) != np.sum(lengths):
            raise ValueError(f"found {len(tokens)} tokens, expected {np.sum(lengths)}, their lengths' sum")
        check_ids(tokens, self.vocab_size)
        raw = np.asarray(tokens).astype(token_dtype(self.vocab_size)).tobytes()
        self.file.write(raw)
        self.sha256.update(raw)
        self.starts.append(self.total + np.cumsum(lengths, dtype=np.int64) - lengths)
        self.total += len(tokens)
        self.sources[-1] = self.sources[-1]._replace(count=self.total - self.sources[-1].first)


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ValueError unless all tokens are in the vocabulary."""
    if len(tokens) and not 0 <= np.min(tokens) <= np.max(tokens) < vocab_size:
        raise ValueError(
            f"found token ids from {np.min(tokens)} to {np.max(tokens)}, expected 0 to {vocab_size - 1}: "
            f"vocab_size={vocab_size} is not that of the tokenizer which made them"
        )


def fingerprint(card: dict) -> str:
    """sha256, in hex, of the card without its fingerprint: equal for equal content, wherever it lies."""
    rest = {name: value for name, value in card.items() if name != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """A complete store, opened by `open_store`. Pickles as its path, and is reopened in the other process."""

    def __init__(self, path: pathlib.Path, card: dict):
        self.path, self.card = path, card
        self.fingerprint: str = card["fingerprint"]
        self.vocab_size: int = card["vocab_size"]
        self.eos_id: int = card["eos_id"]
        self.tokenizer_kind: str = card["tokenizer"]["kind"]
        self.tokenizer_digest: str = card["tokenizer"]["digest"]
        self.sources = tuple(Source(**source) for source in card["sources"])
        self.domains = tuple(dict.fromkeys(source.domain for source in self.sources))
        # A plain array over the mapping: np.memmap's own indexing is slower.
        self.tokens = np.asarray(np.memmap(path / "tokens.bin", token_dtype(self.vocab_size), "r"))

    @functools.cached_property
    def doc_starts(self) -> np.ndarray:
        """int64[documents]: the first token of each."""
        return np.load(self.path / "docs.npy")

    def verify(self) -> None:
        """Reads every byte. Raises ValueError where a file is not what was written."""
        for name, expected in self.card["files"].items():
            found = file_sha256(self.path / name)
            if found != expected["sha256"]:
                raise ValueError(
                    f"{self.path / name}: found sha256 {found[:12]}, expected {expected['sha256'][:12]}: "
                    "its bytes have changed; restore the file or prepare the data again"
                )

    def __reduce__(self):
        return reopen, (self.path, self.fingerprint)


def open_store(path: str | os.PathLike) -> Store:
    """Opens a store after checking its card and the sizes of its files (`Store.verify` checks each byte).

    Raises:
      FileNotFoundError: no store there, or a file of it is missing.
      ValueError: another format or version, an edited card, or a file of the wrong size.
    """
    path = pathlib.Path(path).absolute()
    card_file = path / "store.json"
    if not card_file.is_file():
        inner = [name for name in ("train", "valid") if (path / name / "store.json").is_file()]
        hint = f"open {path / inner[0]}" if inner else "make one with `lfr prepare`"
        raise FileNotFoundError(f"{path}: found no store.json, expected a token store; {hint}")
    try:
        card = json.loads(card_file.read_text())
    except ValueError as error:
        raise ValueError(f"{card_file}: found no valid JSON ({error}); prepare the data again") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"{card_file}: found no format {FORMAT!r} in it: this is no token store")
    if card["version"] != VERSION:
        raise ValueError(
            f"{card_file}: found version {card['version']}, expected {VERSION}; prepare the data again, or "
            "use the release of lfr_jax that wrote it"
        )
    if card["fingerprint"] != fingerprint(card):
        raise ValueError(f"{card_file}: does not match its own fingerprint: it was edited; restore it")
    for name, expected in card["files"].items():
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path / name}: is missing; copy the whole store again")
        size = (path / name).stat().st_size
        if size != expected["bytes"]:
            raise ValueError(
                f"{path / name}: found {size} bytes, expected {expected['bytes']}: it was cut off; copy the store again"
            )
    return Store(path, card)


def reopen(path: pathlib.Path, expected: str) -> Store:
    store = open_store(path)
    if store.fingerprint != expected:
        raise ValueError(
            f"{path}: found a store of fingerprint {store.fingerprint[:12]}, expected {expected[:12]}: "
            "it was replaced while in use; start again"
        )
    return store


class Blocks:
    """A store's blocks of `seq_len` tokens, numbered source by source. N of them, N up to 1e8 and more.

    Tokens after the last whole block of a source are in no block. Pickles as its store does.

    Raises:
      ValueError: no source is longer than `seq_len`.
    """

    def __init__(self, store: Store, seq_len: int):
        self.store, self.seq_len, self.domains = store, seq_len, store.domains
        count_S = np.array([source.count for source in store.sources])
        if not 1 <= seq_len < count_S.max():
            raise ValueError(
                f"{store.path}: found seq_len={seq_len} and sources of up to {count_S.max()} tokens; "
                f"expected 1 <= seq_len < {count_S.max()}; shorten the sequence or prepare more text"
            )
        self.blocks_S = blocks_S = np.maximum(count_S - 1, 0) // seq_len
        self.start_S = np.array([source.first for source in store.sources])  # first token
        self.first_S = np.cumsum(blocks_S) - blocks_S  # first block
        self.num_blocks = int(blocks_S.sum())

    @functools.cached_property
    def domain_N(self) -> np.ndarray:
        """int32[N]: index into `domains` of each block."""
        domain_S = np.array([self.domains.index(source.domain) for source in self.store.sources], np.int32)
        return np.repeat(domain_S, self.blocks_S)

    def source_of(self, ids: np.ndarray) -> np.ndarray:
        """The index into `store.sources` of each block."""
        return np.searchsorted(self.first_S, self.checked(ids), side="right") - 1

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The tokens int32[B, T+1] of the blocks `ids` [B]; the id −1 gives a row of −1.

        Raises:
          IndexError: an id is neither −1 nor a block.
        """
        ids_B = self.checked(ids)
        source_B = np.searchsorted(self.first_S, ids_B, side="right") - 1
        starts_B = self.start_S[source_B] + (ids_B - self.first_S[source_B]) * self.seq_len
        windows = np.lib.stride_tricks.sliding_window_view(self.store.tokens, self.seq_len + 1)
        tokens_BxT1 = windows[np.where(ids_B < 0, 0, starts_B)].astype(np.int32)
        tokens_BxT1[ids_B < 0] = -1
        return tokens_BxT1

    def checked(self, ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < -1) | (ids >= self.num_blocks)]
        if len(wrong):
            raise IndexError(f"found block id {wrong[0]}; expected -1 (padding) or 0 to {self.num_blocks - 1}")
        return ids

    def __reduce__(self):
        return Blocks, (self.store, self.seq_len)
