"""From text to a prepared folder: `train/` and `valid/` token stores, and their `tokenizer/`."""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tqdm
import tyro

from lfr_jax.data import tokenizer
from lfr_jax.data.store import Store, open_store
from lfr_jax.data.tokenizer import Bytes, Gpt2Bpe, SentencePiece, Tokenizer, train_sentencepiece
from lfr_jax.prepare import embedded as embedded_text
from lfr_jax.prepare import hf_text, inputs, text_source, tfds_text
from lfr_jax.prepare.assemble import Count, assemble
from lfr_jax.prepare.segments import share
from lfr_jax.prepare.spool import Spool, kept_work_named, work_folder
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.prepare.text_source import Document, Fields, Input
from lfr_jax.storage.files import atomic_folder, explain_full_disk, save_array
from lfr_jax.storage.paths import require_local

DESCRIBED = 1000  # broken documents that prepared.json describes


class Summary(NamedTuple):
    """What was written: the counts of each domain, on both sides of the split."""

    train: dict[str, Count]
    valid: dict[str, Count]
    duplicates: int  # documents left out because an earlier one had the same text
    blank: int  # left out because there is nothing but white space in them, or nothing that gives a token
    broken: dict[str, int]  # left out because they cannot be read, by what is wrong with them
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
        left_out = [f"{self.duplicates:,} duplicate documents left out"]
        left_out += [f"{self.blank:,} blank ones"] if self.blank else []
        left_out += [f"{number:,} that cannot be read ({kind})" for kind, number in self.broken.items()]
        return f"{table}\nvocabulary {self.vocab_size:,}; {', '.join(left_out)}"


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
def prepare_paths(
    paths: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    out: str,
    append: str | None = None,
    embedded: bool = False,
    tfds: tuple[str, ...] = (),
    tfds_dir: str | None = None,
    hf: tuple[str, ...] = (),
    hf_config: str | None = None,
    split: str = "train",
    text_field: str = "text",
    domain_field: str = "domain",
    source_field: str = "source",
    train_tokenizer: bool = False,
    vocab_size: int | None = None,
    sentencepiece: str | None = None,
    gpt2: str | None = None,
    byte_tokenizer: bool = False,
    valid_fraction: float = 0.02,
    sample: float = 1.0,
    tolerate: float = 0.001,
    workers: int = 0,
) -> Summary:
    """Turns text into a folder to train on: token stores for training and validation, and the tokenizer.

    Killed and run again, the same command goes on with what is encoded, and ends with the same bytes.

    Args:
      paths: Text files, JSON lines (.jsonl, .ndjson, .json) and .parquet files (fields text, id, domain, source),
        folders of them laid out as domain/source; .gz and .zst too.
      out: Folder to write. It must not exist.
      append: Begin with all that this prepared folder holds, under its tokenizer and split; old blocks keep their ids.
      embedded: Add the text that every Python carries (about 12 MB; no network).
      tfds: Add these TFDS data sets, which lie on disk in the array_record format.
      tfds_dir: Where the TFDS data sets lie, if not in TFDS's default folder.
      hf: Add these Hugging Face data sets: openwebtext, slimpajama, slimpajama-6b, names on the Hub, or folders.
      hf_config: Their configuration, if they have several.
      split: Split of the TFDS and Hugging Face data sets.
      text_field: Field, column or feature that holds the text; dots lead into inner records.
      domain_field: Field or column that names the domain, such as meta.redpajama_set_name.
      source_field: Field or column that names the source: what lies together, and no block crosses.
      train_tokenizer: Train a SentencePiece byte-pair model on this text: one of four tokenizers.
      vocab_size: Pieces of the model that is trained (4096 if not given).
      sentencepiece: Take this SentencePiece .model file.
      gpt2: Take GPT-2's BPE from this folder, which holds encoder.json and vocab.bpe.
      byte_tokenizer: Take the 256 bytes of UTF-8.
      valid_fraction: Share of the documents to hold out for validation.
      sample: Take this share of the documents alone, chosen by a hash of their ids.
      tolerate: Share of the documents that may be unreadable (not UTF-8, not JSON, no text): they are left out,
        counted, and described in prepared.json. 0: none.
      workers: Processes that encode; 0: as many as there are cores.

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
        "--append": append is not None,
    }
    chosen = [name for name, is_chosen in choices.items() if is_chosen]
    if len(chosen) != 1:
        found = " and ".join(chosen) or "no tokenizer"
        raise ValueError(f"found {found}; expected exactly one of {', '.join(choices)}")
    if vocab_size is not None and not train_tokenizer:
        raise ValueError(f"found --vocab-size {vocab_size} with {chosen[0]}; it goes with --train-tokenizer")
    if not (paths or embedded or tfds or hf):
        raise ValueError("found no text; expected files or folders, --embedded, --tfds NAME, or --hf NAME")
    refuse_bad_settings(valid_fraction, sample, tolerate, workers, vocab_size)

    with work_folder(out) as folder:
        fields = Fields(text_field, domain=domain_field, source=source_field)
        found = inputs.of_paths(paths, fields)
        found += [tfds_text.of_name(name, split, text_field, tfds_dir) for name in tfds]
        found += [hf_text.of_name(name, split, hf_config, fields) for name in hf]
        found += [embedded_text.as_input()] if embedded else []
        before = open_prepared(append) if append is not None else None
        words = None if train_tokenizer else before.words if before else opened_tokenizer(sentencepiece, gpt2)
        if left := len(list(folder.glob("*.index"))):
            print(f"An earlier run left {left:,} encoded chunks; those of this text are used.", file=sys.stderr)
        total = sum(place.size for place in found) if all(place.size for place in found) else None
        fraction = before.valid_fraction if before else valid_fraction
        with kept_work_named(folder), explain_full_disk(out):
            if train_tokenizer:
                words = trained_tokenizer(found, vocab_size or 4096, sample, folder)
            with tqdm.tqdm(desc="encoding", total=total, unit="B", unit_scale=True, disable=None) as bar:
                spool = Spool(folder, words, sample, bar.update)
                return write(out, found, spool, fraction, tolerate, workers or cores(), before)


def refuse_bad_settings(
    valid_fraction: float, sample: float = 1.0, tolerate: float = 0.0, workers: int = 1, vocab_size: int | None = None
) -> None:
    """Before any work is done.

    Raises:
      ValueError: a number is not what it should be.
    """
    for name, value, is_right, expected in (
        ("valid_fraction", valid_fraction, 0 < valid_fraction < 1, "more than 0 and less than 1"),
        ("sample", sample, 0 < sample <= 1, "more than 0, at most 1"),
        ("tolerate", tolerate, 0 <= tolerate <= 1, "a share: at least 0, at most 1"),
        ("workers", workers, workers >= 0, "a number of processes, or 0 for as many as there are cores"),
        ("vocab_size", vocab_size, vocab_size is None or vocab_size > 0, "a number of pieces"),
    ):
        if not is_right:
            raise ValueError(f"found {name}={value}, expected {expected}")


def opened_tokenizer(sentencepiece: str | None, gpt2: str | None) -> Tokenizer:
    if sentencepiece is not None:
        return SentencePiece(sentencepiece)
    if gpt2 is not None:
        return Gpt2Bpe(pathlib.Path(gpt2) / "encoder.json", pathlib.Path(gpt2) / "vocab.bpe")
    return Bytes()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def trained_tokenizer(found: list[Input], vocab_size: int, sample: float, folder: pathlib.Path) -> Tokenizer:
    """A SentencePiece model of the text, kept in `folder` for a run that goes on."""
    kept = folder / f"trained-{text_source.stamp([place.stamp for place in found], vocab_size, sample)}"
    if not kept.exists():
        documents = text_source.documents(found)
        texts = (document.text for document in documents if share(document.id, b"sample") < sample)
        words = train_sentencepiece(texts, vocab_size)
        with atomic_folder(kept) as unfinished:
            words.save(unfinished)
    return tokenizer.load(kept)


class Prepared(NamedTuple):
    """A prepared folder, to be appended to."""

    train: Store
    valid: Store
    words: Tokenizer
    valid_fraction: float
    seen_Kx2: np.ndarray  # uint64: digests of its texts


def open_prepared(folder: str | os.PathLike) -> Prepared:
    """Opens what `prepare` wrote.

    Raises:
      FileNotFoundError: nothing was prepared there, or by an older release, or noise was added to it.
      ValueError: it was linked.
    """
    folder = require_local(folder)
    stores = open_store(folder / "train"), open_store(folder / "valid")
    if any("parts" in store.card for store in stores):
        raise ValueError(
            f"{folder}: found links to token files, whose texts are not known here; expected what `lfr prepare` wrote: "
            "prepare the new text by itself, and link its token files beside the old ones"
        )
    if not (folder / "prepared.json").is_file() or not (folder / "seen.npy").is_file():
        raise FileNotFoundError(
            f"{folder}: found no prepared.json and seen.npy, without which nothing can be appended: `lfr prepare` "
            "writes them, `lfr data clean` carries them over, and `lfr data noise` does not; append to the folder that "
            "this one was made of, or prepare the text again"
        )
    fraction = json.loads((folder / "prepared.json").read_text())["valid_fraction"]
    return Prepared(*stores, tokenizer.load(folder / "tokenizer"), fraction, np.load(folder / "seen.npy"))


def prepare(
    out: str | os.PathLike,
    documents: Iterable[Document],
    words: Tokenizer,
    valid_fraction: float = 0.02,
    advance: Callable[[int], None] = lambda n: None,
) -> Summary:
    """Encodes documents into `out`, which appears whole or not at all. Equal input gives equal bytes.

    In this process, in memory bounded by a few million characters and ~160 bytes a document; see `assemble`
    for what goes where. `advance` is told how many characters are done.

    Raises:
      FileExistsError: `out` exists.
      ValueError: no documents, a broken one, a bad `valid_fraction`, or a token id outside the vocabulary.
    """
    refuse_bad_settings(valid_fraction)
    with work_folder(out) as folder, kept_work_named(folder), explain_full_disk(out):
        return write(out, [text_source.given(lambda: documents)], Spool(folder, words, 1.0, advance), valid_fraction)


def write(
    out: str | os.PathLike,
    found: list[Input],
    spool: Spool,
    valid_fraction: float,
    tolerate: float = 0.0,
    workers: int = 1,
    before: Prepared | None = None,
) -> Summary:
    words = spool.words
    with atomic_folder(out) as folder:
        encoded = spool.encode(found, workers, tolerate)
        facts = words.vocab_size, words.eos_id, words.kind, words.digest
        old = (before.train, before.valid, before.seen_Kx2) if before else (None, None, np.empty((0, 2), np.uint64))
        with (
            write_store(folder / "train", *facts, after=old[0]) as train,
            write_store(folder / "valid", *facts, after=old[1]) as valid,
        ):
            known = before.train.domains if before else ()
            done = assemble(encoded, train, valid, valid_fraction, old[2], known)
            if not done.train:
                raise ValueError(
                    f"{out}: found no documents to prepare; {done.duplicates} duplicates, {done.blank} blank"
                )
        summary = Summary(done.train, done.valid, done.duplicates, done.blank, dict(spool.problems), words.vocab_size)
        words.save(folder / "tokenizer")
        save_array(folder / "seen.npy", done.text_Kx2)
        sides = {
            side: {domain: n._asdict() for domain, n in getattr(done, side).items()} for side in ("train", "valid")
        }
        origins = [place.origin for place in found if place.origin]
        told = {"valid_fraction": valid_fraction, "origins": origins, "described": spool.described[:DESCRIBED]}
        card = summary._asdict() | sides | told
        (folder / "prepared.json").write_text(json.dumps(card, indent=1) + "\n")
    return summary
