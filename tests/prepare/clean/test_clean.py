"""`lfr data clean`: what was planted goes, all else stays, and the report says so."""

import json
import re

import numpy as np
import pytest
import token_formats as written
from helpers import files, write_tokens
from test_duplicates import opened, random_documents, runs
from test_near_duplicates import changed

from lfr_jax.commands.text import data
from lfr_jax.config import DataConfig
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Ids
from lfr_jax.prepare.link import link_files
from lfr_jax.prepare.prepare import prepare_paths

ALL = ("--duplicates", "--near-duplicates", 0.8, "--decontaminate", "train", "--block-duplicates", 50, "--workers", 1)


@pytest.fixture
def lfr_data(capsys):
    def run(*arguments) -> str:
        data(list(map(str, arguments)))
        return capsys.readouterr().out

    return run


def planted(folder):
    """Of 30 documents: a copy, a near-copy, most of a held-out one, and a block that is another one."""
    made, valid = random_documents(30, 0, 300), random_documents(4, 1, 300)
    copy, near = made[0], changed(made[1], 0.05, 0)
    joined = [*made[2], *valid[0][:-30]]
    source = [*made[:10], joined]
    blocks = np.random.default_rng(9).integers(0, 900, 201).tolist()
    blocks[100:150] = blocks[:50]
    train = {("x", "a"): source, ("y", "gone"): [copy], ("y", "b"): [near, *made[10:]], ("z", "c"): [blocks]}
    write_tokens(folder, train, {("x", "v"): valid})
    left = {("x", "a"): [*made[:10], made[2][:-50]], ("y", "b"): made[10:], ("z", "c"): [blocks[:100], blocks[150:]]}
    return left, valid


def test_what_was_planted_goes_and_nothing_else(lfr_data, tmp_path):
    """Catches: a step that is left out, takes too much, or comes before another one that it needs."""
    left, valid = planted(tmp_path / "old")
    before = files(tmp_path / "old")
    out = lfr_data("clean", tmp_path / "old", "--out", tmp_path / "new", *ALL)
    assert files(tmp_path / "old") == before
    sides = opened(tmp_path / "new")
    assert runs(sides.train) == [document for documents in left.values() for document in documents]
    assert runs(sides.valid) == valid
    assert [(source.domain, source.name) for source in sides.train.store.sources] == list(left)
    assert "new/train: all" in lfr_data("verify", tmp_path / "new") and "new/valid" in lfr_data(
        "info", tmp_path / "new"
    )
    card = json.loads((tmp_path / "new/cleaned.json").read_text())
    for name, domain, documents in (
        ("duplicates", "y", 1),
        ("near-duplicates", "y", 1),
        ("contaminated", "x", 0),
        ("blocks", "z", 0),
    ):
        of = {d: n for d, n in card["train"][name].items() if n["tokens"]}
        assert list(of) == [domain] and of[domain]["documents"] == documents, name
    assert card["train"]["blocks"]["z"]["tokens"] == 50
    for side, kept in zip(("train", "valid"), sides):
        assert card["cleaned"][side] == open_store(tmp_path / "old" / side).fingerprint
        for domain in card[side]["before"]:
            steps = [card[side][name][domain]["tokens"] for name in card[side] if name not in ("before", "after")]
            assert card[side]["before"][domain]["tokens"] - sum(steps) == card[side]["after"][domain]["tokens"]
        assert sum(n["tokens"] for n in card[side]["after"].values()) == kept.length_D.sum()
    assert card["contamination"]["x"] == {"documents": 4, ">0%": 1, ">=20%": 1, ">=50%": 1, ">=80%": 1}
    (worst,) = card["examples"]["contamination"]
    assert worst["document"] == 0 and worst["most_of_it_first_in"]["document"] == 10
    assert len(card["examples"]["duplicates"]) == len(card["examples"]["near-duplicates"]) == 1
    assert re.search(
        r"^duplicates: train: document 11 of y, gone; copy of train: document 0 of x, a$", out, re.MULTILINE
    )
    assert re.search(r"^13-grams in train .* sharing >=80%\nx +4 +1 +1 +1 +1\nall +4", out, re.MULTILINE)
    open_corpus(DataConfig(str(tmp_path / "new"), 30))


