"""The decoder against plain numpy, and against itself on every kind of mesh."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from lfr_jax.config import gpt2, llama
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.model import decoder
from lfr_jax.model.cross_entropy import linear_cross_entropy
from lfr_jax.train.flops import forward_flops_per_token

V, D, T, B = 128, 64, 32, 16
CONFIGS = {
    "gpt2": gpt2(3, D, 8, vocab_size=V, max_len=T),
    "llama": llama(3, D, 8, 4, 96, vocab_size=V, max_len=T),
}
TOKENS = np.random.default_rng(0).integers(0, V, (B, T + 1)).astype(np.int32)


@functools.cache
def host_params(family):
    """Random weights, large enough that every part of the model matters, biases and scales too."""
    random = np.random.default_rng(1)
    shapes = decoder.abstract(CONFIGS[family], make_mesh(1, 1, 1))
    return jax.tree.map(lambda x: random.normal(0.0, 0.15, x.shape).astype(np.float32), shapes)


def hidden(config, params, tokens_T, segments_T=None, positions_T=None):
    mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        params = decoder.put_on_mesh(params, config, mesh)
        return np.asarray(_hidden(config, params, tokens_T, segments_T, positions_T))


@functools.partial(jax.jit, static_argnums=0)
def _hidden(config, params, tokens_T, segments_T, positions_T):
    return decoder.merge(config, params).hidden(tokens_T, segments_T, positions_T)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, tokens_T):
    model = decoder.merge(config, params)
    return model.logits(model.hidden(tokens_T))


def numpy_logits(config, p, tokens_T):
    """The definition of both families in float64, for one sequence."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
    T, size = len(tokens_T), config.dim // config.num_heads

    def linear(x, w, axes):
        return np.tensordot(x, w["kernel"], axes) + w.get("bias", 0.0)

    def norm(x, w):
        if config.norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * w["scale"] + w.get("bias", 0.0)

    def turn(x_TxHxP):
        turned = np.empty_like(x_TxHxP)
        for i in range(size // 2):
            angle = (np.arange(T) * config.rope_theta ** (-2 * i / size))[:, None]
            a, b = x_TxHxP[..., i], x_TxHxP[..., i + size // 2]
            turned[..., i] = a * np.cos(angle) - b * np.sin(angle)
            turned[..., i + size // 2] = a * np.sin(angle) + b * np.cos(angle)
        return turned

    x = p["embedding"][tokens_T]
    if config.positions == "learned":
        x = x + p["positions"][:T]
    for i in range(config.num_layers):
        layer = jax.tree.map(lambda w: w[i], p["layers"])
        y = norm(x, layer["attention_norm"])
        q, k, v = (linear(y, layer["attention"][name], 1) for name in ("query", "key", "value"))
        if config.positions == "rope":
            q, k = turn(q), turn(k)
        k, v = (np.repeat(z, config.num_heads // config.num_kv_heads, axis=1) for z in (k, v))
        scores = np.einsum("thp,shp->hts", q, k) / np.sqrt(size)
        scores = np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        y = np.einsum("hts,shp->thp", probs / probs.sum(-1, keepdims=True), v)
        x = x + linear(y, layer["attention"]["out"], 2)
        y, mlp = norm(x, layer["mlp_norm"]), layer["mlp"]
        up = linear(y, mlp["up"], 1)
        if config.mlp == "gelu":
            up = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        else:
            gate = linear(y, mlp["gate"], 1)
            up = up * gate / (1 + np.exp(-gate))
        x = x + linear(up, mlp["down"], 1)
    head = p["embedding"].T if config.tied_head else p["head"]
    return norm(x, p["norm"]) @ head


@pytest.mark.parametrize("family", CONFIGS)
def test_is_the_published_architecture(family):
    """Catches: a wrong norm, activation, rotary pairing, position, residual, head or order of layers."""
    config, mesh = CONFIGS[family], make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        logits = logits_of(config, decoder.put_on_mesh(host_params(family), config, mesh), TOKENS[0, :T])
    wanted = numpy_logits(config, host_params(family), TOKENS[0, :T])
    np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max())


# Meshes


def mean_loss(config, params, tokens_BxT1):
    model = decoder.merge(config, params)
    inputs_BxT, targets_BxT = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
    hidden_BxTxD = jax.vmap(model.hidden)(inputs_BxT)
    weights_BxT = jnp.full_like(targets_BxT, 1 / targets_BxT.size, jnp.float32)
    return linear_cross_entropy(hidden_BxTxD, model.output_head(), targets_BxT, weights_BxT, chunk=B * T)[0]


@functools.cache
def on_mesh(family, *shape):
    """(loss, gradients on the host) of the same batch and weights."""
    config, mesh = CONFIGS[family], make_mesh(*shape)
    with jax.set_mesh(mesh):
        params = decoder.put_on_mesh(host_params(family), config, mesh)
        tokens = jax.device_put(TOKENS, NamedSharding(mesh, BATCH))
        loss, grads = jax.jit(jax.value_and_grad(functools.partial(mean_loss, config)))(params, tokens)
        assert jax.tree.map(jax.typeof, grads) == jax.tree.map(jax.typeof, params)
    return float(loss), jax.device_get(grads)


@pytest.mark.parametrize(
    "family, shape",
    [
        ("gpt2", (8, 1, 1)),
        ("gpt2", (1, 2, 4)),
        ("gpt2", (2, 4, 1)),
        ("llama", (1, 8, 1)),
        ("llama", (2, 2, 2)),
    ],
)
def test_every_mesh_computes_the_same(family, shape):
    """Catches: a bias added once a device of 'tensor'; a key head apart from its queries; a sum over a mesh
    axis left out or done twice."""
    loss, grads = on_mesh(family, *shape)
    wanted_loss, wanted_grads = on_mesh(family, 1, 1, 1)
    assert abs(loss - wanted_loss) < 1e-5
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted_grads))
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads)):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * scale)


