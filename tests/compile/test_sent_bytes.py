"""What the TPUs' own compiler makes of the train step of two layers: it sends the least bytes that there can be."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import jax
import pytest
from helpers import changed, tiny

from lfr_jax.config import gpt2, llama
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[aot]'"),
]
TOPOLOGIES = pathlib.Path(__file__).parents[2] / "tpu" / "topologies"
SIZES = dict(vocab_size=1024, max_len=256, dtype="bfloat16")
LLAMA = llama(2, 1024, 16, 4, 3072, **SIZES)  # of smaller ones, the compiler scatters all gradients by itself
GPT2 = gpt2(2, 256, 4, **SIZES)


def collectives(folder, model, topology="v6e-8", options_of="v6e-8", **settings):
    """{kind: {"bytes": into each chip, ...}} of the train step, compiled with options of tpu/topologies."""
    config = changed(tiny(folder, folder), data__seq_len=256, train__batch_size=16, **settings)
    file = folder / "two.py"
    text = f"from lfr_jax.config import *\n\nconfig = {config!r}\n"
    file.write_text(text.replace(repr(config.model), repr(model)))
    options = tomllib.loads((TOPOLOGIES / f"{options_of}.toml").read_text())["libtpu_init_args"].split()
    words = ["compile", file, "--topology", topology, "--programs", "train", "--json", "--compiler-options"]
    words += [word.removeprefix("--") for word in options]
    command = [sys.executable, "-m", "lfr_jax.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in json.loads(done.stdout)["programs"]["train"]["collectives"]}


@pytest.mark.parametrize(
    "topology, options_of, data, fsdp",
    [
        ("v6e-8", "v6e-8", 1, 8),
        ("v5p:2x2x2", "v5p-64", 2, 4),  # 'fsdp' over two axes of the network, as the compiler scatters over no more
    ],
)
def test_fsdp_sends_what_zero_3_needs(tmp_path, topology, options_of, data, fsdp):
    """In bfloat16: a layer's weights are gathered forward and backward, embedding and head once; gradients scattered.
    What a chip has of these is then added up over 'data'.

    Catches: gradients that are all-reduced and then cut, over 'fsdp' or over both axes; a weight gathered once more, or
    in float32; gathers and scatters that no product runs beside, which the options of the topology are for."""
    found = collectives(tmp_path, LLAMA, topology, options_of, mesh__data=data, mesh__fsdp=fsdp)
    shapes = decoder.abstract(LLAMA, make_mesh(1, 1, 1))
    numbers, layers = decoder.num_params(LLAMA), sum(leaf.size for leaf in jax.tree.leaves(shapes["layers"]))
    others = (fsdp - 1) / fsdp  # the share of an array that a chip gets from the others
    scattered = 2 * others * numbers
    gathered = scattered + 2 * others * layers
    added = 2 * 2 * (data - 1) / data * numbers / fsdp
    assert found["all-gather"]["bytes"] == pytest.approx(gathered, rel=0.02)
    assert found["reduce-scatter"]["bytes"] == pytest.approx(scattered, rel=0.02)
    assert sum(each["bytes"] for each in found.values()) <= 1.05 * (gathered + scattered + added)
    assert found["all-gather"]["bytes_beside_products"] >= 2 * others * layers  # half of the layers' gathers
    assert found["reduce-scatter"]["bytes_beside_products"] >= others * layers  # and half of their scatters


def test_micro_batches_send_their_gradients_together(tmp_path):
    """Catches: gradients that are sent for each micro-batch; the two of a tied embedding sent one by one."""
    found = collectives(tmp_path, GPT2, mesh__data=8, train__grad_accum_steps=2)
    once = 2 * 7 / 8 * 4 * decoder.num_params(GPT2)  # all-reduced in float32
    assert sum(each["bytes"] for each in found.values()) <= 1.05 * once
