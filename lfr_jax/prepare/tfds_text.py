"""Text of TFDS data sets on disk in a random-access format. TensorFlow is not needed."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Document, Fields, Input

AT_ONCE = 1024  # examples read at once
PER_CHUNK = 8 * AT_ONCE
ADVICE = ". Expected one prepared with file_format='array_record'."


def of_name(name: str, split: str = "train", text_feature: str = "text", data_dir: str | None = None) -> Input:
    """The input for a TFDS data set.

    Args:
      name: as TFDS writes it: `c4/en:3.0.1`, `lm1b`, ... It is the domain and the source of its documents.
      text_feature: the feature that holds the text.
      data_dir: the folder of the data sets; None: TFDS's default.

    Raises:
      FileNotFoundError: the data set is not on disk.
      ValueError: no such data set or split, or its format has no random access.
    """
    builder, data = opened(name, split, data_dir)
    size = builder.info.splits[split].num_bytes or 0
    stamp = text_source.stamp(builder.info.full_name, str(builder.data_path), split, text_feature, len(data), size)
    starts = range(0, len(data), PER_CHUNK)

    def chunks() -> Iterator[Examples]:
        for start, part in zip(starts, text_source.split_evenly(size, max(len(starts), 1))):
            yield Examples(name, split, text_feature, data_dir, start, min(start + PER_CHUNK, len(data)), part)

    return Input(stamp, size, chunks, f"tfds:{builder.info.full_name}")


class Examples(NamedTuple):
    """A chunk of a data set: the examples from `start` up to `stop`."""

    label: str
    split: str
    text_feature: str
    data_dir: str | None
    start: int
    stop: int
    size: int

    @property
    def name(self) -> str:
        return f"TFDS data set {self.label!r}, split {self.split!r}, example {self.start} and on"

    def documents(self) -> Iterator[Document]:
        _, data = opened(self.label, self.split, self.data_dir)
        with text_source.short_errors(self.name):
            for index, example in examples(data, self.start, self.stop):
                where = f"TFDS data set {self.label!r}, split {self.split!r}, example {index}"
                default = Document(f"{self.label}/{self.split}:{index}", "", self.label, self.label)
                yield text_source.read_record(example, Fields(self.text_feature, "", "", ""), where, default)


def examples(data, start: int, stop: int, at_once: int = AT_ONCE) -> Iterator[tuple[int, dict]]:
    for first in range(start, stop, at_once):
        numbers = range(first, min(first + at_once, stop))
        yield from zip(numbers, data.__getitems__(numbers))


@functools.cache
def opened(name: str, split: str, data_dir: str | None):
    """The builder of a data set, and its examples."""
    import tensorflow_datasets as tfds  # not at the top: it is slow, and most commands do without it

    where = data_dir or tfds.core.constants.DATA_DIR
    with text_source.short_errors(f"TFDS data set {name!r}, in {where}", ADVICE):
        if name.split("/")[0] == "c4":
            from tensorflow_datasets.text.c4 import C4  # noqa: F401  the import registers the name
        builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"TFDS data set {name!r}: found nothing in {builder.data_path}; prepare it, with `tfds build {name} "
            f"--file_format=array_record --data_dir={where}`, or name its folder with --tfds-dir"
        )
    with text_source.short_errors(f"TFDS data set {name!r}, split {split!r}, in {builder.data_path}", ADVICE):
        return builder, builder.as_data_source(split=split)
