"""From documents to a prepared folder: `train/` and `valid/` token stores, and their `tokenizer/`."""

import array
import hashlib
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tqdm
import tyro

from lfr_jax import corpus, embedded
from lfr_jax.blocks import StoreWriter, check_ids, token_dtype, write_store
from lfr_jax.corpus import Document
from lfr_jax.files import complete_folder, refuse_existing
from lfr_jax.tokenizer import Bytes, Gpt2Bpe, SentencePiece, Tokenizer, train_sentencepiece

BATCH_CHARS = 4_000_000  # characters encoded at once
PIECE_CHARS = 1_000_000  # a longer text is encoded in pieces, cut after a newline if there is one
COPY_TOKENS = 4_000_000  # tokens copied at once


class Count(NamedTuple):
    documents: int
    tokens: int


class Summary(NamedTuple):
    """What was written: the counts of each domain, on both sides of the split."""

    train: dict[str, Count]
    valid: dict[str, Count]
    duplicates: int  # documents left out because an earlier one had the same text
    vocab_size: int

    def __str__(self) -> str:
        rows = [("domain", "documents", "tokens", "held-out documents", "tokens")]
        total = np.zeros(4, int)
        for domain, train in self.train.items():
            numbers = (*train, *self.valid[domain])
            rows.append((domain, *(f"{n:,}" for n in numbers)))
            total += numbers
        rows.append(("all", *(f"{n:,}" for n in total)))
        table = "\n".join(f"{row[0]:<16}" + "".join(f"{cell:>20}" for cell in row[1:]) for row in rows)
        return f"{table}\nvocabulary {self.vocab_size:,}; {self.duplicates:,} duplicate documents left out"


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
def prepare_paths(
    inputs: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    out: str,
    embedded: bool = False,
    tfds: tuple[str, ...] = (),
    tfds_dir: str | None = None,
    tfds_split: str = "train",
    text_feature: str = "text",
    train_tokenizer: bool = False,
    vocab_size: int | None = None,
    sentencepiece: str | None = None,
    gpt2: str | None = None,
    byte_tokenizer: bool = False,
    valid_fraction: float = 0.02,
    sample: float = 1.0,
) -> Summary:
    """Turns text into a folder to train on: token stores for training and validation, and the tokenizer.

    Args:
      inputs: Text files, .jsonl files (fields text, id, domain, source), folders of them; .gz and .zst too.
      out: Folder to write. It must not exist.
      embedded: Add the text that every Python carries (about 12 MB; no network).
      tfds: Add these TFDS data sets, which lie on disk in the array_record format.
      tfds_dir: Where the TFDS data sets lie, if not in TFDS's default folder.
      tfds_split: Their split.
      text_feature: Their feature that holds the text.
      train_tokenizer: Train a SentencePiece byte-pair model on this text: one of four tokenizers.
      vocab_size: Pieces of the model that is trained (4096 if not given).
      sentencepiece: Take this SentencePiece .model file.
      gpt2: Take GPT-2's BPE from this folder, which holds encoder.json and vocab.bpe.
      byte_tokenizer: Take the 256 bytes of UTF-8.
      valid_fraction: Share of the documents to hold out for validation.
      sample: Take this share of the documents alone, chosen by a hash of their ids.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: an input or a tokenizer's file is not there.
      ValueError: not exactly one tokenizer, no text, or bad text (naming file and line).
    """
    choices = {
        "--train-tokenizer": train_tokenizer,
        "--sentencepiece": sentencepiece is not None,
        "--gpt2": gpt2 is not None,
        "--byte-tokenizer": byte_tokenizer,
    }
    chosen = [name for name, is_chosen in choices.items() if is_chosen]
    if len(chosen) != 1:
        found = " and ".join(chosen) or "no tokenizer"
        raise ValueError(f"found {found}; expected exactly one of {', '.join(choices)}")
    if vocab_size is not None and not train_tokenizer:
        raise ValueError(f"found --vocab-size {vocab_size} with {chosen[0]}; it goes with --train-tokenizer")
    if not (inputs or embedded or tfds):
        raise ValueError("found no text; expected files or folders, --embedded, or --tfds NAME")
    if not 0 < sample <= 1:
        raise ValueError(f"found --sample {sample}, expected a share: more than 0, at most 1")
    refuse_existing(out)

    def documents() -> Iterator[Document]:
        return (document for document in all_documents() if share(document.id, b"sample") < sample)

    def all_documents() -> Iterator[Document]:
        yield from corpus.read(inputs)
        for name in tfds:
            yield from corpus.read_tfds(name, tfds_split, text_feature, tfds_dir)
        if embedded:
            yield from embedded_documents()

    if train_tokenizer:
        tokenizer = train_sentencepiece((document.text for document in documents()), vocab_size or 4096)
    elif sentencepiece is not None:
        tokenizer = SentencePiece(sentencepiece)
    elif gpt2 is not None:
        tokenizer = Gpt2Bpe(pathlib.Path(gpt2) / "encoder.json", pathlib.Path(gpt2) / "vocab.bpe")
    else:
        tokenizer = Bytes()
    with tqdm.tqdm(desc="encoding", unit=" chars", unit_scale=True, disable=None) as bar:
        return prepare(out, documents(), tokenizer, valid_fraction, advance=bar.update)


