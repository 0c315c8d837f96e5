"""A store written again, with the tokens that are kept alone."""

import os

from lfr_jax.prepare.clean.kept import Kept
from lfr_jax.prepare.store_writer import write_store


def write_kept(kept: Kept, path: str | os.PathLike) -> None:
    """Writes the runs as the documents of a new prepared store. Sources of which nothing is kept are left out.

    Where all is kept, the bytes of `tokens.bin` are those of the old one, if that was a prepared store.

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
