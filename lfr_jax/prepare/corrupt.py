"""The command `lfr data corrupt`: random tokens in place of spans of the training text, for experiments.

A corrupted folder has the blocks of the clean one, each with some junk in it. A second token store, `corrupted/`, says
where: it has the same sources and documents, 1 for each token that was replaced, and 0 for all others. So
`Blocks(open_store("data/bad/corrupted"), seq_len).tokens(ids)` is the mask of the blocks `ids`, under any packing.
"""

import numpy as np
import tyro

from lfr_jax.config.values import AtLeast1, Seed, ShareBetween, checked
from lfr_jax.data.blocks import ranges
from lfr_jax.data.tokenizer import Ids
from lfr_jax.prepare import unigrams
from lfr_jax.prepare.clean.kept import all_documents
from lfr_jax.prepare.derived import derived_folder, open_local
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.storage.files import save_json
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished

MASK = "corrupted"  # the store that says which tokens were replaced
MASK_IDS = Ids(vocab_size=2, eos_id=0)  # of its tokens


@checked
def corrupt_corpus(
    prepared: tyro.conf.Positional[str],
    *,
    out: str,
    share: ShareBetween = 0.15,
    mean_span: AtLeast1 = 16,
    seed: Seed = 0,
) -> None:
    """Replaces spans of the training text by random tokens, drawn as often as the corpus has them.

    Blocks keep their ids and domains, at every length; held-out text stays clean. End-of-text is neither replaced nor
    drawn. OUT/corrupted says which tokens were replaced.

    Args:
      prepared: What `lfr prepare` or `lfr link` wrote. It stays as it is.
      out: Folder to write. It must not exist. Equal input, options and seed give equal bytes.
      share: Share of the tokens to replace.
      mean_span: Mean length of a span, in tokens. Lengths are spread as those of a geometric distribution.
      seed: Random seed.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: there is no corpus.
      ValueError: the corpus is corrupted already, its bytes have changed, or a number is out of range.
    """
    refuse_unless_finished(out)
    clean = open_local(prepared)
    store, tokenizer = clean.train.store, clean.tokenizer
    if (store.path.parent / MASK).exists():
        raise ValueError(f"{store.path.parent}: found {MASK}/ in it: corrupt the clean corpus, with a larger --share")
    made_from = {
        "command": "lfr data corrupt",
        "corpus": [store.fingerprint, clean.valid.store.fingerprint],
        "settings": [share, mean_span, seed],
    }
    if is_finished(out, made_from):
        print(finished(out))
        return
    store.verify()
    rng, replaced = np.random.default_rng(seed), 0
    with derived_folder(out, made_from, clean.valid.store, tokenizer) as folder:
        frequency_V = unigrams.frequencies(store)
        facts = [(one.vocab_size, one.eos_id, one.kind, one.digest) for one in (tokenizer, MASK_IDS)]
        with write_store(folder / "train", *facts[0]) as text, write_store(folder / MASK, *facts[1]) as mask:
            source = None
            for chunk in all_documents(store).chunks(doing="corrupting"):
                if chunk.source != source:
                    source = chunk.source
                    for writer in (text, mask):
                        writer.source(store.sources[source].name, store.sources[source].domain, again=True)
                is_junk = random_spans(len(chunk.tokens), share, mean_span, rng) & (chunk.tokens != tokenizer.eos_id)
                text.add(unigrams.replaced(chunk.tokens, is_junk, frequency_V, rng), chunk.lengths, chunk.goes_on)
                mask.add(is_junk.astype(np.uint8), chunk.lengths, chunk.goes_on)
                replaced += int(is_junk.sum())
        card = {"corrupted_in": store.fingerprint, "share": share, "mean_span": mean_span, "seed": seed}
        save_json(folder / "corrupted.json", card | {"tokens": store.card.tokens, "replaced": replaced})
    print(f"replaced {replaced:,} of {store.card.tokens:,} tokens, {replaced / store.card.tokens:.1%}")


def random_spans(length: int, share: float, mean_span: int, rng: np.random.Generator) -> np.ndarray:
    """bool[length]: true in random spans, for exactly round(share · length) places.

    There are as many spans as the mean length asks for, and at least one; two may touch. All ways to cut the places
    into so many spans are equally likely, which makes their lengths nearly geometric.

    References:
      Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text transformer" (T5),
      arXiv 1910.10683: `random_spans_noise_mask` in its code.

    >>> random_spans(10, 0.4, 2, np.random.default_rng(0)).astype(int)
    array([0, 0, 0, 1, 1, 1, 0, 1, 0, 0])
    """
    is_in = np.zeros(length, bool)
    inside = round(share * length)
    if inside:
        spans = max(1, round(inside / mean_span))
        cuts = np.sort(rng.choice(inside - 1, spans - 1, replace=False)) + 1 if spans > 1 else []
        length_R = np.diff(np.concatenate([[0], cuts, [inside]]).astype(np.int64))
        outside_R = np.sort(rng.integers(length - inside, size=spans, endpoint=True))  # places before each span
        is_in[ranges(outside_R + np.cumsum(length_R) - length_R, length_R)] = True
    return is_in
