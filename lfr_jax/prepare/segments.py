"""Segments: the encoded chunks of text on disk. Stores are put together from them later.

A segment is two files, NAME.tokens and NAME.index. The index is written last, so if it is there, both are complete. It
begins with a digest of itself, and has one of the tokens: a segment whose bytes have changed is made anew.

A segment depends only on its chunk, the tokenizer and the sample, so any process may write it, at any time.
"""

import hashlib
import itertools
import json
import os
import pathlib
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lfr_jax.data.store import check_ids
from lfr_jax.data.store_card import token_dtype
from lfr_jax.data.tokenizer import EncodeError, Tokenizer
from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Chunk, Document

BATCH_CHARS = 4_000_000  # characters encoded at once
FIRST_PROBLEMS = 100  # so many problems are described; all are counted
SEAL = 16  # bytes of a digest

# One row for each document, or for each piece of a long one.
ROW = np.dtype([("hash", "<u8"), ("text", "<u8", 2), ("number", "<u4"), ("tokens", "<u4"), ("flags", "u1")])
# Flags: the document goes on in the source's next row; it is only white space; it has a problem; it is held out.
MORE, BLANK, BROKEN, HELD_OUT = 1, 2, 4, 8


class Run(NamedTuple):
    """Documents of one source that lie together in a segment."""

    domain: str
    source: str
    rows: int
    tokens: int
    crc: int  # CRC-32 of the bytes of the tokens


class Segment(NamedTuple):
    """The content of a NAME.index."""

    path: pathlib.Path  # without a suffix
    dtype: np.dtype
    runs: list[Run]
    rows: np.ndarray  # [ROW] of all runs; `number` is the order of reading
    size: int  # of the chunk
    problems: dict[str, int]  # the number of documents with a problem, by kind
    described: list[str]  # the first problems, each with its file and line


def encode_chunk(chunk: Chunk, path: pathlib.Path, tokenizer: Tokenizer, sample: float) -> Segment:
    """Encodes a chunk into the segment `path`. Memory is bounded by a batch of text.

    Documents are left out whose hash of the id is not below `sample`. Long ones are encoded piece by piece.

    Raises:
      OSError: the disk is full.
      ValueError: the tokenizer gives an id outside its vocabulary.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    found = text_source.cut_long_documents(d for d in documents_of(chunk) if uniform_hash(d.id, b"sample") < sample)
    runs, rows, problems, described, number = [], [], Counter(), [], 0
    counted = False  # the document that goes on has a problem, which was counted
    tokens_file = temporary(path.with_suffix(".tokens"))
    try:
        with open(tokens_file, "wb") as file:
            for batch in text_source.memory_chunks(found, BATCH_CHARS):
                documents, encoded = encode_documents(batch.items, tokenizer)
                by_source: dict[tuple[str, str], list[int]] = {}
                for i, document in enumerate(documents):
                    by_source.setdefault((document.domain, document.source), []).append(i)
                    if document.problem and not counted:
                        problems[document.problem.kind] += 1
                        described.append(document.problem.where)
                    counted = document.more and (counted or document.problem is not None)
                for (domain, source), members in by_source.items():
                    raw = np.concatenate([encoded[i] for i in members]).astype(dtype).tobytes()
                    file.write(raw)
                    rows += [index_row(documents[i], number + i, len(encoded[i])) for i in members]
                    runs.append(Run(domain, source, len(members), len(raw) // dtype.itemsize, zlib.crc32(raw)))
                number += len(documents)
                described = described[:FIRST_PROBLEMS]
        segment = Segment(path, dtype, runs, np.array(rows, ROW), chunk.size, dict(problems), described)
        os.replace(tokens_file, path.with_suffix(".tokens"))
        write_index(segment)
    finally:
        tokens_file.unlink(missing_ok=True)
    return segment


def documents_of(chunk: Chunk) -> Iterator[Document]:
    """The documents of a chunk. An error in reading them gets a note of where it was, which few libraries say."""
    try:
        yield from chunk.documents()
    except Exception as error:
        if type(error) is not ValueError:  # as ours are
            error.add_note(f"It was reading {chunk.name}.")
        raise


def encode_documents(
    documents: tuple[Document, ...], tokenizer: Tokenizer
) -> tuple[tuple[Document, ...], list[np.ndarray]]:
    """Encodes some texts.

    Returns:
      The documents, now with a problem where the tokenizer failed on one; the tokens of each, with end-of-text unless
      the text goes on. A document with a problem has none.
    """
    try:
        encoded = tokenizer.encode_batch([document.text for document in documents], threads=1)
    except EncodeError:
        documents, encoded = zip(*(encode_alone(document, tokenizer) for document in documents))
    for document, ids in zip(documents, encoded):
        if not document.more and not document.problem:
            ids.append(tokenizer.eos_id)
    lengths = [len(ids) for ids in encoded]
    # This is the inner loop: all ids at once, from an iterator, is the fastest way out of Python's lists.
    tokens = np.fromiter(itertools.chain.from_iterable(encoded), np.int64, sum(lengths))
    check_ids(tokens, tokenizer.vocab_size)
    return documents, np.split(tokens, np.cumsum(lengths)[:-1])


def encode_alone(document: Document, tokenizer: Tokenizer) -> tuple[Document, list[int]]:
    """The document and its ids. If the tokenizer fails on it, the document has a problem and no ids."""
    try:
        return document, tokenizer.encode(document.text)
    except EncodeError as error:
        return text_source.with_problem(document, "cannot be encoded", f"document {document.id!r}: {error}"), []


def index_row(document: Document, number: int, tokens: int) -> tuple:
    """The row of a document, as a tuple of the fields of ROW."""
    flags = MORE * document.more + BLANK * (not document.text.strip()) + BROKEN * bool(document.problem)
    flags += HELD_OUT * document.held_out
    return id_hash(document.id), digest(document.text.encode()), number, tokens, flags


def digest(raw: bytes) -> tuple[int, int]:
    """128 bits of hash. Equal digests mean equal texts."""
    return struct.unpack("<QQ", hashlib.blake2b(raw, digest_size=16).digest())


def id_hash(id: str) -> int:
    """64 bits of hash of a document's id. They decide whether it is held out."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


