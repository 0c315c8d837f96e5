"""Our params to the safetensors of a Hugging Face folder, and back. Each tensor is used, or the folder is refused."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors

from lfr_jax.config import ModelConfig
from lfr_jax.config.json_files import from_json
from lfr_jax.model.hf_layout import BUFFERS, PREFIX, HfTensor, hf_tensors
from lfr_jax.storage.files import require_regular
from lfr_jax.storage.remote_files import read_bytes
from lfr_jax.terminal import printable

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16", "F64")  # of these, float32 holds every number but those of F64, which it rounds


@dataclasses.dataclass
class Index:
    """What is read of an index: the file of each tensor."""

    weight_map: dict[str, str]


class StoredTensor(NamedTuple):
    """A tensor of an open file."""

    path: pathlib.Path
    name: str
    file: Any  # what safetensors.safe_open gives


def to_tensors(family: str, config: ModelConfig, params: dict) -> dict[str, np.ndarray]:
    """Params on the host -> float32 tensors under their names.

    Raises:
      ValueError: numbers are NaN or infinite.
    """
    tensors = {}
    for tensor in hf_tensors(family, config):
        arrays = (leaf(params, path) for path in tensor.paths)
        arrays = [array if tensor.layer is None else array[tensor.layer] for array in arrays]
        rows = np.prod(tensor.shape[: tensor.inputs], dtype=int)
        matrix = np.concatenate([array.reshape((rows, -1) if tensor.inputs else -1) for array in arrays], axis=-1)
        tensors[tensor.name] = np.ascontiguousarray(matrix.T if tensor.transposed else matrix, np.float32)
        if not np.isfinite(matrix).all():
            raise ValueError(
                f"found numbers in {' and '.join(tensor.paths)} that are NaN or infinite, expected none: training has "
                "diverged; export an earlier checkpoint"
            )
    return tensors


def read_params(family: str, config: ModelConfig, folder: pathlib.Path) -> dict:
    """The params in a folder's safetensors, as float32 arrays on the host.

    Raises:
      FileNotFoundError: a file of weights is missing.
      ValueError: a tensor is missing, is not one of this model, or has another shape or type; or numbers are NaN or
        infinite; or a file or the index is broken.
    """
    with open_tensors(folder) as stored:
        found = without_prefix(stored, PREFIX[family])
        tensors = []
        for tensor in hf_tensors(family, config):
            name = tensor.name.removeprefix(PREFIX[family])
            if name not in found:
                shape = list(tensor.stored_shape)
                raise ValueError(f"{folder}: found no tensor {tensor.name}, expected one, of shape {shape}")
            tensors.append((tensor, found.pop(name)))
            check_header(*tensors[-1])
        refuse_unused(family, config, found)
        params: dict = {}
        for tensor, one in tensors:
            place(params, config.num_layers, tensor, read(one))
        if config.tied_head and "lm_head.weight" in found:
            refuse_another_head(found["lm_head.weight"], params["embedding"])
    return params


@contextlib.contextmanager
def open_tensors(folder: pathlib.Path) -> Iterator[dict[str, StoredTensor]]:
    """All tensors by their names, from one file, or from those of an index. As in transformers, one file goes first.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is broken, or the index and the files do not name the same tensors.
    """
    with contextlib.ExitStack() as stack:
        whole = (folder / WEIGHTS).exists() or not (folder / INDEX).exists()
        file_of = None if whole else read_index(folder / INDEX)
        files = [WEIGHTS] if file_of is None else sorted(set(file_of.values()))
        stored: dict[str, StoredTensor] = {}
        for name in files:
            path = folder / name
            if not path.exists():
                raise FileNotFoundError(f"{path} is not there; expected safetensors weights")
            require_regular(path)
            try:
                file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
            except safetensors.SafetensorError as error:
                raise ValueError(
                    f"{path}: found a broken safetensors file ({printable(str(error))}); copy it again"
                ) from None
            for tensor in file.keys():
                if file_of is not None and file_of.get(tensor) != name:
                    raise ValueError(
                        f"{path}: found the tensor {printable(tensor)}, which {INDEX} expects in "
                        f"{file_of.get(tensor, 'no file')}"
                    )
                stored[tensor] = StoredTensor(path, tensor, file)
        for tensor, name in (file_of or {}).items():
            if tensor not in stored:
                raise ValueError(f"{folder / name}: found no tensor {printable(tensor)}, which {INDEX} expects there")
        yield stored


def read_index(path: pathlib.Path) -> dict[str, str]:
    """The file of each tensor. Raises ValueError if a file would not lie beside the index."""
    file_of = from_json(read_bytes(path), Index, path).weight_map
    for tensor, file in file_of.items():
        if pathlib.PurePath(file).name != file or not file.isprintable():
            raise ValueError(
                f"{path}: found {file!r} for {printable(tensor)}, expected the name of a file in the same folder"
            )
    return file_of


def without_prefix(stored: dict[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """The same tensors under names without the prefix. Raises ValueError if two get the same name."""
    found: dict[str, StoredTensor] = {}
    for name, one in stored.items():
        other = found.setdefault(name.removeprefix(prefix), one)
        if other is not one:
            raise ValueError(f"{one.path}: found {one.name} and {other.name}, expected one of the two")
    return found


def check_header(tensor: HfTensor, one: StoredTensor) -> None:
    """Refuses another shape or type. Nothing is read for it."""
    header = one.file.get_slice(one.name)
    if tuple(header.get_shape()) != tensor.stored_shape:
        found = list(header.get_shape())
        raise ValueError(f"{one.path}: found {one.name} of shape {found}, expected {list(tensor.stored_shape)}")
    if header.get_dtype() not in FLOATS:
        found = header.get_dtype()
        raise ValueError(f"{one.path}: found {one.name} of type {found}, expected one of {', '.join(FLOATS)}")


def refuse_unused(family: str, config: ModelConfig, found: dict[str, StoredTensor]) -> None:
    """Refuses tensors that no part of the model has taken."""
    head = ["lm_head.weight"] if config.tied_head else []
    unused = [one for name, one in found.items() if name not in head and not re.fullmatch(BUFFERS[family], name)]
    if unused:
        more = f" (and {len(unused) - 1} more)" if unused[1:] else ""
        raise ValueError(
            f"{unused[0].path}: found the tensor {printable(unused[0].name)}, expected none of this name in a {family} "
            f"of {config.num_layers} layers{more}"
        )


def refuse_another_head(head: StoredTensor, embedding: np.ndarray) -> None:
    """Raises ValueError unless a head beside tie_word_embeddings is the embedding."""
    if list(head.file.get_slice(head.name).get_shape()) != list(embedding.shape) or (read(head) != embedding).any():
        raise ValueError(
            f"{head.path}: found a {head.name} that is not the embedding, expected the same, as config.json has "
            "tie_word_embeddings=true; set it to false to use this head"
        )


def read(one: StoredTensor) -> np.ndarray:
    """The numbers of a tensor as float32. Raises ValueError if one is NaN or infinite."""
    with np.errstate(over="ignore"):  # found below
        array = one.file.get_tensor(one.name).astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        bad = array.size - np.count_nonzero(finite)
        raise ValueError(
            f"{one.path}: found {bad} of {array.size} numbers in {one.name} that are NaN or infinite, expected none"
        )
    return array


def place(params: dict, num_layers: int, tensor: HfTensor, array: np.ndarray) -> None:
    """Puts a tensor where it lies in our params."""
    matrix = array.T if tensor.transposed else array
    for path, part in zip(tensor.paths, np.split(matrix, len(tensor.paths), axis=-1)):
        *parents, name = path.split(".")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        part = part.reshape(tensor.shape)
        if tensor.layer is None:
            node[name] = np.ascontiguousarray(part)
        else:
            if name not in node:
                node[name] = np.empty((num_layers, *tensor.shape), np.float32)
            node[name][tensor.layer] = part


def leaf(params: dict, path: str) -> np.ndarray:
    """The array at a path such as "layers.mlp.up.kernel"."""
    for name in path.split("."):
        params = params[name]
    return params
