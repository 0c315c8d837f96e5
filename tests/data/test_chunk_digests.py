"""The digests of chunks: written with every new store, and compared at each start as far as is said."""

import pathlib
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import write_tokens

from lfr_jax.config import DataConfig
from lfr_jax.data import chunk_digests
from lfr_jax.data.chunk_digests import FileDigests, check_some
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Ids
from lfr_jax.prepare.link import link_files
from lfr_jax.prepare.noise import add_noise
from lfr_jax.prepare.store_writer import write_store

FACTS = (1000, 999, Ids.kind, Ids(1000, 999).digest)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunk_digests, "CHUNK", 64)


@pytest.fixture
def corpus(tmp_path):
    """80 tokens to train on, 2.5 chunks; 36 held out."""
    train = {("x", "a"): [np.arange(50), np.arange(30)]}
    return write_tokens(tmp_path / "c", train, {("x", "b"): [np.arange(36)]})


def flip(file: pathlib.Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@hypothesis.given(sizes=st.lists(st.integers(0, 200), max_size=9))
def test_pieces_of_any_size(sizes):
    """Catches: a chunk that ends where a piece does; the last chunk left out, or an empty one put in."""
    raw = np.random.default_rng(0).bytes(sum(sizes))
    whole, pieces = FileDigests(), FileDigests()
    whole.update(raw)
    for start, size in zip(np.cumsum([0, *sizes]), sizes):
        pieces.update(raw[start : start + size])
    assert whole.sha256 == pieces.sha256 and whole.chunks.tolist() == pieces.chunks.tolist()
    assert len(whole.chunks) == -(-len(raw) // 64) and whole.chunks.dtype == np.uint32


def made(kind: str, corpus, tmp_path) -> pathlib.Path:
    """A corpus that a command made."""
    out = tmp_path / "made"
    match kind:
        case "written":
            return corpus
        case "appended":
            shutil.copytree(corpus, out)
            shutil.rmtree(out / "train")
            with write_store(out / "train", *FACTS, after=open_store(corpus / "train")) as writer:
                writer.source("b", "y")
                writer.add(np.arange(200), np.array([200]))
        case "linked":
            (tmp_path / "in").mkdir()
            for name in "ab":
                np.arange(900, dtype=np.uint16).tofile(tmp_path / f"in/{name}.bin")
            link_files(out, [tmp_path / "in"], Ids(1000, 999), valid_fraction=0.2)
        case "noisy":
            add_noise(str(corpus), out=str(out), share=0.5, kinds=("shuffled",), seq_len=10)
    return out


@pytest.mark.parametrize("kind", ["written", "appended", "linked", "noisy"])
def test_all_that_is_written_can_be_checked(corpus, tmp_path, kind):
    """Catches: a way to make a store that leaves the digests out, or writes them for other bytes; a byte that no chunk
    covers; a change within the vocabulary that nobody notices."""
    folder = made(kind, corpus, tmp_path)
    assert open_corpus(DataConfig(str(folder), 8)).unchecked == ()
    for side in ("train", "valid"):
        store = open_store(folder / side)
        for name in store.card.files:
            size = store.card.files[name].bytes
            for at in (0, 65, size - 1) if name != "docs.npy" else ():
                flip(folder / side / name, at)
                with pytest.raises(
                    ValueError, match=f"{name}: bytes {at // 64 * 64:,} to .* have changed: found crc32"
                ):
                    open_corpus(DataConfig(str(folder), 8))
                flip(folder / side / name, at)
    assert open_corpus(DataConfig(str(folder), 8)).unchecked == ()


def test_a_store_without_digests_is_compared_whole(corpus):
    """Catches: the stores of older releases never checked; another fingerprint with the digests than without."""
    before = open_store(corpus / "train").fingerprint
    for side in ("train", "valid"):
        (corpus / side / chunk_digests.FILE).unlink()
    assert (
        open_corpus(DataConfig(str(corpus), 8)).unchecked == () and open_store(corpus / "train").fingerprint == before
    )
    flip(corpus / "train/tokens.bin", 159)
    with pytest.raises(ValueError, match=r"train/tokens.bin: found sha256 .*: its bytes have changed"):
        open_corpus(DataConfig(str(corpus), 8))


def test_of_a_large_store_some_are_checked_and_it_is_said(tmp_path):
    """Catches: other chunks read than are said; the same ones at each start; a large store read whole."""
    with write_store(tmp_path / "s", *FACTS) as writer:
        writer.source("a", "x")
        writer.add(np.zeros(32 * 40 + 1), np.array([32 * 40 + 1]))
    flip(tmp_path / "s/tokens.bin", 64 * 7)

    def noticed(seed: int, most: int) -> bool:
        store = open_store(tmp_path / "s")
        try:
            said = check_some(store, np.random.default_rng(seed), most)
        except ValueError:
            return True
        assert said.endswith(
            f"/s: {most} of its 41 MiB of tokens, chosen at random, are what was written; "
            "`lfr data verify` compares all"
        )
        return False

    assert 10 <= sum(noticed(seed, 10) for seed in range(100)) <= 40  # 24 expected
    assert all(noticed(seed, 41) for seed in range(9)) and not noticed(0, 0)
    (tmp_path / "s" / chunk_digests.FILE).unlink()
    said = check_some(open_store(tmp_path / "s"), np.random.default_rng(0), 40)
    assert "its 41 MiB of tokens are not compared with what was written, as it has no chunk_digests.npy" in said
    with pytest.raises(ValueError, match="its bytes have changed"):
        check_some(open_store(tmp_path / "s"), np.random.default_rng(0), 41)


def test_digests_of_another_store(corpus):
    """Catches: digests that are too few, read up to their end; the wrong remedy."""
    shutil.copy(corpus / "valid" / chunk_digests.FILE, corpus / "train")
    with pytest.raises(ValueError, match=r"train/chunk_digests.npy: found an array .*\(2,\), expected .* \(3\)"):
        open_corpus(DataConfig(str(corpus), 8))
    np.save(corpus / "train" / chunk_digests.FILE, np.zeros(3, np.uint32))
    with pytest.raises(ValueError, match="or chunk_digests.npy has changed: then remove it"):
        open_corpus(DataConfig(str(corpus), 8))