def uniform_hash(id: str, purpose: bytes) -> float:
    """A hash of a document's id, uniform in [0, 1), and independent for each `purpose`."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=7, person=purpose).digest()) / 2**56


def write_index(segment: Segment) -> None:
    """Writes NAME.index."""
    head = segment._asdict() | {"path": None, "rows": len(segment.rows), "dtype": segment.dtype.str}
    index = temporary(segment.path.with_suffix(".index"))
    try:
        index.write_bytes(sealed(json.dumps(head).encode() + b"\n" + segment.rows.tobytes()))
        os.replace(index, segment.path.with_suffix(".index"))
    finally:
        index.unlink(missing_ok=True)


def temporary(path: pathlib.Path) -> pathlib.Path:
    """A name for a file that is not complete yet."""
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def load_segment(path: pathlib.Path) -> Segment | None:
    """The segment `path`; None if it is not there, or not complete."""
    try:
        content = unsealed(path.with_suffix(".index").read_bytes())
        size = path.with_suffix(".tokens").stat().st_size
    except FileNotFoundError:
        return None
    if content is None:
        return None
    head, _, rows = content.partition(b"\n")
    fields = json.loads(head)
    fields |= {"path": path, "dtype": np.dtype(fields["dtype"]), "runs": [Run(*run) for run in fields["runs"]]}
    if size != sum(run.tokens for run in fields["runs"]) * fields["dtype"].itemsize:
        return None
    return Segment(**fields | {"rows": np.frombuffer(rows, ROW)})


def sealed(content: bytes) -> bytes:
    """The content behind a digest of it."""
    return hashlib.blake2b(content, digest_size=SEAL).digest() + content


def unsealed(raw: bytes) -> bytes | None:
    """What was sealed; None if the bytes have changed: if the machine lost power, files may be cut off."""
    content = raw[SEAL:]
    return content if sealed(content) == raw else None


def runs_with_offsets(segment: Segment) -> Iterator[tuple[Run, int]]:
    """Each run, and the position of its first byte in NAME.tokens."""
    start = 0
    for run in segment.runs:
        yield run, start
        start += run.tokens * segment.dtype.itemsize


def read_run(segment: Segment, run: Run, start: int) -> np.ndarray:
    """Reads the tokens of a run, which begin at byte `start`.

    Raises:
      ValueError: their bytes have changed on disk.
    """
    path = segment.path.with_suffix(".tokens")
    with open(path, "rb") as file:
        file.seek(start)
        raw = file.read(run.tokens * segment.dtype.itemsize)
    if zlib.crc32(raw) != run.crc:
        path.with_suffix(".index").unlink(missing_ok=True)
        raise ValueError(f"{path}: its bytes have changed on disk; run the command again, which encodes this part anew")
    return np.frombuffer(raw, segment.dtype)
