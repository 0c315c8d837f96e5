"""From text to a prepared folder: the command `lfr prepare`, and the same from Python."""

import os
import pathlib
from collections.abc import Callable, Iterable

import tyro

from lfr_jax import terminal
from lfr_jax.config.values import AtLeast1, Share, ShareAbove0, ShareBetween, checked
from lfr_jax.data.tokenizer import Bytes, Gpt2Bpe, SentencePiece, Tokenizer, load_tokenizer, train_sentencepiece
from lfr_jax.prepare import embedded as embedded_text
from lfr_jax.prepare import hf_text, inputs, text_source, tfds_text
from lfr_jax.prepare.options import chosen_options
from lfr_jax.prepare.prepared_folder import PrepareSummary, open_prepared, write_prepared
from lfr_jax.prepare.segments import uniform_hash
from lfr_jax.prepare.spool import Spool, name_kept_work, remove_work_of_finished, work_folder
from lfr_jax.prepare.text_source import Document, Fields, Input
from lfr_jax.prepare.workers import NumWorkers, cores
from lfr_jax.storage.files import atomic_folder, explain_full_disk
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@checked
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
    vocab_size: AtLeast1 | None = None,
    sentencepiece: str | None = None,
    gpt2: str | None = None,
    byte_tokenizer: bool = False,
    valid: tuple[str, ...] = (),
    valid_fraction: ShareBetween = 0.02,
    sample: ShareAbove0 = 1.0,
    tolerate: Share = 0.001,
    workers: NumWorkers = 0,
) -> PrepareSummary | str:
    """Turns text into a folder to train on: token stores for training and validation, and the tokenizer.

    If it is killed, run the same command again: it goes on from what is encoded, and writes the same bytes.

    Args:
      paths: Text files, JSON lines (.jsonl, .ndjson, .json) and .parquet files (fields text, id, domain, source),
        folders of them laid out as domain/source; .gz, .zst, .xz and .bz2 too.
      out: Folder to write. It must not exist.
      append: Begin with all that this prepared folder holds. Its tokenizer and split are used; its blocks keep their
        ids.
      embedded: Add the text that every Python carries (about 12 MB; no network).
      tfds: Add these TFDS data sets, which are on disk in the array_record format.
      tfds_dir: Folder of the TFDS data sets; by default TFDS's own.
      hf: Add these Hugging Face data sets: openwebtext, slimpajama, slimpajama-6b, names on the Hub, or folders.
      hf_config: Configuration of the Hugging Face data sets, if they have several.
      split: Split of the TFDS and Hugging Face data sets.
      text_field: Field, column or feature that holds the text. A dot leads into an inner record.
      domain_field: Field or column that names the domain, such as meta.redpajama_set_name.
      source_field: Field or column that names the source. Blocks do not cross from one source to the next.
      train_tokenizer: Train a SentencePiece byte-pair model on this text: one of four tokenizers.
      vocab_size: Vocabulary of the model that is trained; by default 4096.
      sentencepiece: Use this SentencePiece .model file.
      gpt2: Use GPT-2's BPE of this folder, which holds encoder.json and vocab.bpe.
      byte_tokenizer: Use the 256 bytes of UTF-8.
      valid: Text to hold out: files and folders as above. Without them, a share of the documents is held out.
      valid_fraction: Share of the documents to hold out for validation.
      sample: Use only this share of the documents, chosen by a hash of their ids.
      tolerate: Share of the documents that may be unreadable (not UTF-8, not JSON, no text, a bad id). They are left
        out, counted, and described in prepared.json. With a larger share, the command fails.
      workers: Processes that encode; 0: as many as there are cores.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: an input or a tokenizer's file is not there.
      ValueError: not exactly one tokenizer, a number out of its range, no text, or bad text (naming file and line).
    """
    choices = {
        "--train-tokenizer": train_tokenizer,
        "--sentencepiece": sentencepiece,
        "--gpt2": gpt2,
        "--byte-tokenizer": byte_tokenizer,
        "--append": append,
    }
    chosen = chosen_options(choices)
    if len(chosen) != 1:
        found = " and ".join(chosen) or "no tokenizer"
        raise ValueError(f"found {found}; expected exactly one of {', '.join(choices)}")
    if vocab_size is not None and not train_tokenizer:
        raise ValueError(f"found --vocab-size {vocab_size} with {chosen[0]}; it goes with --train-tokenizer")
    if not (paths or embedded or tfds or hf):
        raise ValueError("found no text; expected files or folders, --embedded, --tfds NAME, or --hf NAME")

    refuse_unless_finished(out)  # before the inputs are looked at, which may download some
    fields = Fields(text_field, domain=domain_field, source=source_field)
    # Held-out text comes first: of equal documents, the first one stays.
    files = [*inputs.files(valid, fields, held_out=True), *inputs.files(paths, fields)]
    found = inputs.of_files(files)
    found += [tfds_text.of_name(name, split, text_field, tfds_dir) for name in tfds]
    found += [hf_text.of_name(name, split, hf_config, fields) for name in hf]
    found += [embedded_text.as_input()] if embedded else []
    before = open_prepared(append) if append is not None else None
    tokenizer = None if train_tokenizer else before.tokenizer if before else open_tokenizer(sentencepiece, gpt2)
    made_from = {
        "command": "lfr prepare",
        "text": [text_input.stamp for text_input in found],
        "tokenizer": tokenizer.digest if tokenizer else f"trained, {vocab_size}",
        "append": [before.train.fingerprint, before.valid.fingerprint] if before else None,
        "settings": [valid_fraction, sample, tolerate],
    }
    if is_finished(out, made_from):
        remove_work_of_finished(out)
        return finished(out)
    with work_folder(out) as folder:
        if files:
            terminal.show(f"reading {inputs.in_words(files)}")
        if left := len(list(folder.glob("*.index"))):
            terminal.show(f"An earlier run left {left:,} encoded chunks; those of this text are used.")
        total = sum(text_input.size for text_input in found) if all(text_input.size for text_input in found) else None
        fraction = None if valid else before.valid_fraction if before else valid_fraction
        with name_kept_work(folder), explain_full_disk(out):
            if train_tokenizer:
                tokenizer = trained_tokenizer(found, vocab_size or 4096, sample, folder)
            with terminal.bar(desc="encoding", total=total, unit="B", unit_scale=True) as bar:
                spool = Spool(folder, tokenizer, sample, bar.update)
                return write_prepared(out, found, spool, fraction, tolerate, workers or cores(), before, made_from)


