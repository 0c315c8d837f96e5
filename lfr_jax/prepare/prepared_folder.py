"""The folder that `lfr prepare` makes: two stores, the tokenizer, and what is needed to append to it.

| | |
|---|---|
| `train/`, `valid/` | token stores |
| `tokenizer/` | the tokenizer that made them |
| `prepared.json` | the counts by domain, the split, the origins, what could not be read, and a digest of `seen.npy` |
| `seen.npy` | digests of all texts that are in, uint64[K, 2] |
| `made_from.json` | the settings and the input, so that the same command knows that its work is done |
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from lfr_jax.config.json_files import from_json
from lfr_jax.config.values import ShareBetween, shown
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.data.store import Store, open_store
from lfr_jax.data.tokenizer import Tokenizer, load_tokenizer
from lfr_jax.prepare.assemble import Count, assemble_stores
from lfr_jax.prepare.spool import Spool
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.prepare.text_source import Input
from lfr_jax.storage.files import atomic_folder, save_array, save_json
from lfr_jax.storage.npy import parse_npy
from lfr_jax.storage.paths import require_local
from lfr_jax.storage.remote_files import read_bytes
from lfr_jax.terminal import printable

DESCRIBED = 1000  # so many broken documents are described in prepared.json


class PrepareSummary(NamedTuple):
    """What was written, by domain, and what was left out."""

    train: dict[str, Count]
    valid: dict[str, Count]
    duplicates: int  # documents left out because an earlier one had the same text
    blank: int  # left out because they hold nothing but white space, or nothing that gives a token
    broken: dict[str, int]  # left out because they cannot be read, by what is wrong with them
    without_text: list[tuple[str, str]]  # (domain, source) of the first sources that gave no text at all
    vocab_size: int

    def __str__(self) -> str:
        rows = [("domain", "documents", "tokens", "held-out documents", "tokens")]
        total = np.zeros(4, int)
        for domain, train in self.train.items():
            numbers = (*train, *self.valid[domain])
            rows.append((printable(unreserved(domain)), *(f"{n:,}" for n in numbers)))
            total += numbers
        rows.append((ALL, *(f"{n:,}" for n in total)))
        table = "\n".join(f"{row[0]:<16}" + "".join(f"{cell:>20}" for cell in row[1:]) for row in rows)
        left_out = [f"{self.duplicates:,} duplicate documents left out"]
        left_out += [f"{self.blank:,} blank ones"] if self.blank else []
        left_out += [f"{number:,} that cannot be read ({kind})" for kind, number in self.broken.items()]
        lines = [table, f"vocabulary {self.vocab_size:,}; {', '.join(left_out)}"]
        if self.without_text:
            lines.append(f"no text came from {named(self.without_text)}")
        return "\n".join(lines)


def named(sources: list[tuple[str, str]]) -> str:
    """Some sources in words, the first of them by name.

    >>> named([("web", "cc"), ("web", "news")])
    "2 sources: 'cc' of the domain 'web', 'news' of the domain 'web'"
    """
    shown = [f"{printable(source)!r} of the domain {printable(unreserved(domain))!r}" for domain, source in sources[:3]]
    words = ", ".join([*shown, "..."] if len(sources) > 3 else shown)
    return f"{len(sources):,} source{'s' * (len(sources) != 1)}: {words}"


@dataclasses.dataclass(frozen=True)
class Card:
    """What appending needs of `prepared.json`."""

    valid_fraction: ShareBetween | None
    seen_sha256: str = ""  # older releases did not write it


class Prepared(NamedTuple):
    """A prepared folder, opened to be appended to."""

    train: Store
    valid: Store
    tokenizer: Tokenizer
    valid_fraction: float | None  # None: held-out text was given
    seen_Kx2: np.ndarray  # uint64: digests of its texts


def write_prepared(
    out: str | os.PathLike,
    found: list[Input],
    spool: Spool,
    valid_fraction: float | None,
    tolerate: float = 0.0,
    workers: int = 1,
    before: Prepared | None = None,
    made_from: dict[str, Any] | None = None,
) -> PrepareSummary:
    """Encodes the inputs and writes the folder `out`, which appears complete or not at all.

    Args:
      valid_fraction: share of the documents to hold out; None: those that are marked so.
      tolerate: the share of documents that may be unreadable.
      before: a prepared folder to begin with.
      made_from: what decides the content, for `storage.made_from`.

    Raises:
      FileExistsError: `out` exists.
      ValueError: no documents, or too many that cannot be read.
    """
    tokenizer = spool.tokenizer
    with atomic_folder(out, made_from) as folder:
        encoded = spool.encode(found, workers, tolerate)
        facts = tokenizer.vocab_size, tokenizer.eos_id, tokenizer.kind, tokenizer.digest
        old = (before.train, before.valid, before.seen_Kx2) if before else (None, None, np.empty((0, 2), np.uint64))
        with (
            write_store(folder / "train", *facts, after=old[0]) as train,
            write_store(folder / "valid", *facts, after=old[1]) as valid,
        ):
            known = before.train.domains if before else ()
            done = assemble_stores(encoded, train, valid, valid_fraction, old[2], known)
            if not done.train:
                raise ValueError(
                    f"{out}: found no documents to prepare; {done.duplicates} duplicates, {done.blank} blank"
                )
        left_out = done.duplicates, done.blank, dict(spool.problems), done.without_text[:DESCRIBED]
        summary = PrepareSummary(done.train, done.valid, *left_out, tokenizer.vocab_size)
        tokenizer.save(folder / "tokenizer")
        save_array(folder / "seen.npy", done.text_Kx2)
        sides = {
            side: {domain: n._asdict() for domain, n in getattr(done, side).items()} for side in ("train", "valid")
        }
        origins = [text_input.origin for text_input in found if text_input.origin]
        told = {"valid_fraction": valid_fraction, "origins": origins, "described": spool.described[:DESCRIBED]}
        told["seen_sha256"] = sha256(done.text_Kx2)
        card = summary._asdict() | sides | told
        save_json(folder / "prepared.json", card)
    return summary


def open_prepared(folder: str | os.PathLike) -> Prepared:
    """Opens what `lfr prepare` wrote.

    Raises:
      FileNotFoundError: nothing was prepared there, or by an older release, or noise was added to it.
      ValueError: the folder was linked, or one of its files is damaged.
    """
    folder = require_local(folder)
    stores = open_store(folder / "train"), open_store(folder / "valid")
    if any(store.card.parts for store in stores):
        raise ValueError(
            f"{folder}: found links to token files, whose texts are not known here; expected what `lfr prepare` wrote: "
            "prepare the new text by itself, and link its token files beside the old ones"
        )
    if not (folder / "prepared.json").is_file() or not (folder / "seen.npy").is_file():
        raise FileNotFoundError(
            f"{folder}: found no prepared.json and seen.npy, without which nothing can be appended: `lfr prepare` "
            "writes them, `lfr data clean` copies them, and its other commands do not; append to the folder from which "
            "this one was made, or prepare the text again"
        )
    card = from_json(read_bytes(folder / "prepared.json"), Card, folder / "prepared.json")
    seen_Kx2 = read_seen(folder / "seen.npy", card.seen_sha256)
    return Prepared(*stores, load_tokenizer(folder / "tokenizer"), card.valid_fraction, seen_Kx2)


def read_seen(path: pathlib.Path, expected: str) -> np.ndarray:
    """uint64[K, 2]: the digests in `seen.npy`. Raises ValueError if it holds others than those `expected`, if given."""
    seen_Kx2 = parse_npy(read_bytes(path), path, "<u8", (None, 2))
    if expected and sha256(seen_Kx2) != expected:
        raise ValueError(
            f"{path}: found an array with the sha256 {sha256(seen_Kx2)}, expected {shown(expected)} as "
            f"{path.with_name('prepared.json')} says: one of the two is damaged, or of another folder; restore it"
        )
    return seen_Kx2


def sha256(array: np.ndarray) -> str:
    """Of the numbers in an array, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
