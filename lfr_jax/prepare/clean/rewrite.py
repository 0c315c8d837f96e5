"""Writes what is kept of a store as a new store."""

import os

from lfr_jax.prepare.clean.kept import Kept
from lfr_jax.prepare.store_writer import write_store


def write_kept(kept: Kept, path: str | os.PathLike) -> None:
    """Writes the spans as the documents of a new prepared store. Sources of which nothing is kept are left out.

    If all of a prepared store is kept, the new `tokens.bin` has the same bytes.

    Raises:
      FileExistsError: `path` exists.
      ValueError: nothing is kept.
    """
    store = kept.store
    facts = store.vocab_size, store.eos_id, store.tokenizer_kind, store.tokenizer_digest
    with write_store(path, *facts) as writer:
        source = None
        for chunk in kept.chunks(doing=f"writing {os.path.basename(path)}"):
            if chunk.source != source:
                source = chunk.source
                writer.source(store.sources[source].name, store.sources[source].domain, again=True)
            writer.add(chunk.tokens, chunk.lengths, chunk.goes_on)
