"""Files of weights that somebody edited: they are read, or refused in one line that names the file."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hostile import each_edit, edited_bytes, edited_text

from lfr_jax.config import gpt2, llama
from lfr_jax.model import hf, llama2c
from lfr_jax.model.hf_layout import hf_tensors
from lfr_jax.model.hf_weights import INDEX, WEIGHTS

FAMILIES = {"gpt2": gpt2(1, 4, 2, vocab_size=5, max_len=4), "llama": llama(1, 4, 2, 1, 4, vocab_size=5, max_len=4)}


def zeros(family):
    """Params of this shape; there is no need of a device."""
    config, params = FAMILIES[family], {}
    for tensor in hf_tensors(family, config):
        for path in tensor.paths:
            *parents, name = path.split(".")
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = np.zeros(tensor.shape if tensor.layer is None else (1, *tensor.shape), np.float32)
    return params


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / request.param
    hf.export(zeros(request.param), FAMILIES[request.param], None, folder)
    return folder


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
    new = tmp_path_factory.mktemp("sharded")
    (new / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    file_of = {name: f"{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in ("0.safetensors", "1.safetensors"):
        safetensors.numpy.save_file({name: tensors[name] for name in tensors if file_of[name] == file}, new / file)
    (new / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    return new


@st.composite
def edited_header(draw, raw):
    """The bytes of a safetensors file with some of the values edited that its header, which is JSON, has."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = draw(edited_text(raw[8:end]))
    return len(header).to_bytes(8, "little") + header + raw[end:]


EDITS = {
    "values of config.json": ("config.json", edited_text),
    "bytes of config.json": ("config.json", edited_bytes),
    "bytes of the weights": (WEIGHTS, edited_bytes),
    "values of their header": (WEIGHTS, edited_header),
}


@pytest.mark.parametrize("name, edited", EDITS.values(), ids=EDITS)
def test_files_of_a_folder(folder, name, edited):
    """Catches: a key that is used before it is checked; text that is no JSON, or is not UTF-8; errors of the library's
    own types; memory for what a header says."""
    each_edit(folder / name, edited, lambda: hf.load(folder), named=folder)


def test_index(sharded):
    """Catches: names of files that are none."""
    each_edit(sharded / INDEX, edited_text, lambda: hf.load(sharded), named=sharded)


def test_llama2c(tmp_path):
    """Catches: sizes of a header that overflow, divide by zero or ask for memory."""
    path = tmp_path / "model.bin"
    config = llama2c.model_config(llama2c.Header(4, 4, 1, 2, 1, 5, 2), True)
    floats = sum(np.prod(shape) for shape in llama2c.weight_shapes(config).values())
    path.write_bytes(np.array([4, 4, 1, 2, 1, 5, 2], "<i4").tobytes() + bytes(4 * floats))
    each_edit(path, lambda raw: edited_bytes(raw[:28]).map(lambda head: head + raw[28:]), lambda: llama2c.load(path))