embedded_documents = embedded.documents  # `embedded` is a flag above


def share(id: str, purpose: bytes) -> float:
    """A number in [0, 1) that follows from a document's id; independent for each purpose."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=7, person=purpose).digest()) / 2**56


def prepare(
    out: str | os.PathLike,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    valid_fraction: float = 0.02,
    advance: Callable[[int], None] = lambda n: None,
) -> Summary:
    """Encodes documents into `out`, which appears whole or not at all. Equal input gives equal bytes.

    One pass, in memory bounded by a batch of text and ~150 bytes a document. The documents of a
    source are made contiguous, each followed by end-of-text; a text met before is left out. A
    document is held out if the hash of its id falls below `valid_fraction`, whatever the order. Each
    domain is on both sides: if chance leaves one side empty, the document of the lowest (highest)
    hash goes there; the end of a domain's only document is held out. `advance` is told how many
    characters are done.

    Raises:
      FileExistsError: `out` exists.
      ValueError: no documents, a bad `valid_fraction`, or a token id outside the tokenizer's vocabulary.
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"found valid_fraction={valid_fraction}, expected more than 0 and less than 1")
    with complete_folder(out) as folder:
        spools, duplicates = spool(documents, tokenizer, folder / "spool", advance)
        if not spools:
            raise ValueError(f"{out}: found no documents to prepare")
        facts = tokenizer.vocab_size, tokenizer.eos_id, tokenizer.kind, tokenizer.digest
        with write_store(folder / "train", *facts) as train, write_store(folder / "valid", *facts) as valid:
            counts = {}
            for domain, of_domain in itertools.groupby(sorted(spools), key=lambda key: key[0]):
                of_domain = [(source, spools[domain, source]) for _, source in of_domain]
                counts[domain] = split(domain, of_domain, valid_fraction, train, valid)
        tokenizer.save(folder / "tokenizer")
        shutil.rmtree(folder / "spool")
    on_both_sides = ({domain: pair[side] for domain, pair in counts.items()} for side in (0, 1))
    return Summary(*on_both_sides, duplicates, tokenizer.vocab_size)


class Spool(NamedTuple):
    """The documents of one source, in a file of tokens, until their side of the split is known."""

    path: pathlib.Path
    dtype: np.dtype
    lengths: array.array  # int64: tokens of each document
    hashes: array.array  # uint64: of each document's id