@checked
def prepare_documents(
    out: str | os.PathLike,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    valid_fraction: ShareBetween = 0.02,
    advance: Callable[[int], None] = lambda n: None,
) -> PrepareSummary:
    """Encodes documents into the folder `out`, which appears complete or not at all. Equal input gives equal bytes.

    It runs in this process. Memory is a few million characters and some 160 bytes a document. `assemble_stores` says
    which documents are held out.

    Args:
      advance: called with the number of characters done, again and again.

    Raises:
      FileExistsError: `out` exists.
      ValueError: no documents, one with a problem, a bad `valid_fraction`, or a token id outside the vocabulary.

    >>> documents = (Document(str(i), f"Line {i}.", "prose", "made-up") for i in range(100))
    >>> prepare_documents("data/lines", documents, Bytes(), valid_fraction=0.1)  # doctest: +SKIP
    """
    with work_folder(out) as folder, name_kept_work(folder), explain_full_disk(out):
        text = text_source.from_documents(lambda: documents)
        return write_prepared(out, [text], Spool(folder, tokenizer, 1.0, advance), valid_fraction)


def open_tokenizer(sentencepiece: str | None, gpt2: str | None) -> Tokenizer:
    """The tokenizer that the options name; bytes if they name none."""
    if sentencepiece is not None:
        return SentencePiece(sentencepiece)
    if gpt2 is not None:
        return Gpt2Bpe.from_folder(gpt2)
    return Bytes()


def trained_tokenizer(found: list[Input], vocab_size: int, sample: float, folder: pathlib.Path) -> Tokenizer:
    """A SentencePiece model of the text. It is kept in `folder`, so that the next try does not train it again."""
    kept = folder / f"trained-{text_source.stamp([text_input.stamp for text_input in found], vocab_size, sample)}"
    if not kept.exists():
        documents = text_source.documents(found)
        used = (d for d in documents if not d.held_out and uniform_hash(d.id, b"sample") < sample)
        texts = (document.text for document in used)
        tokenizer = train_sentencepiece(texts, vocab_size)
        with atomic_folder(kept) as unfinished:
            tokenizer.save(unfinished)
    return load_tokenizer(kept)
