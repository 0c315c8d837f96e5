"""Documents out of records, and long texts in pieces."""

import hypothesis
import hypothesis.strategies as st
import pytest

from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Document, Fields

DEFAULT = Document("id", "", "domain", "source")


def test_a_record_names_what_it_names():
    """Catches: a field not taken over, or taken from another; an inner record not entered; a number refused as an
    id."""
    names = Fields("body", domain="meta.set")
    found = text_source.read_record(
        {"body": "é", "meta": {"set": "Books"}, "id": 7, "source": "s"}, names, "x", DEFAULT
    )
    assert found == Document("7", "é", "Books", "s")
    assert text_source.read_record(
        {"body": "a", "meta": None, "source": None}, names, "x", DEFAULT
    ) == DEFAULT._replace(text="a")
    assert text_source.read_record({"body": "a", "meta.set": b"C4"}, names, "x", DEFAULT).domain == "C4"
    assert text_source.read_record({"body": None}, names, "x", DEFAULT) == DEFAULT  # blank, not broken


@pytest.mark.parametrize(
    ("fields", "kind", "where"),
    [
        ({"body": "x"}, "no text", "here: found the fields ['body'], expected 'text'"),
        ({"text": 3}, "no text", "here: found text = 3"),
        ({"text": b"a\xff"}, "not UTF-8", "here: found bytes that are not UTF-8 text: b'a"),
        ({"text": "\ud800"}, "not UTF-8", "here: found text that is not Unicode"),
        ({"text": "x", "domain": ["a"]}, "bad domain", "here: found domain = ['a']"),
        ({"text": "x", "source": ""}, "bad source", "here: found source = ''"),
        ({"text": "x", "id": b"\xff"}, "bad id", "here: found id = "),
        ({"text": "x", "id": "\ud83d"}, "bad id", "here: found id that is not Unicode"),
        ({"text": "x", "domain": "a\ud83d"}, "bad domain", "here: found domain that is not Unicode"),
        ({"text": "x", "source": "\ud83d"}, "bad source", "here: found source that is not Unicode"),
        ({"text": ["x"] * 10**6}, "no text", "here: found text = ['x'"),
        ({"text": "x", "id": {"x" * 10**6: 1}}, "bad id", "here: found id = {'xxx"),
        ({"x" * 10**6: 1}, "no text", "here: found the fields ['xxx"),
    ],
)
def test_what_is_wrong_with_a_record(fields, kind, where):
    """Catches: half of a document taken; an error that ends the job; a problem without its place, or of a million
    characters."""
    found = text_source.read_record(fields, Fields(), "here", DEFAULT)
    assert found._replace(problem=None) == DEFAULT
    assert found.problem.kind == kind and found.problem.where.startswith(where) and len(found.problem.where) < 300


def test_long_texts_are_cut_after_newlines(monkeypatch):
    """Catches: a cut before the newline, or none where a line is too long; pieces that do not say that more follow."""
    monkeypatch.setattr(text_source, "PIECE_CHARS", 5)
    whole = ["ab\ncd\nefghijk\n\n\n"]
    expected = [("ab\n", True), ("cd\n", True), ("efghi", True), ("jk\n\n\n", False)]
    assert list(text_source.cut_text(whole)) == expected
    assert list(text_source.cut_text(["ab\ncd"])) == [("ab\ncd", False)]
    document = DEFAULT._replace(text=whole[0])
    assert list(text_source.cut_long_documents([document])) == [
        document._replace(text=text, more=more) for text, more in expected
    ]


@hypothesis.given(st.text("a\n", max_size=60), st.lists(st.integers(0, 60), max_size=6), st.integers(1, 9))
def test_pieces_do_not_depend_on_how_a_text_comes(text, cuts, size):
    """Catches: a cut where one part ended; characters lost. Equal texts have to have equal pieces, to be known as
    equal."""
    bounds = sorted({0, *(min(c, len(text)) for c in cuts), len(text)})
    parts = [text[a:b] for a, b in zip(bounds, bounds[1:])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "PIECE_CHARS", size)
        assert list(text_source.cut_text(parts)) == list(text_source.cut_text([text]))
        assert "".join(piece for piece, _ in text_source.cut_text(parts)) == text


def test_given_documents_come_in_chunks():
    """Catches: a document lost between two chunks; one chunk for all; equal digests of other documents."""
    found = [DEFAULT._replace(id=str(i), text="x" * i) for i in range(9)]
    chunks = list(text_source.memory_chunks(iter(found), 6))
    assert [d for chunk in chunks for d in chunk.documents()] == found and len(chunks) > 3
    assert sum(chunk.size for chunk in chunks) == sum(range(9))
    assert len({chunk.digest() for chunk in chunks}) == len(chunks)
    assert (
        text_source.MemoryChunk((found[1]._replace(id="2"),), 1).digest()
        != text_source.MemoryChunk((found[1],), 1).digest()
    )
