"""Spans of junk in the training text, and a mask that says where."""

import json

import numpy as np
import pytest
from helpers import files, write_tokens

from lfr_jax.commands.text import data
from lfr_jax.config import DataConfig
from lfr_jax.data import corpus
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import training_blocks
from lfr_jax.data.store import open_store
from lfr_jax.prepare import corrupt
from lfr_jax.prepare.clean import kept

T = 32
EOS = 999
IDS = np.arange(20) * 50  # those that occur


def lfr_data(*arguments) -> None:
    data(list(map(str, arguments)))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Two sources of documents of some hundred tokens; the higher an id, the more frequent. Every other document has
    no end-of-text."""
    rng = np.random.default_rng(0)

    def texts(count):
        lengths = rng.integers(50, 400, count)
        texts = [rng.choice(IDS, size, p=np.arange(20) / 190).tolist() for size in lengths]
        return [[*text, EOS] if number % 2 else text for number, text in enumerate(texts)]

    train = {("prose", "books"): texts(40), ("code", "library"): texts(40)}
    return write_tokens(tmp_path_factory.mktemp("corrupt") / "clean", train, {("prose", "books"): texts(5)})


@pytest.fixture(scope="module")
def corrupted(clean):
    folder = clean.with_name("corrupted")
    lfr_data("corrupt", clean, "--out", folder, "--share", 0.3, "--mean-span", 8)
    return folder


def stores(*folders):
    return [open_store(folder / "train") for folder in folders]


def test_only_what_the_mask_says_is_replaced(clean, corrupted):
    """Catches: a mask that is off by a token, inverted, or begun anew with each chunk; another share; end-of-text
    replaced or drawn, so that documents move; random tokens that are evenly frequent; a changed held-out side."""
    before, after = stores(clean, corrupted)
    mask = open_store(corrupted / corrupt.MASK)
    is_junk = mask.tokens.astype(bool)
    text = before.tokens != EOS
    np.testing.assert_array_equal(after.tokens[~is_junk], before.tokens[~is_junk])
    np.testing.assert_array_equal(after.tokens != EOS, text)
    assert not is_junk[~text].any()
    assert is_junk[text].mean() == pytest.approx(0.3, abs=0.003)  # exact but for the places of end-of-text
    assert np.mean(after.tokens[is_junk] != before.tokens[is_junk]) > 0.9
    assert np.mean(np.searchsorted(IDS, after.tokens[is_junk])) == pytest.approx(13, abs=0.4)  # evenly: 9.5
    for store in (after, mask):
        np.testing.assert_array_equal(store.doc_starts, before.doc_starts)
        assert store.sources == before.sources
    assert files(corrupted / "valid") == files(clean / "valid")
    assert files(corrupted / "tokenizer") == files(clean / "tokenizer")
    card = json.loads((corrupted / "corrupted.json").read_text())
    assert card["replaced"] == is_junk.sum() and card["tokens"] == len(is_junk)
    assert card["corrupted_in"] == before.fingerprint


@pytest.mark.parametrize("packing", ["concatenate", "best_fit", "by_length"])
def test_the_mask_has_the_blocks_of_the_text(clean, corrupted, packing):
    """Catches: a mask whose blocks are other ones under some packing; an end-of-text of the mask that is junk."""
    settings = DataConfig(seq_len=T, packing=packing, shortest=8)
    sides = [corrupted / "train", clean / "train", corrupted / corrupt.MASK]
    after, before, mask = [training_blocks(open_store(side), settings) for side in sides]
    ids = np.arange(before.num_blocks)
    assert after.num_blocks == mask.num_blocks == before.num_blocks
    np.testing.assert_array_equal(after.domain_N, before.domain_N)
    for _, rows in before.by_length(ids):
        after_BxT, before_BxT, mask_BxT = (blocks.tokens(ids[rows]) for blocks in (after, before, mask))
        np.testing.assert_array_equal(after_BxT[mask_BxT != 1], before_BxT[mask_BxT != 1])
        assert np.mean(after_BxT[mask_BxT == 1] != before_BxT[mask_BxT == 1]) > 0.8  # some are equal by chance
        np.testing.assert_array_equal(mask_BxT == -1, before_BxT == -1)
        assert (mask_BxT[before_BxT == EOS] == 0).all()


def test_spans_are_exact_and_of_the_mean_length():
    """Catches: a share that holds only on average; spans of one length, or of another mean; spans that overlap, or
    are empty; the first or the last place never covered."""
    rng = np.random.default_rng(1)
    masks = np.array([corrupt.random_spans(200, 0.2, 5, rng) for _ in range(500)])
    assert (masks.sum(axis=1) == 40).all()
    begins = np.diff(masks.astype(int), axis=1, prepend=0) == 1
    lengths = np.concatenate([np.diff(np.flatnonzero(np.diff([0, *row, 0]))[:2]) for row in masks])
    assert begins.sum(axis=1).max() == 8 and begins.sum(axis=1).mean() > 7.6  # eight spans, of which some touch
    assert np.std(lengths) > 2.5
    assert masks[:, 0].any() and masks[:, -1].any() and masks.mean(axis=0).max() < 0.4
    assert not corrupt.random_spans(3, 0.1, 5, rng).any()


def test_the_seed_decides_and_chunks_do_not_shift_the_text(clean, corrupted, monkeypatch):
    """Catches: a seed that is not followed; random numbers that depend on anything else; a long document of which only
    the first part is read, or a source begun again with each part."""
    asked = ("--share", 0.3, "--mean-span", 8)
    lfr_data("corrupt", clean, "--out", clean.with_name("again"), *asked)
    lfr_data("corrupt", clean, "--out", clean.with_name("other"), *asked, "--seed", 1)
    same, again, other = (files(clean.with_name(name)) for name in ("corrupted", "again", "other"))
    assert same == again and same["train/tokens.bin"] != other["train/tokens.bin"]
    monkeypatch.setattr(kept, "AT_ONCE", 100)
    lfr_data("corrupt", clean, "--out", clean.with_name("parts"), *asked)
    before, parts = stores(clean, clean.with_name("parts"))
    is_junk = open_store(clean.with_name("parts") / corrupt.MASK).tokens.astype(bool)
    assert parts.sources == before.sources and 0.28 < is_junk.mean() < 0.31
    np.testing.assert_array_equal(parts.tokens[~is_junk], before.tokens[~is_junk])


def test_what_cannot_be_corrupted_leaves_nothing(clean, corrupted, tmp_path, monkeypatch):
    """Catches: a mask that hides the junk of the first time; damage that gets a new digest; half a folder."""
    with pytest.raises(ValueError, match="found corrupted/ in it: corrupt the clean corpus"):
        lfr_data("corrupt", corrupted, "--out", tmp_path / "out")
    with pytest.raises(ValueError, match="share is 1.0, expected a number, over 0, less than 1"):
        lfr_data("corrupt", clean, "--out", tmp_path / "out", "--share", 1)
    with pytest.raises(FileExistsError, match="never overwritten"):
        lfr_data("corrupt", "nowhere", "--out", clean)
    only_ends = write_tokens(tmp_path / "ends", {("x", "x"): [[EOS]] * 9}, {("x", "x"): [[1, EOS]]})
    with pytest.raises(ValueError, match=r"found nothing but end-of-text \(id 999\), expected text"):
        lfr_data("corrupt", only_ends, "--out", tmp_path / "out")
    broken = write_tokens(tmp_path / "broken", {("x", "x"): [[1, 2, EOS]] * 9}, {("x", "x"): [[1, EOS]]})
    content = bytearray((broken / "train/tokens.bin").read_bytes())
    content[0] ^= 1
    (broken / "train/tokens.bin").write_bytes(content)
    monkeypatch.setattr(corpus, "check_some", lambda store, rng: "")  # as for a large store
    with pytest.raises(ValueError, match="changed"):
        lfr_data("corrupt", broken, "--out", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "ends"]


def test_the_share_of_junk_by_block(corrupted):
    """Catches: what docs/noise.md does with the mask, if the numbers would be of other blocks."""
    mask = Blocks(open_store(corrupted / corrupt.MASK), T)
    share_N = (mask.tokens(np.arange(mask.num_blocks))[:, 1:] == 1).mean(axis=1)
    assert share_N.mean() == pytest.approx(0.3, abs=0.01) and share_N.std() > 0.05
