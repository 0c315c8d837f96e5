"""The card of a store: its bytes on disk, and its way there and back."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import hostile
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import write_side

from lfr_jax.data import store_card
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.packing import PackedBlocks
from lfr_jax.data.store import open_store
from lfr_jax.data.store_card import FileContent, Part, Source, StoreCard, TokenizerId
from lfr_jax.prepare.store_writer import write_store

WRITTEN = """{
 "format": "lfr token store",
 "version": 1,
 "vocab_size": 257,
 "eos_id": 256,
 "tokenizer": {
  "kind": "bytes",
  "digest": "d"
 },
 "tokens": 3,
 "documents": 1,
 "sources": [
  {
   "name": "s",
   "domain": "x",
   "first": 0,
   "count": 3
  }
 ],
 "files": {
  "tokens.bin": {
   "bytes": 6,
   "sha256": "7a4a5f2abe835dba70e9f6661466aca93b92c5094a1636c970498f22bc5667a4"
  },
  "docs.npy": {
   "bytes": 136,
   "sha256": "f6df0000bed676f0a4b777e2a1d915b6608dab452e11737f82c685cebf0e8ba7"
  }
 },
 "fingerprint": "ee0dd82198b8cc40cb8005e70b698c6851640cb9a70ca8e65445c78a1b52fbb8"
}
"""


def test_the_bytes_of_a_card(tmp_path):
    """Catches: other names, another order or layout in store.json: another fingerprint for the same store, so that no
    run that was begun on it goes on."""
    with write_store(tmp_path / "s", 257, 256, "bytes", "d") as writer:
        writer.source("s", "x")
        writer.add(np.array([104, 105, 256]), np.array([3]))
    assert (tmp_path / "s/store.json").read_text() == WRITTEN


SOURCES = (Source("a", "x", 0, 5),)
PLAIN = StoreCard(
    *(9, 8, TokenizerId("ids", "d"), 5, 1, SOURCES, None),
    {"tokens.bin": FileContent(10, "s"), "docs.npy": FileContent(136, "s")},
)
LINKED = dataclasses.replace(
    PLAIN, parts=(Part("f.bin", "<u2", 4, 5),), files=PLAIN.files | {"f.bin": FileContent(16, "s")}
)


def test_there_and_back(tmp_path):
    """Catches: a field that is written and not read; parts of a linked store lost; parts in a prepared one."""
    for card in (PLAIN, LINKED):
        store_card.write_card(card, tmp_path)
        text = (tmp_path / store_card.FILE).read_text()
        found = store_card.parse_card(text, tmp_path / store_card.FILE)
        assert found == store_card.complete(card) and ("parts" in json.loads(text)) == (card is LINKED)
    assert found.fingerprint != store_card.complete(PLAIN).fingerprint


def rewritten(card: dict) -> str:
    """The text of a card that somebody edited, under a fingerprint that fits."""
    return json.dumps(card | {"fingerprint": store_card.fingerprint(card)})


def edited(card: StoreCard, path: str, value) -> str:
    """The text of `card` with one value replaced, under a fingerprint that fits."""
    content = inner = store_card.as_json(card)
    *outer, last = (int(key) if key.isdigit() else key for key in path.split("/"))
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return rewritten(content)


@pytest.mark.parametrize(
    "card, path, value, problem",
    [
        (PLAIN, "vocab_size", 0, "vocab_size is 0: expected `int` >= 1"),
        (PLAIN, "vocab_size", "9", "vocab_size is '9': expected `int`, got `str`"),
        (PLAIN, "eos_id", 9, "eos_id is 9, expected 0 to 8, as vocab_size says"),
        (PLAIN, "eos_id", -1, "eos_id is -1"),
        (PLAIN, "tokens", 4, r"tokens.bin.bytes is 10, expected 8"),
        (LINKED, "tokens", 4, "tokens is 4, expected 5, as its sources have, 5, as its parts have"),
        (PLAIN, "documents", 0, "documents is 0, expected 1 to 5"),
        (PLAIN, "documents", 6, "documents is 6, expected 1 to 5"),
        (PLAIN, "sources/0/first", 1, r"sources.0.first is 1, expected 0"),
        (PLAIN, "sources/0/count", 4, "tokens is 5, expected 4"),
        (PLAIN, "sources/0/count", -5, r"sources.0.count is -5: expected `int` >= 0"),
        (PLAIN, "sources/0/name", None, r"sources.0.name is None: expected `str`"),
        (PLAIN, "sources", [], "tokens is 5, expected 0"),
        (LINKED, "parts", [], "tokens is 5, expected 5, as its sources have, 0"),
        (LINKED, "parts/0/tokens", 7, r"files.f.bin.bytes is 16, expected 18: 7 tokens of type <u2 after 4 bytes"),
        (LINKED, "parts/0/offset", 8, r"files.f.bin.bytes is 16, expected 18"),
        (LINKED, "parts/0/file", "g.bin", "files has no 'g.bin'"),
        (LINKED, "parts/0/dtype", "object", r"parts.0.dtype is 'object': expected one of '\|u1', "),
        (PLAIN, "files", {"tokens.bin": {"bytes": 10, "sha256": "s"}}, "files has no 'docs.npy'"),
        (PLAIN, "files/tokens.bin/bytes", 2**70, "tokens.bin"),
        (PLAIN, "format", ["x" * 70_000], "found no format"),
        (PLAIN, "version", "x" * 70_000, "found version 'xxx"),
        (PLAIN, "sources/0/more", 1, "it was edited"),
        (PLAIN, "more", 1, "it was edited"),
    ],
)
def test_a_card_that_contradicts_itself(card, path, value, problem):
    """Catches: each check, if it is dropped: all of these have a fingerprint that fits."""
    with pytest.raises(ValueError, match=f"s/store.json: .*{problem}") as refused:
        store_card.parse_card(edited(card, path, value), pathlib.Path("s/store.json"))
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0", "a\n", "\ud800", "x" * 256]
)
def test_files_lie_in_the_folder(name):
    """Catches: a card that makes `lfr data sample` show any file of the reader's."""
    card = dataclasses.replace(
        LINKED, parts=(Part(name, "<u2", 4, 5),), files=LINKED.files | {name: FileContent(16, "s")}
    )
    with pytest.raises(ValueError, match="expected the plain name of a file in the store's folder"):
        store_card.parse_card(rewritten(store_card.as_json(card)), pathlib.Path("store.json"))


