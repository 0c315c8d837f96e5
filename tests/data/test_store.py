"""The token store: what is written is read, and nothing else is ever opened."""

import contextlib
import dataclasses
import errno
import gc
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys

import hostile
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import MADE_BY
from helpers import write_side as write

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.chunk_digests import check_some
from lfr_jax.data.lengths import LengthBlocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.store import open_store
from lfr_jax.data.store_card import FileContent, Part, Source, write_card
from lfr_jax.prepare import store_writer


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store", [("a", "x", [[1, 2, 3], [4, 5]]), ("b", "y", [[6, 7, 8, 9]])])


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=6),
    seq_len=st.integers(1, 7),
    vocab_size=st.sampled_from([300, 2**16, 2**16 + 1]),
    seed=st.integers(0, 99),
)
def test_rows_are_the_windows_of_each_source(tmp_path_factory, lengths, seq_len, vocab_size, seed):
    """Catches: blocks across sources, T instead of T+1 tokens needed for the last, a wrong domain."""
    hypothesis.assume(max(lengths) > seq_len)
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, vocab_size, length).tolist() for length in lengths]
    path = tmp_path_factory.mktemp("stores") / "store"
    made = write(path, [(f"s{i}", "xyz"[i % 2], [text]) for i, text in enumerate(texts)], vocab_size)
    expected = [
        (text[start : start + seq_len + 1], "xyz"[source % 2], source)
        for source, text in enumerate(texts)
        for start in range(0, len(text) - seq_len, seq_len)
    ]
    cut = Blocks(made, seq_len)
    ids = np.arange(cut.num_blocks)
    assert cut.num_blocks == len(expected)
    assert cut.tokens(ids).tolist() == [row for row, _, _ in expected]
    assert [cut.domains[d] for d in cut.domain_N] == [domain for _, domain, _ in expected]
    assert cut.source_of(ids).tolist() == [source for _, _, source in expected]
    order = rng.permutation(ids)
    np.testing.assert_array_equal(cut.tokens(order), cut.tokens(ids)[order])
    assert cut.tokens(ids).dtype == np.int32 and cut.domain_N.dtype == np.int32


@pytest.mark.parametrize(("length", "num_blocks"), [(4, 0), (5, 1), (8, 1), (9, 2)])
def test_the_last_block_needs_one_token_more(tmp_path, length, num_blocks):
    """Catches: count // T blocks, the last of which would lack its last target."""
    sources = [("a", "x", [[0] * length]), ("b", "x", [[1] * 5])]
    assert Blocks(write(tmp_path / "s", sources), 4).num_blocks == num_blocks + 1


@pytest.mark.parametrize(("vocab_size", "itemsize"), [(2**16, 2), (2**16 + 1, 4)])
def test_width_of_a_token(tmp_path, vocab_size, itemsize):
    """Catches: id 65536 wrapped to 0 in uint16; four bytes where two do; native byte order."""
    made = write(tmp_path / "s", [("a", "x", [[vocab_size - 1, 258]])], vocab_size)
    assert (tmp_path / "s/tokens.bin").read_bytes()[itemsize:] == (258).to_bytes(itemsize, "little")
    assert Blocks(made, 1).tokens(np.array([0])).tolist() == [[vocab_size - 1, 258]]


def test_padding_and_wrong_ids(store):
    """Catches: −1 read as the last block; an id beyond the end read from another source."""
    cut = Blocks(store, 2)
    assert cut.num_blocks == 3  # [1,2,3] [3,4,5] | [6,7,8]
    assert cut.tokens(np.array([-1, 2, -1])).tolist() == [[-1, -1, -1], [6, 7, 8], [-1, -1, -1]]
    for wrong in (3, -2):
        with pytest.raises(IndexError, match=f"found block id {wrong}; .* 0 to 2"):
            cut.tokens(np.array([0, wrong]))
        with pytest.raises(IndexError, match=f"found block id {wrong}"):
            cut.source_of(np.array([wrong]))


