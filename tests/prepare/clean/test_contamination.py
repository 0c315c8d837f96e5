"""N-grams on both sides: those that were planted, counted and cut, and no others."""

import numpy as np
import pytest
from helpers import write_tokens
from test_duplicates import opened, random_documents, runs

from lfr_jax.prepare.clean import contamination
from lfr_jax.prepare.clean import kept as module
from lfr_jax.prepare.clean.contamination import measure_overlap, merged, without_held_out, without_shared


@pytest.fixture(params=[40, 10**6])
def at_once(request, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", request.param)


def shares(train, valid, n, common=10):
    """Of each held-out document, by definition."""
    grams = [[tuple(d[i : i + n]) for i in range(len(d) - n + 1)] for d in train]
    times = {}
    for of_it in grams:
        for gram in set(of_it):
            times[gram] = times.get(gram, 0) + 1
    found = []
    for d in valid:
        of_it = [0 < times.get(tuple(d[i : i + n]), 0) <= common for i in range(len(d) - n + 1)]
        found.append(sum(of_it) / len(of_it) if of_it else 0.0)
    return found


def planted(tmp_path):
    """Held-out documents of which nothing, 1 %, half, or all is in some training document; one whose beginning is in
    twelve of them; one of which a part is in one of them, twelve times; one that is too short."""
    train, valid = random_documents(30, 0, 300), random_documents(6, 1, 300)
    train[3][50:64] = valid[1][20:34]
    train[4][10 : 10 + len(valid[2]) // 2] = valid[2][: len(valid[2]) // 2]
    train[5][:0] = valid[3]
    for document in train[10:22]:
        document[20:40] = valid[4][:20]
    for i in range(12):
        train[25][15 * i : 15 * i + 14] = valid[5][50:64]
    valid.append(train[7][:12])
    folder = write_tokens(tmp_path / "c", {("x", "a"): train[:6], ("y", "b"): train[6:]}, {("x", "v"): valid})
    return opened(folder), train, valid


def test_shares_are_those_of_the_definition(tmp_path, at_once):
    """Catches: an n-gram over the end of a document; occurrences counted for documents; common ones counted; one that a
    hash table loses."""
    sides, train, valid = planted(tmp_path)
    for n, common in ((13, 10), (13, 12), (13, 3), (5, 10), (13, 0)):
        found = measure_overlap(sides, n, common)
        assert found.share_D.tolist() == pytest.approx(shares(train, valid, n, common))
    found = measure_overlap(sides)
    assert found.share_D[[0, 4, 6]].tolist() == [0, 0, 0] and found.share_D[3] == 1
    assert found.share_D[[1, 5]].tolist() == pytest.approx([2 / (len(valid[1]) - 12), 2 / (len(valid[5]) - 12)])
    in_document = [set(found.first_G[found.grams.gram_P[found.grams.span_P == i]].tolist()) for i in range(6)]
    assert in_document == [{-1}, {-1, 3}, {-1, 4}, {5}, {-1, 10}, {-1, 25}]


def test_held_out_documents_without_n_grams(tmp_path):
    """Catches: a table of no n-grams that cannot be searched."""
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): random_documents(3, 0)}, {("x", "v"): [[1, 2], [3]]}))
    overlap = measure_overlap(sides)
    assert overlap.share_D.tolist() == [0, 0]
    assert runs(without_shared(sides, overlap, 0.0).train) == runs(sides.train)


def test_contaminated_held_out_documents_leave(tmp_path, at_once):
    """Catches: those that share nothing left out; the threshold not asked, or taken from the other side."""
    sides, _, valid = planted(tmp_path)
    overlap = measure_overlap(sides)
    for least, gone in ((0.9, [3]), (0.4, [2, 3]), (0.0, [1, 2, 3, 5])):
        left = without_held_out(sides, overlap, least)
        assert runs(left.valid) == [document for i, document in enumerate(valid) if i not in gone]
        assert left.train is sides.train


def test_what_is_shared_is_cut_out_of_train(tmp_path, at_once):
    """Catches: a window too short or too long; a cut that reaches into a neighbour; common n-grams cut, or those of a
    held-out document below the threshold; a remainder too short to be of use that stays, or a short document cut."""
    held_out, other = (random_documents(1, seed, 600)[0] for seed in (1, 2))
    a, b, c, d, *rest = random_documents(16, 0, 300)
    a[-90:] = held_out[:90]  # and the next one begins right there
    b[:0] = held_out[90:190]
    short = c[:20]
    c[30:-30] = held_out[100:]  # of which 30 tokens remain on both sides
    d[60:80] = other[:20]
    for document in rest:
        document[70:90] = held_out[80:100]
    train = [a, short, b, c, d, *rest]
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): train}, {("x", "v"): [held_out, other]}))
    overlap = measure_overlap(sides)
    left = without_shared(sides, overlap, 0.5)
    assert runs(left.train) == [a[:-140], short, b[150:], d, *rest]
    assert left.valid is sides.valid
    assert measure_overlap(left).share_D[0] == 0 < overlap.share_D[1] == measure_overlap(left).share_D[1]
    assert runs(without_shared(sides, overlap, 0.0).train) == [a[:-140], short, b[150:], d[130:], *rest]


def test_a_document_of_too_many_pieces_goes(tmp_path, monkeypatch):
    """Catches: shreds of a document that stay; a document that stays whole, or goes, at one piece more or fewer."""
    monkeypatch.setattr(contamination, "WINDOW", 2)
    (held_out,) = random_documents(1, 0, 400)
    train = []
    for cuts in (9, 10):  # which leave 10 and 11 pieces
        (document,) = random_documents(1, cuts, 1000)
        for i in range(cuts):
            document[20 + 30 * i : 20 + 30 * i + 13] = held_out[13 * i : 13 * i + 13]
        train.append(document)
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): train}, {("x", "v"): [held_out]}))
    left = without_shared(sides, measure_overlap(sides), 0.0)
    assert left.train.document_D.tolist() == [0] * 10
    expected = [train[0][:18], *(train[0][35 + 30 * i : 48 + 30 * i] for i in range(8)), train[0][275:]]
    assert runs(left.train) == expected


def test_merged_ranges():
    """Catches: ranges that overlap cut twice; the end of one within another taken for the end of both."""
    start, stop = merged(np.array([0, 2, 5, 9, 9, 20]), np.array([3, 5, 6, 10, 12, 21]))
    assert (start.tolist(), stop.tolist()) == ([0, 9, 20], [6, 12, 21])
    assert [x.tolist() for x in merged(np.empty(0, int), np.empty(0, int))] == [[], []]