def test_equal_input_gives_equal_bytes_and_a_dry_run_none(lfr_data, tmp_path):
    """Catches: an order from a set; a report that depends on where the corpus lies; a folder written in a dry run."""
    planted(tmp_path / "old")
    out = lfr_data("clean", tmp_path / "old", *ALL, "--dry-run", "--out", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert out == lfr_data("clean", tmp_path / "old", *ALL, "--out", tmp_path / "a")
    (tmp_path / "old").rename(tmp_path / "moved")
    lfr_data("clean", tmp_path / "moved", *ALL[:-1], 2, "--out", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_twice_is_once(lfr_data, tmp_path):
    """Catches: steps that make new duplicates or contamination, or miss some the first time."""
    planted(tmp_path / "old")
    lfr_data("clean", tmp_path / "old", *ALL, "--out", tmp_path / "a")
    lfr_data("clean", tmp_path / "a", *ALL, "--out", tmp_path / "b")
    for side in ("train", "valid"):
        assert open_store(tmp_path / "a" / side).card == open_store(tmp_path / "b" / side).card
    card = json.loads((tmp_path / "b/cleaned.json").read_text())
    assert card["contamination"]["x"][">0%"] == 0


def test_held_out_documents_leave_in_place_of_training_text(lfr_data, tmp_path):
    """Catches: --decontaminate valid that cuts train; an option that is not handed on."""
    planted(tmp_path / "old")
    asked = ("clean", tmp_path / "old", "--decontaminate", "valid")
    lfr_data(*asked, "--out", tmp_path / "new", "--overlap", 0.8)
    old, new = opened(tmp_path / "old"), opened(tmp_path / "new")
    assert runs(new.train) == runs(old.train) and runs(new.valid) == runs(old.valid)[1:]
    lfr_data("clean", tmp_path / "old", "--decontaminate", "train", "--overlap", 0.95, "--out", tmp_path / "d")
    assert runs(opened(tmp_path / "d").train) == runs(old.train)
    for name, option in (("a", ("--overlap", 1.0)), ("b", ("--common", 0)), ("c", ("--contamination", 290))):
        lfr_data(*asked, "--out", tmp_path / name, *option)
        assert runs(opened(tmp_path / name).valid) == runs(old.valid), name


def test_a_linked_corpus_becomes_a_prepared_one(lfr_data, tmp_path):
    """Catches: links in what is written; tokens taken from the whole file in place of the store's part of it."""
    made = random_documents(40, 0)
    flat = [token for document in [*made, *made[:3]] for token in document]
    written.nanogpt(tmp_path / "a.bin", flat)
    link_files(tmp_path / "old", [tmp_path / "a.bin"], Ids(1000, 999), valid_fraction=0.2)
    lfr_data("clean", tmp_path / "old", "--out", tmp_path / "new", "--duplicates")
    (tmp_path / "a.bin").unlink()
    sides = opened(tmp_path / "new")
    assert runs(sides.train) + runs(sides.valid) == [*made[3:], *made[:3]]
    assert "all" in lfr_data("verify", tmp_path / "new") and sides.train.store.card.parts is None
    assert not any(path.is_symlink() for path in (tmp_path / "new").rglob("*"))


def test_more_text_can_be_appended_later(lfr_data, tmp_path):
    """Catches: a removed text that comes back; counts of the old corpus in the new one's card."""
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(0, 10**6, 80))) for _ in range(50)]
    texts.append("Another beginning. " + texts[0])
    lines = [json.dumps({"id": str(i), "text": text, "domain": "talk"}) for i, text in enumerate(texts)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    prepare_paths((str(tmp_path / "text.jsonl"),), out=str(tmp_path / "v1"), byte_tokenizer=True, valid_fraction=0.1)
    lfr_data("clean", tmp_path / "v1", "--out", tmp_path / "v2", "--near-duplicates", 0.8, "--workers", 1)
    card = json.loads((tmp_path / "v2/prepared.json").read_text())
    old = json.loads((tmp_path / "v1/prepared.json").read_text())
    assert old["train"]["talk"]["documents"] + old["valid"]["talk"]["documents"] == 51
    assert card["train"]["talk"]["documents"] + card["valid"]["talk"]["documents"] == 50
    (tmp_path / "more.jsonl").write_text("\n".join([*lines, json.dumps({"id": "n", "text": "new", "domain": "talk"})]))
    done = prepare_paths((str(tmp_path / "more.jsonl"),), out=str(tmp_path / "v3"), append=str(tmp_path / "v2"))
    assert done.duplicates == 51
    for side in ("train", "valid"):
        was, now = (open_store(tmp_path / name / side) for name in ("v2", "v3"))
        ids = np.arange(Blocks(was, 32).num_blocks)
        np.testing.assert_array_equal(Blocks(was, 32).tokens(ids), Blocks(now, 32).tokens(ids))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ((), ValueError, "found neither --out nor --dry-run"),
        (("--out", "old"), FileExistsError, "old: exists"),
        (
            ("--dry-run", "--near-duplicates", 1.0),
            ValueError,
            "near_duplicates is 1.0, expected a number, over 0, at most 0.99",
        ),
        (("--dry-run", "--near-duplicates", 0.0), ValueError, "near_duplicates is 0.0, expected"),
        (("--dry-run", "--overlap", 1.5), ValueError, "overlap is 1.5, expected a number, at least 0, at most 1"),
        (
            ("--dry-run", "--block-duplicates", 0),
            ValueError,
            "block_duplicates is 0, expected a whole number",
        ),
        (("--dry-run", "--shingle", 0), ValueError, "shingle is 0, expected"),
        (
            ("--out", "new", "--decontaminate", "valid", "--overlap", 0.0),
            ValueError,
            "valid: nothing is left of it after",
        ),
    ],
)
def test_what_is_refused(lfr_data, tmp_path, monkeypatch, options, error, message):
    """Catches: a folder written over, or refused only after all the work; an option out of range that does something;
    an empty side."""
    monkeypatch.chdir(tmp_path)
    (document,) = random_documents(1, 0)
    write_tokens(tmp_path / "old", {("x", "a"): [document, [1] * 9]}, {("x", "v"): [document]})
    before = files(tmp_path / "old")
    with pytest.raises(error, match=message):
        lfr_data("clean", "nowhere" if error is FileExistsError else "old", *options)
    assert files(tmp_path) == {f"old/{name}": raw for name, raw in before.items()}


def test_damaged_files_are_not_cleaned(lfr_data, tmp_path):
    """Catches: flipped bits that get a new, right digest."""
    planted(tmp_path / "old")
    content = bytearray((tmp_path / "old/valid/tokens.bin").read_bytes())
    content[3] ^= 1
    (tmp_path / "old/valid/tokens.bin").write_bytes(content)
    with pytest.raises(ValueError, match="valid/tokens.bin: found sha256"):
        lfr_data("clean", tmp_path / "old", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
