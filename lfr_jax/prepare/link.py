"""Token files of other programs as a corpus to train on, read where they lie: stores of links to them."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import tqdm
import tyro

from lfr_jax.data import tokenizer
from lfr_jax.data.store import FORMAT, VERSION, Source, check_ids, file_sha256, fingerprint, token_dtype
from lfr_jax.prepare.folders import files_below
from lfr_jax.prepare.token_formats import Layout, layout
from lfr_jax.storage.files import atomic_folder, refuse_existing, save_array
from lfr_jax.storage.token_files import Part

CHUNK = 1 << 23  # tokens looked at together


class Run(NamedTuple):
    """Tokens of one file, from whole documents, that go into one store."""

    path: pathlib.Path
    name: str
    domain: str
    sha256: str  # of the whole file
    part: Part
    doc_starts: np.ndarray  # int64, from the run's first token


class Summary(NamedTuple):
    """What was linked."""

    train: list[Run]
    valid: list[Run]

    def __str__(self) -> str:
        def counts(runs):
            tokens, documents = sum(run.part.tokens for run in runs), sum(len(run.doc_starts) for run in runs)
            return f"{tokens:>18,}{documents:>14,}"

        rows = [f"{'domain':<20}{'tokens':>18}{'documents':>14}{'held-out tokens':>18}{'documents':>14}"]
        for domain in dict.fromkeys(run.domain for run in self.train + self.valid):
            sides = ([run for run in side if run.domain == domain] for side in self)
            rows.append(f"{domain:<20}" + "".join(map(counts, sides)))
        return "\n".join([*rows, f"{'all':<20}{counts(self.train)}{counts(self.valid)}"])


def link_paths(
    inputs: tyro.conf.Positional[tuple[str, ...]],
    *,
    out: str,
    valid: tuple[str, ...] = (),
    valid_fraction: float = 0.02,
    gpt2: str | None = None,
    sentencepiece: str | None = None,
    saved_tokenizer: str | None = None,
    vocab_size: int | None = None,
    eos_id: int | None = None,
    dtype: Literal["uint8", "uint16", "uint32", "int32"] | None = None,
) -> Summary:
    """Makes a folder to train on out of existing token files, which stay where they are: nothing is copied.

    Args:
      inputs: Token files, or folders of them: .bin of nanoGPT, llm.c or Megatron (its .idx beside it), .npy of OLMo
        or NumPy. A file's domain is the folder below the given one that it lies in, or else the given one; for a
        file given by its own path, the folder that it lies in.
      out: Folder to write. It must not exist.
      valid: Such files to hold out, whole, in place of a share of the inputs.
      valid_fraction: Share of each input's tokens to hold out, at most: its last whole documents, or the end of its
        last one if that is longer.
      gpt2: The tokens are those of GPT-2's BPE in this folder, which holds encoder.json and vocab.bpe.
      sentencepiece: The tokens are those of this SentencePiece .model file.
      saved_tokenizer: The tokens are those of this tokenizer folder, of another corpus or of a run.
      vocab_size: There is no tokenizer: ids are smaller than this. Such a corpus trains, but no text goes in or out.
      eos_id: Without a tokenizer: the id that ends a document. If the files have none: vocab_size - 1, counted in.
      dtype: Type of a token in a file that does not say. Default: uint16, or uint32 if the vocabulary needs it.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: an input or a tokenizer's file is not there.
      ValueError: not exactly one tokenizer, a broken file, or an id outside the vocabulary (naming the file).
    """
    refuse_existing(out)
    words = chosen(gpt2, sentencepiece, saved_tokenizer, vocab_size, eos_id)
    with tqdm.tqdm(desc="reading", unit="B", unit_scale=True, disable=None) as bar:
        return link(out, inputs, words, valid, valid_fraction, dtype, advance=bar.update)


def chosen(gpt2, sentencepiece, saved, vocab_size, eos_id) -> tokenizer.Tokenizer:
    """The one tokenizer that the options name."""
    options = {"--gpt2": gpt2, "--sentencepiece": sentencepiece, "--saved-tokenizer": saved, "--vocab-size": vocab_size}
    named = [name for name, value in options.items() if value is not None]
    if len(named) != 1 or (eos_id is None) != (vocab_size is None):
        found = " and ".join(named + ["--eos-id"] * (eos_id is not None)) or "no tokenizer"
        raise ValueError(
            f"found {found}; expected exactly one of {', '.join(options)} with --eos-id: "
            "what made the tokens, or how many ids there are"
        )
    if gpt2 is not None:
        return tokenizer.Gpt2Bpe(pathlib.Path(gpt2) / "encoder.json", pathlib.Path(gpt2) / "vocab.bpe")
    if sentencepiece is not None:
        return tokenizer.SentencePiece(sentencepiece)
    return tokenizer.load(saved) if saved is not None else tokenizer.Ids(vocab_size, eos_id)


def link(
    out: str | os.PathLike,
    inputs: Sequence[str | os.PathLike],
    words: tokenizer.Tokenizer,
    valid: Sequence[str | os.PathLike] = (),
    valid_fraction: float = 0.02,
    dtype: str | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Summary:
    """Writes `out`: two stores whose token files are symbolic links, and their tokenizer. Whole or not at all.

    Every byte is read once: so each id is known to be in the vocabulary, the store's fingerprint
    covers the contents of the files, and documents are found by their end-of-text where the file
    has no index. If the files move, mend the links; the fingerprint does not depend on them.

    Raises:
      ValueError: a broken file, an id outside the vocabulary, or a bad `valid_fraction`.
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"found valid_fraction={valid_fraction}, expected more than 0 and less than 1")
    raw_dtype = np.dtype(dtype or token_dtype(words.vocab_size)).str
    if not inputs:
        raise ValueError("found no input; expected token files, or folders of them")
    train = [whole(*file, raw_dtype, words, advance) for file in listed(inputs)]
    held_out = [whole(*file, raw_dtype, words, advance) for file in listed(valid)]
    if not held_out:
        pairs = [split(run, valid_fraction) for run in train]
        train, held_out = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    with atomic_folder(out) as folder:
        write_links(folder / "train", train, words)
        write_links(folder / "valid", held_out, words)
        words.save(folder / "tokenizer")
    return Summary(train, held_out)


