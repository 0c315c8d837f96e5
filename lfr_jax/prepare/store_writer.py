"""Writes a token store: documents are appended, source by source, to a folder that appears when it is complete."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from lfr_jax.data import chunk_digests
from lfr_jax.data.chunk_digests import FileDigests
from lfr_jax.data.store import Store, check_ids, file_sha256
from lfr_jax.data.store_card import FileContent, Source, StoreCard, TokenizerId, token_dtype, write_card
from lfr_jax.storage.files import atomic_folder, save_array

COPY_TOKENS = 4 << 20  # copied at once


@contextmanager
def write_store(
    path: str | os.PathLike,
    vocab_size: int,
    eos_id: int,
    tokenizer_kind: str,
    tokenizer_digest: str,
    after: Store | None = None,
) -> Iterator["StoreWriter"]:
    """Gives the writer of a new store. The store appears at `path` once it is complete, or never.

    Args:
      after: a store to begin with, copied byte by byte. What is added becomes new sources behind it. So each block of
        the old store keeps its id, whatever the sequence length.

    Raises:
      FileExistsError: `path` exists.
      ValueError: nothing was added, the bytes of `after` are damaged, or as of `StoreWriter`.

    >>> import tempfile
    >>> with write_store(tempfile.mkdtemp() + "/store", 257, 256, "bytes", "digest of the tokenizer") as writer:
    ...     writer.source("letters", domain="prose")
    ...     writer.add(np.array([104, 105, 256, 33, 256]), lengths=np.array([3, 2]))
    """
    with atomic_folder(path) as folder:
        with open(folder / "tokens.bin", "wb") as file:
            writer = StoreWriter(file, vocab_size)
            if after is not None:
                writer.begin_with(after)
            yield writer
        if not writer.total:
            raise ValueError(f"{path}: no tokens were added to this store; expected at least one document")
        starts = np.concatenate(writer.starts)
        save_array(folder / "docs.npy", starts)
        save_array(folder / chunk_digests.FILE, writer.digests.chunks)
        digests = {"tokens.bin": writer.digests.sha256, "docs.npy": file_sha256(folder / "docs.npy")}
        files = {name: FileContent((folder / name).stat().st_size, digest) for name, digest in digests.items()}
        made_by = TokenizerId(tokenizer_kind, tokenizer_digest)
        sources = tuple(writer.sources)
        write_card(StoreCard(vocab_size, eos_id, made_by, writer.total, len(starts), sources, None, files), folder)


class StoreWriter:
    """Appends documents to an open token file, source by source. Memory is 8 bytes a document.

    Raises:
      ValueError: a token is not in the vocabulary, or a source is begun twice.
    """

    def __init__(self, file: BinaryIO, vocab_size: int):
        self.file, self.vocab_size, self.digests = file, vocab_size, FileDigests()
        self.total, self.sources, self.starts, self.begun = 0, [], [], set()

    def begin_with(self, store: Store) -> None:
        """Copies a store, prepared or linked. Text that is added to one of its sources becomes a new source."""
        dtype = token_dtype(self.vocab_size)
        for part in store.parts:
            for start in range(0, part.tokens, COPY_TOKENS):
                self.write(store.read_part(part, start, COPY_TOKENS).astype(dtype, copy=False).tobytes())
        if "tokens.bin" not in store.card.files:
            store.verify()  # linked files hold more than the store: their digests cannot check this copy
        elif self.digests.sha256 != store.card.files["tokens.bin"].sha256:
            raise ValueError(f"{store.path / 'tokens.bin'}: its bytes have changed; restore the file")
        self.total, self.sources, self.starts = store.card.tokens, list(store.sources), [store.doc_starts]

    def source(self, name: str, domain: str, again: bool = False) -> None:
        """Begins a source. What is added from now on belongs to it.

        Args:
          again: there may be a source of this name and domain already.
        """
        if (name, domain) in self.begun and not again:
            raise ValueError(f"source {name!r} of domain {domain!r} was begun before; add all its documents at once")
        self.begun.add((name, domain))
        self.sources.append(Source(name, domain, self.total, 0))

    def add(self, tokens: np.ndarray, lengths: np.ndarray, goes_on: bool = False) -> None:
        """Appends documents to the source that was begun last.

        Args:
          tokens: int[sum of the lengths], one document after the other.
          lengths: int[documents].
          goes_on: the first of them continues the document that was added last.
        """
        if len(tokens) != np.sum(lengths):
            raise ValueError(f"found {len(tokens)} tokens, expected {np.sum(lengths)}, their lengths' sum")
        check_ids(tokens, self.vocab_size)
        self.write(np.asarray(tokens).astype(token_dtype(self.vocab_size), copy=False).tobytes())
        starts = self.total + np.cumsum(lengths, dtype=np.int64) - lengths
        self.starts.append(starts[1:] if goes_on else starts)
        self.total += len(tokens)
        last = self.sources[-1]
        self.sources[-1] = dataclasses.replace(last, count=self.total - last.first)

    def write(self, raw: bytes) -> None:
        self.file.write(raw)
        self.digests.update(raw)
