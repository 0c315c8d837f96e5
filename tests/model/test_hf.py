"""Hugging Face folders: there and back, what is refused, and transformers' own models as the judge."""

import json
from unittest.mock import Mock

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from lfr_jax.config import ModelConfig, gpt2, llama
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder, hf
from lfr_jax.model.hf_config import read_config
from lfr_jax.model.hf_weights import INDEX, WEIGHTS

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


def exported(tmp_path, name):
    folder = tmp_path / "out"
    hf.export(random_params(CONFIGS[name]), CONFIGS[name], None, folder)
    return folder


def change_json(path, change):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def change_tensors(folder, change):
    """`change` gets all tensors, and changes the dict in place."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)


def shard(folder, change_index=lambda file_of: None):
    """Puts the tensors into two files, by turns, and writes an index."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    file_of = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(file_of.values()):
        part = {name: tensors[name] for name in tensors if file_of[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    change_index(file_of)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": file_of}))


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
    config, loaded = hf.load(exported(tmp_path, name))
    assert config == CONFIGS[name]
    assert_equal(loaded, random_params(config))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_reads_sharded_files_other_types_and_names_without_prefix(dtype, tmp_path):
    """Catches: one file taken for all; a cast left out; OpenAI's names, which lack 'transformer.'."""
    folder = exported(tmp_path, "gpt2")

    def as_published(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name).astype(dtype)

    change_tensors(folder, as_published)
    shard(folder)
    _, loaded = hf.load(folder)
    assert_equal(loaded, jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), random_params(CONFIGS["gpt2"])))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-1.safetensors is not there"):
        hf.load(folder)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_file_goes_before_an_index(name, tmp_path):
    """Catches: other weights than those that transformers reads from the same folder."""
    folder = exported(tmp_path, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "nowhere.safetensors"}}))
    assert_equal(hf.load(folder)[1], random_params(CONFIGS[name]))


@pytest.mark.parametrize(
    ("name", "add"),
    [
        ("gpt2", {"transformer.h.1.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "h.0.attn.masked_bias": np.zeros(())}),
        ("llama", {"model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}),
    ],
)
def test_buffers_of_older_files_and_a_tied_head_that_is_there_change_nothing(name, add, tmp_path):
    """Catches: the GPT-2 and Llama files of old refused for their masks and frequencies."""
    folder = exported(tmp_path, name)
    change_tensors(folder, lambda tensors: tensors.update(add))
    assert_equal(hf.load(folder)[1], random_params(CONFIGS[name]))
    folder = exported(tmp_path / "tied", f"{name} tied" if name == "llama" else name)
    embedding = "transformer.wte.weight" if name == "gpt2" else "model.embed_tokens.weight"
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding].copy()}))
    hf.load(folder)
    change_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding] + 1}))
    with pytest.raises(ValueError, match="lm_head.weight that is not the embedding.*tie_word_embeddings=true"):
        hf.load(folder)


def put(name, index, value):
    def change(tensors):
        tensors[name][index] = value

    return change


def rename(old, new):
    def change(tensors):
        tensors[new] = tensors.pop(old)

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "gpt2",
            rename("transformer.h.1.ln_1.bias", "x"),
            "found no tensor transformer.h.1.ln_1.bias, expected one",
        ),
        ("llama", lambda t: t.pop("lm_head.weight"), "found no tensor lm_head.weight, expected one, of shape .64, 32."),
        (
            "llama",
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}),
            "found the tensor model.layers.0.self_attn.q_proj.bias, expected none of this name in a llama of 2 layers",
        ),
        (
            "gpt2",
            lambda t: t.update({"wte.weight": t["transformer.wte.weight"].copy()}),
            "found (transformer.)?wte.weight and (transformer.)?wte.weight, expected one of the two",
        ),
        (
            "llama",
            put("model.norm.weight", 3, np.nan),
            "found 1 of 32 numbers in model.norm.weight that are NaN",
        ),
        ("gpt2", put("transformer.wpe.weight", (1, 1), -np.inf), "1 of 512 numbers in transformer.wpe.weight"),
        (
            "gpt2",
            lambda t: t.update({"transformer.wpe.weight": t["transformer.wpe.weight"][:15]}),
            "found transformer.wpe.weight of shape .15, 32., expected .16, 32.",
        ),
        (
            "gpt2",
            lambda t: t.update({"transformer.ln_f.bias": np.zeros(32, np.int32)}),
            "found transformer.ln_f.bias of type I32, expected one of F32, F16, BF16, F64",
        ),
    ],
)
def test_every_tensor_is_used_or_the_folder_is_refused(name, change, message, tmp_path):
    """Catches: a tensor left over or made up, a wrong shape or type, numbers that are none."""
    folder = exported(tmp_path, name)
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=message):
        hf.load(folder)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layers", [1, 3, 10**9])
