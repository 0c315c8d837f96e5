"""Other programs' token files as a corpus: read where they lie, split, trained on."""

import errno
import os
import pathlib
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import token_formats as written
from helpers import changed, tiny

from lfr_jax import cli
from lfr_jax.config import DataConfig
from lfr_jax.data import tokenizer
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes, Ids
from lfr_jax.prepare import link
from lfr_jax.prepare.link import link_files, link_paths
from lfr_jax.prepare.prepare import prepare_paths
from lfr_jax.train.loop import train

MEGATRON = pathlib.Path(__file__).parents[3] / "shared/data/megatron"
EOS = 9


def tokens(documents: int, seed: int = 0) -> list[list[int]]:
    """Documents of 1 to 40 tokens, each with end-of-text last."""
    rng = np.random.default_rng(seed)
    return [[*rng.integers(0, EOS, rng.integers(0, 40)).tolist(), EOS] for _ in range(documents)]


def flat(documents):
    return [token for document in documents for token in document]


def contents(store):
    return store.tokens.tolist(), store.doc_starts.tolist()


def starts(documents):
    return np.cumsum([0, *map(len, documents[:-1])]).tolist()


@pytest.mark.parametrize(
    ("write", "name", "dtype"),
    [
        (written.nanogpt, "train.bin", None),
        (written.olmo, "part.npy", "uint32"),
        (written.numpy_array, "real.npy", None),
        (written.llm_c, "fineweb.bin", None),
        (lambda path, ids: written.megatron(path, [ids], [0, 1]), "meg.bin", None),
    ],
)
def test_the_last_documents_of_each_format_are_held_out(tmp_path, write, name, dtype):
    """Catches: a split that loses, repeats or shifts tokens; bytes of a header or of the other side read as tokens."""
    documents = tokens(100)
    write(tmp_path / name, flat(documents))
    link_files(tmp_path / "out", [tmp_path / name], Ids(10, EOS), valid_fraction=0.1, dtype=dtype)
    train, valid = (open_store(tmp_path / "out" / side) for side in ("train", "valid"))
    for store in (train, valid):
        store.verify()
        blocks = Blocks(store, 4)
        np.testing.assert_array_equal(
            blocks.tokens(np.arange(blocks.num_blocks))[:, :-1].ravel(), store.tokens[: 4 * blocks.num_blocks]
        )
    assert train.tokens.tolist() + valid.tokens.tolist() == flat(documents)
    assert 0 < len(valid.tokens) <= 0.1 * len(flat(documents))
    if "meg" not in name:  # that one says that all is one document
        kept = len(train.doc_starts)
        assert contents(train) == (flat(documents[:kept]), starts(documents[:kept]))
        assert contents(valid) == (flat(documents[kept:]), starts(documents[kept:]))
        assert len(flat(documents[kept - 1 :])) > int(0.1 * len(flat(documents)))


def test_megatron_documents_come_from_the_index(tmp_path):
    """Catches: documents by end-of-text although the index knows better."""
    written.megatron(tmp_path / "m.bin", [[1, 2], [3], [4, 5, 6], [7], [8, 1]], [0, 2, 3, 5])
    link_files(tmp_path / "out", [tmp_path / "m.bin"], Ids(10, EOS), valid_fraction=0.4)
    assert contents(open_store(tmp_path / "out/train")) == ([1, 2, 3, 4, 5, 6], [0, 3])
    assert contents(open_store(tmp_path / "out/valid")) == ([7, 8, 1], [0])


def test_a_document_longer_than_the_tail_is_cut(tmp_path):
    """Catches: nearly all held out because the last document is nearly all; nothing held out."""
    written.nanogpt(tmp_path / "a.bin", [EOS, *[1] * 99])
    link_files(tmp_path / "out", [tmp_path / "a.bin"], Ids(10, EOS), valid_fraction=0.1)
    assert contents(open_store(tmp_path / "out/train")) == ([EOS, *[1] * 89], [0, 1])
    assert contents(open_store(tmp_path / "out/valid")) == ([1] * 10, [0])


def test_nothing_is_copied_and_links_may_be_mended(tmp_path):
    """Catches: a copy; a store that opens though the linked file is gone or another one."""
    (tmp_path / "here").mkdir()
    written.nanogpt(tmp_path / "here/a.bin", flat(tokens(1000)))
    link_files(tmp_path / "out", [tmp_path / "here/a.bin"], Ids(10, EOS))
    folder = tmp_path / "out/train"
    assert (folder / "tokens-00000.bin").readlink() == tmp_path / "here/a.bin"
    before = open_store(folder)
    shutil.move(tmp_path / "here", tmp_path / "there")
    with pytest.raises(FileNotFoundError, match="here/a.bin: is missing; put the linked file back, or link again"):
        open_store(folder)
    (folder / "tokens-00000.bin").unlink()
    (folder / "tokens-00000.bin").symlink_to("../../there/a.bin")
    np.testing.assert_array_equal(Blocks(open_store(folder), 8).tokens([3]), Blocks(before, 8).tokens([3]))
    os.truncate(tmp_path / "there/a.bin", 10)
    with pytest.raises(ValueError, match="there/a.bin: found 10 bytes, .*; put the linked file back, or link again"):
        open_store(folder)


