"""What the forward pass of a layer keeps for the backward pass; the rest is computed again (rematerialization).

Chen et al. 2016, "Training deep nets with sublinear memory cost". The names are those of `model.remat`. Each keeps less
than the one before it, and computes more again:

    none      everything that the backward pass reads, gathered weights too
    dots      all products, of attention's scores too where no kernel makes them
    products  products with weights, and the output of attention; the default
    offload   the same, the products in the host's memory
    block     the input of each layer; the whole layer is computed again

For Llama 300M, 4 rows of 2048 tokens on a chip, splash attention: none keeps 11.6 GiB on the chip, dots and products
4.5, offload as much, nearly all on the host, and block 0.3. Only block makes products again: 1.22 times as many in all.
(Of the 4.5, 1.25 were log-sum-exps, kept 128 times each; one of each is kept now, which was not measured.)
"""

from collections.abc import Callable
from typing import Any

import jax

from lfr_jax.model.attention import KEEP, KERNELS

_policies = jax.checkpoint_policies
_named = _policies.save_only_these_names(KEEP)


def _products(primitive: Any, *shapes: Any, **params: Any) -> bool:
    kept = _policies.dots_with_no_batch_dims_saveable(primitive, *shapes, **params)
    return kept or _attended(primitive, *shapes, **params)


def _dots(primitive: Any, *shapes: Any, **params: Any) -> bool:
    return _policies.dots_saveable(primitive, *shapes, **params) or _attended(primitive, *shapes, **params)


def _offload(primitive: Any, *shapes: Any, **params: Any) -> Any:
    offloaded = _policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    return _attended(primitive, *shapes, **params) or offloaded(primitive, *shapes, **params)


def _attended(primitive: Any, *shapes: Any, **params: Any) -> bool:
    """Whether this is an output of attention."""
    return primitive.name in KERNELS or _named(primitive, *shapes, **params)


POLICIES = {"dots": _dots, "products": _products, "offload": _offload, "block": None}


def rematerialized(layer: Callable, name: str) -> Callable:
    """The body of a scan over layers, of which the forward pass keeps what `name` says."""
    if name == "none":
        return layer
    # prevent_cse would slow it down, and inside a scan it is not needed.
    return jax.checkpoint(layer, prevent_cse=False, policy=POLICIES[name])
