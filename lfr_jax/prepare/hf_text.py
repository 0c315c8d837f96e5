"""Text of Hugging Face data sets, streamed from the Hub or read from a folder, by the optional package `datasets`."""

import functools
import importlib
import pathlib
import types
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax.prepare import text_source
from lfr_jax.prepare.folders import files_below
from lfr_jax.prepare.text_source import Document, Fields, Input


class Known(NamedTuple):
    """A data set with a short name, and the field in which its examples name their domain."""

    name: str
    domain: str = "domain"


KNOWN = {
    "openwebtext": Known("Skylion007/openwebtext"),
    "slimpajama": Known("cerebras/SlimPajama-627B", "meta.redpajama_set_name"),
    "slimpajama-6b": Known("DKYoon/SlimPajama-6B", "meta.redpajama_set_name"),
}


def of_name(name: str, split: str = "train", config: str | None = None, fields: Fields = Fields()) -> Input:
    """The input for a Hugging Face data set. Each of its files is a chunk.

    Args:
      name: `openwebtext`, `slimpajama`, `slimpajama-6b`, a name on the Hub, or a folder of data files.
        It is the domain and the source of documents that name none.
      config: the configuration of the data set, if it has several.

    All workers read the commit that is the newest now. A newer one has another stamp, so a command that was killed
    and run again does not mix the two.

    Raises:
      ModuleNotFoundError: the package `datasets` is not installed.
      ValueError: no such data set, configuration or split, or the Hub cannot be reached.
    """
    known = KNOWN.get(name, Known(name, fields.domain))
    fields = fields._replace(domain=known.domain) if fields.domain == Fields().domain else fields
    import_optional("datasets")  # fails before the Hub is asked
    folder = pathlib.Path(known.name)
    revision = None if folder.is_dir() else commit(known.name)
    data = opened(known.name, split, config, revision)
    found = [folder / file for file in files_below(folder)] if folder.is_dir() else []
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found]
    stamp = text_source.stamp(name, split, config, fields, data.num_shards, str(data.info.version), revision, stamps)
    shards = [DataFile(name, known.name, split, config, revision, fields, number) for number in range(data.num_shards)]
    return Input(stamp, 0, lambda: iter(shards), f"hf://datasets/{known.name}@{revision}" if revision else "")


class DataFile(NamedTuple):
    """A chunk of a data set: one of its files (a shard)."""

    label: str
    path: str
    split: str
    config: str | None
    revision: str | None
    fields: Fields
    number: int
    size: int = 0  # unknown before it is read

    @property
    def name(self) -> str:
        return f"Hugging Face data set {self.label!r}, split {self.split!r}, file {self.number}"

    def documents(self) -> Iterator[Document]:
        data = opened(self.path, self.split, self.config, self.revision)
        with text_source.short_errors(self.name):
            for index, example in enumerate(data.shard(data.num_shards, self.number)):
                default = Document(f"{self.label}/{self.split}:{self.number}:{index}", "", self.label, self.label)
                yield text_source.read_record(example, self.fields, f"{self.name}, example {index}", default)


@functools.cache
def opened(name: str, split: str, config: str | None, revision: str | None):
    library = import_optional("datasets")
    with text_source.short_errors(f"Hugging Face data set {name!r}, configuration {config!r}, split {split!r}"):
        return library.load_dataset(name, config, split=split, revision=revision, streaming=True)


def commit(name: str) -> str:
    """The newest commit of a data set on the Hub."""
    library = import_optional("huggingface_hub")
    with text_source.short_errors(f"Hugging Face data set {name!r}, whose newest commit was asked for on the Hub"):
        return library.HfApi().dataset_info(name).sha


def import_optional(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"--hf needs the package `{name}`, which is not installed; run: pip install 'lfr_jax[hf]'"
        ) from None
