"""`lfr data`: what is in a store, whether it is right, and what it reads like."""

import json
import re
import shutil

import numpy as np
import pytest

from lfr_jax.commands.text import data
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare.inspect import decode_documents
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.prepare.text_source import Document


@pytest.fixture
def lfr_data(capsys):
    def run(*arguments) -> str:
        data(list(map(str, arguments)))
        return capsys.readouterr().out

    return run


def test_info_counts_what_is_there(lfr_data, corpus_dir):
    """Catches: a domain or a side left out; blocks of another length; documents of another source."""
    out = lfr_data("info", corpus_dir, "--seq-len", 32, "--sources")
    rows = re.findall(r"^( *[\w-]+) .*?([\d,]+) +([\d,]+) +[\d.]+% +([\d,]+)$", out, re.MULTILINE)
    found = [(name.strip(), *(int(number.replace(",", "")) for number in numbers)) for name, *numbers in rows]
    for side, half in (("train", found[:7]), ("valid", found[7:])):
        store = open_store(corpus_dir / side)
        cut = Blocks(store, 32)
        for source, of_domain, of_source in zip(store.sources, half[:-1:2], half[1:-1:2]):
            documents = np.sum((store.doc_starts >= source.first) & (store.doc_starts < source.first + source.count))
            blocks = np.sum(cut.domain_N == store.domains.index(source.domain))
            assert of_domain == (source.domain, documents, source.count, blocks)
            assert of_source == (source.name, documents, source.count, blocks)
        assert half[-1] == ("all", len(store.doc_starts), len(store.tokens), cut.num_blocks)
    assert "made-up" not in lfr_data("info", corpus_dir / "train")


def test_info_counts_packed_blocks_for_training_alone(lfr_data, short_documents):
    """Catches: concatenated blocks counted; held-out blocks counted as packed, which no run does."""
    out = lfr_data("info", short_documents, "--seq-len", 32, "--packing", "best_fit")
    train, valid = (open_store(short_documents / side) for side in ("train", "valid"))
    packed = PackedBlocks(train, 32)
    found = [int(row.split()[-1].replace(",", "")) for row in out.splitlines() if row.startswith("all ")]
    assert found == [packed.num_blocks, Blocks(valid, 32).num_blocks] and found[0] != Blocks(train, 32).num_blocks
    assert out.count("best-fit packing: ") == 1 and packed.summary() in out


def rewritten(store, **changes):
    """A store whose card says something else, under a fingerprint that fits."""
    from lfr_jax.data.store_card import fingerprint

    card = json.loads((store / "store.json").read_text()) | changes
    card["fingerprint"] = fingerprint(card)
    (store / "store.json").write_text(json.dumps(card))


def test_verify_lists_all_that_is_wrong(lfr_data, corpus_dir, tmp_path, capsys):
    """Catches: a check that ends with the first fault; one of the sizes alone; ids, documents, sources or the tokenizer
    never looked at."""
    assert "train: all" in (out := lfr_data("verify", corpus_dir)) and "valid: all" in out
    shutil.copytree(corpus_dir, tmp_path / "c")
    for name in ("tokens.bin", "docs.npy"):
        content = bytearray((tmp_path / "c/train" / name).read_bytes())
        content[-1 if name == "tokens.bin" else -3] ^= 64
        (tmp_path / "c/train" / name).write_bytes(content)
    rewritten(tmp_path / "c/valid", tokenizer={"kind": "bytes", "digest": "0" * 64})
    with pytest.raises(ValueError, match="c: 4 things are wrong, listed above"):
        lfr_data("verify", tmp_path / "c")
    faults = capsys.readouterr().out.splitlines()
    for wanted in (
        "train/tokens.bin: found sha256",
        "train/docs.npy: found sha256",
        "train: found 1 ids that are not in the vocabulary of 257",
        "tokenizer: is not the tokenizer that made .*valid",
    ):
        assert any(re.search(wanted, fault) for fault in faults), (wanted, faults)


