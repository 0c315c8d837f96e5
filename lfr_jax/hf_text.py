"""Text of Hugging Face data sets, streamed from the Hub or read from a folder, by the optional package `datasets`."""

import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax import corpus
from lfr_jax.corpus import Document, Fields, Input


class Known(NamedTuple):
    """A data set that has a short name, and where its examples name their domain."""

    name: str
    domain: str = "domain"


KNOWN = {
    "openwebtext": Known("Skylion007/openwebtext"),
    "slimpajama": Known("cerebras/SlimPajama-627B", "meta.redpajama_set_name"),
    "slimpajama-6b": Known("DKYoon/SlimPajama-6B", "meta.redpajama_set_name"),
}


def of_name(name: str, split: str = "train", config: str | None = None, fields: Fields = Fields()) -> Input:
    """The input that a Hugging Face data set is, a chunk for each of its files.

    Args:
      name: `openwebtext`, `slimpajama`, `slimpajama-6b`, a name on the Hub, or a folder of data files.
        It is the domain and the source of documents that name none.
      config: the configuration of the data set, if it has several.

    Raises:
      ModuleNotFoundError: the package `datasets` is not installed.
      ValueError: no such data set, configuration or split.
    """
    known = KNOWN.get(name, Known(name, fields.domain))
    fields = fields._replace(domain=known.domain) if fields.domain == Fields().domain else fields
    data = opened(known.name, split, config)
    folder = pathlib.Path(known.name)
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found]
    stamp = corpus.stamp(name, split, config, fields, data.num_shards, str(data.info.version), stamps)
    shards = [Shard(name, known.name, split, config, fields, number) for number in range(data.num_shards)]
    return Input(stamp, 0, lambda: iter(shards))


class Shard(NamedTuple):
    """A chunk of a data set: one of its files."""

    label: str
    name: str
    split: str
    config: str | None
    fields: Fields
    number: int
    size: int = 0  # nobody knows before it is read

    def documents(self) -> Iterator[Document]:
        data = opened(self.name, self.split, self.config)
        for index, example in enumerate(data.shard(data.num_shards, self.number)):
            where = f"Hugging Face data set {self.label!r}, split {self.split!r}, file {self.number}, example {index}"
            default = Document(f"{self.label}/{self.split}:{self.number}:{index}", "", self.label, self.label)
            yield corpus.record(example, self.fields, where, default)


@functools.cache
def opened(name: str, split: str, config: str | None):
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ModuleNotFoundError(
            "--hf needs the package `datasets`, which is not installed; run: pip install 'lfr_jax[hf]'"
        ) from None

    try:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except (OSError, ValueError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"Hugging Face data set {name!r}, configuration {config!r}, split {split!r}: {detail}"
        ) from error
