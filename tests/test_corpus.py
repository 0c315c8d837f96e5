"""Each kind of input, what is filled in, and what is refused, by file and line."""

import gzip
import json
import sys

import numpy as np
import pytest
import zstandard

from lfr_jax import corpus
from lfr_jax.corpus import Document


def jsonl(*objects) -> bytes:
    return b"".join(json.dumps(thing).encode() + b"\n" for thing in objects)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("suffix", PACK)
def test_jsonl(tmp_path, suffix):
    """Catches: a field not taken over; a last line without newline dropped; numbers off by a blank line."""
    full = {"id": "one", "domain": "d", "source": "s", "text": "é\n"}
    content = jsonl(full) + b"\n" + jsonl({"id": 7, "text": "b", "domain": None}) + b'{"text": "c"}'
    path = tmp_path / f"news.part1.jsonl{suffix}"
    path.write_bytes(PACK[suffix](content))
    assert list(corpus.read([path])) == [
        Document("one", "é\n", "d", "s"),
        Document("7", "b", "news", "news"),
        Document(f"news.part1.jsonl{suffix}:4", "c", "news", "news"),
    ]


@pytest.mark.parametrize("suffix", PACK)
def test_text_files_are_one_document(tmp_path, suffix):
    """Catches: line ends translated, a byte-order mark kept, a file cut into lines."""
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(PACK[suffix]("\ufeffone\r\n\ttwo\r".encode()))
    assert list(corpus.read([path])) == [Document(path.name, "one\r\n\ttwo\r", "book", "book")]


def test_folders(tmp_path):
    """Catches: the disk's order; hidden files; absolute paths in ids; domains from the wrong folder."""
    for name in ("b/2.txt", "b/10.txt", "a/deep/x.md", ".git/config", "b/.DS_Store"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(name)
    (tmp_path / "top/b/lines.jsonl").write_bytes(jsonl({"text": "t"}))
    assert list(corpus.read([tmp_path / "top"])) == [
        Document("a/deep/x.md", "a/deep/x.md", "deep", "deep"),
        Document("b/10.txt", "b/10.txt", "b", "b"),
        Document("b/2.txt", "b/2.txt", "b", "b"),
        Document("b/lines.jsonl:1", "t", "b", "lines"),
    ]
    two = corpus.read([tmp_path / "top/b/2.txt", tmp_path / "top/a"])
    assert [document.id for document in two] == ["2.txt", "deep/x.md"]


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_in_many_chunks(tmp_path, suffix):
    """Catches: lines lost or doubled where one chunk ends; a second compressed frame left out."""
    path = tmp_path / f"x.jsonl{suffix}"
    objects = [{"text": f"{n}" * 50} for n in range(500)]
    halves = jsonl(*objects[:250]), jsonl(*objects[250:])
    path.write_bytes(b"".join(map(PACK[suffix], halves)))
    for chunk_size in (7, 1000):
        assert list(corpus.lines(path, chunk_size)) == b"".join(halves).split(b"\n")[:-1]
    assert [d.text for d in corpus.read([path])] == [thing["text"] for thing in objects]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', "found no valid JSON"),
        (b'{"text": "\xff"}', "found no valid JSON in UTF-8"),
        (b'["text"]', "found a JSON list"),
        (b'{"body": "x"}', r"found the fields \['body'\]; expected a field 'text'"),
        (b'{"text": ""}', "found text = ''"),
        (b'{"text": " \\n"}', "found text = "),
        (b'{"text": null}', "found text = None"),
        (b'{"text": 3}', "found text = 3"),
        (b'{"text": "\\ud800"}', "found text that is not Unicode"),
        (b'{"text": "x", "domain": ["a"]}', "found domain = "),
        (b'{"text": "x", "source": ""}', "found source = ''"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    """Catches: a bad line skipped, or its number counted from 0."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"x\.jsonl, line 3: {message}"):
        list(corpus.read([path]))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: b"garbage" + packed])
def test_a_broken_stream_is_no_end(tmp_path, suffix, damage):
    """Catches: the rest of a cut-off file taken for all of it (zstandard's own reader does)."""
    content = jsonl(*({"text": str(n**5)} for n in range(3000)))
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(damage(PACK[suffix](content)))
    with pytest.raises(ValueError, match=f"{path.name}: found a broken {suffix} stream"):
        list(corpus.read([path]))


@pytest.mark.parametrize(("content", "message"), [(b"\xff", "not UTF-8"), (b"", "no text"), (b" \n", "no text")])
def test_bad_text_files(tmp_path, content, message):
    """Catches: bytes replaced; empty documents."""
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.txt: (found )?.*{message}"):
        list(corpus.read([tmp_path]))


def test_nothing_there(tmp_path):
    """Catches: a misspelt path or an empty folder read as no documents."""
    (tmp_path / ".hidden").write_text("x")
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            list(corpus.read([path]))


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


def test_tfds(talks):
    """Catches: bytes passed on as text; examples beyond a batch of reads lost."""
    found = list(corpus.read_tfds("tiny_talks", data_dir=talks))
    assert sorted(document.text for document in found) == [f"talk {i} é" for i in range(5)]
    assert {(d.domain, d.source) for d in found} == {("tiny_talks", "tiny_talks")}
    assert [d.id for d in found] == [f"tiny_talks/train:{i}" for i in range(5)]


def test_tfds_reads_in_batches():
    """Catches: an example lost, or read twice, where one batch of reads ends."""
    data = RandomAccess()
    assert [example["i"] for example in corpus.examples(data, at_once=3)] == list(range(7))


class RandomAccess:
    def __len__(self):
        return 7

    def __getitems__(self, indices):
        return [{"i": i} for i in np.arange(7)[list(indices)]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tiny_walks"}, "'tiny_walks'.* not found"),
        ({"split": "valid"}, "split 'valid'.*Unknown split"),
        ({"text_feature": "body"}, r"example 0: found the features \['label', 'text'\], expected 'body'"),
        ({"text_feature": "label"}, "example 0: found label = "),
        ({"split": "other"}, "example 0: found text = ' '"),
    ],
)
def test_tfds_errors(talks, options, message):
    """Catches: TFDS's page-long errors, or a number encoded as text."""
    with pytest.raises(ValueError, match=message) as error:
        list(corpus.read_tfds(**({"name": "tiny_talks", "data_dir": talks} | options)))
    assert len(str(error.value)) < 400