def test_as_many_layers_as_config_json_says(name, layers, tmp_path):
    """Catches: two layers read as one, the rest of the file left unread; memory for what is not there."""
    folder = exported(tmp_path, name)
    change_json(folder / "config.json", {"n_layer" if name == "gpt2" else "num_hidden_layers": layers})
    with pytest.raises(ValueError, match="in a .* of 1 layers .and [0-9]+ more|found no tensor .*[.]2[.]"):
        hf.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file_of: file_of.update({"lm_head.weight": "../out/model-0.safetensors"}), "a file in the same folder"),
        (lambda file_of: file_of.update({"lm_head.weight": "/etc/passwd"}), "found '/etc/passwd' for lm_head.weight"),
        (lambda file_of: file_of.update({"lm_head.weight": 3}), "weight_map.lm_head.weight is 3: expected `str`"),
        (lambda file_of: file_of.pop("lm_head.weight"), "lm_head.weight, which model.* expects in no file"),
        (lambda file_of: file_of.update({"lm_head.weight": "model-1.safetensors"}), "expects in model-1.safetensors"),
        (
            lambda file_of: file_of.update({"other": "model-1.safetensors"}),
            "model-1.safetensors: found no tensor oth",
        ),
    ],
)
def test_the_index_names_what_is_there(change, message, tmp_path):
    """Catches: a file outside the folder read; a tensor taken from another file than the index says, or left unread."""
    folder = exported(tmp_path, "llama")
    shard(folder, change)
    with pytest.raises(ValueError, match=message):
        hf.load(folder)


def test_broken_files_are_named(tmp_path):
    """Catches: the library's own errors; a pipe that is opened and never ends."""
    folder = exported(tmp_path, "gpt2")
    whole = (folder / WEIGHTS).read_bytes()
    for broken in (whole[:-1], whole[:100], b"", b"\xff" * 64):
        (folder / WEIGHTS).write_bytes(broken)
        with pytest.raises(ValueError, match="model.safetensors: found a broken safetensors file"):
            hf.load(folder)
    for name in (WEIGHTS, "config.json"):
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(OSError, match=f"{name}: found a folder, expected a regular file"):
            hf.load(folder)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("llama", {"model_type": "mamba"}, "model_type='mamba', expected 'gpt2' or 'llama'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_scaling.rope_type='llama3'",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.type='linear', expected",
        ),
        ("llama", {"rope_scaling": {"factor": 2.0}}, "rope_scaling.factor=2.0, a setting that is not known"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_scaling": {"type": "yarn"}},
            "rope_scaling.type='yarn'",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "type": "dynamic", "factor": 2.0}},
            "rope_parameters.type='dynamic'",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e6}},
            "rope_theta=500.0 and rope_parameters.rope_theta=1000000.0, expected them to agree",
        ),
        ("llama", {"rope_theta": 0}, "rope_theta is 0: expected `float` >= 1.2e-38"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"head_dim": 16}, "head_dim=16, expected 8"),
        ("llama", {"attention_bias": True}, "attention_bias=True, expected False"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True, expected False"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu', expected 'silu'"),
        ("llama", {"sliding_window": 4096}, "sliding_window=4096, expected None"),
        ("llama", {"attention_multiplier": 0.1}, "attention_multiplier=0.1, a setting that is not known"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
        ("llama", {"tie_word_embeddings": True}, "lm_head.weight that is not the embedding"),
        ("llama", {"num_key_value_heads": 3}, "config.json: .*not divisible"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0"),
        ("llama", {"vocab_size": 10**30}, "vocab_size is 1000"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function='gelu', expected 'gelu_new'"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False, expected True"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "expected False"),
        ("gpt2", {"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ("gpt2", {"n_inner": 97}, "found transformer.h.0.mlp.c_fc.weight of shape .32, 96., expected .32, 97."),
        ("gpt2", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads="),
    ],
)
def test_every_setting_is_read_or_harmless_or_refused(name, change, message, tmp_path):
    """Catches: a variant read as the plain family, which would be wrong without a word."""
    folder = exported(tmp_path, name)
    change_json(folder / "config.json", change)
    with pytest.raises(ValueError, match=message) as caught:
        hf.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500, "partial_rotary_factor": 1.0}},
        {"rope_scaling": None, "sliding_window": None, "head_dim": None, "attention_dropout": 0.1},
        {"rope_scaling": {"type": "default"}, "embedding_multiplier": 0, "pruned_heads": {}, "use_cache": True},
    ],
)
def test_settings_that_change_nothing_pass(change, tmp_path):
    """Catches: folders as transformers writes them refused; a second spelling of the same not understood."""
    folder = exported(tmp_path, "llama")
    change_json(folder / "config.json", change)
    assert hf.load(folder)[0] == CONFIGS["llama"]


