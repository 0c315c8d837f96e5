"""Digests: the same on any mesh, and others for any other bit or place."""

import json

import jax
import numpy as np
import pytest
from made_states import abstract, make_state, mesh

from lfr_jax.storage import digests


def test_digest_does_not_depend_on_the_mesh_but_on_every_bit_and_place():
    """Catches: hashing shard-local positions; leaving out the position; a dtype whose bits are rounded."""
    state = make_state(mesh(2, 2, 2))
    elsewhere = jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), state, abstract(state, mesh(1, 8, 1)))
    found = digests.leaf_digests(digests.leaves_by_name(state))
    assert found == digests.leaf_digests(digests.leaves_by_name(elsewhere))
    assert len(set(found.values())) == len(found)
    for name, leaf in digests.leaves_by_name(state).items():
        bits = np.array(leaf).reshape(-1).view(bool if leaf.dtype == bool else np.uint8)
        for place in [0, bits.size // 2, bits.size - 1] if bits.size else []:
            changed = bits.copy()
            changed[place] ^= True
            changed = jax.device_put(changed.view(leaf.dtype).reshape(leaf.shape), leaf.sharding)
            assert digests.leaf_digests({name: changed})[name] != found[name]
        if leaf.ndim == 2:
            swapped = np.array(leaf)
            swapped[[0, 1], [1, 0]] = swapped[[1, 0], [0, 1]]
            assert digests.leaf_digests({name: jax.device_put(swapped, leaf.sharding)})[name] != found[name]


def test_digest_needs_scalar_reductions_only():
    """Catches: gathering the state onto one device; an array of positions as large as a whole leaf."""
    leaves = list(digests.leaves_by_name(make_state(mesh(2, 2, 2))).values())
    program = digests._stacked_digests.lower(leaves).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program
    assert "[32,8]" in program and "[64,16]" not in program  # its shards; the whole


def test_the_seal_breaks_with_any_change():
    """Catches: a field left out of the checksum; bytes that are no JSON, or JSON of another form, passed on."""
    content = {"leaves": {"a": "float32[3]"}, "meta": {"seconds": 1 / 3, "text": "ä"}}
    text = json.dumps(digests.with_checksum(content)).encode()
    assert digests.verify_checksum(text) == content
    spoilt = [text[:end] for end in range(len(text))] + [b"[]", b"3", b"null", b'{"content": 1}', b"\xff" + text]
    flipped = [text[:i] + bytes([text[i] ^ 1]) + text[i + 1 :] for i in range(len(text))]
    for other in spoilt + flipped:
        with pytest.raises(ValueError, match="was changed after it was written"):
            digests.verify_checksum(other)
