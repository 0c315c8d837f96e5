"""The commands `lfr data info`, `verify` and `sample`: what a store holds, whether it is intact, and its text."""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import tyro

from lfr_jax import terminal
from lfr_jax.config import DataConfig, Packing
from lfr_jax.config.values import AtLeast1, Seed, checked
from lfr_jax.data import chunk_digests
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import training_blocks
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.data.store import Store, open_store
from lfr_jax.data.store_card import DOCS
from lfr_jax.data.tokenizer import Tokenizer, load_tokenizer
from lfr_jax.storage.paths import Path, as_path

AT_ONCE = 1 << 23  # tokens read at once
Folder = tyro.conf.Positional[str]


@checked
def info(
    store: Folder,
    seq_len: AtLeast1 = 1024,
    sources: bool = False,
    packing: Packing = "concatenate",
    shortest: AtLeast1 = DataConfig.shortest,
) -> None:
    """Lists the domains of a store: documents, tokens, and blocks.

    Args:
      store: A prepared folder, or one store of it.
      seq_len: Tokens in a block.
      sources: List each source too.
      packing: How documents become training blocks. Held-out blocks are always concatenated.
      shortest: Tokens in the shortest blocks of the packing by_length.
    """
    for side, side_packing in zip(open_sides(store), (packing, "concatenate")):
        made_by = f"{side.tokenizer_kind} {side.tokenizer_digest[:12]}, vocabulary {side.vocab_size:,}"
        print(f"{side.path}: made by {made_by}; fingerprint {side.fingerprint[:12]}")
        rows = [("domain", "sources", "documents", "tokens", "share", f"blocks of {seq_len:,}")]
        counts_Sx3, about = count_by_source(side, seq_len), ""
        if side_packing != "concatenate":
            blocks = training_blocks(side, DataConfig(seq_len=seq_len, packing=side_packing, shortest=shortest))
            counts_Sx3[:, 2], about = blocks.blocks_S, blocks.summary() + "\n"
        for domain in side.domains:
            (of_it,) = np.nonzero([source.domain == domain for source in side.sources])
            rows.append(table_row(unreserved(domain), len(of_it), counts_Sx3[of_it].sum(0), side))
            if sources:
                rows += [table_row(f"  {side.sources[s].name}", "", counts_Sx3[s], side) for s in of_it]
        rows.append(table_row(ALL, len(side.sources), counts_Sx3.sum(0), side))
        print("\n".join(f"{row[0]:<28}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in rows) + f"\n{about}")


def count_by_source(store: Store, seq_len: int) -> np.ndarray:
    """int64[S, 3]: the documents, tokens and concatenated blocks of each source."""
    bounds_Sx2 = np.array([(source.first, source.first + source.count) for source in store.sources])
    documents_S = np.diff(np.searchsorted(store.doc_starts, bounds_Sx2), axis=1)[:, 0]
    tokens_S = np.diff(bounds_Sx2, axis=1)[:, 0]
    return np.stack([documents_S, tokens_S, np.maximum(tokens_S - 1, 0) // seq_len], axis=1)


def table_row(name: str, sources: int | str, counts: np.ndarray, store: Store) -> tuple[str, ...]:
    """The cells of a row: name, as it can be printed, sources, documents, tokens, share of the tokens, blocks."""
    documents, tokens, blocks = (int(count) for count in counts)
    share = f"{tokens / store.card.tokens:.1%}"
    return terminal.printable(name), str(sources), f"{documents:,}", f"{tokens:,}", share, f"{blocks:,}"


def verify(store: Folder) -> None:
    """Reads every byte of a store, and lists everything that is wrong.

    Args:
      store: A prepared folder, or one store of it.

    Raises:
      ValueError: something is wrong.
    """
    sides, found = [], []
    for path in paths_of_sides(store):
        with noted(found):
            sides.append(open_store(path, cache=""))  # no cache: read what the object store holds
    with terminal.bar(total=sum(side.card.tokens for side in sides), unit=" tokens", unit_scale=True) as bar:
        for side in sides:
            with noted(found):
                found.extend(faults(side, bar.update))
    for side in sides:
        folder = tokenizer_of(side)
        with noted(found):
            if folder.is_dir() and load_tokenizer(folder).digest != side.tokenizer_digest:
                found.append(f"{folder}: is not the tokenizer that made {side.path}")
    if found:
        print("\n".join(map(terminal.printable, found)))
        raise ValueError(f"{store}: {len(found)} thing{'s are' if found[1:] else ' is'} wrong, listed above")
    print("\n".join(f"{side.path}: all {side.card.tokens:,} tokens are as they were written" for side in sides))


@contextlib.contextmanager
def noted(found: list[str]) -> Iterator[None]:
    """What fails in the block is added to a list, in words, unless it is there already."""
    try:
        yield
    except (ValueError, OSError) as error:
        found += [str(error)] * (str(error) not in found)


def faults(store: Store, advance=lambda tokens: None) -> Iterator[str]:
    """What is wrong with a store, in words."""
    try:
        store.verify_file(DOCS)
    except ValueError as error:
        yield str(error)
    yield from chunk_digests.faults(store)
    outside = 0
    for part in store.parts:
        for start in range(0, part.tokens, AT_ONCE):
            some = store.read_part(part, start, AT_ONCE)
            outside += int(np.sum(some >= store.vocab_size))
            advance(len(some))
    if outside:
        yield f"{store.path}: found {outside:,} ids that are not in the vocabulary of {store.vocab_size:,}"


@checked
def sample(store: Folder, blocks: AtLeast1 = 2, seq_len: AtLeast1 = 128, domain: str = "", seed: Seed = 0) -> None:
    """Prints random blocks of a store as text.

    Args:
      store: A prepared folder (its training blocks), or one store of it.
      blocks: Number of blocks of each domain.
      seq_len: Tokens in a block.
      domain: Print this domain only.
      seed: Random seed of the choice.

    Raises:
      FileNotFoundError: there is no tokenizer.
      ValueError: no such domain, a number out of its range, or `seq_len` is longer than every source.
    """
    side = open_sides(store)[0]
    tokenizer = load_tokenizer(tokenizer_of(side))
    found = Blocks(side, seq_len)
    if domain and domain not in found.domains:
        known = terminal.printable(", ".join(found.domains))
        raise ValueError(f"{side.path}: found no domain {domain!r}; there are {known}")
    for number, name in enumerate(found.domains):
        (ids,) = np.nonzero(found.domain_N == number)
        chosen = np.sort(np.random.default_rng((seed, number)).permutation(ids)[:blocks])
        if domain in ("", name):
            for block, tokens in zip(chosen, found.tokens(chosen)):
                source = side.sources[found.source_of(np.array([block]))[0]].name
                text = terminal.escaped(decode_documents(tokenizer, tokens[:-1]), keep="\n\t")
                print(f"--- block {block}: {terminal.printable(f'{name}, {source}')} ---\n{text}\n")


def decode_documents(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of tokens. A line with ⏎ stands where a document ends."""
    documents = np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_id) + 1)
    return "\n⏎\n".join(tokenizer.decode([i for i in of_it.tolist() if i != tokenizer.eos_id]) for of_it in documents)


def open_sides(folder: str, cache: str | None = None) -> list[Store]:
    """The store at `folder`; of a prepared folder, its training store and its held-out store: both must be there."""
    return [open_store(path, cache) for path in paths_of_sides(folder)]


def paths_of_sides(folder: str) -> list[Path]:
    path = as_path(folder)
    sides = [path / side for side in ("train", "valid")]
    return sides if any((side / "store.json").exists() for side in sides) else [path]


def tokenizer_of(store: Store) -> Path:
    """The folder of the tokenizer, beside the store."""
    return store.path.parent / "tokenizer"
