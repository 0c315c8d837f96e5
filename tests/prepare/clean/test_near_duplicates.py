"""Near-duplicates: those that were planted, and no others."""

import itertools

import numpy as np
import pytest
from helpers import write_tokens
from test_duplicates import opened, random_documents, runs

from lfr_jax.prepare.clean import kept as module
from lfr_jax.prepare.clean import near_duplicates
from lfr_jax.prepare.clean.near_duplicates import NgramSets, group_near_duplicates, signatures, without_near_duplicates


def changed(document, share, seed, scattered=False):
    """A copy with this share of its tokens replaced, at one place or all over it."""
    rng = np.random.default_rng(seed)
    count = round(share * len(document))
    at = rng.choice(len(document), count, replace=False) if scattered else 10 + np.arange(count)
    copy = np.array(document)
    copy[at] = 900 + rng.integers(0, 99, count)
    return copy.tolist()


def jaccard(one, other, n):
    grams = [{tuple(document[i : i + n]) for i in range(len(document) - n + 1)} for document in (one, other)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def told_pairs(told):
    return [
        (one["side"], one["document"], one["first_of_group"]["side"], one["first_of_group"]["document"]) for one in told
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_planted_copies_are_found_and_no_others(tmp_path, monkeypatch, workers):
    """Copies with 5 % of their tokens changed at one place are found, those with 60 % are not; nor are those with 5 %
    changed all over, of which a fifth of the 5-grams is new: J = 0.6.

    Catches: a copy not found; one that differs too much removed; the first one removed in place of the second; the
    threshold not asked; work that processes lose or mix up.
    """
    monkeypatch.setattr(near_duplicates, "TASK", 5000)
    made = random_documents(120, 0, 300)
    near = [changed(document, 0.05, 1) for document in made[:6]]
    scattered = [changed(document, 0.05, 2, scattered=True) for document in made[6:12]]
    far = [changed(document, 0.6, 3) for document in made[12:18]]
    held_out = [changed(made[20], 0.05, 4), *random_documents(10, 1, 300)]
    train = {("x", "a"): made, ("x", "b"): [*far, *near, *scattered]}
    sides = opened(write_tokens(tmp_path / "c", train, {("x", "v"): held_out}))
    left, told = without_near_duplicates(sides, 0.8, workers=workers, examples=99)
    assert runs(left.valid) == held_out
    assert runs(left.train) == [*made[:20], *made[21:], *far, *scattered]
    assert told_pairs(told) == [("train", 20, "valid", 0)] + [("train", 126 + i, "train", i) for i in range(6)]
    for one, (first, second) in zip(told, [(held_out[0], made[20]), *zip(made, near)]):
        assert one["jaccard"] == pytest.approx(jaccard(first, second, 5), abs=1e-4) and one["jaccard"] > 0.8
    if workers == 1:
        left, _ = without_near_duplicates(sides, 0.5)
        assert all(jaccard(one, other, 5) > 0.5 for one, other in zip(made[6:12], scattered))
        assert runs(left.train) == [*made[:20], *made[21:], *far]


def test_all_near_pairs_are_those_of_all_pairs(tmp_path):
    """Families of documents with J from 0.3 to 1, against J of every pair.

    Catches: a group that is not connected, or connected by less; bands of rows that overlap or are left out.
    """
    made = []
    for seed, document in enumerate(random_documents(12, 0, 200)):
        made += [changed(document, share, seed) for share in (0, 0.02, 0.04, 0.1, 0.2, 0.3)]
    order = np.random.default_rng(0).permutation(len(made))
    made = [made[i] for i in order]
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): made}, {("x", "v"): [[1] * 50]}))
    found = [jaccard(*pair, 5) for pair in itertools.combinations(made, 2)]
    assert sum(0.3 < j < 0.7 for j in found) > 50 < sum(j > 0.73 for j in found) and not any(
        0.7 < j < 0.73 for j in found
    )
    left, _ = without_near_duplicates(sides, 0.71)
    assert runs(left.train) == [made[i] for i in sorted(set(connected(made, 0.71)))]
    assert 12 <= len(left.train.start_D) < 60


