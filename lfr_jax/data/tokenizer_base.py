"""What all tokenizers share: encoding, decoding, and the folder that one is saved in."""

import abc
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from lfr_jax.storage.files import save_json
from lfr_jax.terminal import printable

CARD = "tokenizer.json"  # in a saved folder: names the kind and the digest


class EncodeError(ValueError):
    """This text cannot be encoded, or these ids cannot be decoded; others still can."""


@contextlib.contextmanager
def library_failures(doing: str) -> Iterator[None]:
    """Turns whatever a tokenizer's library raises into an EncodeError. A panic of Rust is not even an Exception."""
    try:
        yield
    except (EncodeError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = printable(f"{type(error).__name__}: {error}")
        raise EncodeError(f"cannot {doing}: the tokenizer failed on it ({reason})") from None


class TokenBytes(NamedTuple):
    """How many bytes of text, in UTF-8, each id stands for. Special and unknown tokens stand for none.

    Some SentencePiece models begin each text with a space that is not in it. So an id may stand for a byte less there.
    """

    first_V: np.ndarray  # int32[V]: at the beginning of a text
    later_V: np.ndarray  # int32[V]: everywhere else


class Tokenizer(abc.ABC):
    """Encodes and decodes text. The bytes of its `files` define it, and are saved with every store."""

    kind: str
    vocab_size: int  # ids are 0 ... vocab_size − 1
    eos_id: int  # the end-of-text token: never the encoding of any text

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    @property
    def digest(self) -> str:
        """sha256, in hex, of the kind and the files."""
        return digest(self.kind, self.files)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token.

        Raises:
          EncodeError: the tokenizer's library fails on this text. GPT-2's BPE does on a million spaces in a row; all
            kinds do on a lone surrogate, which is no character.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str], threads: int | None = None) -> list[list[int]]:
        """The ids of each text. `threads` threads work on it; None: as many as there are cores.

        Raises:
          EncodeError: as `encode`; it does not say for which of the texts.
        """
        with library_failures(f"encode text of {sum(map(len, texts)):,} characters"):
            return self._encode_batch(texts, max(1, min(threads or os.cpu_count() or 1, len(texts))))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; broken UTF-8 becomes U+FFFD.

        Raises:
          EncodeError: an id is not in the vocabulary.
        """
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise EncodeError(f"cannot decode ids from {min(ids)} to {max(ids)}; expected 0 to {self.vocab_size - 1}")
        with library_failures(f"decode {len(ids):,} ids"):
            return self._decode(ids)

    @abc.abstractmethod
    def token_bytes(self) -> TokenBytes | None:
        """How many bytes of text each id stands for; None if this tokenizer knows no text.

        The sum over the ids of a text is its length, unless the tokenizer changes text: then it is the length of what
        `decode` returns, without what stands there for unknown tokens.
        """

    @abc.abstractmethod
    def _encode_batch(self, texts: list[str], threads: int) -> list[list[int]]: ...

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str: ...

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what `load_tokenizer` needs into `folder`; makes the folder."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        card = {"kind": self.kind, "digest": self.digest}
        save_json(folder / CARD, card)


def digest(kind: str, files: dict[str, bytes]) -> str:
    """sha256, in hex, of a kind of tokenizer and its files."""
    hasher = hashlib.sha256(kind.encode())
    for name in sorted(files):
        hasher.update(hashlib.sha256(files[name]).digest())
    return hasher.hexdigest()
