"""Exported tokenizers: AutoTokenizer and generate of transformers give what ours give, or refuse."""

import json
import pathlib

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from lfr_jax.config import gpt2, llama
from lfr_jax.data.tokenizer import Bytes, Gpt2Bpe, Ids, SentencePiece, train_sentencepiece
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder, hf
from lfr_jax.model.generate import generate_ids
from lfr_jax.model.hf_tokenizer import tokenizer_files

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
CONFIG = llama(1, 8, 2, 1, 16)
TEXTS = [
    "hello world",
    " two  spaces \n\n",
    "a▁b",
    "</s><|endoftext|><unk><0x41>",
    "é\0ж漢🙂",
    "aaaaaaa",
    "",
    "'s 12 x!",
]


def trained() -> SentencePiece:
    return train_sentencepiece(["hello world, aaaa aaa a's 123. " * 200, "def f(x):\n    return x\n" * 100], 320)


def tiny_gpt2(folder) -> Gpt2Bpe:
    alphabet = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    pieces = [*alphabet, "he", "ll", "hell", "Ġw", "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\nh e\nl l\nhe ll\nĠ w\n")
    return Gpt2Bpe.from_folder(folder)


def edited(model: SentencePiece, change) -> SentencePiece:
    proto = model_pb2.ModelProto.FromString(model.files["tokenizer.model"])
    change(proto)
    return SentencePiece(proto.SerializeToString())


def with_prefix(proto):
    proto.normalizer_spec.add_dummy_prefix = True


