"""The card of a token store: what its `store.json` says, made, checked and fingerprinted in this one place."""

import hashlib
import json
from typing import NamedTuple

from lfr_jax.storage.paths import Path
from lfr_jax.storage.token_files import Part

FILE = "store.json"
FORMAT, VERSION = "lfr token store", 1


class Source(NamedTuple):
    """Documents of one origin, which lie together in the store. No block crosses from one source to the next."""

    name: str
    domain: str
    first: int  # its first token
    count: int  # its tokens


class TokenizerId(NamedTuple):
    """Which tokenizer made the tokens."""

    kind: str  # "bytes", "sentencepiece", ...
    digest: str  # sha256, in hex, of the tokenizer's files


class FileContent(NamedTuple):
    """What a file of the store must hold."""

    bytes: int
    sha256: str


class StoreCard(NamedTuple):
    """All that a store is, except for its tokens. The fields have the names and the order of `store.json`."""

    vocab_size: int  # ids are 0 to vocab_size - 1
    eos_id: int  # the end-of-text token
    tokenizer: TokenizerId
    tokens: int
    documents: int
    sources: tuple[Source, ...]  # one after the other, from token 0 on
    parts: tuple[Part, ...] | None  # of a linked store: where its tokens lie; None: all of them in `tokens.bin`
    files: dict[str, FileContent]  # by name
    fingerprint: str = ""  # sha256, in hex, of the rest; equal for equal content, wherever the store lies


def complete(card: StoreCard) -> StoreCard:
    """The card with its fingerprint."""
    return card._replace(fingerprint=fingerprint(as_json(card)))


def write_card(card: StoreCard, folder: Path) -> None:
    """Writes `store.json` into a store's folder, with the fingerprint."""
    (folder / FILE).write_text(json.dumps(as_json(complete(card)), indent=1) + "\n")


def parse_card(text: bytes | str, path: Path) -> StoreCard:
    """Reads and checks what stands in the `store.json` at `path`.

    Raises:
      ValueError: no card, a card of another format or version, or one that was edited.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: found no valid JSON ({error}); prepare the data again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: found no format {FORMAT!r} in it: this is no token store")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path}: found version {found.get('version')}, expected {VERSION}; prepare the data again, or use the "
            "release of lfr_jax that wrote it"
        )
    if found.get("fingerprint") != fingerprint(found):
        raise ValueError(f"{path}: does not match its own fingerprint: it was edited; restore it")
    return StoreCard(
        vocab_size=found["vocab_size"],
        eos_id=found["eos_id"],
        tokenizer=TokenizerId(**found["tokenizer"]),
        tokens=found["tokens"],
        documents=found["documents"],
        sources=tuple(Source(**source) for source in found["sources"]),
        parts=tuple(Part(**part) for part in found["parts"]) if "parts" in found else None,
        files={name: FileContent(**content) for name, content in found["files"].items()},
        fingerprint=found["fingerprint"],
    )


def as_json(card: StoreCard) -> dict:
    """What `store.json` holds. A card without a fingerprint or without parts has no such key."""
    content = {"format": FORMAT, "version": VERSION} | card._asdict()
    content["tokenizer"] = card.tokenizer._asdict()
    content["sources"] = [source._asdict() for source in card.sources]
    content["files"] = {name: file._asdict() for name, file in card.files.items()}
    if card.parts is None:
        del content["parts"]
    else:
        content["parts"] = [part._asdict() for part in card.parts]
    if not card.fingerprint:
        del content["fingerprint"]
    return content


def fingerprint(content: dict) -> str:
    """sha256, in hex, of a card's JSON object without its fingerprint."""
    rest = {name: value for name, value in content.items() if name != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
