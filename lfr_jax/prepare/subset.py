"""The command `lfr data subset`: a smaller corpus of whole documents, with the domains in the shares asked for."""

from typing import Annotated

import numpy as np
import tyro
from msgspec import Meta

from lfr_jax.config.values import Seed, Share, check_value, checked, from_word, nearest
from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.data.store import Store, open_store
from lfr_jax.prepare.assemble import Count
from lfr_jax.prepare.clean.clean_report import count_by_domain, domain_of, total
from lfr_jax.prepare.clean.duplicates import document_digests, first_equal
from lfr_jax.prepare.clean.kept import Kept, all_documents
from lfr_jax.prepare.clean.rewrite import write_kept
from lfr_jax.prepare.derived import derived_folder, open_local
from lfr_jax.storage.files import save_json
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished
from lfr_jax.storage.paths import require_local
from lfr_jax.terminal import printable

Tokens = Annotated[int, Meta(ge=1, le=2**62)]


@checked
def subset_corpus(
    prepared: tyro.conf.Positional[str],
    *,
    out: str,
    tokens: Tokens,
    shares: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    seed: Seed = 0,
) -> None:
    """Takes a part of the training documents. Held-out text stays as it is.

    The documents of each domain are put in a random order, and the first of them are taken: so many that their tokens
    are as near as can be to what was asked for, and at least one. With the same seed, a larger subset has all documents
    of a smaller one with the same shares.

    Args:
      prepared: What `lfr prepare` or `lfr link` wrote. It stays as it is.
      out: Folder to write. It must not exist. Equal input, options and seed give equal bytes.
      tokens: Training tokens of the result, to within half a document of each domain.
      shares: Shares of the tokens by domain, such as `math=0.05 fiction=0`. What they leave goes to the other domains,
        in the proportions that these have. By default, all domains keep their proportions.
      without: Other folders of the same tokenizer; a document that is in the training text of one is not taken.
      seed: Random seed.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: there is no corpus.
      ValueError: a domain has too little text or does not exist, the shares do not fit, the bytes of the corpus have
        changed, or a number is out of range.
    """
    refuse_unless_finished(out)
    whole = open_local(prepared)
    store = whole.train.store
    asked = parse_shares(shares, store.domains)
    others = [open_other(folder, store) for folder in without]
    made_from = {
        "command": "lfr data subset",
        "corpus": [store.fingerprint, whole.valid.store.fingerprint],
        "without": [other.fingerprint for other in others],
        "settings": [tokens, asked, seed],
    }
    if is_finished(out, made_from):
        print(finished(out))
        return
    store.verify()
    documents = all_documents(store)
    have = {domain: count.tokens for domain, count in count_by_domain(documents).items()}
    wanted = tokens_of_each(have, tokens, asked)
    taken = documents.take(choose(documents, wanted, in_none_of(others, documents), seed))
    counts = count_by_domain(taken)
    with derived_folder(out, made_from, whole.valid.store, whole.tokenizer) as folder:
        write_kept(taken, folder / "train")
        card = {"subset_of": store.fingerprint, "tokens": tokens, "shares": asked, "seed": seed}
        card |= {"without": made_from["without"]}
        save_json(folder / "subset.json", card | {"train": {name: count._asdict() for name, count in counts.items()}})
    print(in_words(counts))


def parse_shares(words: tuple[str, ...], domains: tuple[str, ...]) -> dict[str, float]:
    """The shares by domain that words such as `math=0.05` ask for.

    Raises:
      ValueError: a word of another form, a domain that does not exist or comes twice, or shares of more than 1.

    >>> parse_shares(("math=0.05", "prose=0"), ("code", "math", "prose"))
    {'math': 0.05, 'prose': 0.0}
    """
    shares = {}
    for word in words:
        domain, equals, number = word.rpartition("=")
        if not equals or domain in shares:
            raise ValueError(f"found --shares {' '.join(words)}; expected DOMAIN=SHARE, each domain once")
        if domain not in domains:
            hint = nearest(domain, domains)
            raise ValueError(f"found --shares {word}; {hint}the domains are {', '.join(map(printable, domains))}")
        shares[domain] = from_word(f"the share of {domain}", number, float)
        check_value(f"the share of {domain}", shares[domain], Share)
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"found --shares {' '.join(words)}, {sum(shares.values()):g} in all; expected at most 1")
    return shares


def tokens_of_each(have: dict[str, int], tokens: int, shares: dict[str, float]) -> dict[str, int]:
    """How many tokens to take of each domain.

    >>> tokens_of_each({"code": 600, "prose": 300, "tables": 100}, 200, {"tables": 0.4})
    {'code': 80, 'prose': 40, 'tables': 80}
    """
    rest = 1 - sum(shares.values())
    others = sum(count for domain, count in have.items() if domain not in shares)
    if rest > 1e-9 and not others:
        raise ValueError(
            f"found shares of all domains, {1 - rest:g} in all; expected 1, or leave a domain out of --shares, which "
            "then gets the rest"
        )
    share_of = {domain: shares[domain] if domain in shares else max(rest, 0) * n / others for domain, n in have.items()}
    return {domain: max(1, round(tokens * share)) if share else 0 for domain, share in share_of.items()}


def choose(documents: Kept, wanted: dict[str, int], is_free_D: np.ndarray, seed: int) -> np.ndarray:
    """The numbers of the documents to take, sorted. `is_free_D`: bool[D], which may be taken."""
    domain_D, chosen = domain_of(documents), []
    for number, (domain, tokens) in enumerate(wanted.items()):
        if tokens:
            order = np.random.default_rng((seed, number)).permutation(np.flatnonzero(domain_D == number))
            order = order[is_free_D[order]]
            reached = np.cumsum(documents.length_D[order])
            if not len(order) or reached[-1] < tokens:
                found = reached[-1] if len(order) else 0
                raise ValueError(
                    f"found {found:,} tokens of {printable(domain)} that can be taken, expected {tokens:,}: lower "
                    f"--tokens, or its share with --shares {printable(domain)}=SHARE"
                )
            chosen.append(order[: np.argmin(np.abs(reached - tokens)) + 1])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def open_other(folder: str, store: Store) -> Store:
    """The training store of another folder. Raises ValueError if another tokenizer made it than `store`."""
    other = open_store(require_local(folder) / "train")
    if other.tokenizer_digest != store.tokenizer_digest:
        raise ValueError(
            f"{other.path}: found tokens of another tokenizer than those of {store.path}, so that equal documents "
            "cannot be told: make both from one folder"
        )
    return other


def in_none_of(others: list[Store], documents: Kept) -> np.ndarray:
    """bool[D]: whether a document has other tokens than all documents of the other stores."""
    if not others:
        return np.ones(len(documents.start_D), bool)
    taken_Kx2 = np.concatenate([document_digests(all_documents(other)) for other in others])
    return first_equal(np.concatenate([taken_Kx2, document_digests(documents)]))[len(taken_Kx2) :] >= len(taken_Kx2)


def in_words(counts: dict[str, Count]) -> str:
    """A table of what was taken."""
    whole = total(counts)
    named = {printable(unreserved(domain)): count for domain, count in counts.items()} | {ALL: whole}
    lines = [f"{'domain':<20}{'documents':>14}{'tokens':>16}{'share':>9}"]
    lines += [
        f"{name:<20}{n.documents:>14,}{n.tokens:>16,}{n.tokens / whole.tokens:>9.1%}" for name, n in named.items()
    ]
    return "\n".join(lines)