@pytest.fixture
def fast():
    """The Rust library of transformers, given our tokenizer.json."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install 'lfr_jax[parity]'")

    def make(tokenizer):
        made = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_files(tokenizer, CONFIG)["tokenizer.json"]))
        made.encode_special_tokens = True
        return made

    return make


@pytest.fixture(params=["trained", "with its own prefix", "bytes", "gpt2"])
def tokenizer(request, tmp_path_factory):
    if request.param == "gpt2":
        return tiny_gpt2(tmp_path_factory.mktemp("gpt2"))
    if request.param == "with its own prefix":
        return edited(trained(), with_prefix)
    return Bytes() if request.param == "bytes" else trained()


def test_ids_are_equal(tokenizer, fast):
    """Catches: a merge, a space, U+2581, a special token in a text or a byte piece taken otherwise than by ours."""
    theirs = fast(tokenizer)
    assert theirs.get_vocab_size() == tokenizer.vocab_size

    @hypothesis.settings(deadline=None, max_examples=100, database=None)
    @hypothesis.given(st.one_of(st.sampled_from(TEXTS), st.text(), st.text("a b▁\nhello's <>1é")))
    def equal(text):
        ids = tokenizer.encode(text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)

    equal()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the published tokenizers are not beside this repository")
def test_ids_of_the_published_gpt2_are_equal(fast):
    """Catches: what four merges do not show."""
    tokenizer = Gpt2Bpe.from_folder(SHARED / "gpt2")
    theirs = fast(tokenizer)
    for vector in json.loads((SHARED / "vectors.json").read_text(encoding="utf-8"))["gpt2"]:
        assert theirs.encode(vector["text"]).ids == tokenizer.encode(vector["text"]) == vector["ids"]


def unigram(proto):
    proto.trainer_spec.model_type = model_pb2.TrainerSpec.UNIGRAM


def normalising(proto):
    proto.normalizer_spec.remove_extra_whitespaces = True


def with_words_of_its_own(proto):
    proto.pieces[-1].type = model_pb2.ModelProto.SentencePiece.USER_DEFINED


def with_equal_scores(proto):
    longest = sorted(proto.pieces, key=lambda piece: len(piece.piece) if piece.type == 1 else 0)
    longest[-1].score = longest[-2].score


@pytest.mark.parametrize("change", [unigram, normalising, with_words_of_its_own, with_equal_scores])
def test_what_has_no_exact_form_gets_no_vocabulary(change):
    """Catches: a tokenizer.json with other ids than ours."""
    assert tokenizer_files(edited(trained(), lambda proto: None), CONFIG).keys() == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert tokenizer_files(edited(trained(), change), CONFIG).keys() == {"tokenizer_config.json"}


def test_no_token_begins_a_document_where_documents_are_masked(tmp_path):
    """Catches: a first token named that no such model has ever seen before a document."""
    Bytes().save(tmp_path / "tokenizer")
    for masked, begin in ((False, 256), (True, None)):
        config = gpt2(1, 4, 2, vocab_size=257, max_len=4, mask_documents=masked)
        params = jax.tree.map(lambda x: np.zeros(x.shape), decoder.abstract(config, make_mesh(1, 1, 1)))
        hf.export(params, config, tmp_path / "tokenizer", tmp_path / f"{masked}")
        for name in ("config.json", "generation_config.json"):
            found = json.loads((tmp_path / f"{masked}" / name).read_text())
            assert (found["bos_token_id"], found["eos_token_id"]) == (begin, 256)
        found = json.loads((tmp_path / f"{masked}" / "tokenizer_config.json").read_text())
        assert found.get("bos_token") == (None if masked else found["eos_token"])


def exported(folder, tokenizer, family):
    """An export whose untrained rows would always win, with the tokenizer and what we generate from it."""
    sizes = dict(vocab_size=tokenizer.vocab_size + 7, max_len=32)
    config = llama(1, 32, 4, 2, 48, **sizes) if family == "llama" else gpt2(1, 32, 4, **sizes)
    random, mesh = np.random.default_rng(0), make_mesh(1, 1, 1)
    params = jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(np.float32), decoder.abstract(config, mesh))
    params["embedding"][tokenizer.vocab_size :] *= 50
    if family == "llama":
        params["head"][:, tokenizer.vocab_size :] *= 50
    tokenizer.save(folder / "tokenizer")
    hf.export(params, config, folder / "tokenizer", folder / "out")
    ends = dict(eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size)
    with jax.set_mesh(mesh):
        on_mesh = decoder.put_on_mesh(params, config, mesh)
        written = generate_ids(config, on_mesh, [tokenizer.eos_id, 70, 71], 12, temperature=0, **ends)
    return folder / "out", written


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_transformers_reads_and_generates_the_same(tokenizer, family, tmp_path):
    """Catches: bos and eos of transformers' default models; rows that no token has generated; an argument that the
    model does not take; a kind of tokenizer that AutoTokenizer makes something else of."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'lfr_jax[parity]'")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder, written = exported(tmp_path, tokenizer, family)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert [theirs(text)["input_ids"] for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert theirs.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
    assert len(theirs) == tokenizer.vocab_size == model.config.vocab_size
    for holder in (theirs, model.config, model.generation_config):
        assert (holder.bos_token_id, holder.eos_token_id) == (tokenizer.eos_id, tokenizer.eos_id)
    prompt = torch.tensor([[tokenizer.eos_id, 70, 71]])
    (found,) = model.generate(prompt, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(prompt))
    assert [i for i in found[3:].tolist() if i != tokenizer.eos_id] == written

    class OnlyTheEnd(transformers.LogitsProcessor):
        def __call__(self, ids, scores):
            return torch.where(torch.arange(scores.shape[1]) == tokenizer.eos_id, scores, -torch.inf)

    ends = transformers.LogitsProcessorList([OnlyTheEnd()])
    asked = theirs("hello", return_tensors="pt")
    (found,) = model.generate(**asked, max_new_tokens=8, do_sample=False, logits_processor=ends)
    assert found.tolist() == [*tokenizer.encode("hello"), tokenizer.eos_id]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["ids", "unigram"])
def test_transformers_finds_no_tokenizer_rather_than_another_one(kind, family, tmp_path):
    """Catches: AutoTokenizer making a tokenizer of its own, of no words or of our SentencePiece file."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder, _ = exported(tmp_path, Ids(300, 7) if kind == "ids" else edited(trained(), unigram), family)
    with pytest.raises(ValueError, match="instantiate the backend tokenizer"):
        transformers.AutoTokenizer.from_pretrained(folder)