def test_a_card_without_its_fingerprint():
    """Catches: a bare KeyError."""
    card = store_card.as_json(LINKED)
    with pytest.raises(ValueError, match="store.json: does not match its own fingerprint"):
        store_card.parse_card(json.dumps(card), pathlib.Path("store.json"))


def test_parts_do_not_divide_sources():
    """Catches: a block that is read across the end of a part."""
    parts = (Part("f.bin", "<u2", 4, 3), Part("f.bin", "<u2", 4, 2))
    for sources, fits in [(SOURCES, False), ((Source("a", "x", 0, 3), Source("b", "x", 3, 2)), True)]:
        text = rewritten(store_card.as_json(dataclasses.replace(LINKED, parts=parts, sources=sources)))
        with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="its parts begin at tokens"):
            store_card.parse_card(text, pathlib.Path("store.json"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A prepared store, and a linked one of two parts."""
    folder = tmp_path_factory.mktemp("stores")
    made = [("a", "x", [[1, 2, 3], [4, 5]]), ("b", "y", [[6, 7, 8, 9]])]
    plain = write_side(folder / "plain", made, vocab_size=300)
    shutil.copytree(plain.path, folder / "linked")
    (folder / "linked/f.bin").symlink_to(folder / "linked/tokens.bin")
    parts = Part("f.bin", "<u2", 0, 5), Part("tokens.bin", "<u2", 10, 4)
    files = plain.card.files | {"f.bin": plain.card.files["tokens.bin"]}
    store_card.write_card(dataclasses.replace(plain.card, parts=parts, files=files), folder / "linked")
    return [(path, json.loads((path / "store.json").read_text())) for path in (plain.path, folder / "linked")]


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(data=st.data())
def test_any_edit_gives_a_store_or_an_error(stores, data):
    """Catches: any exception but ours, in opening a store and in reading all of it."""
    path, card = data.draw(st.sampled_from(stores))
    if data.draw(st.booleans()):
        text = rewritten(data.draw(hostile.edited_json(card))).encode()
    else:
        text = data.draw(hostile.edited_bytes(json.dumps(card).encode()))
    (path / "store.json").write_bytes(text)
    try:
        store = open_store(path)
        store.doc_starts, [store.read_part(part, 0, 9) for part in store.parts]
        for kind in (Blocks, PackedBlocks):
            blocks = kind(store, 2)
            assert (blocks.tokens(np.arange(blocks.num_blocks)) < store.vocab_size).all()
    except (ValueError, OSError) as error:
        assert len(str(error)) < 1000
