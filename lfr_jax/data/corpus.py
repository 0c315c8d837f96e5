"""A corpus: a prepared folder, opened for a run."""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lfr_jax.config import DataConfig
from lfr_jax.config.json_files import from_json
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.chunk_digests import check_some
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.store import Store, open_store
from lfr_jax.data.store_card import Number
from lfr_jax.data.tokenizer import Tokenizer, load_tokenizer
from lfr_jax.storage.paths import Path, as_path, is_remote
from lfr_jax.storage.remote_files import read_bytes


@dataclass(frozen=True)
class Count:
    """What `lfr prepare` wrote of a domain."""

    tokens: Number


@dataclass(frozen=True)
class Counts:
    """What `prepared.json` says of each side, by domain."""

    train: dict[str, Count]
    valid: dict[str, Count]


class Corpus(NamedTuple):
    """What `lfr prepare` wrote, cut into blocks."""

    train: Blocks  # packed as `data.packing` says
    valid: Blocks  # always concatenated, so that losses of different runs can be compared
    tokenizer: Tokenizer
    fingerprint: str  # of the training store: a run belongs to one
    unchecked: tuple[str, ...]  # which tokens were not compared with what was written, in words; empty: all were


def open_corpus(data: DataConfig) -> Corpus:
    """Opens `data.store`, a folder or the URL of one.

    Raises:
      FileNotFoundError: nothing was prepared there.
      ValueError: a store is damaged, another tokenizer made it, or `seq_len` is longer than every source. Of a large
        store only some chunks are compared with what was written, see `check_some`.

    Warns:
      UserWarning: some sources are too short for a block of `seq_len` tokens.
    """
    folder, seq_len = data.store, data.seq_len
    path = as_path(folder)
    if not is_remote(path) and not path.is_dir():
        raise FileNotFoundError(
            f"no prepared corpus in {folder!r}; make one with `lfr prepare --out {folder} --train-tokenizer FILE ...`, "
            f"or from the text that Python carries with `lfr prepare --out {folder} --train-tokenizer --embedded`"
        )
    train, valid = (open_store(path / side, data.cache) for side in ("train", "valid"))
    refuse_exchanged(path, train, valid)
    tokenizer = load_tokenizer(path / "tokenizer")
    for store in (train, valid):
        if tokenizer.digest != store.tokenizer_digest:
            raise ValueError(
                f"the tokenizer in {path / 'tokenizer'} (sha256 {tokenizer.digest[:12]}…) did not make the tokens in "
                f"{store.path} (made by {store.tokenizer_digest[:12]}…); put the right one back, or prepare again"
            )
    rng = np.random.default_rng()  # no seed: each start checks other chunks, and so does each process of a run
    unchecked = tuple(filter(None, (check_some(store, rng) for store in (train, valid))))
    corpus = Corpus(training_blocks(train, data), Blocks(valid, seq_len), tokenizer, train.fingerprint, unchecked)
    warn_of_short_sources(corpus.train, "trained on")
    warn_of_short_sources(corpus.valid, "measured")
    return corpus


def refuse_exchanged(folder: Path, train: Store, valid: Store) -> None:
    """Raises ValueError if train/ holds what was written to valid/, and the other way round.

    A store does not say which side it is; `prepared.json` says how many tokens each has, where `lfr prepare` wrote one.
    """
    file = folder / "prepared.json"
    try:
        counts = from_json(read_bytes(file), Counts, file)
    except FileNotFoundError:
        return
    written = [sum(count.tokens for count in side.values()) for side in (counts.train, counts.valid)]
    found = [train.card.tokens, valid.card.tokens]
    if found == written[::-1] != written:
        raise ValueError(
            f"{folder}: found {found[0]:,} tokens in train and {found[1]:,} in valid, expected {written[0]:,} and "
            f"{written[1]:,}, as {file.name} says: the two folders are exchanged"
        )


def training_blocks(store: Store, data: DataConfig) -> Blocks:
    """The blocks of a training store, packed as `data.packing` says."""
    if data.packing == "by_length":
        return LengthBlocks(store, data.seq_len, data.shortest)
    if data.packing == "best_fit":
        return PackedBlocks(store, data.seq_len)
    return Blocks(store, data.seq_len)


def warn_of_short_sources(blocks: Blocks, use: str) -> None:
    """Warns once if sources are too short for a block. `use`: what their tokens are not, for the text."""
    short_S = blocks.blocks_S == 0
    if short_S.any():
        tokens, total = blocks.count_S[short_S].sum(), blocks.count_S.sum()
        warnings.warn(
            f"{blocks.store.path}: {short_S.sum()} of {len(short_S)} sources have {blocks.too_short}, so no block: "
            f"{tokens:,} of {total:,} tokens are not {use}. Lower data.seq_len, or prepare short texts as one source",
            stacklevel=3,
        )
