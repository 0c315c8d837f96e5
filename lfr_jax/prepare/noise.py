"""The command `lfr data noise`: junk among the training blocks, for experiments. Each kind of junk is a domain.

A noisy folder is a clean one with new sources behind the old ones. So each clean block keeps its id, every figure by
domain shows what a policy does with the noise, and held-out text stays clean.
"""

from collections.abc import Iterator

import numpy as np
import tyro

from lfr_jax.config.values import AtLeast1, Seed, ShareBetween, checked
from lfr_jax.data.corpus import Corpus
from lfr_jax.data.tokenizer import Ids
from lfr_jax.prepare import inputs, text_source
from lfr_jax.prepare.derived import derived_folder, open_local
from lfr_jax.prepare.noise_kinds import COPIES, ENCODED, KINDS, Kind, noise_tokens
from lfr_jax.prepare.store_writer import StoreWriter, write_store
from lfr_jax.storage.files import save_json
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished

PREFIX = "noise_"  # of the names of the domains
SHARE = 0.2  # of junk, if nothing else is asked for


@checked
def add_noise(
    prepared: tyro.conf.Positional[str],
    *,
    out: str,
    share: ShareBetween | None = None,
    kinds: tuple[Kind, ...] = ("shuffled", "hex", "duplicated"),
    seq_len: AtLeast1 = 1024,
    foreign: tuple[str, ...] = (),
    copies: AtLeast1 = 16,
    copied: ShareBetween | None = None,
    edited: ShareBetween = 0.15,
    seed: Seed = 0,
) -> None:
    """Adds junk blocks to a corpus, in domains of their own: noise_shuffled, noise_hex, ...

    Args:
      prepared: What `lfr prepare` or `lfr link` wrote. It stays as it is.
      out: Folder to write. It must not exist. Equal input, options and seed give equal bytes.
      share: Share of junk in the result: of all training blocks, old and new; by default 0.2. The kinds get equal parts
        of it.
      kinds: shuffled: the tokens of real blocks in random order; hex: hex dumps of random bytes; foreign: the text of
        --foreign; duplicated: copies of a few real blocks; near_duplicated: such copies, each edited in other places.
      seq_len: Tokens in a block.
      foreign: Files and folders, as for `lfr prepare`, of text that is foreign to the corpus.
      copies: Number of copies of each block that is copied; the block itself stays too.
      copied: In place of --share, for the kinds that copy: each copies this share of the clean blocks.
      edited: Share of the tokens of a near-duplicate that are replaced by random ones, drawn as often as the corpus has
        them.
      seed: Random seed.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: there is no corpus, or no foreign text.
      ValueError: a kind cannot be made from this corpus, there is too little foreign text, options exclude each other,
        or a number is out of range.
    """
    refuse_unless_finished(out)
    clean = open_local(prepared, seq_len)
    refuse_bad_noise(clean, kinds, foreign)
    distinct, sizes = blocks_of_each(clean.train.num_blocks, kinds, share, copied, copies)
    made_from = {
        "command": "lfr data noise",
        "corpus": [clean.train.store.fingerprint, clean.valid.store.fingerprint],
        "foreign": [text_input.stamp for text_input in inputs.of_paths(foreign)],
        "settings": [share, kinds, seq_len, copies, copied, edited, seed],
    }
    if is_finished(out, made_from):
        print(finished(out))
        return
    tokenizer, store = clean.tokenizer, clean.train.store
    with derived_folder(out, made_from, clean.valid.store, tokenizer) as folder:
        streams = {kind: noise_tokens(kind, clean, seed, distinct[kind], edited, foreign) for kind in kinds}
        facts = tokenizer.vocab_size, tokenizer.eos_id, tokenizer.kind, tokenizer.digest
        with write_store(folder / "train", *facts, after=store) as writer:
            for kind in kinds:
                writer.source(kind, PREFIX + kind)
                # One more token: the last target of a block is the first input of the next.
                append_tokens(writer, streams[kind], sizes[kind] * seq_len + 1, kind, tokenizer.eos_id)
        total = clean.train.num_blocks + sum(sizes.values())
        card = {
            "noise_in": store.fingerprint,
            "share": sum(sizes.values()) / total,
            "seq_len": seq_len,
            "seed": seed,
            "clean_blocks": clean.train.num_blocks,
            "noise_blocks": {PREFIX + kind: sizes[kind] for kind in kinds},
            "copied_blocks": {PREFIX + kind: distinct[kind] for kind in kinds if kind in COPIES},
            "foreign": foreign,
            "copies": copies,
            "edited": edited,
        }
        save_json(folder / "noise.json", card)
    rows = {"clean": clean.train.num_blocks} | card["noise_blocks"]
    print("\n".join(f"{name:<24}{n:>14,} blocks{n / total:>8.1%}" for name, n in rows.items()))


