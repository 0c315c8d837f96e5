"""Files of tokenizers that somebody edited: they are read, or refused in one line that names the file."""

import contextlib
import json

import hypothesis
import pytest
from hostile import SETTINGS, each_edit, edited_bytes, edited_json, edited_text, read_or_refused
from test_tokenizer import tiny_sentencepiece

from lfr_jax.data import tokenizer


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    pieces = [*tokenizer.byte_alphabet(), "ab", "Ġab", "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\na b\nĠ ab\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["bytes", "ids", "gpt2"])
def saved(request, gpt2_folder, tmp_path_factory):
    made = {
        "bytes": tokenizer.Bytes,
        "ids": lambda: tokenizer.Ids(300, 7),
        "gpt2": lambda: tokenizer.Gpt2Bpe.from_folder(gpt2_folder),
    }[request.param]()
    return tmp_path_factory.mktemp("saved"), made


def test_saved_card(saved):
    """Catches: a card without a kind or a digest, or with others."""
    folder, made = saved
    made.save(folder)
    each_edit(folder / "tokenizer.json", edited_text, lambda: tokenizer.load_tokenizer(folder), named=folder)


def test_saved_files(saved):
    """Catches: changed files read as what they are before their digest is compared."""
    folder, made = saved
    made.save(folder)
    for name in ("tokenizer.json", *made.files):
        each_edit(folder / name, edited_bytes, lambda: tokenizer.load_tokenizer(folder), named=folder)


@SETTINGS
@hypothesis.given(edited_json({"vocab_size": 300, "eos_id": 7}))
def test_ids_of_a_right_digest(tmp_path_factory, ids):
    """Catches: numbers that no vocabulary has."""
    folder = tmp_path_factory.getbasetemp() / "hostile_ids"
    made = tokenizer.Ids(300, 7)
    made.files["ids.json"] = json.dumps(ids).encode()
    made.save(folder)
    with read_or_refused(folder):
        tokenizer.load_tokenizer(folder)


@pytest.mark.parametrize("name, edited", [("encoder.json", edited_text), ("vocab.bpe", edited_bytes)])
def test_gpt2_files(gpt2_folder, name, edited):
    """Catches: ids, bytes or merges that tiktoken fails on, or takes for others."""

    def read():
        made = tokenizer.Gpt2Bpe.from_folder(gpt2_folder)
        assert made.decode(made.encode("ab é\n")) == "ab é\n"

    each_edit(gpt2_folder / name, edited, read, named=gpt2_folder)


def test_sentencepiece(tmp_path):
    """Catches: what the library raises, while it reads a model and while it uses one."""
    path = tmp_path / "hostile.model"
    path.write_bytes(tiny_sentencepiece())

    def read():
        made = tokenizer.SentencePiece(path)
        with contextlib.suppress(tokenizer.EncodeError):
            made.decode(made.encode("ab é▁x\n"))

    each_edit(path, edited_bytes, read)
