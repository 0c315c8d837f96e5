"""The card of a token store: what its `store.json` says, made, checked and fingerprinted in this one place."""

import dataclasses
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from lfr_jax.config.json_files import parsed, typed
from lfr_jax.config.values import AtLeast1, shown
from lfr_jax.storage.files import save_json
from lfr_jax.storage.paths import Path

FILE, DOCS = "store.json", "docs.npy"
FORMAT, VERSION = "lfr token store", 1

Number = Annotated[int, Meta(ge=0, le=2**62)]  # of tokens, documents or bytes
TokenType = Literal["|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"]


@dataclass(frozen=True)
class Source:
    """Documents of one origin, which lie together in the store. No block crosses from one source to the next."""

    name: str
    domain: str
    first: Number  # its first token
    count: Number  # its tokens


@dataclass(frozen=True)
class Part:
    """Consecutive tokens in one file. A store is the concatenation of its parts."""

    file: str  # its name in the store's folder
    dtype: TokenType  # of one token, as NumPy names it
    offset: Number  # bytes of the file before the first token
    tokens: Number


@dataclass(frozen=True)
class TokenizerId:
    """Which tokenizer made the tokens."""

    kind: str  # "bytes", "sentencepiece", ...
    digest: str  # sha256, in hex, of the tokenizer's files


@dataclass(frozen=True)
class FileContent:
    """What a file of the store must hold."""

    bytes: Number
    sha256: str


@dataclass(frozen=True)
class StoreCard:
    """All that a store is, except for its tokens. The fields have the names and the order of `store.json`."""

    vocab_size: AtLeast1  # ids are 0 to vocab_size - 1
    eos_id: Number  # the end-of-text token
    tokenizer: TokenizerId
    tokens: Number
    documents: Number
    sources: tuple[Source, ...]  # one after the other, from token 0 on
    parts: tuple[Part, ...] | None  # of a linked store: where its tokens lie; None: all of them in `tokens.bin`
    files: dict[str, FileContent]  # by name
    fingerprint: str = ""  # sha256, in hex, of the rest; equal for equal content, wherever the store lies


def complete(card: StoreCard) -> StoreCard:
    """The card with its fingerprint."""
    return dataclasses.replace(card, fingerprint=fingerprint(as_json(card)))


def write_card(card: StoreCard, folder: Path) -> None:
    """Writes `store.json` into a store's folder, with the fingerprint."""
    save_json(folder / FILE, as_json(complete(card)))


def parse_card(text: bytes | str, path: Path) -> StoreCard:
    """Reads and checks what stands in the `store.json` at `path`.

    Raises:
      ValueError: no card, a card of another format or version, one that was edited, or one that contradicts itself.
    """
    found = parsed(text, path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: found no format {FORMAT!r} in it: this is no token store")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path}: found version {shown(found.get('version'))}, expected {VERSION}; prepare the data again, or use "
            "the release of lfr_jax that wrote it"
        )
    card = typed({"parts": None, "fingerprint": ""} | found, StoreCard, path)
    if found != as_json(card) or card.fingerprint != fingerprint(found):
        raise ValueError(f"{path}: does not match its own fingerprint: it was edited; restore it")
    check_files(card, path)
    check_sources(card, path)
    return card


def as_json(card: StoreCard) -> dict[str, Any]:
    """What `store.json` holds. A card without a fingerprint or without parts has no such key."""
    content = {"format": FORMAT, "version": VERSION} | msgspec.to_builtins(card)
    content["sources"] = list(content["sources"])
    if card.parts is None:
        del content["parts"]
    else:
        content["parts"] = list(content["parts"])
    if not card.fingerprint:
        del content["fingerprint"]
    return content


def fingerprint(content: dict[str, Any]) -> str:
    """sha256, in hex, of a card's JSON object without its fingerprint."""
    rest = {name: value for name, value in content.items() if name != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def token_dtype(vocab_size: int) -> np.dtype:
    """The number type of tokens in `tokens.bin`."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def parts_of(card: StoreCard) -> tuple[Part, ...]:
    """Where the tokens lie, in their order."""
    if card.parts is not None:
        return card.parts
    return (Part("tokens.bin", token_dtype(card.vocab_size).str, 0, card.tokens),)


def check_files(card: StoreCard, path: Path) -> None:
    """Raises ValueError unless the files lie in the store's folder, and have room for the tokens.

    A name such as "../secret" would make a command read, and show, what is not the store's.
    """
    for name in card.files:
        if not re.fullmatch(r"\w[\w.-]{0,254}", name, re.ASCII):
            raise ValueError(
                f"{path}: files has {shown(name)}, expected the plain name of a file in the store's folder"
            )
    for name in (DOCS, *(part.file for part in parts_of(card))):
        if name not in card.files:
            raise ValueError(f"{path}: files has no {shown(name)}, expected the size and sha256 of this file")
    for part in parts_of(card):
        end, size = part.offset + part.tokens * np.dtype(part.dtype).itemsize, card.files[part.file].bytes
        if end > size or (card.parts is None and end != size):
            raise ValueError(
                f"{path}: files.{part.file}.bytes is {size}, expected {end}: {part.tokens} tokens of type {part.dtype} "
                f"after {part.offset} bytes"
            )


def check_sources(card: StoreCard, path: Path) -> None:
    """Raises ValueError unless sources and parts divide the tokens, and numbers are not larger than what they count."""
    starts = [0, *itertools.accumulate(source.count for source in card.sources)]
    for number, (source, start) in enumerate(zip(card.sources, starts)):
        if source.first != start:
            raise ValueError(
                f"{path}: sources.{number}.first is {source.first}, expected {start}: its sources do not follow one "
                "another from token 0 to the end"
            )
    ends_P = [0, *itertools.accumulate(part.tokens for part in parts_of(card))]
    if not card.tokens == starts[-1] == ends_P[-1] > 0:
        raise ValueError(
            f"{path}: tokens is {card.tokens}, expected {starts[-1]}, as its sources have, {ends_P[-1]}, as its parts "
            "have, and at least 1"
        )
    if not set(ends_P) <= set(starts):
        raise ValueError(f"{path}: its parts begin at tokens {shown(ends_P)}, expected places where sources begin")
    if not 1 <= card.documents <= card.tokens:
        raise ValueError(f"{path}: documents is {card.documents}, expected 1 to {card.tokens}, the tokens")
    if card.eos_id >= card.vocab_size:
        raise ValueError(f"{path}: eos_id is {card.eos_id}, expected 0 to {card.vocab_size - 1}, as vocab_size says")