@pytest.mark.parametrize("seq_len", [5, 0])
def test_unfit_sequence_length(store, seq_len):
    """Catches: no blocks at all, taken for a corpus."""
    with pytest.raises(ValueError, match=f"seq_len={seq_len} .* up to 5 tokens; expected 1 <= seq_len < 5"):
        Blocks(store, seq_len)
    assert Blocks(store, 4).num_blocks == 1


def test_documents_and_sources(store):
    """Catches: starts that are ends, or counted anew in each source."""
    assert store.doc_starts.tolist() == [0, 3, 5] and store.doc_starts.dtype == np.int64
    assert store.sources == (Source("a", "x", 0, 5), Source("b", "y", 5, 4))
    assert (store.tokenizer_kind, store.tokenizer_digest, store.eos_id) == (*MADE_BY, 256)
    assert store.domains == ("x", "y")


def test_many_documents_at_once_equal_one_by_one(tmp_path, store):
    """Catches: document starts wrong in bulk; bytes or fingerprint that depend on how documents came."""
    with store_writer.write_store(tmp_path / "bulk", 257, 256, *MADE_BY) as writer:
        writer.source("a", "x")
        writer.add(np.array([1, 2, 3, 4, 5]), np.array([3, 2]))
        writer.source("b", "y")
        writer.add(np.array([6, 7, 8, 9]), np.array([4]))
    for file in ("tokens.bin", "docs.npy", "store.json"):
        assert (tmp_path / "bulk" / file).read_bytes() == (store.path / file).read_bytes()


def test_the_fingerprint_covers_tokens_and_names(tmp_path, store):
    """Catches: a fingerprint of the path, or of the sizes alone."""
    seen = {store.fingerprint}
    for i, sources in enumerate(
        [
            [("a", "x", [[1, 2, 3], [4, 5]]), ("b", "y", [[6, 7, 8, 0]])],
            [("a", "x", [[1, 2], [3, 4, 5]]), ("b", "y", [[6, 7, 8, 9]])],
            [("a", "x", [[1, 2, 3], [4, 5]]), ("b", "z", [[6, 7, 8, 9]])],
        ]
    ):
        seen.add(write(tmp_path / str(i), sources).fingerprint)
    assert len(seen) == 4
    shutil.copytree(store.path, tmp_path / "elsewhere")
    assert open_store(tmp_path / "elsewhere").fingerprint == store.fingerprint


