"""Stores in a bucket: what is read is what a local store gives, and crosses the network once."""

import errno
import os
import pickle
import re
import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pytest
from buckets import URL
from helpers import documents
from running import PATIENCE

from lfr_jax import cli
from lfr_jax.config import DataConfig
from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes, Ids
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.prepare.link import link_files
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.storage import remote_files
from lfr_jax.storage.paths import as_path
from lfr_jax.storage.remote_files import RemoteFile
from lfr_jax.storage.token_files import StoreChanged

TOKENS = 30_001
CHUNK = 4096  # bytes


@pytest.fixture(autouse=True)
def small_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_files, "CHUNK", CHUNK)
    monkeypatch.setenv("LFR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def local(tmp_path):
    with write_store(tmp_path / "s", 2**16, 0, "bytes", "d") as writer:
        writer.source("a", "x")
        writer.add(np.random.default_rng(0).integers(0, 2**16, TOKENS), np.array([9, TOKENS - 9]))
    return Blocks(open_store(tmp_path / "s"), 100)


@pytest.fixture
def url(bucket, local, tmp_path):
    return bucket.copy(local.store.path, tmp_path.name)


def everything(blocks, seed=0):
    """All rows, in an order of its own, some at a time."""
    order = np.random.default_rng(seed).permutation(blocks.num_blocks)
    rows = np.concatenate([blocks.tokens(ids) for ids in np.array_split(order, 7)])
    return rows[np.argsort(order)]


@pytest.mark.parametrize("cache", [None, ""], ids=["cache", "no cache"])
def test_rows_are_those_of_the_local_store(bucket, local, url, cache, tmp_path):
    """Catches: a chunk at the wrong place, or too long at the end; rows across chunks; runs in another order."""
    remote = Blocks(open_store(url, cache), 100)
    np.testing.assert_array_equal(remote.tokens(np.array([20])), local.tokens(np.array([20])))  # of bytes 4000 to 4202
    np.testing.assert_array_equal(everything(remote), everything(local))
    np.testing.assert_array_equal(remote.tokens(np.array([-1, 5, 5, -1])), local.tokens(np.array([-1, 5, 5, -1])))
    np.testing.assert_array_equal(remote.store.tokens, local.store.tokens)
    assert remote.store.doc_starts.tolist() == [0, 9]
    remote.store.verify()
    assert (tmp_path / "cache").exists() == (cache is None)


def test_each_chunk_crosses_the_network_once(bucket, local, url):
    """Catches: chunks fetched for every row, or by every process; a cache that is not found again."""
    before, chunks = bucket.reads(), -(-2 * TOKENS // CHUNK)
    first, second = Blocks(open_store(url), 100), Blocks(open_store(url), 100)
    first.tokens(np.arange(3))
    assert bucket.reads() - before == 1  # a run begins at once
    everything(first)
    everything(second, seed=1)
    everything(Blocks(open_store(url), 100), seed=2)
    assert bucket.reads() - before == chunks


def test_threads_do_not_fetch_what_others_fetch(bucket, local, url):
    """Catches: a batch's chunks fetched by each thread that misses them."""
    before, remote = bucket.reads(), Blocks(open_store(url), 100)
    plan = pipeline.Batched(np.tile(np.arange(remote.num_blocks), 3), 16)
    for batch in pipeline.batches(plan, remote, make_mesh(1, 1, 1)):
        np.testing.assert_array_equal(batch["tokens"], local.tokens(batch["ids"]))
    assert bucket.reads() - before == -(-2 * TOKENS // CHUNK)


def test_killed_while_it_fetches(local, url, monkeypatch):
    """Catches: a chunk that is marked as present before its bytes are written."""
    real, expected = os.pwrite, everything(local)
    for moment in range(8):
        left = [moment]

        def pwrite(*args):
            if not left[0]:
                raise KeyboardInterrupt  # nothing catches it
            left[0] -= 1
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(KeyboardInterrupt):
                Blocks(open_store(url), 100).tokens(np.array([0, 50, 100, 150]))
        np.testing.assert_array_equal(everything(Blocks(open_store(url), 100)), expected)
        shutil.rmtree(os.environ["LFR_CACHE"])


@pytest.mark.slow
def test_worker_processes_share_the_cache(bucket, local, url, monkeypatch):
    """Catches: a connection or a lock that is pickled; a worker with a cache of its own, or none."""
    monkeypatch.setattr(remote_files, "CHUNK", 1 << 20)  # as the worker has it, which knows nothing of this test
    remote = Blocks(open_store(url), 100)
    order = np.random.default_rng(0).permutation(remote.num_blocks)
    found = list(pipeline.batches(pipeline.Batched(order, 100), remote, make_mesh(1, 1, 1), workers=1))
    assert len(found) == 3
    for batch in found:
        np.testing.assert_array_equal(batch["tokens"], local.tokens(batch["ids"]))
    before = bucket.reads()
    np.testing.assert_array_equal(everything(remote), everything(local))
    assert bucket.reads() == before


READ = """
import sys
import numpy as np
from lfr_jax.storage import remote_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
remote_files.CHUNK = 4096
url, folder, seed = sys.argv[1:]
local, remote = Blocks(open_store(folder), 100), Blocks(open_store(url), 100)
for ids in np.array_split(np.random.default_rng(int(seed)).permutation(local.num_blocks), 20):
    np.testing.assert_array_equal(remote.tokens(ids), local.tokens(ids))
"""


@pytest.mark.slow
def test_processes_read_at_the_same_time(local, url, tmp_path):
    """Catches: a process that cuts off, or overwrites with older bytes, what another has fetched and marked."""
    command = [sys.executable, "-c", READ, url, str(local.store.path)]
    readers = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(2)]
    for reader in readers:
        _, errors = reader.communicate(timeout=PATIENCE)
        assert reader.returncode == 0, errors
    (marks,) = (tmp_path / "cache").glob("*/*.chunks-4096")
    assert marks.read_bytes() == b"\1" * -(-2 * TOKENS // CHUNK)


@pytest.mark.parametrize("cache", [None, ""], ids=["cache", "no cache"])
@pytest.mark.parametrize("content", [b"\x07\x00" * TOKENS, b"\x07\x00", None], ids=["same size", "cut off", "gone"])
def test_a_changed_object_is_an_error_at_the_next_fetch(bucket, local, url, cache, content):
    """Catches: bytes of another version handed on, or kept, as those of this one."""
    remote, pickled = Blocks(open_store(url, cache), 100), pickle.dumps(open_store(url, cache))
    remote.tokens(np.arange(3))
    name = f"{url}/tokens.bin"
    bucket.files.rm(name) if content is None else bucket.files.pipe(name, content)
    with pytest.raises(StoreChanged, match="tokens.bin: was changed while in use: found .* expected 60002 bytes of"):
        remote.tokens(np.array([100]))
    with pytest.raises((StoreChanged, ValueError, FileNotFoundError), match="changed|is missing"):
        Blocks(pickle.loads(pickled), 100).tokens(np.array([0]))
    if cache is None:  # what was fetched before is right
        np.testing.assert_array_equal(remote.tokens(np.arange(3)), local.tokens(np.arange(3)))


def test_an_object_that_changes_during_a_fetch(bucket, local, url, monkeypatch):
    """Catches: looking at the version before the bytes come, and not after."""
    remote, (system, _) = Blocks(open_store(url), 100), fsspec.core.url_to_fs(url)
    real = system.cat_ranges

    def cat_ranges(*args, **kwargs):
        bucket.files.pipe(f"{url}/tokens.bin", b"\x07\x00" * TOKENS)
        return real(*args, **kwargs)

    remote.tokens(np.array([0]))
    monkeypatch.setattr(system, "cat_ranges", cat_ranges)
    with pytest.raises(StoreChanged):
        remote.tokens(np.array([100]))


def test_another_version_has_another_cache(bucket, local, url):
    """Catches: old chunks taken for those of an object that was copied there anew."""
    everything(Blocks(open_store(url), 100))
    before = bucket.reads()
    bucket.copy(local.store.path, url.removeprefix(f"{URL}/"))
    np.testing.assert_array_equal(everything(Blocks(open_store(url), 100)), everything(local))
    assert bucket.reads() - before == -(-2 * TOKENS // CHUNK)


def test_a_full_disk_says_what_to_set(local, url, monkeypatch):
    """Catches: an error without a way out."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"cache/.*: the disk is full .* has 60,002 bytes; .*--data.cache, or LFR_CACHE"):
        Blocks(open_store(url), 100).tokens(np.array([0]))


def test_linked_files_that_were_copied(bucket, tmp_path):
    """Catches: a store in a bucket taken to be the one file tokens.bin; one part read for another."""
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.arange(1000 * number, 1000 * number + 1000, dtype=np.uint16))
    link_files(tmp_path / "out", [tmp_path / f"{number}.npy" for number in range(3)], Ids(4000, 0), valid_fraction=0.1)
    url = bucket.copy(tmp_path / "out", f"{tmp_path.name}/linked")
    for side in ("train", "valid"):
        local = Blocks(open_store(tmp_path / "out" / side), 30)
        np.testing.assert_array_equal(everything(Blocks(open_store(f"{url}/{side}"), 30)), everything(local))


def test_a_corpus_is_opened(bucket, corpus_dir, tmp_path):
    """Catches: a part that is looked for on this machine; `data.cache` that is not passed on."""
    url = bucket.copy(corpus_dir, tmp_path.name)
    here, there = open_corpus(DataConfig(str(corpus_dir), 32)), open_corpus(DataConfig(url, 32, cache=""))
    assert there.fingerprint == here.fingerprint and there.tokenizer.digest == here.tokenizer.digest
    for side in ("train", "valid"):
        np.testing.assert_array_equal(everything(getattr(there, side)), everything(getattr(here, side)))
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_noticed(bucket, corpus_dir, tmp_path):
    """Catches: a check of the bucket, when it is the copy that is trained on; a remedy that leaves the copy there."""
    url = bucket.copy(corpus_dir, tmp_path.name)
    store = open_corpus(DataConfig(url, 32)).train.store
    copy, _ = sorted((tmp_path / "cache" / store.fingerprint).iterdir())  # and the marks of its chunks
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ValueError, match=f"train/tokens.bin: bytes .* have changed.*its copy in .*{store.fingerprint}"):
        open_corpus(DataConfig(url, 32))
    open_corpus(DataConfig(url, 32, cache=""))


def lfr(monkeypatch, capsys, *args):
    monkeypatch.setattr("sys.argv", ["lfr", *map(str, args)])
    cli.main()
    return capsys.readouterr().out


def test_the_command_line_looks_into_it(bucket, corpus_dir, tmp_path, monkeypatch, capsys):
    """Catches: a subcommand that takes a URL for a path; a check of a copy in the cache, and not of the bucket."""
    url = bucket.copy(corpus_dir, tmp_path.name)
    for command in (["info", "--seq-len", 32], ["sample", "--seq-len", 32]):
        here = lfr(monkeypatch, capsys, "data", command[0], corpus_dir, *command[1:])
        assert lfr(monkeypatch, capsys, "data", command[0], url, *command[1:]) == here.replace(str(corpus_dir), url)
    monkeypatch.setenv("LFR_CACHE", str(tmp_path / "unused"))
    assert "as they were written" in lfr(monkeypatch, capsys, "data", "verify", url)
    assert not (tmp_path / "unused").exists()
    content = bytearray(bucket.files.cat_file(f"{url}/train/tokens.bin"))
    content[40] ^= 1
    bucket.files.pipe(f"{url}/train/tokens.bin", bytes(content))
    with pytest.raises(SystemExit, match="1 thing is wrong"):
        lfr(monkeypatch, capsys, "data", "verify", url)
    assert re.search("tokens.bin: found sha256 .*: its bytes have changed", capsys.readouterr().out)


def test_nothing_is_made_there(bucket, corpus_dir, tmp_path, monkeypatch, capsys):
    """Catches: a folder called gs: on this machine; hours of encoding before a refusal."""
    (tmp_path / "a.txt").write_text("text " * 100)
    monkeypatch.chdir(tmp_path)
    prepared = f"{URL}/x --byte-tokenizer a.txt"
    for command in (f"prepare --out {prepared}", f"link --out {URL}/x a.txt --vocab-size 9 --eos-id 0"):
        with pytest.raises(SystemExit, match="found gs://bucket/x, expected a path on this machine"):
            lfr(monkeypatch, capsys, *command.split())
    url = bucket.copy(corpus_dir, tmp_path.name)
    with pytest.raises(SystemExit, match="found gs://.*, expected a path on this machine"):
        lfr(monkeypatch, capsys, "prepare", "--out", "y", "--append", url, "a.txt")
    with pytest.raises(ValueError, match="expected a path on this machine"):
        prepare_documents(f"{URL}/x", documents(1), Bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_is_not_there_is_named(bucket, url, tmp_path):
    """Catches: a bucket's name misspelt that ends in a traceback; a file that is missed hours later."""
    for nowhere in ("gs://other/data/train", f"{url}/none"):
        with pytest.raises(FileNotFoundError, match=f"{nowhere}: found no store.json, .*gcloud storage cp"):
            open_store(nowhere)
    with pytest.raises(FileNotFoundError, match="gs://other/data/train: found no store.json"):
        open_corpus(DataConfig("gs://other/data", 32))
    bucket.files.rm(f"{url}/docs.npy")
    with pytest.raises(FileNotFoundError, match="docs.npy: is missing; copy the whole store again"):
        open_store(url)
    bucket.files.pipe(f"{url}/docs.npy", b"?")
    with pytest.raises(ValueError, match="docs.npy: found 1 bytes, expected"):
        open_store(url)


def test_no_rights_are_no_missing_file(bucket, url):
    """Catches: 'found no store' for one that this user may not read."""
    bucket.forbidden = True
    try:
        with pytest.raises(
            OSError, match=r"store.json: the object store .* \(OSError: Forbidden.*gcloud auth"
        ) as error:
            open_store(url)
        assert not isinstance(error.value, FileNotFoundError)
    finally:
        bucket.forbidden = False


def test_too_few_bytes_are_an_error(url, monkeypatch):
    """Catches: a short answer that moves all later rows."""
    file = RemoteFile(as_path(f"{url}/tokens.bin"), remote_files.stamp_of(as_path(f"{url}/tokens.bin")))
    with pytest.raises(OSError, match="found 2 bytes, expected 4 from"):
        file.read([2 * TOKENS - 2], 4)