def test_verify_goes_on_after_a_card_that_is_wrong(lfr_data, corpus_dir, tmp_path, capsys):
    """Catches: a card, or a tokenizer, that ends the list; digests of chunks that are never looked at."""
    shutil.copytree(corpus_dir, tmp_path / "c")
    rewritten(tmp_path / "c/train", documents=0)
    digests = np.load(tmp_path / "c/valid/chunk_digests.npy")
    np.save(tmp_path / "c/valid/chunk_digests.npy", digests ^ 1)
    for file in (tmp_path / "c/tokenizer").iterdir():
        file.write_text("[")
    with pytest.raises(ValueError, match="c: 3 things are wrong"):
        lfr_data("verify", tmp_path / "c")
    card, chunks, tokenizer = capsys.readouterr().out.splitlines()
    assert "train/store.json: documents is 0" in card and "valid/chunk_digests.npy: 1 of its digests are not" in chunks
    assert "tokenizer" in tokenizer


def test_a_domain_called_as_the_total_has_a_row_of_its_own(lfr_data, tmp_path):
    """Catches: two rows `all`, of which one is a domain."""
    made = [Document(str(i), f"text {i} " * 9, ("all", "code")[i % 2], "s") for i in range(40)]
    summary = str(prepare_documents(tmp_path / "out", made, Bytes(), 0.5))
    clean = lfr_data("clean", tmp_path / "out", "--dry-run", "--near-duplicates", 0.5)
    for table in (summary, lfr_data("info", tmp_path / "out" / "train", "--seq-len", 16), clean.partition("\n\n")[0]):
        names = [re.split(r"  +", row)[0] for row in table.splitlines()]
        assert [names.count(name) for name in ("all", "all (domain)", "code")] == [1, 1, 1], table


@pytest.mark.parametrize("side", ["train", "valid"])
def test_half_a_corpus_is_not_right(lfr_data, corpus_dir, tmp_path, capsys, side):
    """Catches: a side without its card, left out in silence: all that is looked at is right then."""
    half = shutil.copytree(corpus_dir, tmp_path / "half")
    (half / side / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"half/{side}: found no store.json"):
        lfr_data("info", half)
    with pytest.raises(ValueError, match="half: 1 thing is wrong"):
        lfr_data("verify", half)
    assert f"half/{side}: found no store.json" in capsys.readouterr().out


def test_samples_are_blocks_of_their_domain(lfr_data, corpus_dir):
    """Catches: a block printed under another's number or domain; a seed that is not followed."""
    asked = ("sample", corpus_dir, "--seq-len", 16, "--blocks", 3)
    out = lfr_data(*asked)
    assert (
        out == lfr_data(*asked) == lfr_data("sample", corpus_dir / "train", *asked[2:]) != lfr_data(*asked, "--seed", 1)
    )
    cut = Blocks(open_store(corpus_dir / "train"), 16)
    found = re.findall(r"--- block (\d+): (\w+), made-up ---\n(.*?)\n\n(?=---|\Z)", out, re.DOTALL)
    assert [domain for _, domain, _ in found] == sorted(["easy", "hard", "words"] * 3)
    for block, domain, text in found:
        (tokens,) = cut.tokens(np.array([int(block)]))
        assert cut.domains[cut.domain_N[int(block)]] == domain
        assert text.replace("\n⏎\n", "") == Bytes().decode(tokens[:-1].tolist())
    assert lfr_data(*asked, "--domain", "hard") == "".join(
        re.findall(r"--- block \d+: hard.*?\n\n(?=---)", out, re.DOTALL)
    )
    with pytest.raises(ValueError, match="found no domain 'code'; there are easy, hard, words"):
        lfr_data(*asked, "--domain", "code")


def test_nothing_steers_the_terminal(lfr_data, tmp_path):
    """Catches: colours, bells and titles of windows that come from names or texts of the data."""
    made = [Document(str(i), f"text\t\x1b]0;{i}\x07\n" * 9, "x\x1b[2J\u2028", "s\r\n") for i in range(20)]
    summary = prepare_documents(tmp_path / "out", made, Bytes(), 0.2)
    outs = [
        str(summary),
        lfr_data("info", tmp_path / "out", "--seq-len", 16, "--sources"),
        lfr_data("sample", tmp_path / "out", "--seq-len", 64),
        lfr_data("clean", tmp_path / "out", "--dry-run", "--near-duplicates", 0.5),
    ]
    assert all(r"x\x1b[2J\u2028" in out and not set(out) & set("\x1b\x07\r\u2028") for out in outs)
    assert r"s\r\n" in outs[1] and "text\t\\x1b" in outs[2]


def test_ends_of_documents_are_shown():
    """Catches: two documents printed as one."""
    assert decode_documents(Bytes(), np.array([*b"end", 256, *b"next"])) == "end\n⏎\nnext"