def test_blocks_pickle_by_path(store):
    """Catches: the tokens carried in the pickle; a mapping that another process cannot open."""
    cut = Blocks(store, 2)
    pickled = pickle.dumps(cut)
    assert len(pickled) < 500
    reader = "import pickle, sys; print(pickle.load(sys.stdin.buffer).tokens([1, -1]).tolist())"
    done = subprocess.run([sys.executable, "-c", reader], input=pickled, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[[3, 4, 5], [-1, -1, -1]]"
    shutil.rmtree(store.path)
    write(store.path, [("a", "x", [[9, 9, 9]])])
    with pytest.raises(ValueError, match=f"expected {store.fingerprint[:12]}: it was replaced"):
        pickle.loads(pickled)


def test_an_error_while_writing_leaves_nothing(tmp_path):
    """Catches: a half-written folder under the final name, or left beside it."""
    with pytest.raises(RuntimeError, match="disk on fire"):
        with store_writer.write_store(tmp_path / "s", 257, 256, *MADE_BY) as writer:
            writer.source("a", "x")
            writer.add(np.array([1]), np.array([1]))
            raise RuntimeError("disk on fire")
    with pytest.raises(ValueError, match="no tokens were added"):
        with store_writer.write_store(tmp_path / "s", 257, 256, *MADE_BY) as writer:
            writer.source("a", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_dies_leaves_no_store(tmp_path):
    """Catches: tokens written in place, so that a killed run leaves something that opens."""
    script = f"""
import os, numpy as np
from lfr_jax.prepare import store_writer
with store_writer.write_store({str(tmp_path / "s")!r}, 257, 256, "bytes", "d") as writer:
    writer.source("a", "x")
    writer.add(np.zeros(10**6), np.array([10**6]))
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert not (tmp_path / "s").exists()
    assert [path.name.startswith(".s.partial-") for path in tmp_path.iterdir()] == [True]


def test_an_existing_store_is_kept(store):
    """Catches: an overwritten store."""
    with pytest.raises(FileExistsError, match="never overwritten"):
        write(store.path, [("a", "x", [[9]])])
    store.verify()


def test_what_a_writer_refuses(tmp_path):
    """Catches: ids wrapped into the range of the vocabulary; documents and tokens out of step."""
    with store_writer.write_store(tmp_path / "s", 257, 256, *MADE_BY) as writer:
        writer.source("a", "x")
        for wrong in (257, -1):
            with pytest.raises(ValueError, match="expected 0 to 256: vocab_size=257"):
                writer.add(np.array([0, wrong]), np.array([2]))
        with pytest.raises(ValueError, match="found 2 tokens, expected 3"):
            writer.add(np.array([0, 1]), np.array([3]))
        with pytest.raises(ValueError, match="'a' of domain 'x' was begun before"):
            writer.source("a", "x")
        writer.source("a", "y")
        writer.add(np.array([256]), np.array([1]))
    assert open_store(tmp_path / "s").card.tokens == 1


@pytest.mark.parametrize("file", ["tokens.bin", "docs.npy"])
def test_a_cut_off_or_missing_file(store, file):
    """Catches: a store opened although a copy of it was broken off."""
    content = (store.path / file).read_bytes()
    (store.path / file).write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{file}: found {len(content) - 1} bytes, expected {len(content)}"):
        open_store(store.path)
    (store.path / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file}: is missing"):
        open_store(store.path)


@pytest.mark.parametrize("file", ["tokens.bin", "docs.npy", "store.json"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_named_pipe_in_place_of_a_file(store, file, linked):
    """Catches: a command that waits for ever for the other end."""
    (store.path / file).unlink()
    os.mkfifo(store.path / ("pipe" if linked else file))
    if linked:
        (store.path / file).symlink_to("pipe")
    with pytest.raises(OSError, match="found a named pipe, expected a regular file"):
        open_store(store.path)


@pytest.mark.parametrize("file", ["tokens.bin", "docs.npy"])
def test_verify_finds_a_flipped_bit(store, file):
    """Catches: a check of the sizes alone."""
    store.verify()
    content = bytearray((store.path / file).read_bytes())
    content[-1] ^= 1
    (store.path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file}: found sha256"):
        open_store(store.path).verify()


def overwrite(path, at, value, dtype):
    """Writes a number over number `at` of a file."""
    with open(path, "r+b") as file:
        file.seek(at * np.dtype(dtype).itemsize)
        file.write(np.array(value, dtype).tobytes())


@pytest.mark.parametrize(
    "kind", [lambda s: Blocks(s, 4), lambda s: PackedBlocks(s, 4), lambda s: LengthBlocks(s, 4, 2)]
)
@pytest.mark.parametrize(
    "vocab_size, dtype, foreign", [(300, "<u2", 300), (300, "<u2", 65535), (70_000, "<u4", 2**32 - 1)]
)
def test_a_token_that_is_not_in_the_vocabulary(tmp_path, kind, vocab_size, dtype, foreign):
    """Catches: an id beyond the embedding, which the device clamps to its last row without a word; one of 32 bits that
    is negative once it is read; an error that does not say where."""
    documents = [[i * 10 + j for j in range(8)] for i in range(4)]
    made = write(tmp_path / "s", [("a", "x", documents[:2]), ("b", "y", documents[2:])], vocab_size)
    overwrite(made.path / "tokens.bin", 21, foreign, dtype)
    blocks = kind(open_store(made.path))
    rows = [
        ids for _, some in blocks.by_length(np.arange(blocks.num_blocks)) for ids in np.arange(blocks.num_blocks)[some]
    ]
    refused = 0
    for block in rows:
        try:
            blocks.tokens(np.array([block]))
        except ValueError as error:
            refused += 1
            assert f"tokens.bin: found the id {foreign} at token 21 (source 'b' of domain 'y'), expected 0 to" in str(
                error
            )
    assert 0 < refused < len(rows)


def test_linked_tokens_of_signed_types(tmp_path, store):
    """Catches: an id below 0, or beyond 32 bits, cut off to one that is in the vocabulary."""
    for dtype, foreign in [("<i4", -1), ("<i8", 2**32 + 1), ("<i2", -300)]:
        folder = tmp_path / dtype[1:]
        shutil.copytree(store.path, folder)
        np.array([5, 6, foreign, 7, 8, 9, 1, 2, 3], dtype).tofile(folder / "linked.bin")
        size = (folder / "linked.bin").stat().st_size
        files = {"linked.bin": FileContent(size, ""), "docs.npy": store.card.files["docs.npy"]}
        card = dataclasses.replace(store.card, parts=(Part("linked.bin", dtype, 0, 9),), files=files)
        write_card(card, folder)
        cut = Blocks(open_store(folder), 1)
        assert cut.tokens(np.array([0])).tolist() == [[5, 6]]
        with pytest.raises(ValueError, match=f"linked.bin: found the id {foreign} at token 2 .*expected 0 to 256"):
            cut.tokens(np.array([1]))


def with_documents(store, raw: bytes, documents: int):
    """The store with another docs.npy, opened; the card says that it is right."""
    (store.path / "docs.npy").write_bytes(raw)
    files = store.card.files | {"docs.npy": FileContent(len(raw), hashlib.sha256(raw).hexdigest())}
    write_card(dataclasses.replace(store.card, documents=documents, files=files), store.path)
    return open_store(store.path)


@pytest.mark.parametrize(
    "starts, fits",
    [([0, 3, 5], 1), ([0, 5], 1), ([0, 3], 0), ([1, 5], 0), ([0, 5, 5], 0), ([0, 6, 5], 0), ([0, 5, 9], 0)],
)
def test_documents_that_cannot_be(store, starts, fits):
    """Catches: documents that end before they begin, which other packings read as other lengths; a source that begins
    within a document."""
    file = io.BytesIO()
    np.save(file, np.array(starts, np.int64))
    opened = with_documents(store, file.getvalue(), len(starts))
    with (
        contextlib.nullcontext() if fits else pytest.raises(ValueError, match="documents do not begin in order, or not")
    ):
        assert opened.doc_starts.tolist() == starts


def test_flipped_documents_are_noticed_where_they_are_used(store):
    """Catches: other documents than were prepared, under any packing or mask that depends on them."""
    overwrite(store.path / "docs.npy", 17, 2, "<i8")  # where the second document begins: behind a header of 128 bytes
    opened = open_store(store.path)
    Blocks(opened, 2)
    for use in (lambda: opened.doc_starts, lambda: PackedBlocks(opened, 2), lambda: LengthBlocks(opened, 2, 1)):
        with pytest.raises(ValueError, match="docs.npy: found sha256 .*: its bytes have changed"):
            use()


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """A store whose docs.npy a test replaces again and again, and what it was."""
    path = tmp_path_factory.mktemp("stores") / "s"
    return write(path, [("a", "x", [[1, 2, 3], [4, 5]]), ("b", "y", [[6, 7, 8, 9]])]), (path / "docs.npy").read_bytes()


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(data=st.data())
def test_any_documents_give_starts_or_an_error(edited, data):
    """Catches: terabytes allocated for a header; any exception but ours."""
    store, documents = edited
    raw = data.draw(hostile.edited_bytes(documents))
    try:
        opened = with_documents(store, raw, data.draw(st.integers(1, 4)))
        assert opened.doc_starts[0] == 0
        PackedBlocks(opened, 2)
    except (ValueError, OSError) as error:
        assert "docs.npy" in str(error) or "store.json" in str(error)


def test_a_disk_that_fails_is_named(store, monkeypatch):
    """Catches: "Input/output error" of one file among hundreds."""

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    for read in (lambda: Blocks(store, 2).tokens(np.array([0])), lambda: check_some(store, np.random.default_rng(0))):
        with pytest.raises(OSError, match=r"Input/output error: '.*/tokens.bin'"):
            read()


def test_files_are_closed_with_the_store(store):
    """Catches: descriptors of stores that nobody uses, open until the garbage collector runs."""
    opened = open_store(store.path)
    descriptor = opened.opened("tokens.bin").descriptor
    os.fstat(descriptor)
    gc.disable()
    try:
        del opened
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    finally:
        gc.enable()


def test_foreign_cards(store, tmp_path):
    """Catches: another format, version or an edited card taken as it is."""
    card_file = store.path / "store.json"
    card = json.loads(card_file.read_text())
    for content, message in [
        (json.dumps(card | {"version": 2}), "found version 2, expected 1"),
        (json.dumps(card | {"eos_id": 0}), "it was edited"),
        (json.dumps({"format": "mp3"}), "this is no token store"),
        ("[]", "this is no token store"),
        ("{", "no valid JSON"),
    ]:
        card_file.write_text(content)
        with pytest.raises(ValueError, match=message):
            open_store(store.path)
    with pytest.raises(FileNotFoundError, match="found no store.json"):
        open_store(tmp_path / "nowhere")
    write(tmp_path / "both/train", [("a", "x", [[1]])])
    with pytest.raises(FileNotFoundError, match="open .*both/train"):
        open_store(tmp_path / "both")


def test_a_hundred_million_blocks(tmp_path):
    """Catches: 32-bit arithmetic on the way from a block's id to bytes; a store that is read to be opened."""
    seq_len, num_blocks, far = 1024, 10**8, 87_654_321_012  # tokens.bin is sparse: 205 GB that take no room
    total = num_blocks * seq_len + 1
    made = write(tmp_path / "s", [("a", "x", [[0]])], vocab_size=2**16)
    with open(made.path / "tokens.bin", "r+b") as file:
        file.truncate(2 * total)
        for position in (1024 * 99_999_999, far - far % 1024, total - 1):
            file.seek(2 * position)
            file.write((position % 65521).to_bytes(2, "little"))
    files = made.card.files | {"tokens.bin": FileContent(2 * total, "")}
    card = dataclasses.replace(made.card, tokens=total, sources=(Source("a", "x", 0, total),), files=files)
    write_card(card, made.path)
    cut = Blocks(open_store(made.path), seq_len)
    assert cut.num_blocks == num_blocks
    expected = np.zeros((3, seq_len + 1), int)
    expected[0, 0], expected[0, -1] = 1024 * 99_999_999 % 65521, (total - 1) % 65521
    expected[1, 0] = (far - far % 1024) % 65521
    np.testing.assert_array_equal(cut.tokens(np.array([num_blocks - 1, far // 1024, 10**6])), expected)
    with pytest.raises(IndexError, match="found block id 100000000"):
        cut.tokens(np.array([num_blocks]))


def test_sources_without_a_block_are_stepped_over(tmp_path):
    """Catches: a short source, before, between or after others, that shifts blocks or answers for them."""
    lengths = [3, 4, 9, 2, 4, 5, 1]
    cut = Blocks(write(tmp_path / "s", [(f"s{i}", "x", [[i] * n]) for i, n in enumerate(lengths)]), 4)
    assert cut.blocks_S.tolist() == [0, 0, 2, 0, 0, 1, 0]
    assert cut.tokens(np.arange(3))[:, 0].tolist() == [2, 2, 5]
    assert cut.source_of(np.arange(3)).tolist() == [2, 2, 5]
