"""Generation against the whole forward pass, and against published text."""

import functools
import json
import pathlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax.config import gpt2, llama
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder, generate, llama2c

CONFIGS = {
    "gpt2": gpt2(2, 32, 4, vocab_size=64, max_len=40),
    "llama": llama(2, 32, 4, 2, 48, vocab_size=64, max_len=40),
}
PROMPT = [5, 60, 33, 2, 17]
STORIES = pathlib.Path(__file__).parents[3] / "shared" / "data" / "stories260K"


def random_params(config, mesh):
    random = np.random.default_rng(0)
    shapes = decoder.abstract(config, mesh)
    return jax.tree.map(
        lambda x: jax.device_put(random.normal(0.0, 0.3, x.shape).astype(np.float32), x.sharding), shapes
    )


@functools.partial(jax.jit, static_argnums=0)
def whole_logits(config, params, tokens_T):
    model = decoder.merge(config, params)
    return jax.reshard(model.logits(model.hidden(tokens_T)), jax.P(None, None))


@functools.partial(jax.jit, static_argnums=0)
def cached_logits(config, params, tokens_T, cache, offset):
    model = decoder.merge(config, params)
    hidden_TxD, cache = model.run(tokens_T, cache=cache, offset=offset)
    return model.logits(hidden_TxD), cache


@pytest.mark.parametrize("family", CONFIGS)
def test_cached_logits_are_those_of_the_whole_sequence(family):
    """Catches: keys written at the wrong place; positions not offset; later cache rows seen; padding of the
    prompt seen."""
    config, mesh = CONFIGS[family], make_mesh(1, 1, 1)
    tokens = np.random.default_rng(1).integers(0, 64, 12)
    with jax.set_mesh(mesh):
        params = random_params(config, mesh)
        wanted = whole_logits(config, params, tokens)
        padded = np.append(tokens[:5], [-1] * 3)
        logits, cache = cached_logits(config, params, padded, generate.new_cache(config, 12), 0)
        np.testing.assert_allclose(logits[:5], wanted[:5], atol=1e-4)
        for position in range(5, 12):
            logits, cache = cached_logits(config, params, tokens[position, None], cache, position)
            np.testing.assert_allclose(logits[0], wanted[position], atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2)])
def test_greedy_takes_the_likeliest_token_until_the_end(shape):
    """Catches: the first token drawn from the padding's logits; one token too many or too few; the end
    written out; a mesh whose vocabulary is split."""
    config, mesh = CONFIGS["llama"], make_mesh(*shape)
    with jax.set_mesh(mesh):
        params = random_params(config, mesh)
        wanted = list(PROMPT)
        for _ in range(12):
            padded = np.append(wanted, [-1] * (40 - len(wanted))).astype(np.int32)
            wanted.append(int(np.argmax(whole_logits(config, params, padded)[len(wanted) - 1])))
        new = wanted[len(PROMPT) :]
        write = functools.partial(generate.generate_ids, config, params, PROMPT, 12, temperature=0)
        assert write() == new
        end = new[7]
        assert write(eos_id=end) == new[: new.index(end)]


def test_fills_the_longest_sequence():
    """Catches: a prompt padded beyond the position table, whose NaN would spread through the cache."""
    config, mesh = CONFIGS["gpt2"], make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        params = random_params(config, mesh)
        ids = generate.generate_ids(config, params, PROMPT * 7, 5, temperature=0)
        wanted = whole_logits(config, params, np.array(PROMPT * 7 + ids))
    assert ids == np.argmax(wanted[34:39], axis=-1).tolist()


def drawn(temperature=1.0, top_k=0, top_p=1.0, vocab_size=5):
    """How often each id is drawn, of probabilities 0.1, 0.4, 0.2, 0.25, 0.05."""
    logits = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.25, 0.05]))
    draw = jax.vmap(lambda key: generate.sample_token(logits, key, temperature, top_k, top_p, vocab_size))
    return np.bincount(draw(jax.random.split(jax.random.key(0), 2000)), minlength=5) / 2000