def spool(
    documents: Iterable[Document], tokenizer: Tokenizer, folder: pathlib.Path, advance: Callable[[int], None]
) -> tuple[dict[tuple[str, str], Spool], int]:
    """Encodes the documents into one file for each (domain, source); also the number of duplicates."""
    folder.mkdir()
    dtype = token_dtype(tokenizer.vocab_size)
    spools: dict[tuple[str, str], Spool] = {}
    seen: set[bytes] = set()
    duplicates = 0

    def unique() -> Iterator[Document]:
        nonlocal duplicates
        for document in documents:
            digest = blake2b(document.text, 16)
            if digest in seen:
                duplicates += 1
            else:
                seen.add(digest)
                yield document

    for batch in batches(unique()):
        encoded = encode(tokenizer, [document.text for document in batch])
        by_source = {}
        for document, tokens in zip(batch, encoded):
            by_source.setdefault((document.domain, document.source), []).append(tokens)
            key = document.domain, document.source
            if key not in spools:
                spools[key] = Spool(folder / str(len(spools)), dtype, array.array("q"), array.array("Q"))
            spools[key].lengths.append(len(tokens))
            spools[key].hashes.append(int.from_bytes(blake2b(document.id, 8)))
        for key, arrays in by_source.items():
            with open(spools[key].path, "ab") as file:  # never more than one open, however many sources
                file.write(np.concatenate(arrays).astype(dtype).tobytes())
        advance(sum(len(document.text) for document in batch))
    return spools, duplicates


def blake2b(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, chars = [], 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """The tokens of each text, end-of-text last."""
    pieces = [list(cut(text)) for text in texts]
    encoded = iter(tokenizer.encode_batch(list(itertools.chain.from_iterable(pieces))))
    documents = []
    for of_text in pieces:
        parts = [np.array(ids, np.int64) for ids in itertools.islice(encoded, len(of_text))]
        documents.append(np.concatenate([*parts, [tokenizer.eos_id]]))
        check_ids(documents[-1], tokenizer.vocab_size)
    return documents


def cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARS:
        end = text.rfind("\n", start, start + PIECE_CHARS) + 1 or start + PIECE_CHARS
        yield text[start:end]
        start = end
    yield text[start:]


def split(
    domain: str, spools: list[tuple[str, Spool]], fraction: float, train: StoreWriter, valid: StoreWriter
) -> tuple[Count, Count]:
    """Copies the sources of one domain into the two stores; what went into each."""
    lengths = [np.array(spool.lengths) for _, spool in spools]
    held = held_out(np.concatenate([np.array(spool.hashes) for _, spool in spools]), fraction)
    held = np.split(held, np.cumsum([len(of_source) for of_source in lengths])[:-1])
    if sum(map(len, lengths)) == 1:
        tail = int(np.clip(lengths[0][0] * fraction, 1, lengths[0][0] - 1))
        lengths, held = [np.array([lengths[0][0] - tail, tail])], [np.array([False, True])]
    for writer, side in ((train, False), (valid, True)):
        for (source, spool), lengths_D, held_D in zip(spools, lengths, held):
            if np.any(held_D == side):
                writer.source(source, domain)
                copy(spool, lengths_D, held_D == side, writer)
    total, out = np.concatenate(lengths), np.concatenate(held)
    return Count(int(np.sum(~out)), int(total[~out].sum())), Count(int(np.sum(out)), int(total[out].sum()))


def held_out(hash_D: np.ndarray, fraction: float) -> np.ndarray:
    """bool[D]: the documents of a domain to hold out, at least one and not all if there are two or more."""
    held_D = hash_D < np.uint64(int(fraction * 2**64))
    held_D[np.argmin(hash_D)] = True
    held_D[np.argmax(hash_D)] = False
    return held_D


def copy(spool: Spool, length_D: np.ndarray, wanted_D: np.ndarray, writer: StoreWriter) -> None:
    """Appends the wanted documents of a spool to a store, a few million tokens at once."""
    groups = np.flatnonzero(np.diff(np.cumsum(length_D) // COPY_TOKENS)) + 1
    with open(spool.path, "rb") as file:
        for lengths, wanted in zip(np.split(length_D, groups), np.split(wanted_D, groups)):
            tokens = np.fromfile(file, spool.dtype, lengths.sum())
            writer.add(tokens[np.repeat(wanted, lengths)], lengths[wanted])
