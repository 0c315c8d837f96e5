"""A smaller corpus of whole documents."""

import json

import numpy as np
import pytest
from helpers import files, write_tokens

from lfr_jax.commands.text import data
from lfr_jax.data import corpus
from lfr_jax.data.store import Store, open_store
from lfr_jax.prepare.prepare import prepare_paths

EOS = 999


def lfr_data(*arguments) -> None:
    data(list(map(str, arguments)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three domains of 60 %, 30 % and 10 % of the tokens, the first in two sources; no two documents are equal."""
    number = iter(range(10**6))

    def texts(count, size):
        return [[*divmod(next(number), 900), *range(size - 3), EOS] for _ in range(count)]

    train = {("code", "a"): texts(150, 20), ("code", "b"): texts(150, 20), ("prose", "c"): texts(100, 30)}
    train |= {("tables", "d"): texts(10, 100)}
    held_out = {(domain, "held out"): texts(3, 50) for domain in ("code", "prose", "tables")}
    return write_tokens(tmp_path_factory.mktemp("subset") / "whole", train, held_out)


def subset(whole, name, tokens, *options) -> Store:
    lfr_data("subset", whole, "--out", whole.with_name(name), "--tokens", tokens, *options)
    return open_store(whole.with_name(name) / "train")


def by_domain(store: Store) -> dict[str, int]:
    return {
        domain: sum(source.count for source in store.sources if source.domain == domain) for domain in store.domains
    }


def documents(store: Store) -> list[tuple]:
    return [tuple(some.tolist()) for some in np.split(store.tokens, store.doc_starts[1:])]


def test_all_domains_keep_their_proportions(whole, capsys):
    """Catches: documents that are cut, or in another order than in the whole; equal shares of the domains; a share of
    the documents in place of the tokens; the first documents in place of random ones; a changed held-out side."""
    everything = documents(open_store(whole / "train"))
    store = subset(whole, "tenth", 1000)
    assert by_domain(store) == {"code": 600, "prose": 300, "tables": 100}
    assert "code                            30             600    60.0%" in capsys.readouterr().out
    taken = [everything.index(document) for document in documents(store)]
    assert taken == sorted(taken) and len(taken) == 41
    assert len({number // 50 for number in taken[:30]}) > 3 and [source.name for source in store.sources] == list(
        "abcd"
    )
    assert files(whole.with_name("tenth") / "valid") == files(whole / "valid")
    assert files(whole.with_name("tenth") / "tokenizer") == files(whole / "tokenizer")
    card = json.loads((whole.with_name("tenth") / "subset.json").read_text())
    assert card["subset_of"] == open_store(whole / "train").fingerprint
    assert card["train"]["prose"] == {"documents": 10, "tokens": 300}


def test_shares_of_some_domains(whole):
    """Catches: a share of the domain's own tokens; the rest spread evenly; a domain of share 0 that is there."""
    store = subset(whole, "shares", 1000, "--shares", "code=0.1", "tables=0.3")
    assert by_domain(store) == {"code": 100, "prose": 600, "tables": 300}
    store = subset(whole, "none", 1000, "--shares", "prose=0")
    assert by_domain(store) == {"code": 860, "tables": 100}  # as 6 to 1, to the nearest document
    store = subset(whole, "all", 1000, "--shares", "code=0.1", "prose=0.9")
    assert by_domain(store) == {"code": 100, "prose": 900}
    assert by_domain(subset(whole, "few", 3)) == {"code": 20, "prose": 30, "tables": 100}  # one document each


def test_the_nearest_number_of_documents(whole):
    """Catches: the last document taken if most of it is too much, or left if most of it is missing."""
    alone = ("--shares", "tables=1")
    sizes = [by_domain(subset(whole, f"t{tokens}", tokens, *alone))["tables"] for tokens in (240, 260)]
    assert sizes == [200, 300]


def test_seeds_are_nested_and_without_is_disjoint(whole):
    """Catches: a seed that is not followed; a larger subset that lacks documents of a smaller one; documents of another
    folder taken again, or the order of the others changed by it."""
    small, large, other = (set(documents(subset(whole, *asked))) for asked in (
        ("small", 1000), ("large", 3000), ("other", 1000, "--seed", 1)))  # fmt: skip
    assert small < large and small != other
    rest = documents(subset(whole, "rest", 2000, "--without", whole.with_name("small"), whole.with_name("other")))
    assert not set(rest) & (small | other) and len(rest) == 82
    assert len(large & set(rest)) > len(rest) / 2
    subset(whole, "same", 1000)
    assert files(whole.with_name("same")) == files(whole.with_name("small"))


def test_what_cannot_be_made_leaves_nothing(whole, corpus_dir, tmp_path, monkeypatch):
    """Catches: a share passed over in silence; less text than was asked for; tokens of different tokenizers compared;
    damage that gets a new digest; half a folder."""
    for tokens, options, message in (
        (0, (), "tokens is 0, expected a whole number, at least 1"),
        (10**5, (), "found 6,000 tokens of code that can be taken, expected 60,000: lower --tokens, or its share"),
        (
            1000,
            ("--shares", "codes=0.1"),
            "found --shares codes=0.1; did you mean 'code'[?] the domains are code, prose",
        ),
        (1000, ("--shares", "code"), "found --shares code; expected DOMAIN=SHARE, each domain once"),
        (1000, ("--shares", "code=0.1", "code=0.2"), "expected DOMAIN=SHARE, each domain once"),
        (1000, ("--shares", "code=many"), "the share of code is 'many', expected a number"),
        (1000, ("--shares", "code=0.7", "prose=0.7"), "1.4 in all; expected at most 1"),
        (
            1000,
            ("--shares", "code=0.1", "prose=0.1", "tables=0.1"),
            "found shares of all domains, 0.3 in all; expected 1",
        ),
        (1000, ("--without", corpus_dir), "found tokens of another tokenizer than those of"),
        (1000, ("--without", whole), "found 0 tokens of code that can be taken"),
    ):
        with pytest.raises(ValueError, match=message):
            lfr_data("subset", whole, "--out", tmp_path / "out", "--tokens", tokens, *options)
    with pytest.raises(FileExistsError, match="never overwritten"):
        lfr_data("subset", "nowhere", "--out", whole, "--tokens", 9)
    broken = write_tokens(tmp_path / "broken", {("x", "x"): [[1, 2, EOS]] * 9}, {("x", "x"): [[1, EOS]]})
    content = bytearray((broken / "train/tokens.bin").read_bytes())
    content[0] ^= 1
    (broken / "train/tokens.bin").write_bytes(content)
    monkeypatch.setattr(corpus, "check_some", lambda store, rng: "")  # as for a large store
    with pytest.raises(ValueError, match="changed"):
        lfr_data("subset", broken, "--out", tmp_path / "out", "--tokens", 9)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_nothing_can_be_appended_to_a_subset(whole):
    """Catches: a subset that becomes the beginning of a corpus, which would leave out what the subset left out."""
    subset(whole, "appended", 1000)
    with pytest.raises(FileNotFoundError, match="without which nothing can be appended"):
        prepare_paths((), out=str(whole.with_name("out")), append=str(whole.with_name("appended")), embedded=True)
