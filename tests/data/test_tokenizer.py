"""Ids against those of the original implementations, and against vectors worked out by hand."""

import json
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from lfr_jax.data import tokenizer

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
SAMPLE = [pathlib.Path(tokenizer.__file__).read_text(), pathlib.Path(__file__).read_text()]


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train_sentencepiece(SAMPLE, vocab_size=400)


def tiny_sentencepiece(**normalizer) -> bytes:
    """Pieces: 0 <unk>, 1 </s>, 2-257 the bytes, then five words, the first merged first."""
    model = model_pb2.ModelProto()
    model.trainer_spec.model_type = model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id, model.trainer_spec.eos_id = 0, 1
    model.trainer_spec.bos_id = model.trainer_spec.pad_id = -1
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.add_dummy_prefix = normalizer.get("add_dummy_prefix", False)
    kinds = model_pb2.ModelProto.SentencePiece
    model.pieces.add(piece="<unk>", score=0, type=kinds.UNKNOWN)
    model.pieces.add(piece="</s>", score=0, type=kinds.CONTROL)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=kinds.BYTE)
    for rank, piece in enumerate(["ab", "▁ab", "▁", "a", "b"]):
        model.pieces.add(piece=piece, score=-rank, type=kinds.NORMAL)
    return model.SerializeToString()


@pytest.fixture
def tiny_gpt2(tmp_path):
    """The byte alphabet in GPT-2's order (visible bytes first), two merges, and the end of text."""
    alphabet = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    pieces = [*alphabet, "ab", "Ġab", "<|endoftext|>"]
    (tmp_path / "encoder.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\nĠ ab\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gpt2", lambda: tokenizer.Gpt2Bpe(SHARED / "gpt2/encoder.json", SHARED / "gpt2/vocab.bpe")),
        ("mistral_v1", lambda: tokenizer.SentencePiece(SHARED / "mistral_v1/tokenizer.model.v1")),
        ("t5", lambda: tokenizer.SentencePiece(*(SHARED / "t5").glob("*.model"))),
        ("spm_test_model", lambda: tokenizer.SentencePiece(SHARED / "spm_small/test_model.model")),
    ],
)
def test_ids_equal_the_originals(name, make):
    """Catches: another split pattern, a prefix or end-of-text added, batches out of order."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the published tokenizers in {SHARED}")
    vectors = json.loads((SHARED / "vectors.json").read_text())[name]
    assert len(vectors) == 19
    made = make()
    assert [made.encode(vector["text"]) for vector in vectors] == [vector["ids"] for vector in vectors]
    assert made.encode_batch([v["text"] for v in vectors]) == [v["ids"] for v in vectors]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab ab a", [258, 259, 260, 261]),
        ("\n\tb", [12, 11, 262]),
        ("é", [197, 171]),
        ("a▁b", [261, 228, 152, 131, 262]),  # U+2581 itself, no space
        ("▁", [228, 152, 131]),
        ("", []),
        ("  ", [260, 260]),
    ],
)
def test_sentencepiece_by_hand(text, ids):
    """Catches: U+2581 left to the model (ids 260), which decodes it as a space."""
    made = tokenizer.SentencePiece(tiny_sentencepiece())
    assert made.encode(text) == ids
    assert made.decode(ids) == text
    assert made.encode_batch(["b", text]) == [[262], ids]


def test_a_model_with_its_own_prefix_keeps_its_ids():
    """Catches: U+2581 treated apart where each part would get a prefix ([259, 228, 152, 131, 260, 262])."""
    made = tokenizer.SentencePiece(tiny_sentencepiece(add_dummy_prefix=True))
    assert made.encode("ab") == [259]
    assert made.encode("ab▁b") == [259, 260, 262]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab ab", [256, 257]),
        ("é\xad", [127, 102, 127 - 1, 255]),
        (" \n\x7f", [220, 198, 221]),
        ("<|endoftext|>", [27, 91, 68, 77, 67, 78, 69, 83, 68, 87, 83, 91, 29]),
    ],
)
def test_gpt2_by_hand(tiny_gpt2, text, ids):
    """Catches: the special token found in ordinary text; a byte alphabet that is off by one."""
    made = tokenizer.Gpt2Bpe(tiny_gpt2 / "encoder.json", tiny_gpt2 / "vocab.bpe")
    assert (made.vocab_size, made.eos_id) == (259, 258)
    assert made.encode(text) == ids
    assert made.encode_batch([text, "a"]) == [ids, [64]]
    assert made.decode([*ids, 258]) == text


def test_gpt2_refuses_ids_out_of_merge_order(tiny_gpt2):
    """Catches: no check, so that tiktoken would merge by id and give other ids than GPT-2's code."""
    (tiny_gpt2 / "vocab.bpe").write_text("#version: 0.2\nĠ ab\na b\n")
    with pytest.raises(ValueError, match="do not belong together"):
        tokenizer.Gpt2Bpe(tiny_gpt2 / "encoder.json", tiny_gpt2 / "vocab.bpe")


