"""The command `lfr data noise`: junk among the training blocks, for experiments. Each kind of junk is a domain.

A noisy folder is a clean one with new sources behind the old ones. So each clean block keeps its id, every figure by
domain shows what a policy does with the noise, and held-out text stays clean.
"""

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Literal

import numpy as np
import tyro

from lfr_jax.config import DataConfig
from lfr_jax.config.values import AtLeast1, Seed, ShareBetween, checked
from lfr_jax.data import chunk_digests, store_card
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import Corpus, open_corpus
from lfr_jax.data.store import Store
from lfr_jax.data.tokenizer import Ids, Tokenizer
from lfr_jax.prepare import inputs, segments, text_source
from lfr_jax.prepare.store_writer import StoreWriter, write_store
from lfr_jax.prepare.text_source import Document
from lfr_jax.storage.files import atomic_folder, explain_full_disk, save_json
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished
from lfr_jax.storage.paths import require_local

Kind = Literal["shuffled", "hex", "foreign", "duplicated"]
KINDS: tuple[Kind, ...] = ("shuffled", "hex", "foreign", "duplicated")
PREFIX = "noise_"  # of the names of the domains
ROWS = 256  # blocks in memory at once
DUMP_BYTES = 4096  # random bytes in one hex dump


@checked
def add_noise(
    prepared: tyro.conf.Positional[str],
    *,
    out: str,
    share: ShareBetween = 0.2,
    kinds: tuple[Kind, ...] = ("shuffled", "hex", "duplicated"),
    seq_len: AtLeast1 = 1024,
    foreign: tuple[str, ...] = (),
    copies: AtLeast1 = 16,
    seed: Seed = 0,
) -> None:
    """Adds junk blocks to a corpus, in domains of their own: noise_shuffled, noise_hex, ...

    Args:
      prepared: What `lfr prepare` or `lfr link` wrote. It stays as it is.
      out: Folder to write. It must not exist. Equal input, options and seed give equal bytes.
      share: Share of junk in the result: of all training blocks, old and new. The kinds get equal parts of it.
      kinds: shuffled: the tokens of real blocks in random order; hex: hex dumps of random bytes; foreign: the text of
        --foreign; duplicated: copies of a few real blocks.
      seq_len: Tokens in a block.
      foreign: Files and folders, as for `lfr prepare`, of text that is foreign to the corpus.
      copies: Number of copies of each duplicated block.
      seed: Random seed.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: there is no corpus, or no foreign text.
      ValueError: a kind cannot be made from this corpus, there is too little foreign text, or a number is out of range.
    """
    refuse_unless_finished(out)
    clean = open_corpus(DataConfig(store=str(require_local(prepared)), seq_len=seq_len))
    refuse_bad_noise(clean, kinds, foreign)
    made_from = {
        "command": "lfr data noise",
        "corpus": [clean.train.store.fingerprint, clean.valid.store.fingerprint],
        "foreign": [text_input.stamp for text_input in inputs.of_paths(foreign)],
        "settings": [share, kinds, seq_len, copies, seed],
    }
    if is_finished(out, made_from):
        print(finished(out))
        return
    with explain_full_disk(out), atomic_folder(out, made_from) as folder:
        sizes = blocks_of_each(clean.train.num_blocks, share, kinds)
        streams = {kind: noise_tokens(kind, clean, foreign, -(-sizes[kind] // copies), seed) for kind in kinds}
        tokenizer, store = clean.tokenizer, clean.train.store
        facts = tokenizer.vocab_size, tokenizer.eos_id, tokenizer.kind, tokenizer.digest
        with write_store(folder / "train", *facts, after=store) as writer:
            for kind in kinds:
                writer.source(kind, PREFIX + kind)
                # One more token: the last target of a block is the first input of the next.
                append_tokens(writer, streams[kind], sizes[kind] * seq_len + 1, kind, tokenizer.eos_id)
        copy_store(clean.valid.store, folder / "valid")
        tokenizer.save(folder / "tokenizer")
        card = {
            "noise_in": store.fingerprint,
            "share": share,
            "seq_len": seq_len,
            "seed": seed,
            "clean_blocks": clean.train.num_blocks,
            "noise_blocks": {PREFIX + kind: sizes[kind] for kind in kinds},
            "foreign": foreign,
            "copies": copies,
        }
        save_json(folder / "noise.json", card)
    total = clean.train.num_blocks + sum(sizes.values())
    rows = {"clean": clean.train.num_blocks} | card["noise_blocks"]
    print("\n".join(f"{name:<20}{n:>14,} blocks{n / total:>8.1%}" for name, n in rows.items()))


def refuse_bad_noise(clean: Corpus, kinds: tuple[Kind, ...], foreign: tuple[str, ...]) -> None:
    """Raises ValueError if the noise cannot be made. Called before anything is written."""
    where = clean.train.store.path.parent
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"found --kinds {' '.join(kinds)}; expected one or more of {', '.join(KINDS)}, each once")
    if found := [domain for domain in clean.train.domains if domain.startswith(PREFIX)]:
        raise ValueError(f"{where}: found {', '.join(found)} in it: add noise to the clean corpus, all kinds at once")
    if bool(foreign) != ("foreign" in kinds):
        half = "--foreign without the kind foreign" if foreign else "the kind foreign without --foreign"
        raise ValueError(
            f"found {half}; give both, as in `--kinds foreign --foreign german.jsonl books/`: text to be encoded by "
            "this corpus's tokenizer"
        )
    if isinstance(clean.tokenizer, Ids) and (encoded := [kind for kind in ("hex", "foreign") if kind in kinds]):
        raise ValueError(
            f"{where}: was linked without a tokenizer, so no text can be encoded: leave {' and '.join(encoded)} out of "
            "--kinds, or link it again with a tokenizer"
        )


def blocks_of_each(clean: int, share: float, kinds: tuple[Kind, ...]) -> dict[Kind, int]:
    """How many blocks of each kind make the `share` of all blocks, clean ones and junk.

    >>> blocks_of_each(80, 0.2, ("hex", "shuffled"))
    {'hex': 10, 'shuffled': 10}
    """
    total = round(clean * share / (1 - share))
    if total < len(kinds):
        raise ValueError(
            f"found --share {share} of {clean:,} blocks and {len(kinds)} kinds, which makes {total} junk blocks; "
            "expected at least one of each kind: raise --share, or lower --seq-len"
        )
    return dict(zip(kinds, text_source.split_evenly(total, len(kinds))))


def noise_tokens(kind: Kind, clean: Corpus, foreign: tuple[str, ...], distinct: int, seed: int) -> Iterator[np.ndarray]:
    """Tokens of a kind, some at a time. Only foreign text comes to an end."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    if kind == "shuffled":
        return shuffled(clean.train, rng)
    if kind == "duplicated":
        return duplicated(clean.train, distinct, rng)
    return encoded(
        hex_dumps(rng) if kind == "hex" else text_source.documents(inputs.of_paths(foreign)), clean.tokenizer
    )


def shuffled(blocks: Blocks, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random blocks with their tokens in random order: words are as frequent as in the corpus."""
    while True:
        inputs_BxT = blocks.tokens(rng.integers(blocks.num_blocks, size=ROWS))[:, :-1]
        yield rng.permuted(inputs_BxT, axis=1).ravel()


def duplicated(blocks: Blocks, distinct: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A few blocks, again and again in the same order, so that also the last target of each copy is the same."""
    chosen = rng.choice(blocks.num_blocks, min(distinct, blocks.num_blocks), replace=False)
    while True:
        for start in range(0, len(chosen), ROWS):
            yield blocks.tokens(chosen[start : start + ROWS])[:, :-1].ravel()


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


def append_tokens(writer: StoreWriter, tokens: Iterator[np.ndarray], total: int, kind: Kind, eos_id: int) -> None:
    """Appends the first `total` tokens of a stream. A document ends at end-of-text.

    Raises:
      ValueError: the stream ends before.
    """
    missing, goes_on = total, False
    for some in tokens:
        some = some[:missing]
        ends = np.union1d(np.flatnonzero(some == eos_id) + 1, [len(some)])
        writer.add(some, np.diff(ends, prepend=0), goes_on)
        missing, goes_on = missing - len(some), some[-1] != eos_id
        if not missing:
            return
    raise ValueError(
        f"found {total - missing:,} tokens of {kind} text, expected {total:,}: give more of it, or lower --share"
    )


def copy_store(store: Store, path: str | os.PathLike) -> None:
    """Copies a store byte by byte. Links of a linked store lead to the same files."""
    path = pathlib.Path(path)
    path.mkdir()
    digests = [chunk_digests.FILE] if (store.path / chunk_digests.FILE).is_file() else []
    for name in (*store.card.files, *digests, store_card.FILE):
        file = store.path / name
        if file.is_symlink():
            (path / name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, path / name)