# What the config.json of published models holds besides the sizes.
PUBLISHED = {
    "gpt2": """{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true, "vocab_size": 50257,
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}}""",
    "llama": """{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.02,
        "intermediate_size": 1536, "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152, "is_llama_config": true,
        "rope_interleaved": false}""",
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gpt2", gpt2(12, 768, 12, vocab_size=50257)),
        ("llama", llama(30, 576, 9, 3, 1536, vocab_size=49152, tied_head=True)),
    ],
)
def test_published_settings_are_read(name, config, tmp_path):
    """Catches: a list of harmless settings that lacks what the models of the world have."""
    (tmp_path / "config.json").write_text(PUBLISHED[name])
    assert read_config(tmp_path / "config.json") == (name, config)


def test_a_missing_setting_is_named(tmp_path):
    """Catches: a bare KeyError; a size of transformers' default model assumed."""
    folder = exported(tmp_path, "gpt2")
    settings = json.loads((folder / "config.json").read_text())
    del settings["n_embd"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="config.json: object missing required field `n_embd`"):
        hf.load(folder)


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    """Catches: a folder overwritten; a model written as a family whose parts it does not have; half a folder."""
    folder = exported(tmp_path, "gpt2")
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(FileExistsError):
        hf.export(random_params(CONFIGS["llama"]), CONFIGS["llama"], None, folder)
    assert (folder / WEIGHTS).read_bytes() == before
    with pytest.raises(ValueError, match="neither GPT-2 .* nor Llama"):
        hf.export({}, ModelConfig(positions="rope"), None, tmp_path / "new")
    with pytest.raises(ValueError, match="with 2 key heads for 4"):
        hf.export({}, gpt2(2, 32, 4, num_kv_heads=2), None, tmp_path / "new")
    Bytes().save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="found 64 rows in the model's embedding, 257 tokens"):
        hf.export(random_params(CONFIGS["gpt2"]), CONFIGS["gpt2"], tmp_path / "tokenizer", tmp_path / "new")
    diverged = random_params(CONFIGS["gpt2"])
    diverged["layers"]["mlp"]["up"]["kernel"][1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="found numbers in layers.mlp.up.kernel that are NaN .* has diverged"):
        hf.export(diverged, CONFIGS["gpt2"], None, tmp_path / "new")
    full = Mock(side_effect=safetensors.SafetensorError("I/O error: No space left on device (os error 28)"))
    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match=r"new: the weights could not be written \(.* No space left .*\); make room"):
        hf.export(random_params(CONFIGS["gpt2"]), CONFIGS["gpt2"], None, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tokenizer"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rows_that_no_token_has_are_left_out(family, tmp_path):
    """Catches: untrained rows exported, whose logits anything may be."""
    make = gpt2 if family == "gpt2" else lambda *sizes, **more: llama(*sizes, 2, 48, **more)
    config = make(2, 32, 4, vocab_size=264, max_len=16)
    params = random_params(config)
    Bytes().save(tmp_path / "tokenizer")
    hf.export(params, config, tmp_path / "tokenizer", tmp_path / "out")
    loaded_config, loaded = hf.load(tmp_path / "out")
    assert loaded_config.vocab_size == 257
    np.testing.assert_array_equal(loaded["embedding"], params["embedding"][:257])
    if family == "llama":
        np.testing.assert_array_equal(loaded["head"], params["head"][:, :257])
    hf.export(params, config, tmp_path / "tokenizer", tmp_path / "fim", vocab_size=260)
    assert hf.load(tmp_path / "fim")[1]["embedding"].shape == (260, 32)
    generation = json.loads((tmp_path / "fim" / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [257, 258, 259] and generation["eos_token_id"] == 256


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
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (None, None)
    np.testing.assert_allclose(their_logits(theirs), our_logits(config, params), atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    loaded_config, loaded = hf.load(tmp_path / "theirs")
    assert loaded_config == config
    assert_equal(loaded, params)
