"""Token files of other programs as a corpus to train on: stores of links to them; nothing is copied."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from lfr_jax import terminal
from lfr_jax.config.values import AtLeast0, AtLeast1, ShareBetween, checked
from lfr_jax.data import chunk_digests
from lfr_jax.data.chunk_digests import FileDigests
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.data.store import check_ids, file_sha256
from lfr_jax.data.store_card import FileContent, Part, Source, StoreCard, TokenizerId, token_dtype, write_card
from lfr_jax.data.tokenizer import Gpt2Bpe, Ids, SentencePiece, Tokenizer, load_tokenizer
from lfr_jax.prepare.folders import files_below
from lfr_jax.prepare.options import chosen_options
from lfr_jax.prepare.token_formats import Layout, layout
from lfr_jax.storage.files import atomic_folder, explain_full_disk, save_array
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished
from lfr_jax.storage.paths import refuse_existing
from lfr_jax.storage.token_files import stamp

CHUNK = 1 << 23  # tokens read at once


class LinkedPart(NamedTuple):
    """Tokens of one file that go into one store: all of them, or those before or behind a split."""

    path: pathlib.Path
    name: str
    domain: str
    digests: FileDigests  # of all bytes of the file
    part: Part
    doc_starts: np.ndarray  # int64, counted from the part's first token


class LinkSummary(NamedTuple):
    """What was linked."""

    train: list[LinkedPart]
    valid: list[LinkedPart]

    def __str__(self) -> str:
        def counts(linked):
            tokens, documents = sum(one.part.tokens for one in linked), sum(len(one.doc_starts) for one in linked)
            return f"{tokens:>18,}{documents:>14,}"

        rows = [f"{'domain':<20}{'tokens':>18}{'documents':>14}{'held-out tokens':>18}{'documents':>14}"]
        for domain in dict.fromkeys(one.domain for one in self.train + self.valid):
            sides = ([one for one in side if one.domain == domain] for side in self)
            rows.append(f"{terminal.printable(unreserved(domain)):<20}" + "".join(map(counts, sides)))
        return "\n".join([*rows, f"{ALL:<20}{counts(self.train)}{counts(self.valid)}"])


@checked
def link_paths(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    *,
    out: str,
    valid: tuple[str, ...] = (),
    valid_fraction: ShareBetween = 0.02,
    gpt2: str | None = None,
    sentencepiece: str | None = None,
    saved_tokenizer: str | None = None,
    vocab_size: AtLeast1 | None = None,
    eos_id: AtLeast0 | None = None,
    dtype: Literal["uint8", "uint16", "uint32", "int32"] | None = None,
) -> LinkSummary | str:
    """Makes a folder to train on out of existing token files. The files stay where they are; nothing is copied.

    Args:
      inputs: Token files, or folders of them: .bin of nanoGPT, llm.c or Megatron (with its .idx), .npy of OLMo or
        NumPy. The domain of a file is the folder below the given one, or else the given one. The domain of a file
        that is given by its own path is the folder around it.
      out: Folder to write. It must not exist.
      valid: Token files to hold out. Without them, a share of each input is held out.
      valid_fraction: At most this share of the tokens of each input is held out: the last documents, or the end of
        the last document if that is longer.
      gpt2: GPT-2's BPE made the tokens. This folder holds its encoder.json and vocab.bpe.
      sentencepiece: This SentencePiece .model file made the tokens.
      saved_tokenizer: The tokenizer of this folder, of another corpus or of a run, made the tokens.
      vocab_size: There is no tokenizer, and all ids are smaller than this. A model trains on such a corpus, but has
        no text.
      eos_id: Without a tokenizer: the id that ends a document. If there is none in the files, add one to vocab_size
        and give vocab_size - 1.
      dtype: Type of the tokens in files without a header. Default: uint16, or uint32 if the vocabulary needs it.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: an input or a tokenizer's file is not there.
      ValueError: not exactly one tokenizer, a broken file, or an id outside the vocabulary (naming the file).
    """
    refuse_unless_finished(out)
    tokenizer = choose_tokenizer(gpt2, sentencepiece, saved_tokenizer, vocab_size, eos_id)
    made_from = {
        "command": "lfr link",
        "train": [version(*file) for file in list_token_files(inputs)],
        "valid": [version(*file) for file in list_token_files(valid)],
        "tokenizer": tokenizer.digest,
        "settings": [valid_fraction, dtype],
    }
    if is_finished(out, made_from):
        return finished(out)
    with terminal.bar(desc="reading", unit="B", unit_scale=True) as bar:
        return link_files(out, inputs, tokenizer, valid, valid_fraction, dtype, bar.update, made_from)


def choose_tokenizer(gpt2, sentencepiece, saved, vocab_size, eos_id) -> Tokenizer:
    """The one tokenizer that the options name."""
    options = {"--gpt2": gpt2, "--sentencepiece": sentencepiece, "--saved-tokenizer": saved, "--vocab-size": vocab_size}
    named = chosen_options(options)
    if len(named) != 1 or (eos_id is None) != (vocab_size is None):
        found = " and ".join(chosen_options(options | {"--eos-id": eos_id})) or "no tokenizer"
        raise ValueError(
            f"found {found}; expected exactly one of {', '.join(options)} with --eos-id: "
            "what made the tokens, or how many ids there are"
        )
    if gpt2 is not None:
        return Gpt2Bpe.from_folder(gpt2)
    if sentencepiece is not None:
        return SentencePiece(sentencepiece)
    return load_tokenizer(saved) if saved is not None else Ids(vocab_size, eos_id)


@checked
def link_files(
    out: str | os.PathLike,
    inputs: Sequence[str | os.PathLike],
    tokenizer: Tokenizer,
    valid: Sequence[str | os.PathLike] = (),
    valid_fraction: ShareBetween = 0.02,
    dtype: str | None = None,
    advance: Callable[[int], None] = lambda n: None,
    made_from: dict[str, Any] | None = None,
) -> LinkSummary:
    """Writes `out`: two stores whose token files are symbolic links, and their tokenizer.

    `out` appears complete or not at all. Every byte is read once: to check that each id is in the vocabulary, to
    fingerprint the contents, and to find the end of each document if the file has no index. If the files move, mend
    the links; the fingerprint stays the same.

    Args:
      valid: token files to hold out; if there are none, the end of each input is held out.
      valid_fraction: share of each input's tokens to hold out.
      dtype: NumPy type of the tokens in files without a header.
      advance: called with the number of bytes read, again and again.
      made_from: what decides the content, for `storage.made_from`.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: an input does not exist.
      ValueError: a broken file, an id outside the vocabulary, or a bad `valid_fraction`.
    """
    refuse_existing(out)  # before every byte of the inputs is read
    raw_dtype = np.dtype(dtype or token_dtype(tokenizer.vocab_size)).str
    if np.dtype(raw_dtype).kind not in "iu":
        raise ValueError(f"found dtype={dtype}, expected a type of integers")
    if not inputs:
        raise ValueError("found no input; expected token files, or folders of them")
    train = [read_file(*file, raw_dtype, tokenizer, advance) for file in list_token_files(inputs)]
    held_out = [read_file(*file, raw_dtype, tokenizer, advance) for file in list_token_files(valid)]
    if not held_out:
        pairs = [split_off_tail(one, valid_fraction) for one in train]
        train, held_out = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    with explain_full_disk(out), atomic_folder(out, made_from) as folder:
        write_links(folder / "train", train, tokenizer)
        write_links(folder / "valid", held_out, tokenizer)
        tokenizer.save(folder / "tokenizer")
    return LinkSummary(train, held_out)


def list_token_files(paths: Iterable[str | os.PathLike]) -> list[tuple[pathlib.Path, str, str]]:
    """The token files at `paths` and in the folders there: path, name and domain of each."""
    files = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            seen = [name for name in files_below(path) if name.suffix in (".bin", ".npy")]
            if not seen:
                raise FileNotFoundError(f"{path}: found no .bin and no .npy in it; expected files of tokens")
            for name in seen:
                domain = name.parts[0] if len(name.parts) > 1 else path.absolute().name
                files.append((path / name, name.as_posix(), domain))
        elif path.exists():
            files.append((path, path.name, path.absolute().parent.name))
        else:
            raise FileNotFoundError(f"{path}: found no such file or folder")
    return files


def version(path: pathlib.Path, name: str, domain: str) -> tuple:
    """What tells a version of a token file from others, with Megatron's index, if there is one beside it."""
    index = path.with_suffix(".idx")
    return str(path.absolute()), name, domain, stamp(path), stamp(index) if index.exists() else None