def test_the_same_files_elsewhere_are_the_same_store(tmp_path):
    """Catches: a fingerprint that depends on where files lie, or not on what is in them."""
    found = []
    for place, first in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / place / "web").mkdir(parents=True)
        written.nanogpt(tmp_path / place / "web/a.bin", [first, *flat(tokens(50))])
        link_files(tmp_path / place / "out", [tmp_path / place / "web"], Ids(10, EOS))
        found.append(open_store(tmp_path / place / "out/train").fingerprint)
    assert found[0] == found[1] != found[2]


def test_folders_are_domains_and_files_sources(tmp_path):
    """Catches: blocks across files; a domain of a file's own folder however deep it lies; hidden
    files; a folder left out because it is a link; documents counted from each file's start."""
    (tmp_path / "far").mkdir()
    written.nanogpt(tmp_path / "far/a.bin", [1] * 50)
    (tmp_path / "in/web").mkdir(parents=True)
    (tmp_path / "in/web/2024").symlink_to(tmp_path / "far")
    for name, first in (("web/b.npy", 2), ("code/c.bin", 3), (".trash/d.bin", 4)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        written.nanogpt(tmp_path / "in" / name, [first] * 50)
    (tmp_path / "in/web/notes.txt").write_text("no tokens")
    written.nanogpt(tmp_path / "e.bin", [5] * 50)
    summary = link_files(tmp_path / "out", [tmp_path / "in", tmp_path / "e.bin"], Ids(10, EOS), valid_fraction=0.2)
    store = open_store(tmp_path / "out/train")
    assert [(source.name, source.domain) for source in store.sources] == [
        ("code/c.bin", "code"),
        ("web/2024/a.bin", "web"),
        ("web/b.npy", "web"),
        ("e.bin", tmp_path.name),
    ]
    rows = Blocks(store, 13).tokens(np.arange(12))
    assert rows.tolist() == [[first] * 14 for first in (3, 1, 2, 5) for _ in range(3)]
    assert [source.count for source in store.sources] == [40] * 4
    assert store.doc_starts.tolist() == [0, 40, 80, 120]
    assert "web" in str(summary) and "160" in str(summary) and "40" in str(summary)


def test_files_to_hold_out_may_be_given(tmp_path):
    """Catches: a tail of the training file held out besides; the two sides exchanged."""
    documents = tokens(60)
    written.nanogpt(tmp_path / "train.bin", flat(documents[:50]))
    written.nanogpt(tmp_path / "val.bin", flat(documents[50:]))
    link_paths(
        (str(tmp_path / "train.bin"),),
        out=str(tmp_path / "out"),
        valid=(str(tmp_path / "val.bin"),),
        vocab_size=10,
        eos_id=EOS,
    )
    corpus = open_corpus(DataConfig(str(tmp_path / "out"), 8))
    assert contents(corpus.train.store) == (flat(documents[:50]), starts(documents[:50]))
    assert contents(corpus.valid.store) == (flat(documents[50:]), starts(documents[50:]))
    assert corpus.train.domains == corpus.valid.domains == (tmp_path.name,)


def test_what_is_refused(tmp_path):
    """Catches: ids that the embedding has no row for; tokens of twice the width; a folder half written; every input
    read before an output that is there is refused."""
    written.nanogpt(tmp_path / "a.bin", [1, 2, 3, 10])
    written.olmo(tmp_path / "wide.npy", np.arange(1, 1001) % 10)
    out = tmp_path / "out"
    written.olmo(tmp_path / "wider.npy", np.arange(1, 1001) % 10, "<u8")
    for inputs, options, message in [
        ([tmp_path / "a.bin"], {}, "a.bin: found token ids from 1 to 10, expected 0 to 9"),
        ([tmp_path / "wider.npy"], {"dtype": "uint32"}, "these have 64 bits, not 32; save them as uint32"),
        ([tmp_path / "a.bin"], {"dtype": "float16"}, "found dtype=float16, expected a type of integers"),
        ([tmp_path / "wide.npy"], {}, "wide.npy: every second token is 0: .* say --dtype uint32"),
        ([tmp_path / "a.bin"], {"valid_fraction": 0}, "valid_fraction is 0, expected a number, over 0"),
        ([], {}, "found no input"),
    ]:
        with pytest.raises(ValueError, match=message):
            link_files(out, inputs, Ids(10, EOS), **options)
    (tmp_path / "empty").mkdir()
    for missing in ("nowhere", "empty"):
        with pytest.raises(FileNotFoundError, match=f"{missing}: found no"):
            link_files(out, [tmp_path / missing], Ids(10, EOS))
    assert not out.exists()
    out.mkdir()
    with pytest.raises(FileExistsError, match="out: exists, and is never overwritten"):
        link_files(out, [tmp_path / "a.bin"], Ids(11, EOS), advance=lambda size: pytest.fail("it was read before"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found no tokenizer; expected exactly one of --gpt2"),
        ({"vocab_size": 10}, "found --vocab-size; expected exactly one of .* with --eos-id"),
        ({"gpt2": "x", "eos_id": 1}, "found --gpt2 and --eos-id"),
        ({"gpt2": "x", "vocab_size": 10, "eos_id": 1}, "found --gpt2 and --vocab-size and --eos-id"),
        ({"vocab_size": 10, "eos_id": 10}, "found eos_id=10, expected 0 to 9"),
        ({"vocab_size": 10, "eos_id": -1}, "found eos_id=-1, expected 0 to 9|eos_id is -1"),
        ({"vocab_size": 10**30, "eos_id": 1}, "vocab_size is 1000.*expected a whole number, at least 1, at most 2"),
    ],
)
def test_one_tokenizer_is_to_be_named(tmp_path, options, message):
    """Catches: ids whose meaning nobody knows, or two say."""
    with pytest.raises(ValueError, match=message):
        link_paths(("x.bin",), out=str(tmp_path / "out"), **options)


def test_a_run_on_linked_files(tmp_path, capsys, monkeypatch):
    """Catches: a trainer that needs a tokenizer's text, or `tokens.bin`; `generate` without a tokenizer not refused."""
    rng = np.random.default_rng(0)
    for name in ("web", "code"):
        (tmp_path / name).mkdir()
        written.nanogpt(tmp_path / name / "train.bin", rng.integers(0, 264, 4000))
    inputs = [str(tmp_path / name / "train.bin") for name in ("web", "code")]
    link_paths(tuple(inputs), out=str(tmp_path / "out"), vocab_size=264, eos_id=263, valid_fraction=0.1)
    config = changed(tiny(tmp_path / "run", tmp_path / "out", "uniform"), train__steps=6)
    assert {"web", "code", "all"} == set(train(config, quiet=True).summary["held_out_loss"])
    monkeypatch.setattr("sys.argv", ["lfr", "generate", str(tmp_path / "run")])
    with pytest.raises(
        SystemExit, match="lfr generate: cannot encode text: the data was linked without a tokenizer; link it again"
    ):
        cli.main()


def test_a_tokenizer_of_ids_is_saved_and_loaded(tmp_path):
    """Catches: another vocabulary after loading; two vocabularies of one digest; a text out of nothing."""
    Ids(300, 7).save(tmp_path / "t")
    loaded = tokenizer.load_tokenizer(tmp_path / "t")
    assert (loaded.vocab_size, loaded.eos_id, loaded.digest) == (300, 7, Ids(300, 7).digest)
    assert loaded.digest != Ids(300, 8).digest
    for use in (lambda: loaded.encode("a"), lambda: loaded.encode_batch(["a"]), lambda: loaded.decode([1])):
        with pytest.raises(ValueError, match="without a tokenizer"):
            use()


def test_a_saved_tokenizer_may_be_named(tmp_path):
    """Catches: another tokenizer written into the corpus than the one named."""
    Bytes().save(tmp_path / "t")
    written.nanogpt(tmp_path / "a.bin", [*b"some text", 256] * 20)
    link_paths(
        (str(tmp_path / "a.bin"),), out=str(tmp_path / "out"), saved_tokenizer=str(tmp_path / "t"), valid_fraction=0.2
    )
    corpus = open_corpus(DataConfig(str(tmp_path / "out"), 4))
    assert corpus.tokenizer.decode(corpus.train.tokens([0])[0].tolist()) == "some "


@pytest.mark.skipif(not MEGATRON.exists(), reason="the Megatron file of ../shared is not here")
def test_the_real_megatron_corpus(tmp_path):
    """Catches: what our own files do not show. 1,000 documents, each with end-of-text last."""
    summary = link_files(tmp_path / "out", [MEGATRON], Ids(5000, 4999), valid_fraction=0.02)
    train, valid = (open_store(tmp_path / "out" / side) for side in ("train", "valid"))
    assert len(train.doc_starts) + len(valid.doc_starts) == 1000
    assert len(train.tokens) + len(valid.tokens) == 1361845 and 0.01 < len(valid.tokens) / 1361845 <= 0.02
    assert train.tokens[-1] == valid.tokens[-1] == 4999
    assert summary.valid[0].domain == "megatron"


def test_nothing_is_appended_to_links(tmp_path):
    """Catches: an error that asks for files which `lfr link` never writes; text of another tokenizer added."""
    written.nanogpt(tmp_path / "a.bin", flat(tokens(50)))
    link_files(tmp_path / "linked", [tmp_path / "a.bin"], Ids(10, EOS))
    (tmp_path / "new.txt").write_text("new")
    with pytest.raises(
        ValueError, match="linked: found links to token files, .*: prepare the new text by itself, and link"
    ):
        prepare_paths((str(tmp_path / "new.txt"),), out=str(tmp_path / "out"), append=str(tmp_path / "linked"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "linked", "new.txt"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """Catches: "No space left on device", which does not say on which."""
    written.nanogpt(tmp_path / "train.bin", flat(tokens(40)))
    monkeypatch.setattr(link, "write_links", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="out: the disk is full .* run the same command again"):
        link_files(tmp_path / "out", [tmp_path / "train.bin"], Ids(10, EOS), valid_fraction=0.5)
