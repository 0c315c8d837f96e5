"""Means over held-out documents, against values by hand."""

import math

import numpy as np
import pytest

from lfr_jax.experiments.measure import Documents, Measure, influence, mean_loss

DOCUMENTS = Documents(np.array([10, 30, 20, 40]), np.array([30, 90, 80, 200]), np.array(["b", "b", "a", "a"]))
NLL = np.array([[20.0, 40.0, 60.0, 60.0], [10.0, 40.0, 60.0, 90.0]])


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure(), [180 / 100, 200 / 100]),
        (Measure("macro"), [(60 / 40 + 120 / 60) / 2, (50 / 40 + 150 / 60) / 2]),
        (Measure("a"), [120 / 60, 150 / 60]),
        (Measure("b"), [60 / 40, 50 / 40]),
        (Measure("micro", "byte"), [180 / 400 / math.log(2), 200 / 400 / math.log(2)]),
        (Measure("macro", "byte"), [(60 / 120 + 120 / 280) / math.log(4), (50 / 120 + 150 / 280) / math.log(4)]),
    ],
)
def test_by_hand(measure, expected):
    """Catches: micro and macro exchanged; means of documents in place of tokens; nats per byte; tokens for bytes."""
    np.testing.assert_allclose(mean_loss(NLL, DOCUMENTS, measure), expected, rtol=1e-12)
    np.testing.assert_allclose(mean_loss(NLL[:, None], DOCUMENTS, measure), np.array(expected)[:, None], rtol=1e-12)


@pytest.mark.parametrize("measure", [Measure(), Measure("macro"), Measure("a", "byte")])
def test_influence_is_the_slope_by_how_often_a_document_is_drawn(measure):
    """Catches: the size of a pool taken as fixed; documents of other domains in the influence; sums of pools."""
    found = influence(NLL, DOCUMENTS, measure)
    for d in range(4):
        more_D = 1 + 1e-6 * np.eye(4)[d]
        drawn = DOCUMENTS._replace(tokens_D=DOCUMENTS.tokens_D * more_D, bytes_D=DOCUMENTS.bytes_D * more_D)
        slope = (mean_loss(NLL * more_D, drawn, measure) - mean_loss(NLL, DOCUMENTS, measure)) / 1e-6
        np.testing.assert_allclose(found[:, d], slope, atol=1e-5)


def test_what_cannot_be_measured():
    """Catches: NaN for a domain that is not there, or is misspelt; a unit that is taken for bytes."""
    with pytest.raises(ValueError, match="found the measure 'c', expected 'micro', 'macro' or one of a, b"):
        mean_loss(NLL, DOCUMENTS, Measure("c"))
    with pytest.raises(ValueError, match="found losses per 'word', expected 'token' or 'byte'"):
        mean_loss(NLL, DOCUMENTS, Measure(per="word"))
