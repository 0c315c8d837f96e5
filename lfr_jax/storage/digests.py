"""Digests that show whether a tree of arrays, or a JSON text, is still what was written.

Leaves go by name (`params.embedding`, ...), so a reader can compare them without our classes.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax.schedule import mix32


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by name, in the tree's order.

    >>> leaves_by_name({"a": [1, 2], "b": 3})
    {'a.0': 1, 'a.1': 2, 'b': 3}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def dtypes_and_shapes(leaves: dict[str, Any]) -> dict[str, str]:
    """The dtype and shape of each leaf as text.

    >>> dtypes_and_shapes({"w": np.zeros((3, 4), np.float32)})
    {'w': 'float32[3,4]'}
    """
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in leaves.items()}


def with_checksum(content: Any) -> dict[str, Any]:
    """`content`, which must be JSON, together with its CRC-32.

    >>> with_checksum({"step": 3})
    {'content': {'step': 3}, 'crc32': 145879999}
    """
    return {"content": content, "crc32": crc32(content)}


def verify_checksum(text: bytes) -> Any:
    """The content in `text`: JSON of what `with_checksum` returned.

    Raises:
      ValueError: the text is cut off, is not JSON, or does not match its checksum.
    """
    try:
        found = json.loads(text)
        if found["crc32"] == crc32(found["content"]):
            return found["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        pass  # not JSON, or not of this form
    raise ValueError("was changed after it was written")


def crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def first_mismatch(leaves: dict[str, jax.Array], expected: dict[str, str]) -> str:
    """Says which leaf does not have its expected digest; "" if all have."""
    for name, found in leaf_digests(leaves).items():
        if found != expected[name]:
            return f"{name} has digest {found}, and had {expected[name]} when it was saved"
    return ""


def is_of_step(digests: dict[str, str], step: int) -> bool:
    """Whether a state whose leaves have these digests is of `step`. Of a single number, a digest is exact."""
    return step <= np.iinfo(np.int32).max and digests["step"] == leaf_digests({"step": np.int32(step)})["step"]


def leaf_digests(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """The digest of each leaf, 8 hexadecimal digits. It does not depend on the mesh or the sharding."""
    values = np.asarray(_stacked_digests(list(leaves.values())))
    return {name: f"{digest:08x}" for name, digest in zip(leaves, values)}


@jax.jit
def _stacked_digests(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([digest(leaf) for leaf in leaves])


def digest(x: jax.Array) -> jax.Array:
    """u32[]: the sum, modulo 2^32, of a hash of each element's bits and position.

    Integers may be summed in any order, so each shard is summed on its own device. The hash (MurmurHash3's
    finaliser, Appleby 2011) is a bijection. So a change of one element is always found, and any other change
    is missed with probability 2^-32.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = x.astype(unsigned) if x.dtype == bool else jax.lax.bitcast_convert_type(x, unsigned)
    position = jnp.zeros_like(bits, jnp.uint32)  # in the whole array, row by row
    for axis, size in enumerate(x.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        position = position * jnp.uint32(size % 2**32) + along
    h = bits.astype(jnp.uint32) + position * jnp.uint32(0x9E3779B9)
    return jnp.sum(mix32(h), dtype=jnp.uint32)