def refuse_bad_noise(clean: Corpus, kinds: tuple[Kind, ...], foreign: tuple[str, ...]) -> None:
    """Raises ValueError if the noise cannot be made. Called before anything is written."""
    where = clean.train.store.path.parent
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"found --kinds {' '.join(kinds)}; expected one or more of {', '.join(KINDS)}, each once")
    if found := [domain for domain in clean.train.domains if domain.startswith(PREFIX)]:
        raise ValueError(f"{where}: found {', '.join(found)} in it: add noise to the clean corpus, all kinds at once")
    if bool(foreign) != ("foreign" in kinds):
        half = "--foreign without the kind foreign" if foreign else "the kind foreign without --foreign"
        raise ValueError(
            f"found {half}; give both, as in `--kinds foreign --foreign german.jsonl books/`: text to be encoded by "
            "this corpus's tokenizer"
        )
    if isinstance(clean.tokenizer, Ids) and (encoded := [kind for kind in ENCODED if kind in kinds]):
        raise ValueError(
            f"{where}: was linked without a tokenizer, so no text can be encoded: leave {' and '.join(encoded)} out of "
            "--kinds, or link it again with a tokenizer"
        )


def blocks_of_each(
    clean: int, kinds: tuple[Kind, ...], share: float | None, copied: float | None, copies: int
) -> tuple[dict[Kind, int], dict[Kind, int]]:
    """How many different blocks, and how many blocks, to make of each kind.

    Args:
      clean: number of clean blocks.
      share: of junk among all blocks, clean ones and junk.
      copied: in place of `share`: of the clean blocks.

    >>> blocks_of_each(80, ("hex", "duplicated"), share=0.2, copied=None, copies=4)
    ({'hex': 10, 'duplicated': 3}, {'hex': 10, 'duplicated': 10})
    >>> blocks_of_each(80, ("duplicated",), share=None, copied=0.05, copies=9)
    ({'duplicated': 4}, {'duplicated': 36})
    """
    if copied is not None:
        if share is not None or not set(kinds) <= set(COPIES):
            found = "--share" if share is not None else f"--kinds {' '.join(kinds)}"
            raise ValueError(
                f"found --copied {copied} with {found}; --copied takes the place of --share, and goes with "
                f"--kinds {' '.join(COPIES)}, or one of them"
            )
        distinct = round(clean * copied)
        if not distinct:
            raise ValueError(
                f"found --copied {copied} of {clean:,} blocks, which is none; raise it, or lower --seq-len"
            )
        return dict.fromkeys(kinds, distinct), dict.fromkeys(kinds, distinct * copies)
    share = SHARE if share is None else share
    total = round(clean * share / (1 - share))
    if total < len(kinds):
        raise ValueError(
            f"found --share {share} of {clean:,} blocks and {len(kinds)} kinds, which makes {total} junk blocks; "
            "expected at least one of each kind: raise --share, or lower --seq-len"
        )
    sizes = dict(zip(kinds, text_source.split_evenly(total, len(kinds))))
    return {kind: -(-size // copies) if kind in COPIES else size for kind, size in sizes.items()}, sizes


def append_tokens(writer: StoreWriter, tokens: Iterator[np.ndarray], total: int, kind: Kind, eos_id: int) -> None:
    """Appends the first `total` tokens of a stream. A document ends at end-of-text.

    Raises:
      ValueError: the stream ends before.
    """
    missing, goes_on = total, False
    for some in tokens:
        some = some[:missing]
        ends = np.union1d(np.flatnonzero(some == eos_id) + 1, [len(some)])
        writer.add(some, np.diff(ends, prepend=0), goes_on)
        missing, goes_on = missing - len(some), some[-1] != eos_id
        if not missing:
            return
    raise ValueError(
        f"found {total - missing:,} tokens of {kind} text, expected {total:,}: give more of it, or lower --share"
    )
