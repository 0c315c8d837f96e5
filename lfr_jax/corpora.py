"""A prepared folder, opened for a run: its training blocks, its held-out blocks, its tokenizer."""

import pathlib
import warnings
from typing import NamedTuple

from lfr_jax import tokenizer
from lfr_jax.blocks import Blocks, open_store
from lfr_jax.config import DataConfig


class Corpus(NamedTuple):
    """What `lfr prepare` wrote, cut into blocks of one length."""

    train: Blocks
    valid: Blocks
    tokenizer: tokenizer.Tokenizer
    fingerprint: str  # of the training store: a run belongs to one


def open_corpus(data: DataConfig) -> Corpus:
    """Opens the stores in the folder `data.store`.

    Raises:
      FileNotFoundError: nothing was prepared there.
      ValueError: a store is damaged or foreign, its tokenizer is not the one that made it,
        or `seq_len` is longer than every source.

    Warns:
      UserWarning: of sources too short for a block of `seq_len` tokens, and how much text they hold.
    """
    folder, seq_len = data.store, data.seq_len
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"no prepared corpus in {folder!r}; make one with `lfr prepare --out {folder} --train-tokenizer FILE ...`, "
            f"or from the text that Python carries with `lfr prepare --out {folder} --train-tokenizer --embedded`"
        )
    train, valid = open_store(path / "train"), open_store(path / "valid")
    words = tokenizer.load(path / "tokenizer")
    for store in (train, valid):
        if words.digest != store.tokenizer_digest:
            raise ValueError(
                f"the tokenizer in {path / 'tokenizer'} (sha256 {words.digest[:12]}…) did not make the tokens in "
                f"{store.path} (made by {store.tokenizer_digest[:12]}…); put the right one back, or prepare again"
            )
    corpus = Corpus(Blocks(train, seq_len), Blocks(valid, seq_len), words, train.fingerprint)
    warn_of_short_sources(corpus.train, "trained on")
    warn_of_short_sources(corpus.valid, "measured")
    return corpus


def warn_of_short_sources(blocks: Blocks, use: str) -> None:
    """Warns, once, of sources that are too short for a block."""
    short_S = blocks.blocks_S == 0
    if short_S.any():
        tokens, total = blocks.count_S[short_S].sum(), blocks.count_S.sum()
        warnings.warn(
            f"{blocks.store.path}: {short_S.sum()} of {len(short_S)} sources have no more than "
            f"seq_len={blocks.seq_len} tokens, so no block: {tokens:,} of {total:,} tokens are not {use}. Shorten the "
            "sequence, or prepare short texts as one source",
            stacklevel=3,
        )
