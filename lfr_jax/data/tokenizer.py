"""Text to token ids and back: SentencePiece, GPT-2's BPE, or plain bytes, with one interface."""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator

import numpy as np
import sentencepiece
import tiktoken

from lfr_jax.config.json_files import from_json
from lfr_jax.config.values import AtLeast0, AtLeast1, check_value, shown
from lfr_jax.data.gpt2_files import END, byte_alphabet, read_gpt2_files
from lfr_jax.data.tokenizer_base import CARD, EncodeError, TokenBytes, Tokenizer, digest
from lfr_jax.storage.paths import as_path
from lfr_jax.storage.remote_files import read_bytes
from lfr_jax.terminal import printable


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8, and end-of-text.

    >>> Bytes().encode("é!")
    [195, 169, 33]
    """

    kind = "bytes"
    vocab_size = 257
    eos_id = 256

    def __init__(self):
        super().__init__({})

    def token_bytes(self) -> TokenBytes:
        bytes_V = (np.arange(self.vocab_size) != self.eos_id).astype(np.int32)
        return TokenBytes(bytes_V, bytes_V)

    def _encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def _decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i != self.eos_id).decode(errors="replace")


class SentencePiece(Tokenizer):
    """A SentencePiece model (Kudo and Richardson 2018): a `.model` file, or its bytes."""

    kind = "sentencepiece"
    SPACE = "\u2581"  # stands for a space inside the model

    def __init__(self, model_file: str | os.PathLike | bytes):
        if isinstance(model_file, bytes):
            name, model = "the SentencePiece model", model_file
        else:
            name, model = str(model_file), read_bytes(as_path(model_file))
        super().__init__({"tokenizer.model": model})
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size, self.eos_id = self.model.vocab_size(), self.model.eos_id()
            # A U+2581 in the text itself would be decoded as a space. Its three bytes are not, where the model
            # has byte pieces and puts no space of its own before a text.
            self.space_bytes = [self.model.piece_to_id(f"<0x{byte:02X}>") for byte in self.SPACE.encode()]
            around = self.model.encode("a") + self.space_bytes + self.model.encode("b")
            self.keeps_space = self.model.decode(around) == f"a{self.SPACE}b"
        except Exception as error:  # RuntimeError, UnicodeError, and what else the library raises for broken files
            raise ValueError(f"{name}: found no SentencePiece model in it ({printable(str(error))})") from None
        if self.eos_id < 0:
            raise ValueError(
                f"{name}: found no end-of-text piece (eos_id is -1), expected one, which separates documents; "
                "train the model with an eos_id of 0 or more"
            )

    def token_bytes(self) -> TokenBytes:
        """As `Tokenizer.token_bytes`. A byte piece is a byte, also where it alone is no character."""
        ids = list(range(self.vocab_size))
        first_V = np.array(self.model.is_byte(ids), np.int32)
        later_V = first_V.copy()
        special_V = np.logical_or.reduce([self.model.is_control(ids), self.model.is_unknown(ids), first_V])
        text = np.flatnonzero(~special_V).tolist()
        first_V[text] = [len(alone.encode()) for alone in self.model.decode([[i] for i in text])]
        later_V[text] = [len(piece.replace(self.SPACE, " ").encode()) for piece in self.model.id_to_piece(text)]
        return TokenBytes(first_V, later_V)

    def _encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        ids = self.model.encode(texts, num_threads=threads)
        for number, text in enumerate(texts):
            if self.keeps_space and self.SPACE in text:
                first, *rest = self.model.encode(text.split(self.SPACE), num_threads=threads)
                ids[number] = first + [i for piece in rest for i in self.space_bytes + piece]
        return ids

    def _decode(self, ids: list[int]) -> str:
        return self.model.decode(ids)


def train_sentencepiece(texts: Iterable[str], vocab_size: int, sample_chars: int = 4_000_000) -> SentencePiece:
    """Trains a byte-pair model that is lossless: decode(encode(text)) == text, whitespace included.

    Equal texts give equal models. Memory is bounded: if the texts are long, training sees a sample of one to two times
    `sample_chars` characters, spread evenly over them.

    Raises:
      ValueError: there is no text, or `vocab_size` is too large or too small for it.
    """
    model = io.BytesIO()
    # The trainer drops sentences with these; byte pieces stand for them afterwards.
    reserved = {0: None, 0x2581: " ", 0x2585: " "}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(piece.translate(reserved) for piece in spread_sample(texts, sample_chars)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=8 * PIECE_CHARS,  # bytes: none is dropped
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"cannot train a tokenizer of vocab_size={vocab_size} on this: {error}") from None
    return SentencePiece(model.getvalue())


PIECE_CHARS = 1000


def spread_sample(texts: Iterable[str], sample_chars: int) -> Iterator[str]:
    """Every n-th stretch of `PIECE_CHARS` characters. n doubles whenever too many are held."""
    kept, every, number = [], 1, 0
    for text in texts:
        for start in range(0, len(text), PIECE_CHARS):
            if number % every == 0:
                kept.append(text[start : start + PIECE_CHARS])
                if len(kept) * PIECE_CHARS > 2 * sample_chars:
                    kept, every = kept[::2], 2 * every
            number += 1
    return iter(kept)


class Gpt2Bpe(Tokenizer):
    """GPT-2's byte-level BPE (Radford et al. 2019), from its `encoder.json` and `vocab.bpe`."""

    kind = "gpt2_bpe"
    # How text is cut before merging: contractions, words, numbers, the rest, spaces (GPT-2's encoder.py).
    PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

    def __init__(self, encoder_json: str | os.PathLike, vocab_bpe: str | os.PathLike):
        encoder, merges = (read_bytes(as_path(file)) for file in (encoder_json, vocab_bpe))
        super().__init__({"encoder.json": encoder, "vocab.bpe": merges})
        found = read_gpt2_files(encoder, merges, encoder_json, vocab_bpe)
        self.ids, self.merges, self.eos_id = found
        self.vocab_size = len(found.ids) + 1
        byte_of = byte_alphabet()
        self.encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=self.PATTERN,
            mergeable_ranks={bytes(byte_of[char] for char in piece): i for piece, i in found.ids.items()},
            special_tokens={END: self.eos_id},
            explicit_n_vocab=self.vocab_size,
        )

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "Gpt2Bpe":
        """The tokenizer of a folder that holds `encoder.json` and `vocab.bpe`."""
        return cls(as_path(folder) / "encoder.json", as_path(folder) / "vocab.bpe")

    def token_bytes(self) -> TokenBytes:
        bytes_V = np.zeros(self.vocab_size, np.int32)
        bytes_V[list(self.ids.values())] = [len(piece) for piece in self.ids]  # a character of its alphabet is a byte
        return TokenBytes(bytes_V, bytes_V)

    def _encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        for text in texts:
            text.encode()  # a lone surrogate is refused here; tiktoken would put U+FFFD in its place
        return self.encoding.encode_ordinary_batch(texts, num_threads=threads)

    def _decode(self, ids: list[int]) -> str:
        return self.encoding.decode([i for i in ids if i != self.eos_id])


