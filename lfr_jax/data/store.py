"""The token store: text as one array of token ids on disk, and its blocks, read at random.

A store is a folder: `tokens.bin` (little-endian uint16, or uint32 if the vocabulary exceeds
65,536; or links to token files of other programs), `docs.npy` (int64, where each document starts),
`store.json` (all else). It fixes no sequence length: block i of a source is its tokens
i·T ... i·T + T, inputs and shifted targets.
"""

import functools
import hashlib
import json
import os
import threading
from typing import NamedTuple

import numpy as np

from lfr_jax.storage.paths import Path, absolute, is_remote
from lfr_jax.storage.remote_files import Version, cache_folder, open_tokens, read_bytes, stamp_of
from lfr_jax.storage.token_files import Part, Stamp, TokenFile

FORMAT, VERSION = "lfr token store", 1
OPEN_FILES = 256  # files of a store that are open at once: a process may have 1,024 by default


class Source(NamedTuple):
    """A run of documents from one place, contiguous in the store. Blocks never cross its ends."""

    name: str
    domain: str
    first: int  # its first token
    count: int  # its tokens


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ValueError unless all tokens are in the vocabulary."""
    if len(tokens) and not 0 <= np.min(tokens) <= np.max(tokens) < vocab_size:
        raise ValueError(
            f"found token ids from {np.min(tokens)} to {np.max(tokens)}, expected 0 to {vocab_size - 1}: "
            f"vocab_size={vocab_size} is not that of the tokenizer which made them"
        )


def fingerprint(card: dict) -> str:
    """sha256, in hex, of the card without its fingerprint: equal for equal content, wherever it lies."""
    rest = {name: value for name, value in card.items() if name != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """A complete store, opened by `open_store`. Pickles as its path, and is reopened in the other process.

    Its tokens lie in `parts`, numbered on from one to the next. A prepared store is one part, its
    `tokens.bin`; the parts of a linked one (`lfr link`) are runs of other programs' files. Of a store
    in an object store, `cache` is the setting `data.cache`.
    """

    def __init__(self, path: Path, card: dict, stamps: dict[str, Stamp | Version], cache: str | None = None):
        self.path, self.card, self.stamps, self.cache = path, card, stamps, cache
        self.fingerprint: str = card["fingerprint"]
        self.vocab_size: int = card["vocab_size"]
        self.eos_id: int = card["eos_id"]
        self.tokenizer_kind: str = card["tokenizer"]["kind"]
        self.tokenizer_digest: str = card["tokenizer"]["digest"]
        self.sources = tuple(Source(**source) for source in card["sources"])
        self.domains = tuple(dict.fromkeys(source.domain for source in self.sources))
        whole = Part("tokens.bin", token_dtype(self.vocab_size).str, 0, card["tokens"])
        self.parts = tuple(Part(**part) for part in card["parts"]) if "parts" in card else (whole,)
        tokens_P = np.array([part.tokens for part in self.parts])
        self.first_P = np.cumsum(tokens_P) - tokens_P  # first token
        self._opened = functools.lru_cache(OPEN_FILES)(self._open)
        self._opening = threading.Lock()

    def _open(self, name: str) -> TokenFile:
        return open_tokens(self.path / name, self.stamps[name], cache_folder(self.cache, self.fingerprint))

    def opened(self, name: str) -> TokenFile:
        """A file of the store: the same one for all threads."""
        with self._opening:
            return self._opened(name)

    def read(self, start_B: np.ndarray, count: int) -> np.ndarray:
        """The tokens int32[B, count] from each start on. No run may leave its part.

        Raises:
          StoreChanged: a file that was read from is no longer the one that was opened.
        """
        part_B = np.searchsorted(self.first_P, start_B, side="right") - 1
        runs = []
        for number in np.unique(part_B).tolist():
            name, dtype, offset, _ = self.parts[number]
            of_part_B = part_B == number
            starts = offset + (start_B[of_part_B] - self.first_P[number]) * np.dtype(dtype).itemsize
            runs.append((of_part_B, dtype, self.opened(name), starts.tolist(), count * np.dtype(dtype).itemsize))
        for _, _, file, starts, size in runs:
            file.prefetch(starts, size)
        tokens_BxT = np.empty((len(start_B), count), np.int32)
        for of_part_B, dtype, file, starts, size in runs:
            tokens_BxT[of_part_B] = np.frombuffer(file.read(starts, size), dtype).reshape(-1, count)
        return tokens_BxT

    def run(self, part: Part, start: int, count: int) -> np.ndarray:
        """`count` tokens of a part, or fewer at its end, in the type that they have in its file."""
        size, count = np.dtype(part.dtype).itemsize, min(count, part.tokens - start)
        return np.frombuffer(self.opened(part.file).read([part.offset + start * size], count * size), part.dtype)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """All tokens: a mapping of the file, or a copy in memory if there are several parts. For a look at them."""
        if is_remote(self.path):
            return np.concatenate([self.run(part, 0, part.tokens) for part in self.parts])
        arrays = [np.memmap(self.path / name, dtype, "r", offset, count) for name, dtype, offset, count in self.parts]
        return np.asarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)

    @functools.cached_property
    def doc_starts(self) -> np.ndarray:
        """int64[documents]: the first token of each."""
        with (self.path / "docs.npy").open("rb") as file:
            return np.load(file)

    def verify(self) -> None:
        """Reads every byte. Raises ValueError where a file is not what was written."""
        for name, expected in self.card["files"].items():
            found = file_sha256(self.path / name)
            if found != expected["sha256"]:
                raise ValueError(
                    f"{self.path / name}: found sha256 {found[:12]}, expected {expected['sha256'][:12]}: "
                    "its bytes have changed; restore the file or prepare the data again"
                )

    def __reduce__(self):
        return reopen, (self.path, self.fingerprint, self.stamps, self.cache)


def open_store(path: str | os.PathLike, cache: str | None = None) -> Store:
    """Opens a store after checking its card and the sizes of its files (`Store.verify` checks each byte).

    `path` may be a URL, such as gs://bucket/data/owt/train; `cache` is then the setting `data.cache`.

    Raises:
      FileNotFoundError: no store there, or a file of it is missing.
      ModuleNotFoundError: URLs of this kind need another package.
      ValueError: another format or version, an edited card, or a file of the wrong size.
    """
    path = absolute(path)
    card_file = path / "store.json"
    try:
        text = read_bytes(card_file)
    except (FileNotFoundError, NotADirectoryError):
        inner = [name for name in ("train", "valid") if (path / name / "store.json").is_file()]
        made = "copy one there (gcloud storage cp -r)" if is_remote(path) else "make one with `lfr prepare`"
        hint = f"open {path / inner[0]}" if inner else made
        raise FileNotFoundError(f"{path}: found no store.json, expected a token store; {hint}") from None
    try:
        card = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{card_file}: found no valid JSON ({error}); prepare the data again") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"{card_file}: found no format {FORMAT!r} in it: this is no token store")
    if card["version"] != VERSION:
        raise ValueError(
            f"{card_file}: found version {card['version']}, expected {VERSION}; prepare the data again, or "
            "use the release of lfr_jax that wrote it"
        )
    if card["fingerprint"] != fingerprint(card):
        raise ValueError(f"{card_file}: does not match its own fingerprint: it was edited; restore it")
    stamps = {name: checked_stamp(path / name, expected["bytes"]) for name, expected in card["files"].items()}
    return Store(path, card, stamps, cache)


def checked_stamp(file: Path, size: int) -> Stamp | Version:
    """The stamp of a store's file; raises FileNotFoundError or ValueError unless it has `size` bytes."""
    mend = "copy the whole store again"
    if not is_remote(file) and file.is_symlink():
        file, mend = file.parent / os.readlink(file), "put the linked file back, or link again"
    try:
        found = stamp_of(file)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{file}: is missing; {mend}") from None
    if found.size != size:
        raise ValueError(f"{file}: found {found.size} bytes, expected {size}: it was changed, or cut off; {mend}")
    return found


def reopen(path: Path, expected: str, stamps: dict[str, Stamp | Version], cache: str | None) -> Store:
    store = open_store(path, cache)
    if store.fingerprint != expected:
        raise ValueError(
            f"{path}: found a store of fingerprint {store.fingerprint[:12]}, expected {expected[:12]}: "
            "it was replaced while in use; start again"
        )
    return Store(path, store.card, stamps, cache)  # which a file that changed meanwhile does not fit