def connected(made, threshold):
    """The first of each one's group, by every pair."""
    first = list(range(len(made)))
    for one, other in itertools.combinations(range(len(made)), 2):
        if jaccard(made[one], made[other], 5) >= threshold:
            low, high = sorted((first[one], first[other]))
            first = [low if root == high else root for root in first]
    return first


def test_held_out_documents_leave_for_held_out_ones_alone(tmp_path):
    """Two held-out documents that only a training document connects.

    Catches: what is held out depending on what is trained on; a training document of their group that stays.
    """
    (middle,) = random_documents(1, 0, 400)
    middle += random_documents(1, 1, 400)[0]
    one, other = changed(middle, 0.08, 2), middle[:-40] + [901] * 40
    assert jaccard(one, other, 5) < 0.8 < min(jaccard(one, middle, 5), jaccard(other, middle, 5))
    unlike = random_documents(1, 3)[0]
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): [middle, unlike]}, {("x", "v"): [one, other, one[:-1]]}))
    left, _ = without_near_duplicates(sides, 0.8)
    assert runs(left.valid) == [one, other] and runs(left.train) == [unlike]


def counting(sides):
    """The documents of both sides, and a list of the pairs that are compared."""
    documents, asked = NgramSets((sides.valid, sides.train), 5), []
    compare = documents.jaccard
    documents.jaccard = lambda *pair: (asked.append(pair), compare(*pair))[1]
    return documents, asked


def test_documents_shorter_than_an_n_gram_are_left_alone(tmp_path):
    """Catches: documents without n-grams, which all have the same, empty, signature, compared pair by pair."""
    made = [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10], *random_documents(2, 0)]
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): made}, {("x", "v"): [[1, 2, 3]]}))
    documents, asked = counting(sides)
    assert (
        group_near_duplicates(signatures((sides.valid, sides.train), 5, 1), documents, 0.1).tolist() == list(range(6))
        and not asked
    )


def test_a_long_document_is_sketched_and_compared_in_parts(tmp_path, monkeypatch):
    """Catches: a signature of the last part alone; n-grams lost where parts meet; a sample that differs between two
    documents, of which J then is far off."""
    (long,) = random_documents(1, 0, 6000)
    copy = changed(long, 0.1, 1)
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): [long, copy]}, {("x", "v"): [[1] * 9]}))
    whole = signatures((sides.valid, sides.train), 5, 1)
    monkeypatch.setattr(module, "AT_ONCE", 100)
    np.testing.assert_array_equal(signatures((sides.valid, sides.train), 5, 1), whole)
    exact = jaccard(long, copy, 5)
    assert NgramSets((sides.valid, sides.train), 5).jaccard(1, 2) == pytest.approx(exact)
    monkeypatch.setattr(near_duplicates, "MOST", 1000)
    sampled = NgramSets((sides.valid, sides.train), 5)
    assert len(sampled.set(1, (1 << 64) * 1000 // len(long))) < 1200
    assert sampled.jaccard(1, 2) == pytest.approx(exact, abs=0.05)


def test_a_large_group_is_not_compared_pair_by_pair(tmp_path, monkeypatch):
    """Catches: n²/2 comparisons among n copies, which a popular form would make endless."""
    (one,) = random_documents(1, 0, 300)
    made = [changed(one, 0.01, seed) for seed in range(100)]
    sides = opened(write_tokens(tmp_path / "c", {("x", "a"): made}, {("x", "v"): [[1] * 9]}))
    documents, asked = counting(sides)
    group_D = group_near_duplicates(signatures((sides.valid, sides.train), 5, 1), documents, 0.8)
    assert group_D.tolist() == [0] + [1] * 100
    assert len(asked) == 99
