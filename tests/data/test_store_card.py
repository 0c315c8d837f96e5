"""The card of a store: its bytes on disk, and its way there and back."""

import json

import numpy as np

from lfr_jax.data import store_card
from lfr_jax.data.store_card import FileContent, Source, StoreCard, TokenizerId
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.storage.token_files import Part

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


def test_there_and_back(tmp_path):
    """Catches: a field that is written and not read; parts of a linked store lost; parts in a prepared one."""
    plain = StoreCard(9, 8, TokenizerId("ids", "d"), 5, 1, (Source("a", "x", 0, 5),), None, {"f": FileContent(1, "s")})
    linked = plain._replace(parts=(Part("f", "<u2", 4, 5),))
    for card in (plain, linked):
        store_card.write_card(card, tmp_path)
        text = (tmp_path / store_card.FILE).read_text()
        found = store_card.parse_card(text, tmp_path / store_card.FILE)
        assert found == store_card.complete(card) and ("parts" in json.loads(text)) == (card is linked)
    assert found.fingerprint != store_card.complete(plain).fingerprint
