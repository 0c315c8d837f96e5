"""From segments to stores: the split, the duplicates, and long documents in pieces."""

import hashlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lfr_jax.data.store import Store, open_store
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare import segments, text_source
from lfr_jax.prepare.assemble import Assembled, Count, assemble_stores, is_first
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.prepare.text_source import Document, MemoryChunk, Problem

FACTS = (257, 256, "bytes", Bytes().digest)


def assembled(folder, chunks, fraction=0.3, **options) -> tuple[Assembled, list[dict], list[Store]]:
    """The documents of `chunks`, assembled: the counts, the texts in each (domain, source) of both stores, the
    stores."""
    folder.mkdir(exist_ok=True)
    encoded = [
        segments.encode_chunk(MemoryChunk(tuple(chunk), 0), folder / str(number), Bytes(), 1.0)
        for number, chunk in enumerate(chunks)
    ]
    with write_store(folder / "train", *FACTS) as train, write_store(folder / "valid", *FACTS) as valid:
        done = assemble_stores(encoded, train, valid, fraction, **options)
    stores = [open_store(folder / side) for side in ("train", "valid")]
    found = []
    for store in stores:
        texts = {}
        stops = [*store.doc_starts[1:], len(store.tokens)]
        for start, stop in zip(store.doc_starts, stops):
            (source,) = [s for s in store.sources if s.first <= start < s.first + s.count]
            texts.setdefault((source.domain, source.name), []).append(Bytes().decode(store.tokens[start:stop].tolist()))
        found.append(texts)
    return done, found, stores