class Ids(Tokenizer):
    """Stands for the unknown tokenizer of linked token files. A model trains on the ids, but has no text.

    Raises:
      ValueError: `eos_id` is no id. `encode` and `decode` always raise an EncodeError.
    """

    kind = "ids"

    def __init__(self, vocab_size: int, eos_id: int):
        check_value("vocab_size", vocab_size, AtLeast1)
        if not 0 <= eos_id < vocab_size:
            raise ValueError(f"found eos_id={eos_id}, expected 0 to {vocab_size - 1}, as vocab_size={vocab_size}")
        super().__init__({"ids.json": json.dumps({"vocab_size": vocab_size, "eos_id": eos_id}).encode()})
        self.vocab_size, self.eos_id = vocab_size, eos_id

    def token_bytes(self) -> None:
        return None

    def _encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        raise EncodeError("cannot encode text: the data was linked without a tokenizer; link it again with one")

    def _decode(self, ids: list[int]) -> str:
        raise EncodeError("cannot decode ids: the data was linked without a tokenizer; link it again with one")


@dataclasses.dataclass
class Card:
    """What a saved tokenizer says about itself."""

    kind: str
    digest: str


@dataclasses.dataclass
class IdsFile:
    """The file of an `Ids`."""

    vocab_size: AtLeast1
    eos_id: AtLeast0


FILES = {Bytes.kind: (), SentencePiece.kind: ("tokenizer.model",), Gpt2Bpe.kind: ("encoder.json", "vocab.bpe")}
FILES |= {Ids.kind: ("ids.json",)}


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Loads what `Tokenizer.save` wrote.

    Raises:
      FileNotFoundError: the folder holds no saved tokenizer.
      ValueError: the kind is unknown, or the files have changed.
    """
    folder = as_path(folder)
    if not (folder / CARD).exists():
        raise FileNotFoundError(f"{folder}: found no {CARD}; expected a folder that Tokenizer.save wrote")
    card = from_json(read_bytes(folder / CARD), Card, folder / CARD)
    if card.kind not in FILES:
        raise ValueError(f"{folder / CARD}: found kind {shown(card.kind)}, expected one of {', '.join(FILES)}")
    # Compared before the files are read as what they are: the libraries may do anything with changed ones.
    found = digest(card.kind, {name: read_bytes(folder / name) for name in FILES[card.kind]})
    if found != card.digest:
        raise ValueError(
            f"{folder}: found files of digest {found[:12]}, expected {card.digest[:12]!r}: "
            "they have changed; restore them or prepare the data again"
        )
    if card.kind == SentencePiece.kind:
        return SentencePiece(folder / "tokenizer.model")
    if card.kind == Gpt2Bpe.kind:
        return Gpt2Bpe.from_folder(folder)
    if card.kind == Ids.kind:
        ids = from_json(read_bytes(folder / "ids.json"), IdsFile, folder / "ids.json")
        try:
            return Ids(ids.vocab_size, ids.eos_id)
        except ValueError as error:
            raise ValueError(f"{folder / 'ids.json'}: {error}") from None
    return Bytes()