def test_bytes_by_hand():
    """Catches: end-of-text not above the bytes, or written into the text."""
    made = tokenizer.Bytes()
    assert (made.vocab_size, made.eos_id) == (257, 256)
    assert made.encode("é!\n") == [195, 169, 33, 10]
    assert made.decode([256, 195, 169, 256]) == "é"


TEXTS = ["", "ab ab a", "  ab", "b\n\t", "naïve Zoë", "日本 x😀\0", "<0x41></s>ab", "e\u0301 \u2028\ufeff"]


def num_bytes(ids, token_bytes) -> int:
    """How many bytes of text the ids stand for."""
    first_V, later_V = token_bytes
    return int(first_V[ids[:1]].sum() + later_V[ids[1:]].sum())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["bytes", "gpt2", "trained", "tiny", "with its own prefix"])
def test_bytes_of_tokens_add_up_to_the_text(name, text, trained, tiny_gpt2):
    """Catches: characters counted; U+2581 counted as three bytes; a byte piece as one character; the space that a model
    puts before a text counted, or the first one of the text not."""
    made = {
        "bytes": tokenizer.Bytes,
        "gpt2": lambda: tokenizer.Gpt2Bpe.from_folder(tiny_gpt2),
        "trained": lambda: trained,
        "tiny": lambda: tokenizer.SentencePiece(tiny_sentencepiece()),
        "with its own prefix": lambda: tokenizer.SentencePiece(tiny_sentencepiece(add_dummy_prefix=True)),
    }[name]()
    assert made.decode(made.encode(text)) == text
    assert num_bytes(made.encode(text), made.token_bytes()) == len(text.encode())
    for bytes_V in made.token_bytes():
        assert bytes_V.shape == (made.vocab_size,) and bytes_V[made.eos_id] == 0  # Catches: end-of-text counted


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(st.lists(st.text() | st.text("a▁ \n\t\r\0<s>/0xE2▅\ufeff\u2028"), min_size=5, max_size=20))
def test_bytes_of_any_text(trained, texts):
    """Catches: U+2581 in a text, which is byte pieces, counted as a space."""
    sizes = trained.token_bytes()
    for text, ids in zip(texts, trained.encode_batch(texts)):
        assert num_bytes(ids, sizes) == len(text.encode())


def test_ids_without_text_have_no_bytes():
    """Catches: a byte for each id of files that were linked without a tokenizer."""
    assert tokenizer.Ids(1000, 999).token_bytes() is None


