"""Files of tokenizers that somebody edited: they are read, or refused in one line that names the file."""

import contextlib
import json

import hypothesis
import pytest
from hostile import SETTINGS, edited_bytes, edited_json, edited_text, read_or_refused
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


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_saved_card(saved, data):
    """Catches: a card without a kind or a digest, or with others."""
    folder, made = saved
    made.save(folder)
    card = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(data.draw(edited_text(card)))
    with read_or_refused(folder):
        tokenizer.load_tokenizer(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_saved_files(saved, data):
    """Catches: changed files read as what they are before their digest is compared."""
    folder, made = saved
    made.save(folder)
    path = folder / data.draw(hypothesis.strategies.sampled_from(["tokenizer.json", *made.files]))
    path.write_bytes(data.draw(edited_bytes(path.read_bytes())))
    with read_or_refused(folder):
        tokenizer.load_tokenizer(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_ids_of_a_right_digest(tmp_path_factory, data):
    """Catches: numbers that no vocabulary has."""
    folder = tmp_path_factory.getbasetemp() / "hostile_ids"
    made = tokenizer.Ids(300, 7)
    made.files["ids.json"] = json.dumps(data.draw(edited_json({"vocab_size": 300, "eos_id": 7}))).encode()
    made.save(folder)
    with read_or_refused(folder):
        tokenizer.load_tokenizer(folder)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_gpt2_files(gpt2_folder, data):
    """Catches: ids, bytes or merges that tiktoken fails on, or takes for others."""
    content = {name: (gpt2_folder / name).read_bytes() for name in ("encoder.json", "vocab.bpe")}
    try:
        if data.draw(hypothesis.strategies.booleans()):
            (gpt2_folder / "encoder.json").write_bytes(data.draw(edited_text(content["encoder.json"])))
        else:
            (gpt2_folder / "vocab.bpe").write_bytes(data.draw(edited_bytes(content["vocab.bpe"])))
        with read_or_refused(gpt2_folder):
            made = tokenizer.Gpt2Bpe.from_folder(gpt2_folder)
            assert made.decode(made.encode("ab é\n")) == "ab é\n"
    finally:
        for name, before in content.items():
            (gpt2_folder / name).write_bytes(before)


@SETTINGS
@hypothesis.given(data=hypothesis.strategies.data())
def test_sentencepiece(tmp_path_factory, data):
    """Catches: what the library raises, while it reads a model and while it uses one."""
    path = tmp_path_factory.getbasetemp() / "hostile.model"
    path.write_bytes(data.draw(edited_bytes(tiny_sentencepiece())))
    with read_or_refused(path):
        made = tokenizer.SentencePiece(path)
        with contextlib.suppress(tokenizer.EncodeError):
            made.decode(made.encode("ab é▁x\n"))