def test_sampling():
    """Catches: k or p off by one token; temperature multiplied; ids of the embedding's padding drawn."""
    np.testing.assert_allclose(drawn(), [0.1, 0.4, 0.2, 0.25, 0.05], atol=0.03)
    np.testing.assert_allclose(drawn(top_k=2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], atol=0.03)
    np.testing.assert_allclose(drawn(top_p=0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], atol=0.03)
    np.testing.assert_allclose(drawn(top_p=0.1), [0, 1, 0, 0, 0])
    np.testing.assert_allclose(drawn(vocab_size=2), [0.2, 0.8, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(drawn(temperature=0), [0, 1, 0, 0, 0])
    sharper = np.square([0.1, 0.4, 0.2, 0.25, 0.05])
    np.testing.assert_allclose(drawn(temperature=0.5), sharper / sharper.sum(), atol=0.03)


def test_draws_by_the_key():
    """Catches: one key for every step; the key ignored."""
    config, mesh = CONFIGS["llama"], make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        params = jax.tree.map(jnp.zeros_like, random_params(config, mesh))  # all tokens equally likely
        first, again, other = (
            generate.generate_ids(config, params, PROMPT, 12, key=jax.random.key(seed)) for seed in (0, 0, 1)
        )
    assert first == again != other
    assert len(set(first)) > 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt_ids": []}, "prompt of 0 tokens"),
        ({"prompt_ids": [1] * 40}, "prompt of 40 tokens and 4 new ones.*model.max_len=40"),
        ({"prompt_ids": [3, 64]}, "from 3 to 64; expected 0 to 63"),
        ({"top_p": 0.0}, "top_p=0.0.*0 < top_p <= 1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": 1e-40}, "temperature=1e-40"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"eos_id": 64}, "eos_id=64.*from -1 to 63"),
        ({"vocab_size": 65}, "vocab_size=65.*from 0 to 64"),
        ({"prompt_ids": [1.5]}, "prompt of type float64 .*expected a list of ids"),
        ({"prompt_ids": [[1, 2]]}, "shape .1, 2.; expected a list of ids"),
        ({"prompt_ids": [10**30]}, "prompt of type object"),
        ({"key": None}, "needs a random key"),
    ],
)
def test_refuses(change, message):
    """Catches: a check left out; each of these would give wrong or NaN text without a word."""
    arguments = {"prompt_ids": PROMPT, "max_new_tokens": 4, "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=message):
        generate.generate_ids(CONFIGS["llama"], {}, **arguments)


@pytest.mark.skipif(not STORIES.exists(), reason="the stories260K checkpoint is not beside this repository")
def test_writes_the_published_story():
    """Catches: any part of a Llama computed otherwise than by llama2.c; rotary pairs not converted."""
    config, params = llama2c.load(STORIES / "stories260K.bin")
    reference = json.loads((STORIES / "reference.json").read_text())
    ids = reference["greedy_ids"]
    mesh = make_mesh(1, 1, 1)
    with jax.set_mesh(mesh):
        params = decoder.put_on_mesh(params, config, mesh)
        assert generate.generate_ids(config, params, ids[:1], len(ids) - 1, temperature=0) == ids[1:]
        logprobs = jax.nn.log_softmax(whole_logits(config, params, np.array(ids[:-1])))
    nll = -np.asarray(logprobs)[np.arange(len(ids) - 1), ids[1:]].mean()
    assert nll == pytest.approx(reference["greedy_mean_nll"], abs=1e-5)

    pieces = llama2c_pieces((STORIES / "tok512.bin").read_bytes(), config.vocab_size)
    text = b"".join(pieces[i] for i in ids[1:]).decode().removeprefix(" ")
    assert text == reference["greedy_text"] and len(text) == 565


def llama2c_pieces(raw, count):
    """llama2.c's tokenizer file: the longest length, then for each piece a score, a length, the bytes."""
    pieces, offset = [], 4
    for _ in range(count):
        _, length = struct.unpack_from("<fi", raw, offset)
        piece = raw[offset + 8 : offset + 8 + length]
        pieces.append(bytes([int(piece[3:5], 16)]) if piece.startswith(b"<0x") else piece)
        offset += 8 + length
    return pieces
