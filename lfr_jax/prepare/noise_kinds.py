"""The kinds of junk that `lfr data noise` makes, each as an endless stream of tokens."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import Corpus
from lfr_jax.data.tokenizer import Tokenizer
from lfr_jax.prepare import inputs, segments, text_source, unigrams
from lfr_jax.prepare.text_source import Document

# New kinds come last: a kind's random numbers depend on its place.
Kind = Literal["shuffled", "hex", "foreign", "duplicated", "near_duplicated"]
KINDS: tuple[Kind, ...] = ("shuffled", "hex", "foreign", "duplicated", "near_duplicated")
COPIES: tuple[Kind, ...] = ("duplicated", "near_duplicated")  # of a few blocks
ENCODED: tuple[Kind, ...] = ("hex", "foreign")  # text, which the corpus's tokenizer encodes
ROWS = 256  # blocks in memory at once
DUMP_BYTES = 4096  # random bytes in one hex dump


def noise_tokens(
    kind: Kind, clean: Corpus, seed: int, distinct: int, edited: float, foreign: tuple[str, ...]
) -> Iterator[np.ndarray]:
    """Tokens of a kind, some at a time. Only foreign text comes to an end.

    Args:
      distinct: number of blocks that are copied, for the kinds that copy.
      edited: share of the tokens of a near-duplicate that are drawn anew.
      foreign: files and folders of foreign text.
    """
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    if kind == "shuffled":
        return shuffled(clean.train, rng)
    if kind == "duplicated":
        return duplicated(clean.train, distinct, rng)
    if kind == "near_duplicated":
        return near_duplicated(clean.train, distinct, edited, rng)
    found = hex_dumps(rng) if kind == "hex" else text_source.documents(inputs.of_paths(foreign))
    return encoded(found, clean.tokenizer)


def shuffled(blocks: Blocks, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random blocks with their tokens in random order: words are as frequent as in the corpus."""
    while True:
        inputs_BxT = blocks.tokens(rng.integers(blocks.num_blocks, size=ROWS))[:, :-1]
        yield rng.permuted(inputs_BxT, axis=1).ravel()


def duplicated(blocks: Blocks, distinct: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A few blocks, again and again in the same order, so that also the last target of each copy is the same."""
    return (inputs_BxT.ravel() for inputs_BxT in copied_blocks(blocks, distinct, rng))


def near_duplicated(blocks: Blocks, distinct: int, edited: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A few blocks, again and again, each time with other edits: `edited` of its tokens are drawn by frequency.

    End-of-text is neither replaced nor drawn, so the documents of a copy end where those of its original do.
    """
    frequency_V = unigrams.frequencies(blocks.store)
    for inputs_BxT in copied_blocks(blocks, distinct, rng):
        is_text_BxT = inputs_BxT != blocks.store.eos_id
        # Random numbers in [0, 1), and behind them the places of end-of-text: the first of each row are edited.
        order_BxT = np.argsort(np.where(is_text_BxT, rng.random(inputs_BxT.shape), 2), axis=1)
        is_edited_BxT = np.zeros(inputs_BxT.shape, bool)
        np.put_along_axis(is_edited_BxT, order_BxT[:, : round(edited * blocks.seq_len)], True, axis=1)
        yield unigrams.replaced(inputs_BxT, is_edited_BxT & is_text_BxT, frequency_V, rng).ravel()


def copied_blocks(blocks: Blocks, distinct: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """int32[B, T]: the inputs of a few random blocks, again and again in the same order."""
    chosen = rng.choice(blocks.num_blocks, min(distinct, blocks.num_blocks), replace=False)
    while True:
        for start in range(0, len(chosen), ROWS):
            yield blocks.tokens(chosen[start : start + ROWS])[:, :-1]


def hex_dumps(rng: np.random.Generator) -> Iterator[Document]:
    """Random bytes, as `xxd` prints them."""
    while True:
        raw = rng.bytes(DUMP_BYTES)
        lines = (f"{start:07x}: {raw[start : start + 16].hex(' ', 2)}\n" for start in range(0, len(raw), 16))
        yield Document("", "".join(lines), "", "")


def encoded(documents: Iterator[Document], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The tokens of documents, each with end-of-text. Documents that cannot be read or encoded are left out."""
    readable = (document for document in documents if not document.problem)
    for batch in text_source.memory_chunks(text_source.cut_long_documents(readable), text_source.CHUNK_BYTES):
        _, tokens = segments.encode_documents(batch.items, tokenizer)
        yield np.concatenate(tokens)
