"""Hugging Face data sets as text; the Hub itself is not asked."""

import json
import pickle
import sys
import types
from typing import NamedTuple

import pytest

from lfr_jax.prepare import hf_text, prepare, text_source
from lfr_jax.prepare.text_source import Fields


@pytest.fixture
def library():
    return pytest.importorskip("datasets", reason="the extra `hf` is not installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of two files, as SlimPajama's examples are."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for name in ("train-0", "train-1"):
        rows = [{"text": f"{name} {i} é", "meta": {"redpajama_set_name": f"Set{i % 2}"}} for i in range(3)]
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hf_text.opened.cache_clear()
    return tmp_path / "data"


def test_each_file_is_a_chunk(library, folder):
    """Catches: an example lost or read twice over the chunks; a domain's field not followed; a stamp without the
    files."""
    place = hf_text.of_name(str(folder), fields=Fields(domain="meta.redpajama_set_name"))
    chunks = list(place.chunks())
    found = [document for chunk in chunks for document in chunk.documents()]
    assert len(chunks) == 2 and len({d.id for d in found}) == 6
    assert [d.text for d in found] == [f"train-{n} {i} é" for n in (0, 1) for i in range(3)]
    assert [d.domain for d in found] == ["Set0", "Set1", "Set0"] * 2 and {d.source for d in found} == {str(folder)}
    assert hf_text.of_name(str(folder)).stamp != place.stamp
    with open(folder / "train-1.jsonl", "a") as file:
        file.write("\n")
    assert hf_text.of_name(str(folder), fields=Fields(domain="meta.redpajama_set_name")).stamp != place.stamp


def test_a_short_name_stands_for_a_data_set_and_its_domains(library, folder, monkeypatch):
    """Catches: a short name looked up on the Hub; a domain's field of one's own overruled."""
    monkeypatch.setitem(hf_text.KNOWN, "slimpajama", hf_text.KNOWN["slimpajama"]._replace(name=str(folder)))
    found = list(text_source.documents([hf_text.of_name("slimpajama")]))
    assert {(d.domain, d.source) for d in found} == {("Set0", "slimpajama"), ("Set1", "slimpajama")}
    own = list(text_source.documents([hf_text.of_name("slimpajama", fields=Fields(domain="text"))]))
    assert own[0].domain == "train-0 0 é"


def test_what_is_not_there(library, folder):
    """Catches: a traceback of the library for a misspelt split."""
    with pytest.raises(ValueError, match="split 'tran'"):
        hf_text.of_name(str(folder), "tran")


class Streamed(NamedTuple):
    """What `datasets` gives for a data set that is streamed."""

    texts: list[str]
    num_shards: int = 2
    info: types.SimpleNamespace = types.SimpleNamespace(version="0.0.0")

    def shard(self, num_shards: int, index: int) -> list[dict]:
        return [{"text": text} for text in self.texts[index::num_shards]]


@pytest.fixture
def hub(monkeypatch):
    """The commits of a data set on the Hub, newest last; in place of the network, at the edge of both libraries."""
    api = pytest.importorskip("huggingface_hub").HfApi
    commits = {"c0ffee": ["one", "two"]}
    monkeypatch.setattr(api, "dataset_info", lambda self, repo_id: types.SimpleNamespace(sha=[*commits][-1]))

    def load_dataset(name, config, *, split, revision, streaming):
        assert (name, streaming) == ("some/set", True)
        return Streamed(commits[revision])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hf_text.opened.cache_clear()
    yield commits
    hf_text.opened.cache_clear()


def test_one_commit_is_read_to_the_end(hub, tmp_path):
    """Catches: two commits of a data set mixed, by workers or by a run that goes on; one that nobody can name later."""
    place = hf_text.of_name("some/set")
    chunks = pickle.loads(pickle.dumps(list(place.chunks())))
    hub["decade"] = ["other", "text"]
    hf_text.opened.cache_clear()  # as in another process
    assert [document.text for chunk in chunks for document in chunk.documents()] == ["one", "two"]
    later = hf_text.of_name("some/set")
    assert [document.text for document in text_source.documents([later])] == ["other", "text"]
    assert place.stamp != later.stamp
    assert later.stamp == hf_text.of_name("some/set").stamp
    prepare.prepare_paths(out=str(tmp_path / "out"), hf=("some/set",), byte_tokenizer=True, workers=1)
    card = json.loads((tmp_path / "out/prepared.json").read_text())
    assert card["origins"] == ["hf://datasets/some/set@decade"]


def test_the_hub_cannot_be_reached(hub, monkeypatch):
    """Catches: a traceback of the HTTP library, whose errors are no OSError."""
    import huggingface_hub

    class ConnectError(Exception):
        pass

    def refused(self, repo_id):
        raise ConnectError("[Errno -2] Name or service not known\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refused)
    with pytest.raises(ValueError, match="'some/set', whose newest commit .*: .* Name or service not known$"):
        hf_text.of_name("some/set")


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    """Catches: an error that does not say what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    hf_text.opened.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lfr_jax\[hf\]'"):
        hf_text.of_name("openwebtext")
