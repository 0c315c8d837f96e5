"""Files of held-out losses by document, as `lfr evaluate RUN --by-document` writes them."""

import csv
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lfr_jax.config.values import shown
from lfr_jax.data import score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.halves import HALVES
from lfr_jax.storage.paths import Path, as_path
from lfr_jax.storage.remote_files import exists, local_copy

COLUMNS = ("document", "domain", "half", "tokens", "bytes", "nll")
ORIGIN = re.compile(r"# documents ([1-9]\d{0,17}) store \w+ seq_len \d+ step \d+ left_out (\d{1,18})\n")


class DocumentLosses(NamedTuple):
    """What a model loses on each of D held-out documents, numbered from 0 in the order of the store.

    A document of which nothing was measured has 0 tokens. A mean loss is a sum of `nll` over a sum of `tokens`, and
    bits per byte are a sum of `nll` over a sum of `bytes`, over log 2.
    """

    domain: np.ndarray  # str[D]
    half: np.ndarray  # str[D], see `halves`
    tokens: np.ndarray  # int64[D]: the targets that were measured, end-of-text among them
    bytes: np.ndarray | None  # int64[D]: of the text, in UTF-8, that these tokens stand for; None: no text is known
    nll: np.ndarray  # float64[D]: the sum over these tokens, nats
    left_out: int  # tokens of these documents that are in no block, so were not measured


def origin(losses: DocumentLosses, blocks: Blocks, step: int) -> str:
    """The first line of a file: which documents, in which blocks, and after how many steps they were measured."""
    made_of = f"store {blocks.store.fingerprint} {score_files.settings_text(blocks)} step {step}"
    return f"# documents {len(losses.nll)} {made_of} left_out {losses.left_out}\n"


def rows(losses: DocumentLosses) -> Iterator[tuple]:
    """The rows of a file, the names of its columns first."""
    yield COLUMNS
    bytes_D = [""] * len(losses.nll) if losses.bytes is None else losses.bytes.tolist()
    columns = (losses.domain.tolist(), losses.half.tolist(), losses.tokens.tolist(), bytes_D, losses.nll.tolist())
    yield from zip(range(len(losses.nll)), *columns)


def require_replaceable(path: Path) -> None:
    """Raises what `score_files.require_replaceable` raises, unless a file of this kind may be written to `path`."""
    score_files.require_replaceable(path, ORIGIN, "file of losses by document")


def read_document_losses(path: str | os.PathLike) -> DocumentLosses:
    """Reads what `lfr evaluate RUN --by-document` wrote.

    Args:
      path: a file, or a URL.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be reached.
      ValueError: it is no such file, was cut off, or has a row that is none.
    """
    path = as_path(path)
    remedy = f"write it with `lfr evaluate RUN --by-document {path}`"
    if not exists(path):
        raise FileNotFoundError(f"found no file of losses by document {str(path)!r}; {remedy}")
    with local_copy(path) as here, open(here, newline="", encoding="utf-8", errors="replace") as file:
        # A piece of a line that is too long is no row, so that a file without line ends is not read into memory.
        lines = iter(lambda: file.readline(score_files.LONGEST), "")
        first = ORIGIN.fullmatch(next(lines, ""))
        if first is None or next(lines, "") != ",".join(COLUMNS) + "\n":
            raise ValueError(
                f"{path} does not begin as `lfr evaluate RUN --by-document` begins: expected a line '# documents ...', "
                f"then {','.join(COLUMNS)}; {remedy}"
            )
        documents, left_out = map(int, first.groups())
        found = parsed(csv.reader(lines), path, remedy)
        # A number that was cut off is still a number, but its line has no end.
        if len(found) != documents or not score_files.ends_with_newline(here):
            raise ValueError(f"{path}: found {len(found)} whole rows, expected {documents}: it is cut off; {remedy}")
    domain_D, half_D, tokens_D, bytes_D, nll_D = map(np.array, zip(*found))
    if (bytes_D < 0).any() and (bytes_D >= 0).any():
        raise ValueError(f"{path}: found bytes of some documents, expected those of all or of none; {remedy}")
    return DocumentLosses(domain_D, half_D, tokens_D, None if bytes_D[0] < 0 else bytes_D, nll_D, left_out)


def parsed(table: Any, path: Path, remedy: str) -> list[tuple]:
    """The rows of a `csv.reader`: (domain, half, tokens, bytes or -1, nll) of document 0, 1, ..."""
    found, row = [], []
    try:
        for number, row in enumerate(table):
            found.append(values(row, number))
    except csv.Error as error:
        raise ValueError(f"{path}, line {table.line_num + 2}: found no row of CSV ({error}); {remedy}") from None
    except ValueError:
        raise ValueError(
            f"{path}, line {table.line_num + 2}: found {shown(','.join(row))}, expected {','.join(COLUMNS)} of "
            f"document {len(found)}; {remedy}"
        ) from None
    return found


def values(row: list[str], number: int) -> tuple[str, str, int, int, float]:
    """A row as values. Raises ValueError if it is none of document `number`."""
    document, domain, half, tokens, size, nll = row
    counts = int(tokens), int(size or -1)
    in_range = 0 <= counts[0] < 2**62 and (not size or 0 <= counts[1] < 2**62)
    if int(document) != number or half not in HALVES or not in_range:
        raise ValueError
    return domain, half, *counts, float(nll)
