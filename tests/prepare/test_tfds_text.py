"""TFDS data sets as text, without TensorFlow."""

import pickle
import sys

import numpy as np
import pytest

from lfr_jax.prepare import text_source, tfds_text

BUILDER = """
import numpy as np
import tensorflow_datasets as tfds


class TinyTalks(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "label": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self.examples(5), "other": self.examples(0, " ")}

    def examples(self, number, *texts):
        for i, text in enumerate([*(f"talk {i} é" for i in range(number)), *texts]):
            yield i, {"text": text, "label": i}

    _generate_examples = examples
"""


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A TFDS data set, prepared on disk without TensorFlow; its code is then forgotten."""
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "tiny_talks.py").write_text(BUILDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import tiny_talks

        tiny_talks.TinyTalks(data_dir=folder / "data", file_format="array_record").download_and_prepare()
    del sys.modules["tiny_talks"]
    return str(folder / "data")


def test_tfds(talks, monkeypatch):
    """Catches: bytes passed on as text; an example lost, or read twice, where a batch of reads or a chunk ends; a stamp
    that does not tell another split."""
    monkeypatch.setattr(tfds_text, "PER_CHUNK", 2)
    place = tfds_text.of_name("tiny_talks", data_dir=talks)
    chunks = list(place.chunks())
    found = [document for chunk in pickle.loads(pickle.dumps(chunks)) for document in chunk.documents()]
    assert sorted(document.text for document in found) == [f"talk {i} é" for i in range(5)]
    assert {(d.domain, d.source) for d in found} == {("tiny_talks", "tiny_talks")}
    assert [d.id for d in found] == [f"tiny_talks/train:{i}" for i in range(5)]
    assert len(chunks) == 3 and sum(chunk.size for chunk in chunks) == place.size > 0
    assert place.stamp == tfds_text.of_name("tiny_talks", data_dir=talks).stamp
    assert place.stamp != tfds_text.of_name("tiny_talks", "other", data_dir=talks).stamp
    assert place.origin == "tfds:tiny_talks/1.0.0"


class RandomAccess:
    def __getitems__(self, indices):
        return [{"i": i} for i in np.arange(9)[list(indices)]]


def test_tfds_reads_in_batches():
    """Catches: an example lost, read twice or misnumbered where one batch of reads ends."""
    found = list(tfds_text.examples(RandomAccess(), 1, 8, at_once=3))
    assert found == [(i, {"i": i}) for i in range(1, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_feature": "body"}, "example 0: found the fields ['label', 'text'], expected 'body'"),
        ({"text_feature": "label"}, "example 0: found label = "),
    ],
)
def test_examples_without_text(talks, options, message):
    """Catches: a number encoded as text; a wrong feature's name that gives blank documents."""
    (document, *_) = text_source.documents([tfds_text.of_name("tiny_talks", data_dir=talks, **options)])
    assert document.problem.kind == "no text" and message in document.problem.where


def test_a_set_that_is_not_on_disk(tmp_path):
    """Catches: a known data set's absence told as a format that is not supported; where it was looked for not told."""
    build = "tfds build lm1b --file_format=array_record"
    with pytest.raises(FileNotFoundError, match=f"'lm1b': found nothing in {tmp_path}/lm1b/[0-9.]+; .*{build}"):
        tfds_text.of_name("lm1b", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"name": "tiny_walks"}, "'tiny_walks'.* not found"), ({"split": "valid"}, "split 'valid'.*Unknown split")],
)
def test_tfds_errors(talks, options, message):
    """Catches: TFDS's page-long errors."""
    with pytest.raises(ValueError, match=message) as error:
        tfds_text.of_name(**({"name": "tiny_talks", "data_dir": talks} | options))
    assert len(str(error.value)) < 400