def read_file(path: pathlib.Path, name: str, domain: str, raw_dtype: str, tokenizer: Tokenizer, advance) -> LinkedPart:
    """Checks a file and finds its documents."""
    found = layout(path, raw_dtype)
    digests, ends = scan_tokens(path, found, tokenizer, advance)
    if found.doc_starts is None:
        starts = np.concatenate([[0], ends[ends < found.tokens]])
    else:
        starts = found.doc_starts
    return LinkedPart(path.absolute(), name, domain, digests, Part("", found.dtype, found.offset, found.tokens), starts)


def scan_tokens(path: pathlib.Path, found: Layout, tokenizer: Tokenizer, advance) -> tuple[FileDigests, np.ndarray]:
    """Reads a file once. Returns its digests, and int64[documents], the position after each end-of-text."""
    digests, ends, position = FileDigests(), [np.zeros(0, np.int64)], 0
    with open(path, "rb") as file:
        digests.update(file.read(found.offset))
        while raw := file.read(CHUNK * np.dtype(found.dtype).itemsize):
            digests.update(raw)
            tokens = np.frombuffer(raw, found.dtype)
            try:
                check_ids(tokens, tokenizer.vocab_size)
            except ValueError as error:
                raise ValueError(f"{path}: {error}; or they are not of type {found.dtype} (--dtype)") from None
            if not found.offset and len(tokens) > 1000 and not tokens[1::2].any():
                wide = 16 * tokens.itemsize
                advice = f"say --dtype uint{wide}" if wide <= 32 else "save them as uint32"
                raise ValueError(f"{path}: every second token is 0: these have {wide} bits, not {wide // 2}; {advice}")
            ends.append(np.flatnonzero(tokens == tokenizer.eos_id) + (position + 1))
            position += len(tokens)
            advance(len(raw))
    return digests, np.concatenate(ends)


