"""Hugging Face folders: there and back, and transformers' own models as the judge."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from lfr_jax.config import ModelConfig, gpt2, llama
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder, hf

CONFIGS = {
    "gpt2": gpt2(2, 32, 4, vocab_size=64, max_len=16, mlp_dim=96),
    "gpt2 untied": gpt2(2, 32, 4, vocab_size=64, max_len=16, tied_head=False, norm_eps=1e-4),
    "llama": llama(2, 32, 4, 2, 48, vocab_size=64, max_len=16, rope_theta=500.0, norm_eps=1e-6),
    "llama tied": llama(2, 32, 4, 1, 48, vocab_size=64, max_len=16, tied_head=True),
}
TOKENS = np.random.default_rng(2).integers(0, 64, 16)


def random_params(config):
    random = np.random.default_rng(0)
    shapes = decoder.abstract(config, make_mesh(1, 1, 1))
    return jax.tree.map(lambda x: random.normal(0.0, 0.2, x.shape).astype(np.float32), shapes)


def our_logits(config, params):
    mesh = make_mesh(1, 1, 1)

    @jax.jit
    def logits(params):
        model = decoder.merge(config, params)
        return model.logits(model.hidden(TOKENS))

    with jax.set_mesh(mesh):
        return np.asarray(logits(decoder.put_on_mesh(params, config, mesh)))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(name, tmp_path):
    """Catches: a setting that config.json loses; a weight transposed, misnamed or left out on one way."""
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    hf.export(params, config, None, tmp_path / "out")
    loaded_config, loaded = hf.load(tmp_path / "out")
    assert loaded_config == config
    assert_equal(loaded, params)


def test_reads_sharded_files_bfloat16_and_names_without_prefix(tmp_path):
    """Catches: one file taken for all; a cast left out; OpenAI's names, which lack 'transformer.'."""
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    folder = tmp_path / "out"
    hf.export(params, config, None, folder)
    tensors = safetensors.numpy.load_file(folder / hf.WEIGHTS)
    (folder / hf.WEIGHTS).unlink()
    files = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        half = tensor.astype(jax.numpy.bfloat16)
        files.setdefault(f"model-{i % 2}.safetensors", {})[name.removeprefix("transformer.")] = half
    for file, part in files.items():
        safetensors.numpy.save_file(part, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / f"{hf.WEIGHTS}.index.json").write_text(json.dumps(index))

    _, loaded = hf.load(folder)
    assert_equal(loaded, jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16).astype(np.float32), params))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-1.safetensors is not there"):
        hf.load(folder)


def test_copies_the_tokenizer(tmp_path):
    """Catches: the tokenizer's files left behind; a folder overwritten."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.bpe").write_text("a b")
    config = CONFIGS["gpt2"]
    hf.export(random_params(config), config, tmp_path / "tokenizer", tmp_path / "out")
    assert (tmp_path / "out" / "vocab.bpe").read_text() == "a b"
    with pytest.raises(FileExistsError):
        hf.export(random_params(config), config, None, tmp_path / "out")


def test_refuses_to_export_a_mixture(tmp_path):
    """Catches: a model written as a family whose parts it does not have."""
    with pytest.raises(ValueError, match="neither GPT-2 .* nor Llama"):
        hf.export({}, ModelConfig(positions="rope"), None, tmp_path / "out")
    with pytest.raises(ValueError, match="with 2 key heads for 4"):
        hf.export({}, gpt2(2, 32, 4, num_kv_heads=2), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("llama", {"model_type": "mamba"}, "model_type='mamba'; expected 'gpt2' or 'llama'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "scales rotary positions .'llama3'",
        ),
        ("llama", {"head_dim": 16}, "head_dim=16; expected None or 8"),
        ("llama", {"attention_bias": True}, "attention_bias=True; expected False"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function='gelu'; expected 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "expected False"),
    ],
)
def test_refuses_to_load_what_the_model_does_not_express(name, change, message, tmp_path):
    """Catches: a variant read as the plain family, which would be wrong without a word."""
    config, folder = CONFIGS[name], tmp_path / "out"
    hf.export(random_params(config), config, None, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=message):
        hf.load(folder)


# transformers


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="torch is not installed: pip install 'lfr_jax[parity]'")
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lfr_jax[parity]'")


def their_logits(their_model):
    import torch

    with torch.no_grad():
        return their_model(torch.tensor(TOKENS[None])).logits[0].numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_computes_the_same(name, tmp_path, transformers):
    """Catches: another convention for rotary pairs, weights, key heads, epsilon or activation; a name or
    setting that transformers does not know, and so replaces by a default."""
    config = CONFIGS[name]
    params = random_params(config)
    hf.export(params, config, None, tmp_path / "ours")
    theirs, notes = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes.values()), notes
    np.testing.assert_allclose(their_logits(theirs), our_logits(config, params), atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    loaded_config, loaded = hf.load(tmp_path / "theirs")
    assert loaded_config == config
    assert_equal(loaded, params)
