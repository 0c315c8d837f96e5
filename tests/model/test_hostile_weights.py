"""Files of weights that somebody edited: they are read, or refused in one line that names the file."""

import contextlib
import json

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from hostile import edited_bytes, edited_json

from lfr_jax.config import gpt2, llama
from lfr_jax.model import hf, llama2c
from lfr_jax.model.hf_layout import hf_tensors
from lfr_jax.model.hf_weights import INDEX, WEIGHTS

SETTINGS = hypothesis.settings(deadline=None, max_examples=60, database=None)
FAMILIES = {"gpt2": gpt2(1, 4, 2, vocab_size=5, max_len=4), "llama": llama(1, 4, 2, 1, 4, vocab_size=5, max_len=4)}


@contextlib.contextmanager
def read_or_refused(path):
    try:
        yield
    except (ValueError, OSError) as error:
        assert str(path) in str(error) and "\n" not in str(error)


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


@contextlib.contextmanager
def content_of(path):
    """The bytes of a file, which are put back afterwards."""
    before = path.read_bytes()
    try:
        yield before
    finally:
        path.write_bytes(before)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_config_json(folder, data):
    """Catches: a key of config.json that is used before it is checked."""
    with content_of(folder / "config.json") as content:
        edited = data.draw(edited_json(json.loads(content)))
        (folder / "config.json").write_text(json.dumps(edited))
        with read_or_refused(folder):
            hf.load(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_bytes_of_config_json(folder, data):
    """Catches: text that is no JSON, or is not UTF-8."""
    with content_of(folder / "config.json") as content:
        (folder / "config.json").write_bytes(data.draw(edited_bytes(content)))
        with read_or_refused(folder):
            hf.load(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_safetensors(folder, data):
    """Catches: errors of the library's own types; memory for what a header says."""
    with content_of(folder / WEIGHTS) as content:
        (folder / WEIGHTS).write_bytes(data.draw(edited_bytes(content)))
        with read_or_refused(folder):
            hf.load(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_header_of_safetensors(folder, data):
    """Catches: a header that is JSON of other values: types, shapes, places of tensors."""
    with content_of(folder / WEIGHTS) as content:
        size = int.from_bytes(content[:8], "little")
        header = json.dumps(data.draw(edited_json(json.loads(content[8 : 8 + size])))).encode()
        (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        with read_or_refused(folder):
            hf.load(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_index(sharded, data):
    """Catches: names of files that are none."""
    with content_of(sharded / INDEX) as content:
        (sharded / INDEX).write_text(json.dumps(data.draw(edited_json(json.loads(content)))))
        with read_or_refused(sharded):
            hf.load(sharded)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_llama2c(tmp_path_factory, data):
    """Catches: sizes of a header that overflow, divide by zero or ask for memory."""
    path = tmp_path_factory.getbasetemp() / "hostile_llama2c.bin"
    config = llama2c.model_config(llama2c.Header(4, 4, 1, 2, 1, 5, 2), True)
    floats = sum(np.prod(shape) for shape in llama2c.weight_shapes(config).values())
    content = np.array([4, 4, 1, 2, 1, 5, 2], "<i4").tobytes() + bytes(4 * floats)
    path.write_bytes(data.draw(edited_bytes(content[:28])) + content[28:])
    with read_or_refused(path):
        llama2c.load(path)