@functools.cache
def forward_flops(*shape):
    """Of the vmapped forward pass, as compiled, over all devices."""
    config, mesh = CONFIGS["llama"], make_mesh(*shape)
    with jax.set_mesh(mesh):
        tokens = jax.ShapeDtypeStruct(TOKENS.shape, jnp.int32, sharding=NamedSharding(mesh, BATCH))
        forward = jax.jit(functools.partial(mean_loss, config)).lower(decoder.abstract(config, mesh), tokens)
    return forward.compile().cost_analysis()["flops"] * mesh.size


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_devices_share_the_work(shape):
    """Catches: work repeated on every device (activations not split over the batch axes or heads)."""
    assert forward_flops(*shape) <= 1.05 * forward_flops(1, 1, 1)


def test_init_is_sharded_as_abstract_says():
    """Catches: params born whole on each device; a spec that differs between the two; out projections not
    smaller; one key for several weights."""
    config, mesh = CONFIGS["gpt2"], make_mesh(2, 2, 2)
    _, params = decoder.init(config, mesh, jax.random.key(0))
    for leaf, like in zip(*map(jax.tree.leaves, (params, decoder.abstract(config, mesh))), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (like.shape, like.dtype, like.sharding)
    attention = params["layers"]["attention"]
    kernels = [np.asarray(attention[name]["kernel"]) for name in ("query", "key", "value")]
    assert len({kernel[i].tobytes() for kernel in kernels for i in range(config.num_layers)}) == 9
    assert np.std(kernels) == pytest.approx(0.02, rel=0.05)
    out = attention["out"]["kernel"]
    assert np.std(out) == pytest.approx(0.02 / np.sqrt(2 * config.num_layers), rel=0.05)
    assert out.addressable_shards[0].data.size * 4 == out.size


@pytest.mark.parametrize("remat", ["products", "offload", "block"])
def test_layers_keep_products_and_no_gathered_weights(remat):
    """Catches: gathered weights kept for the backward pass, undoing what "fsdp" saves; attention scores or
    elementwise results kept; `remat` not used."""
    config, mesh = dataclasses.replace(CONFIGS["llama"], remat=remat), make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        tokens = jax.device_put(TOKENS, NamedSharding(mesh, BATCH))
        shapes = decoder.abstract(config, mesh)
        backward = jax.eval_shape(lambda p: jax.vjp(lambda p: mean_loss(config, p, tokens), p)[1], shapes)
    layers = [x for x in jax.tree.leaves(backward) if x.shape[0] == config.num_layers]
    kept = collections.Counter(x.shape[3:] for x in layers if x.shape[1:3] == (B, T))
    kept += collections.Counter(x.shape[2:] for x in layers if x.shape[1] == B * T)
    inputs = {(D,): 1}
    # input, out; query, attention; its log-sum-exp; key, value; up, gate
    products = {(D,): 3, (8, 8): 1, (8, 1): 1, (32,): 2, (96,): 2}
    assert kept == (inputs if remat == "block" else products)
    weights = {(x.shape, x.sharding.spec) for x in layers if x.shape[1:3] != (B, T) and x.shape[1] != B * T}
    assert weights <= {(x.shape, x.sharding.spec) for x in jax.tree.leaves(shapes)}


# One sequence


@pytest.mark.parametrize("family", CONFIGS)
def test_padding_is_not_seen(family):
    """Catches: -1 taken for the last row of the embedding; padding seen as a key; NaN at padded positions."""
    config, params = CONFIGS[family], host_params(family)
    tokens = TOKENS[0, :12]
    alone = hidden(config, params, tokens)
    behind = hidden(config, params, np.append(tokens, [-1] * 4))
    np.testing.assert_allclose(behind[:12], alone, atol=1e-5)
    np.testing.assert_array_equal(behind, hidden(config, params, np.append(tokens, [0] * 4)))

    positions = np.append(np.zeros(4), np.arange(12)).astype(np.int32)
    before = np.append([-1] * 4, tokens).astype(np.int32)
    segmented = hidden(config, params, before, segments_T=jnp.zeros(16, jnp.int32), positions_T=jnp.asarray(positions))
    np.testing.assert_allclose(segmented[4:], alone, atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_documents_do_not_see_each_other(family):
    """Catches: segments not handed to attention; positions not used."""
    config, params = CONFIGS[family], host_params(family)
    first, second = TOKENS[0, :10], TOKENS[1, :6]
    packed = hidden(
        config,
        params,
        np.concatenate([first, second]),
        segments_T=jnp.array([0] * 10 + [1] * 6),
        positions_T=jnp.array([*range(10), *range(6)]),
    )
    alone = np.concatenate([hidden(config, params, first), hidden(config, params, second)])
    np.testing.assert_allclose(packed, alone, atol=1e-5)


def test_computes_in_bfloat16_and_returns_float32_logits():
    """Catches: logits or params in bfloat16; `dtype` not used."""
    config, mesh = dataclasses.replace(CONFIGS["llama"], dtype="bfloat16"), make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        params = decoder.put_on_mesh(host_params("llama"), config, mesh)
        logits = logits_of(config, params, TOKENS[0, :T])
    assert hidden(config, host_params("llama"), TOKENS[0, :T]).dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    wanted = numpy_logits(config, host_params("llama"), TOKENS[0, :T])
    error = np.abs(logits - wanted).max() / np.abs(wanted).max()
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("family", CONFIGS)
def test_flops_are_those_of_the_compiled_model(family):
    """Catches: a product left out or counted twice; 1 for 2 FLOPs a multiply-add; the third MLP matrix."""
    length = 128
    sizes = dict(num_layers=1, dim=512, mlp_dim=1024, vocab_size=1024, max_len=length)
    config = dataclasses.replace(CONFIGS[family], **sizes, attention="xla")  # the count has all T × T scores
    mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        tokens = jax.ShapeDtypeStruct((length,), jnp.int32)
        compiled = logits_of.lower(config, decoder.abstract(config, mesh), tokens).compile()
    ratio = compiled.cost_analysis()["flops"] / (length * forward_flops_per_token(config, length))
    assert 1 <= ratio < 1.02  # norms, softmax and activations are in the compiled count alone


# What is refused


@pytest.mark.parametrize(
    "shape, change, message",
    [
        ((1, 1, 8), {}, "model.num_kv_heads=4 is not divisible by mesh.tensor=8"),
        (
            (1, 8, 1),
            {"vocab_size": 100},
            "model.vocab_size=100 is not divisible by mesh.fsdp=8.*pad model.vocab_size",
        ),
        ((1, 1, 2), {"mlp_dim": 95}, "model.mlp_dim=95 is not divisible by mesh.tensor=2"),
    ],
)
def test_refuses_what_the_mesh_does_not_divide(shape, change, message):
    """Catches: the check left out, or one of its fields (XLA's own message does not name them)."""
    config = dataclasses.replace(CONFIGS["llama"], **change)
    with pytest.raises(ValueError, match=message):
        decoder.abstract(config, make_mesh(*shape))


def test_refuses_long_sequences_and_other_params():
    """Catches: positions beyond the table, which would be NaN; an import of another size."""
    config, params = CONFIGS["gpt2"], host_params("gpt2")
    with pytest.raises(ValueError, match="33 tokens is longer than model.max_len=32"):
        hidden(config, params, TOKENS[0])
    with pytest.raises(ValueError, match="do not fit the model config.*head"):
        decoder.put_on_mesh(params, dataclasses.replace(config, tied_head=False), make_mesh(1, 1, 1))