@pytest.mark.parametrize("name", ["mistral_v1/tokenizer.model.v1", "t5/*.model", "spm_small/test_model.model", "gpt2"])
def test_bytes_of_published_tokenizers(name):
    """Those that change a text have the bytes of what they decode to, without the signs for unknown characters."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the published tokenizers in {SHARED}")
    made = (
        tokenizer.Gpt2Bpe.from_folder(SHARED / name) if name == "gpt2" else tokenizer.SentencePiece(*SHARED.glob(name))
    )
    sizes = made.token_bytes()
    for vector in json.loads((SHARED / "vectors.json").read_text())["gpt2"]:
        text = made.decode(made.encode(vector["text"]))
        assert num_bytes(made.encode(vector["text"]), sizes) == len(text.replace(" ⁇ ", "").encode())


def failing(monkeypatch, made, error):
    class Library:
        def encode(self, *args, **kwargs):
            raise error

    monkeypatch.setattr(made, "model", Library())
    return made


def test_a_text_on_which_the_library_fails_is_one_value_error(tiny_gpt2, monkeypatch):
    """Catches: a panic, which is no Exception, passed on; an interrupt or a lack of memory turned into a bad text."""
    gpt2, pieces = tokenizer.Gpt2Bpe.from_folder(tiny_gpt2), tokenizer.SentencePiece(tiny_sentencepiece())
    spaces = " " * 1_000_000  # the stack of tiktoken's pattern matcher overflows
    for use in (lambda: gpt2.encode(spaces), lambda: gpt2.encode_batch(["a", spaces])):
        with pytest.raises(tokenizer.EncodeError, match="cannot encode text of 1,000,00. characters: .*StackOverflow"):
            use()
    assert gpt2.encode("ab") == [256]
    for made in (gpt2, pieces, tokenizer.Bytes()):
        with pytest.raises(tokenizer.EncodeError, match="cannot encode text of 2 characters"):
            made.encode("a\ud800")
        with pytest.raises(tokenizer.EncodeError, match=f"from -1 to {made.vocab_size}; expected 0 to"):
            made.decode([-1, 0, made.vocab_size])
    with pytest.raises(tokenizer.EncodeError, match="RuntimeError: inside"):
        failing(monkeypatch, pieces, RuntimeError("inside")).encode("a")
    for error in (KeyboardInterrupt, MemoryError):
        with pytest.raises(error):
            failing(monkeypatch, pieces, error).encode("a")


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(st.lists(st.text() | st.text("a▁ \n\t\r\0<s>/0xE2▅\ufeff\u2028"), min_size=1, max_size=4))
def test_a_trained_model_loses_nothing(trained, texts):
    """Catches: add_dummy_prefix, remove_extra_whitespaces or normalisation left at their defaults."""
    ids = trained.encode_batch(texts)
    assert [trained.decode(i) for i in ids] == texts
    assert ids == [trained.encode(text) for text in texts]
    assert trained.eos_id not in [i for of_text in ids for i in of_text]


def test_training_is_deterministic_and_learns(trained):
    """Catches: threads or sampling that differ from run to run; long lines dropped before training."""
    again = tokenizer.train_sentencepiece(iter(SAMPLE), vocab_size=400)
    assert again.digest == trained.digest
    assert trained.vocab_size == 400
    one_line = tokenizer.train_sentencepiece(["tokenizer " * 20_000], vocab_size=280)
    assert len(one_line.encode("tokenizer " * 100)) < 300


def test_reserved_characters_do_not_stop_training():
    """Catches: pieces with U+2581 or U+0000 passed on, all of which the trainer drops."""
    made = tokenizer.train_sentencepiece(["some▁words\0 and▅ others " * 20], vocab_size=270)
    assert made.decode(made.encode("some▁words\0 and▅")) == "some▁words\0 and▅"


def test_the_training_sample_is_bounded_and_spread():
    """Catches: the first pieces kept only; thinning that forgets to double the distance."""
    texts = (f"{n:04d} " * 600 for n in range(1000))  # 3 pieces each
    numbers = [int(piece[:4]) for piece in tokenizer.spread_sample(texts, sample_chars=100_000)]
    assert 100 <= len(numbers) <= 200
    assert numbers[0] == 0 and numbers[-1] >= 994
    assert max(b - a for a, b in zip(numbers, numbers[1:])) <= 6  # every 16th of 3,000
    assert list(tokenizer.spread_sample(["ab", "c"], 1000)) == ["ab", "c"]


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [(["hello world"], 4096, "too high"), (["hello world"], 200, "smaller"), ([], 400, "vocab_size=400")],
)
def test_training_says_why_it_cannot(texts, vocab_size, message):
    """Catches: the library's RuntimeError passed through."""
    with pytest.raises(ValueError, match=message):
        tokenizer.train_sentencepiece(texts, vocab_size)


def test_save_and_load(tmp_path, trained, tiny_gpt2):
    """Catches: a file left out, a kind mixed up, a digest that does not depend on the files."""
    gpt2 = tokenizer.Gpt2Bpe(tiny_gpt2 / "encoder.json", tiny_gpt2 / "vocab.bpe")
    tiny = tokenizer.SentencePiece(tiny_sentencepiece())
    made = {"a": trained, "b": gpt2, "c": tokenizer.Bytes(), "d": tiny}
    for name, one in made.items():
        one.save(tmp_path / "saved" / name)
        back = tokenizer.load_tokenizer(tmp_path / "saved" / name)
        assert type(back) is type(one)
        assert (back.digest, back.vocab_size, back.eos_id) == (one.digest, one.vocab_size, one.eos_id)
        assert back.encode("ab x\n") == one.encode("ab x\n")
    assert len({one.digest for one in made.values()}) == 4


def test_load_refuses_other_files(tmp_path, trained):
    """Catches: a digest that is written and never compared."""
    trained.save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(tiny_sentencepiece())
    with pytest.raises(ValueError, match=f"expected {trained.digest[:12]!r}"):
        tokenizer.load_tokenizer(tmp_path)
    card = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(card | {"kind": "morse"}))
    with pytest.raises(ValueError, match="'morse', expected one of bytes, sentencepiece, gpt2_bpe"):
        tokenizer.load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        tokenizer.load_tokenizer(tmp_path / "nowhere")


def test_a_model_must_have_an_end_of_text(tmp_path):
    """Catches: eos_id −1 written into a store."""
    model = model_pb2.ModelProto.FromString(tiny_sentencepiece())
    model.trainer_spec.eos_id = -1
    model.pieces[1].piece = "<other>"
    (tmp_path / "m.model").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="m.model: found no end-of-text"):
        tokenizer.SentencePiece(tmp_path / "m.model")
    (tmp_path / "m.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="m.model: found no SentencePiece model"):
        tokenizer.SentencePiece(tmp_path / "m.model")
