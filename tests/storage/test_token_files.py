"""A file of a store that changes while it is read: noticed before a wrong token is handed on."""

import os
import pickle
import shutil

import numpy as np
import pytest

from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Ids
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.prepare.link import link_files
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.storage.token_files import StoreChanged

TOKENS = 60_000


@pytest.fixture
def store(tmp_path):
    with write_store(tmp_path / "s", 2**16, 0, "bytes", "d") as writer:
        writer.source("a", "x")
        writer.add(np.arange(TOKENS), np.array([TOKENS]))
    return open_store(tmp_path / "s")


def cut_off(path):
    os.truncate(path, TOKENS)  # half of it


def overwrite(path):
    with open(path, "r+b") as file:
        file.write(b"\x07\x00")
    later = path.stat().st_mtime_ns + 1_000_000_000  # whatever the file system's clock
    os.utime(path, ns=(later, later))


def append(path):
    with open(path, "ab") as file:
        file.write(b"\x07\x00")


def replace(path):
    shutil.copy2(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


@pytest.mark.parametrize("change", [cut_off, overwrite, append])
def test_a_changed_file_is_an_error_at_the_next_read(store, change):
    """Catches: a mapping, on which a cut-off file kills the process; a check of the size alone, or of none."""
    cut = Blocks(store, 8)
    ids = np.arange(cut.num_blocks)
    assert cut.tokens(ids)[-1].tolist() == [*range(8 * cut.num_blocks - 8, 8 * cut.num_blocks + 1)]
    change(store.path / "tokens.bin")
    with pytest.raises(StoreChanged, match="tokens.bin: was changed while in use: found .* expected 120000 bytes"):
        cut.tokens(ids[:1])


def test_a_replaced_file_is_read_on_but_not_opened_again(store):
    """Catches: another file of the same size and time, opened in the middle of a run (by a worker, say)."""
    cut, pickled = Blocks(store, 8), pickle.dumps(store)
    expected = cut.tokens(np.array([5]))
    replace(store.path / "tokens.bin")
    np.testing.assert_array_equal(cut.tokens(np.array([5])), expected)
    with pytest.raises(StoreChanged, match="was changed while in use"):
        Blocks(pickle.loads(pickled), 8).tokens(np.array([5]))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_error_reaches_the_training_loop(store, workers):
    """Catches: an error that stays in a thread or a worker process, and a loop that waits for ever."""
    cut = Blocks(store, 8)
    batches = pipeline.batches(
        pipeline.Batched(np.arange(cut.num_blocks), 16), cut, make_mesh(1, 1, 1), workers=workers
    )
    next(batches)
    cut_off(store.path / "tokens.bin")
    with pytest.raises(StoreChanged, match="was changed while in use"):
        for _ in batches:
            pass


def test_few_files_are_open_at_once(tmp_path, monkeypatch):
    """Catches: a descriptor for each of a corpus's thousands of files; one closed under a thread that reads."""
    monkeypatch.setattr("lfr_jax.data.store.OPEN_FILES", 2)
    for number in range(20):
        np.arange(100 * number, 100 * number + 100).astype("<u2").tofile(tmp_path / f"{number:02}.bin")
    link_files(
        tmp_path / "out", [tmp_path / f"{number:02}.bin" for number in range(20)], Ids(2000, 0), valid_fraction=0.1
    )
    cut = Blocks(open_store(tmp_path / "out/train"), 8)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    plan = np.random.default_rng(0).permutation(np.tile(np.arange(cut.num_blocks), 10))
    for batch in pipeline.batches(pipeline.Batched(plan, 16), cut, make_mesh(1, 1, 1)):
        real = batch["ids"] >= 0
        first = 100 * (batch["ids"][real] // 11) + 8 * (batch["ids"][real] % 11)
        np.testing.assert_array_equal(batch["tokens"][real], first[:, None] + np.arange(9))
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2 + 16