def listed(paths: Iterable[str | os.PathLike]) -> list[tuple[pathlib.Path, str, str]]:
    """The token files at `paths` and in folders there, names and domains; of folders as `files_below` finds them."""
    files = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            seen = [name for name in files_below(path) if name.suffix in (".bin", ".npy")]
            if not seen:
                raise FileNotFoundError(f"{path}: found no .bin and no .npy in it; expected files of tokens")
            for name in seen:
                domain = name.parts[0] if len(name.parts) > 1 else path.absolute().name
                files.append((path / name, name.as_posix(), domain))
        elif path.is_file():
            files.append((path, path.name, path.absolute().parent.name))
        else:
            raise FileNotFoundError(f"{path}: found no such file or folder")
    return files


def whole(path: pathlib.Path, name: str, domain: str, raw_dtype: str, words: tokenizer.Tokenizer, advance) -> Run:
    """A whole file as a run."""
    found = layout(path, raw_dtype)
    sha256, ends = scan(path, found, words, advance)
    if found.doc_starts is None:
        starts = np.concatenate([[0], ends[ends < found.tokens]])
    else:
        starts = found.doc_starts
    return Run(path.absolute(), name, domain, sha256, Part("", found.dtype, found.offset, found.tokens), starts)


def scan(path: pathlib.Path, found: Layout, words: tokenizer.Tokenizer, advance) -> tuple[str, np.ndarray]:
    """Reads a file once: its sha256, and int64[documents], the positions after each end-of-text."""
    sha256, ends, position = hashlib.sha256(), [np.zeros(0, np.int64)], 0
    with open(path, "rb") as file:
        sha256.update(file.read(found.offset))
        while raw := file.read(CHUNK * np.dtype(found.dtype).itemsize):
            sha256.update(raw)
            tokens = np.frombuffer(raw, found.dtype)
            try:
                check_ids(tokens, words.vocab_size)
            except ValueError as error:
                raise ValueError(f"{path}: {error}; or they are not of type {found.dtype} (--dtype)") from None
            if found.dtype == "<u2" and len(tokens) > 1000 and not tokens[1::2].any():
                raise ValueError(f"{path}: every second token is 0: these are uint32, not uint16; say --dtype uint32")
            ends.append(np.flatnonzero(tokens == words.eos_id) + (position + 1))
            position += len(tokens)
            advance(len(raw))
    return sha256.hexdigest(), np.concatenate(ends)


def split(run: Run, fraction: float) -> tuple[Run, Run]:
    """A run and its tail: the whole documents within the last `fraction` of its tokens, or, if the last document is
    longer than that, so much of its end."""
    part, starts = run.part, run.doc_starts
    cut = part.tokens - max(1, int(fraction * part.tokens))
    if starts[-1] >= cut:
        cut = int(starts[np.searchsorted(starts, cut)])
    later = part.offset + cut * np.dtype(part.dtype).itemsize
    return (
        run._replace(part=part._replace(tokens=cut), doc_starts=starts[starts < cut]),
        run._replace(
            part=part._replace(offset=later, tokens=part.tokens - cut),
            doc_starts=np.union1d([0], starts[starts >= cut] - cut),
        ),
    )


def write_links(folder: pathlib.Path, runs: list[Run], words: tokenizer.Tokenizer) -> None:
    """Writes a store: a link to each file, where documents start, and the card."""
    folder.mkdir()
    total, files, parts, sources, starts = 0, {}, [], [], []
    for number, run in enumerate(runs):
        name = f"tokens-{number:05}.bin"
        (folder / name).symlink_to(run.path)
        files[name] = {"bytes": run.path.stat().st_size, "sha256": run.sha256}
        parts.append(run.part._replace(file=name)._asdict())
        sources.append(Source(run.name, run.domain, total, run.part.tokens)._asdict())
        starts.append(total + run.doc_starts)
        total += run.part.tokens
    save_array(folder / "docs.npy", np.concatenate(starts).astype(np.int64))
    files["docs.npy"] = {"bytes": (folder / "docs.npy").stat().st_size, "sha256": file_sha256(folder / "docs.npy")}
    card = {
        "format": FORMAT,
        "version": VERSION,
        "vocab_size": words.vocab_size,
        "eos_id": words.eos_id,
        "tokenizer": {"kind": words.kind, "digest": words.digest},
        "tokens": total,
        "documents": sum(map(len, starts)),
        "sources": sources,
        "parts": parts,
        "files": files,
    }
    card["fingerprint"] = fingerprint(card)
    (folder / "store.json").write_text(json.dumps(card, indent=1) + "\n")
