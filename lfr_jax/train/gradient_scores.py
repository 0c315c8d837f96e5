"""Dot products of each block's gradient with one direction, without making the gradient of any block.

Let block i have the loss L_i at the params θ, and let v be a direction among the params, such as the gradient of a
held-out batch. Move block i's params, and only for this block, by ε_i v. Then

    ∂/∂ε_i Σ_j L_j(θ + ε_j v) = ⟨∇L_i(θ), v⟩        at ε = 0

So the dot products of all B blocks are one gradient with respect to B numbers, and come out of the backward pass that
training makes anyway. Each use of a param is linear in it: products, biases, scales of norms, lookups, the output head.
So a use y = f(x; θ) becomes y + ε_i f(x; v), and in the backward pass

    ∂L_i/∂ε_i = Σ over uses ⟨∂L_i/∂y, f(x; v)⟩

f(x; v) is needed in the backward pass alone, and is made and summed up there, one use at a time. It is one more product
for each product of the forward pass with a weight, and nothing for attention, whose kernels stay as they are. Forward
mode gives the same numbers (`jax.jvp` of the losses, in the direction v). It makes the forward pass again, two products
more for each of its products, and attention's derivative, which the kernels do not have.

In-Run Data Shapley (Wang et al. 2024, arXiv 2406.11011) has the same numbers by its "ghost dot product": the held-out
batch goes through the backward pass beside the training batch, and v is never made. A product with v [D, F] becomes
two, with the activations and with the gradients of the held-out tokens: less work for less than D·F / (D + F) of them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lfr_jax.model.decoder import Decoder
from lfr_jax.model.layers import Linear, Norm


class Along(NamedTuple):
    """A direction, and how far along it each block's params are moved."""

    direction: Decoder  # v, as `decoder.merge` gives it
    shift_B: jax.Array  # f32[B]: ε, zeros; the gradient with respect to it has the dot products


class Shifted(Decoder):
    """The decoder for one block, at θ + ε v. It computes what `network` does, as ε is 0, and has a gradient in ε.

    Like the decoder, it is differentiated under a vmap over the batch:

    >>> from lfr_jax.config import llama
    >>> from lfr_jax.distributed.mesh import BATCH, make_mesh
    >>> from lfr_jax.model import decoder
    >>> config = llama(1, 8, 2, 2, 16, vocab_size=32, max_len=4, tied_head=True)
    >>> mesh = make_mesh(1, 1, 1)
    >>> _, params = decoder.init(config, mesh, jax.random.key(0))
    >>> with jax.set_mesh(mesh):
    ...     network = decoder.merge(config, params)
    ...     def total(tokens_BxT, shift_B):
    ...         return jnp.sum(jax.vmap(lambda t, e: Shifted(network, network, e).hidden(t))(tokens_BxT, shift_B))
    ...     zeros = jnp.zeros((2, 4), int, out_sharding=BATCH), jnp.zeros(2, out_sharding=BATCH)
    ...     slope_B = jax.grad(total, argnums=1)(*zeros)
    >>> slope_B.shape
    (2,)
    """

    def __init__(self, network: Decoder, direction: Decoder, shift: jax.Array):
        self.config = network.config
        self.network, self.direction, self.shift = network, direction, nnx.data(shift)
        of_layers = jnp.broadcast_to(shift, (network.config.num_layers,))  # `run` scans over all that a layer has

        def module(of, v):
            return ShiftedModule(of, v, of_layers)

        self.layers = jax.tree.map(module, network.layers, direction.layers, is_leaf=has_params)
        self.norm = ShiftedModule(network.norm, direction.norm, shift)

    def embed(self, tokens_T, positions_T):
        return shifted(Decoder.embed, (tokens_T, positions_T), self.network, self.direction, self.shift)


class ShiftedModule(nnx.Module):
    """A `Linear` or a `Norm` at θ + ε v."""

    def __init__(self, module: Linear | Norm, direction: Linear | Norm, shift: jax.Array):
        self.module, self.direction, self.shift = module, direction, nnx.data(shift)

    def __call__(self, x):
        return shifted(type(self.module).__call__, (x,), self.module, self.direction, self.shift)


def has_params(module) -> bool:
    """Whether a module uses its own params, and so in one place."""
    return isinstance(module, Linear | Norm)


def shifted(f: Callable, args: tuple, at, along, shift: jax.Array) -> jax.Array:
    """f(at + shift · along, *args) at shift = 0, where `f` is linear in its first argument."""
    return _with_slope(f, f(at, *args), args, along, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_slope(f, y, args, along, shift):
    return y


def _forward(f, y, args, along, shift):
    return y, (args, along)


def _backward(f, kept, dy):
    args, along = kept
    slope = jnp.sum(dy.astype(jnp.float32) * f(along, *args).astype(jnp.float32))
    return dy, None, None, slope


_with_slope.defvjp(_forward, _backward)