def split_off_tail(linked: LinkedPart, fraction: float) -> tuple[LinkedPart, LinkedPart]:
    """Splits a part in two. The second one has at most `fraction` of the tokens.

    It holds complete documents; if the last document is longer than that, it holds the end of the last document.
    """
    part, starts = linked.part, linked.doc_starts
    split = part.tokens - max(1, int(fraction * part.tokens))
    if starts[-1] >= split:
        split = int(starts[np.searchsorted(starts, split)])
    later = part.offset + split * np.dtype(part.dtype).itemsize
    return (
        linked._replace(part=dataclasses.replace(part, tokens=split), doc_starts=starts[starts < split]),
        linked._replace(
            part=dataclasses.replace(part, offset=later, tokens=part.tokens - split),
            doc_starts=np.union1d([0], starts[starts >= split] - split),
        ),
    )


def write_links(folder: pathlib.Path, linked: list[LinkedPart], tokenizer: Tokenizer) -> None:
    """Writes a store: a link to each file, where documents start, and the card."""
    folder.mkdir()
    total, files, parts, sources, starts = 0, {}, [], [], []
    for number, one in enumerate(linked):
        name = f"tokens-{number:05}.bin"
        (folder / name).symlink_to(one.path)
        files[name] = FileContent(one.path.stat().st_size, one.digests.sha256)
        parts.append(dataclasses.replace(one.part, file=name))
        sources.append(Source(one.name, one.domain, total, one.part.tokens))
        starts.append(total + one.doc_starts)
        total += one.part.tokens
    save_array(folder / chunk_digests.FILE, np.concatenate([one.digests.chunks for one in linked]))
    save_array(folder / "docs.npy", np.concatenate(starts).astype(np.int64))
    files["docs.npy"] = FileContent((folder / "docs.npy").stat().st_size, file_sha256(folder / "docs.npy"))
    made_by = TokenizerId(tokenizer.kind, tokenizer.digest)
    documents = sum(map(len, starts))
    card = StoreCard(
        tokenizer.vocab_size, tokenizer.eos_id, made_by, total, documents, tuple(sources), tuple(parts), files
    )
    write_card(card, folder)
