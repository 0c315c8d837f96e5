"""A folder that is made from a prepared one: its training text changes; held-out text and tokenizer are copied."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from lfr_jax.config import DataConfig
from lfr_jax.data import chunk_digests, store_card
from lfr_jax.data.corpus import Corpus, open_corpus
from lfr_jax.data.store import Store
from lfr_jax.data.tokenizer import Tokenizer
from lfr_jax.storage.files import atomic_folder, explain_full_disk
from lfr_jax.storage.paths import require_local


def open_local(prepared: str | os.PathLike, seq_len: int = 1) -> Corpus:
    """What `lfr prepare` or `lfr link` wrote, on this machine. With one token a block, it has all but empty sources.

    Raises:
      FileNotFoundError: there is no corpus.
      ValueError: as `open_corpus`, or `prepared` is a URL.
    """
    return open_corpus(DataConfig(store=str(require_local(prepared)), seq_len=seq_len))


@contextlib.contextmanager
def derived_folder(
    out: str | os.PathLike, made_from: dict[str, Any], valid: Store, tokenizer: Tokenizer
) -> Iterator[pathlib.Path]:
    """Gives the folder in which to write `train/`. It appears at `out` once it is complete, or never.

    Raises:
      FileExistsError: `out` exists.
    """
    with explain_full_disk(out), atomic_folder(out, made_from) as folder:
        yield folder
        copy_store(valid, folder / "valid")
        tokenizer.save(folder / "tokenizer")


def copy_store(store: Store, path: str | os.PathLike) -> None:
    """Copies a store byte by byte. Links of a linked store lead to the same files."""
    path = pathlib.Path(path)
    path.mkdir()
    digests = [chunk_digests.FILE] if (store.path / chunk_digests.FILE).is_file() else []
    for name in (*store.card.files, *digests, store_card.FILE):
        file = store.path / name
        if file.is_symlink():
            (path / name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, path / name)
