"""A prepared folder, opened whole or refused."""

import shutil

import pytest
from helpers import documents

from lfr_jax.config import DataConfig
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes, train_sentencepiece
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.prepare.text_source import Document


def test_a_prepared_folder_opens(corpus_dir):
    """Catches: training and held-out blocks exchanged; the fingerprint of the other store; another block length."""
    corpus = open_corpus(DataConfig(str(corpus_dir), 32))
    train, valid = open_store(corpus_dir / "train"), open_store(corpus_dir / "valid")
    assert corpus.fingerprint == train.fingerprint != valid.fingerprint
    assert corpus.train.store.fingerprint == train.fingerprint and corpus.valid.store.fingerprint == valid.fingerprint
    assert corpus.train.seq_len == corpus.valid.seq_len == 32
    assert corpus.tokenizer.digest == Bytes().digest


def test_nothing_there_says_how_to_make_it(tmp_path):
    """Catches: an error that leaves a newcomer alone."""
    with pytest.raises(FileNotFoundError, match="no prepared corpus in '.*x'; make one with `lfr prepare --out .*x "):
        open_corpus(DataConfig(str(tmp_path / "x"), 32))


@pytest.mark.parametrize("part", ["train", "valid", "tokenizer"])
def test_a_missing_part_is_named(corpus_dir, tmp_path, part):
    """Catches: a part that is opened only when it is needed, hours later."""
    shutil.copytree(corpus_dir, tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / part)
    with pytest.raises(FileNotFoundError, match=f"c/{part}: found no"):
        open_corpus(DataConfig(str(tmp_path / "c"), 32))


@pytest.mark.parametrize("parts", [["tokenizer"], ["train"], ["valid"]])
def test_parts_of_two_corpora_are_refused(corpus_dir, tmp_path, parts):
    """Catches: a tokenizer that is not compared with both stores: its ids would mean other text."""
    pieces = train_sentencepiece((d.text for d in documents(8)), vocab_size=300)
    prepare_documents(tmp_path / "other", documents(8), pieces, valid_fraction=0.2)
    shutil.copytree(corpus_dir, tmp_path / "c")
    for part in parts:
        shutil.rmtree(tmp_path / "c" / part)
        shutil.copytree(tmp_path / "other" / part, tmp_path / "c" / part)
    with pytest.raises(ValueError, match="did not make the tokens in .*; put the right one back, or prepare again"):
        open_corpus(DataConfig(str(tmp_path / "c"), 32))


def test_sides_that_are_exchanged_are_refused(corpus_dir, tmp_path):
    """Catches: held-out text that is trained on, and the loss of training text reported as held out."""
    shutil.copytree(corpus_dir, tmp_path / "c")
    (tmp_path / "c/train").rename(tmp_path / "c/other")
    (tmp_path / "c/valid").rename(tmp_path / "c/train")
    (tmp_path / "c/other").rename(tmp_path / "c/valid")
    with pytest.raises(
        ValueError, match="c: found .* tokens in train .* prepared.json says: the two folders are exchanged"
    ):
        open_corpus(DataConfig(str(tmp_path / "c"), 32))
    (tmp_path / "c/prepared.json").unlink()
    open_corpus(DataConfig(str(tmp_path / "c"), 32))


def test_blocks_longer_than_any_source_are_refused(corpus_dir):
    """Catches: a run without a single block."""
    with pytest.raises(ValueError, match="found seq_len=1000000 and sources of up to"):
        open_corpus(DataConfig(str(corpus_dir), 10**6))


def test_sources_too_short_for_a_block_are_counted_once(tmp_path):
    """Catches: text that is left out in silence; a warning where all is read, or of the other store's sources."""
    texts = [Document(f"{name}{i}", name * 98 + str(i), name, name) for name in ("a", "b", "c") for i in range(2)]
    texts += [Document(f"d{i}", "d" * 8 + str(i), "d", "d") for i in range(2)]
    prepare_documents(tmp_path / "c", texts, Bytes(), valid_fraction=0.5)
    with pytest.warns(UserWarning) as caught:
        open_corpus(DataConfig(str(tmp_path / "c"), 50))
    assert [str(warning.message).split(": ", 1)[1].split(". ")[0] for warning in caught] == [
        f"1 of 4 sources have no more than seq_len=50 tokens, so no block: 10 of 310 tokens are not {use}"
        for use in ("trained on", "measured")
    ]
    open_corpus(DataConfig(str(tmp_path / "c"), 9))  # warnings are errors here
