"""Proof that a tree of arrays, and what is said about it, is as it was: a digest of each leaf, a checksum of the words.

Leaves go by their names (`params.embed`, ...), so that they can be told and compared without our classes.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule import mix32


def named(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the tree's order.

    >>> named({"a": [1, 2], "b": 3})
    {'a.0': 1, 'a.1': 2, 'b': 3}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def described(leaves: dict[str, Any]) -> dict[str, str]:
    """Each leaf's type and shape as text, such as float32[3,4]."""
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in leaves.items()}


def sealed(content: Any) -> dict[str, Any]:
    """`content`, which JSON can hold, with its checksum."""
    return {"content": content, "crc32": crc32(content)}


def unsealed(text: bytes) -> Any:
    """The content of what `sealed` gave, written as JSON.

    Raises:
      ValueError: it was changed or cut off since.
    """
    try:
        found = json.loads(text)
        if found["crc32"] == crc32(found["content"]):
            return found["content"]
    except (ValueError, LookupError, TypeError):
        pass  # no JSON, or not of this form
    raise ValueError("was changed after it was written")


def crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def changed(leaves: dict[str, jax.Array], expected: dict[str, str]) -> str:
    """Which leaf is not as it was when its digest was taken, in words; nothing if all are."""
    for name, found in digests(leaves).items():
        if found != expected[name]:
            return f"{name} has digest {found}, and had {expected[name]} when it was saved"
    return ""


def digests(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """The digest of each leaf, 8 hexadecimal digits: the same on any mesh, in any sharding."""
    values = np.asarray(_digests(list(leaves.values())))
    return {name: f"{digest:08x}" for name, digest in zip(leaves, values)}


@jax.jit
def _digests(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([digest(leaf) for leaf in leaves])


def digest(x: jax.Array) -> jax.Array:
    """u32[]: sum, modulo 2^32, of a hash of each element's bits and position.

    Integer sums may be taken in any order, so shards are summed where they lie. The hash
    (MurmurHash3's finaliser, Appleby 2011) is a bijection: a change of one element is always seen,
    any other change but for one chance in 2^32.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = x.astype(unsigned) if x.dtype == bool else jax.lax.bitcast_convert_type(x, unsigned)
    position = jnp.zeros_like(bits, jnp.uint32)
    for axis, size in enumerate(x.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        position = position * jnp.uint32(size % 2**32) + along
    h = bits.astype(jnp.uint32) + position * jnp.uint32(0x9E3779B9)
    return jnp.sum(mix32(h), dtype=jnp.uint32)