def hash_of(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


def expected(documents: list[Document], fraction: float) -> list[dict]:
    """The same in plain words: one document after the other."""
    seen, kept = set(), {}
    for document in documents:
        if document.text.strip() and not document.problem and document.text not in seen:
            seen.add(document.text)
            kept.setdefault(document.domain, []).append(document)
    sides = [{}, {}]
    for domain in sorted(kept):
        held = {d.id for d in kept[domain] if hash_of(d.id) < fraction * 2**64}
        by_hash = sorted((d.id for d in kept[domain]), key=hash_of)
        held = (held | {by_hash[0]}) - {by_hash[-1]}
        for document in sorted(kept[domain], key=lambda d: d.source):
            sides[document.id in held].setdefault((domain, document.source), []).append(document.text)
    return sides


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    texts=st.lists(
        st.tuples(st.text("ab\n", max_size=12), st.sampled_from("xy"), st.sampled_from("st"), st.booleans()),
        max_size=14,
    ),
    ends=st.lists(st.integers(0, 14), max_size=3),
    piece_chars=st.integers(2, 5),
    batch_chars=st.integers(1, 20),
)
def test_any_documents_in_any_pieces(tmp_path_factory, texts, ends, piece_chars, batch_chars):
    """Catches: a document lost, doubled, on both sides, in two parts or joined with the next, whatever the chunks,
    pieces and batches; another duplicate kept than the first one read; a blank or broken one let in."""
    made = [
        Document(f"doc{i}", text * (not bad), domain, source, problem=Problem("k", "w") if bad else None)
        for i, (text, domain, source, bad) in enumerate(texts)
    ]
    for domain in "xy":  # two of each domain at least: a lone one is cut in two
        made += [Document(f"{domain}{i}", f"{domain} {i}", domain, "s") for i in range(2)]
    bounds = sorted({0, *(min(end, len(made)) for end in ends), len(made)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_source, "PIECE_CHARS", piece_chars)
        patch.setattr(segments, "BATCH_CHARS", batch_chars)
        pieces = list(text_source.cut_long_documents(made))
        cuts = [min(len(pieces), bound) for bound in bounds] + [len(pieces)]  # also within a document
        folder = tmp_path_factory.mktemp("any") / "a"
        done, found, stores = assembled(folder, [pieces[a:b] for a, b in zip(cuts, cuts[1:])])
    assert found == expected(made, 0.3)
    for store, counts, side in zip(stores, (done.train, done.valid), found):
        store.verify()
        for domain, count in counts.items():
            of_it = [text for (name, _), texts in side.items() if name == domain for text in texts]
            assert count == Count(len(of_it), sum(len(text) + 1 for text in of_it))
    usable = [d for d in made if d.text.strip() and not d.problem]
    assert done.documents == len(made) and done.duplicates == len(usable) - len({d.text for d in usable})
    assert done.blank == sum(not d.text.strip() and not d.problem for d in made)


def test_a_broken_end_takes_the_beginning_along(tmp_path):
    """Catches: the good pieces of a file that ends in bytes which are not text, kept as a text_source."""
    good = [Document(str(i), f"text {i}", "x", "s") for i in range(4)]
    begun = Document("bad", "good beginning ", "x", "s", more=True)
    end = Document("bad", "", "x", "s", problem=Problem("not UTF-8", "bad"))
    done, found, _ = assembled(tmp_path / "a", [[good[0], begun, begun], [begun, end, *good[1:]]])
    assert sorted(text for side in found for texts in side.values() for text in texts) == [d.text for d in good]
    assert (done.documents, done.blank, done.duplicates) == (5, 0, 0)


@pytest.mark.parametrize("piece_chars", [7, 20, 1000])
@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_a_lone_document_is_cut_in_two_wherever_its_pieces_end(tmp_path, monkeypatch, piece_chars, fraction):
    """Catches: a cut at a piece's end instead of at the token; the pieces after it lost or on both sides."""
    monkeypatch.setattr(text_source, "PIECE_CHARS", piece_chars)
    text = "".join(f"{i} words\n" for i in range(12))
    lone, blank = Document("lone", text, "x", "s"), Document("blank", " ", "x", "s")
    pieces = [
        blank,
        *text_source.cut_long_documents([lone]),
        lone._replace(id="again", text="", problem=Problem("k", "w")),
    ]
    done, _, stores = assembled(tmp_path / "a", [pieces[:3], pieces[3:]], fraction)
    whole = [*text.encode(), 256]
    tail = min(max(int(len(whole) * fraction), 1), len(whole) - 1)
    assert stores[0].tokens.tolist() == whole[:-tail] and stores[1].tokens.tolist() == whole[-tail:]
    assert [store.doc_starts.tolist() for store in stores] == [[0], [0]]
    assert (done.train["x"], done.valid["x"]) == (Count(1, len(whole) - tail), Count(1, tail))


def test_a_second_part_of_a_domain_is_split_by_the_hash_alone(tmp_path):
    """Catches: a known domain whose few new documents are forced apart, or whose only one is cut in two; a text that
    was seen before let in again; new digests that replace the old ones."""
    made = [Document(str(i), f"text {i}", "x", "s") for i in range(30)]
    low = [d for d in made if hash_of(d.id) < 0.3 * 2**64][:3]
    first, _, _ = assembled(tmp_path / "a", [made])
    new = [d._replace(text=f"new {d.text}") for d in low]
    done, found, _ = assembled(
        tmp_path / "b", [[*new, made[7]], [Document("z", "other", "z", "s")]], seen_Kx2=first.text_Kx2, known=["x"]
    )
    assert found[1]["x", "s"] == [d.text for d in new] and ("x", "s") not in found[0]
    assert done.duplicates == 1 and len(done.text_Kx2) == 30 + 3 + 1
    np.testing.assert_array_equal(done.text_Kx2[:30], first.text_Kx2)
    assert done.valid["z"].documents == done.train["z"].documents == 1


def test_the_first_by_position_stays():
    """Catches: half of a digest compared; the first in the order of sources kept instead of the first one read."""
    text = np.array([[1, 1], [1, 2], [2, 1], [1, 1], [1, 2]], np.uint64)
    position = np.array([4, 1, 2, 0, 3])
    assert is_first(text, position).tolist() == [False, True, True, True, False]
