"""Classes of trajectories, and the null that they are compared with."""

import numpy as np
import pytest

from lfr_jax.experiments import trajectories
from lfr_jax.experiments.trajectories import CLASSES, classify, count_classes, decompose, noise_threshold


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("learned", [6, 4, 3, 2, 2]),
        ("learned", [6, 4, 4.25, 3, 3.25]),  # moves below the threshold
        ("learned", [4, 6, 5, 3, 2]),  # a rise before any fall is none after one
        ("learned", [6, 5.75, 5.5, 5.25, 5]),  # small steps add up to a fall
        ("unlearned", [6, 6, 6, 6, 6]),
        ("unlearned", [6, 5.75, 6, 5.75, 6]),
        ("unlearned", [4, 5, 6, 7, 7]),
        ("forgotten", [6, 3, 3, 4, 5]),
        ("forgotten", [6, 3, 3.25, 3.5, 3.75]),  # small steps add up to a rise
        ("forgotten", [5, 6, 3, 5, 5]),
        ("relearned", [6, 4, 5, 3, 3]),
        ("relearned", [4, 6, 3, 5, 4]),
        ("multiple descent", [6, 4, 5, 4, 5]),
        ("multiple descent", [6, 4, 5, 3, 4, 2]),
        ("multiple descent", [5, 6, 5, 6, 5, 6]),
    ],
)
def test_classes(name, losses):
    """Catches: classes exchanged; rises before the first fall counted; extremes not kept since the last turn; a move
    counted at its first or last step alone."""
    assert CLASSES[classify(np.array([losses]), 0.5)[0]] == name
    assert CLASSES[classify(np.array([[losses], [losses]], np.float32), 0.5)[1, 0]] == name


def test_a_move_must_exceed_the_threshold():
    """Catches: >= for >, in falls or in rises; the threshold of one used for the other."""
    at, over = [6, 5.5, 5.5], [6, 5.25, 5.25]
    assert [CLASSES[i] for i in classify(np.array([at, over]), 0.5)] == ["unlearned", "learned"]
    at, over = [6, 3, 3.5], [6, 3, 3.75]
    assert [CLASSES[i] for i in classify(np.array([at, over]), 0.5)] == ["learned", "forgotten"]
    assert [CLASSES[i] for i in classify(np.array([[3, 3, 3], [3, 2.5, 2.75]]), 0.0)] == ["unlearned", "forgotten"]


def falling(blocks, measurements, seed=0, noise=0.05):
    """Losses of blocks that fall, each from its level, at its rate, with noise of its size; and these sizes."""
    random = np.random.default_rng(seed)
    trend_M = 3 + 3 * np.exp(-4 * np.arange(measurements) / measurements)
    own_N = noise * random.uniform(0.5, 2, (blocks, 1))
    levels_N = random.normal(0, 1, (blocks, 1))
    loss_NxM = levels_N + trend_M * random.uniform(0.7, 1.3, (blocks, 1))
    return loss_NxM + own_N * random.normal(size=(blocks, measurements)), own_N[:, 0]


def test_losses_are_split_into_trend_and_residual():
    """Catches: a trend that is not stretched or moved to each block; parts that do not add up; noise of the wrong size,
    or into which slow rises go."""
    loss_NxM, own_N = falling(400, 60)
    parts = decompose(loss_NxM)
    np.testing.assert_allclose(parts.trend_NxM + parts.residual_NxM, loss_NxM, atol=1e-12)
    size_N = np.sqrt(np.mean(parts.residual_NxM**2, axis=1))
    np.testing.assert_allclose(np.median(size_N / own_N), 1, atol=0.05)
    np.testing.assert_allclose(np.median(parts.noise_N / own_N), 1, atol=0.05)
    slow_M = np.maximum(0, np.sin(np.arange(60) / 6))
    slow = decompose(loss_NxM + slow_M * (np.arange(400) < 200)[:, None])
    np.testing.assert_allclose(np.median(slow.noise_N / own_N), 1, atol=0.1)
    assert np.median(np.sqrt(np.mean(slow.residual_NxM**2, axis=1)) / own_N) > 2


def test_the_threshold_follows_the_noise():
    """Catches: a threshold from the whole residuals, from one block, or in other units; or one that is too low."""
    loss_NxM, own_N = falling(400, 30)
    threshold = noise_threshold(loss_NxM)
    assert threshold == pytest.approx(2 * np.median(own_N) * np.sqrt(2 * np.log(30)), rel=0.1)
    assert noise_threshold(10 * loss_NxM) == pytest.approx(10 * threshold)
    assert np.mean(classify(loss_NxM, threshold) == CLASSES.index("learned")) > 0.95


def test_blocks_without_any_trend_or_noise():
    """Catches: a division by the size of the trend, or of the residuals, where that is zero."""
    found = count_classes(
        np.full((3, 5), 2.0), np.array(["a", "a", "b"]), threshold=noise_threshold(np.full((3, 5), 2.0)), draws=3
    )
    assert found.count_GxC.tolist() == [[0, 3, 0, 0, 0], [0, 2, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert found.null_mean_GxC.tolist() == found.count_GxC.tolist()


@pytest.mark.parametrize("measurements", [12, 25])
def test_noise_alone_is_as_in_the_null(measurements):
    """Catches: residuals that lose or gain size on their way into the null; a null that keeps the order of the
    residuals, or gives all blocks one order; an interval of one side."""
    loss_NxM, _ = falling(300, measurements, seed=1)
    found = count_classes(loss_NxM, np.full(300, "a"), threshold=0.15, draws=100)
    turning = found.count_GxC[0, 2:].sum()
    assert turning > 0 and found.null_mean_GxC[0, 2:].sum() == pytest.approx(turning, rel=0.2)
    for kind in range(len(CLASSES)):
        assert found.verdict(0, kind) == "as noise gives"
        low, high = found.null_low_GxC[0, kind], found.null_high_GxC[0, kind]
        assert low <= found.null_mean_GxC[0, kind] <= high
    assert np.all(found.null_high_GxC - found.null_low_GxC < 0.25 * 300)


PLANTED = {
    "forgotten": lambda m: 0.08 * np.maximum(0, m - 12),
    "relearned": lambda m: 1.5 * np.exp(-(((m - 14) / 2.5) ** 2)),
    "multiple descent": lambda m: 1.5 * np.exp(-(((m - 9) / 2) ** 2)) + 1.5 * np.exp(-(((m - 18) / 2) ** 2)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_forgetting_is_more_than_the_null(name):
    """Catches: residuals that are not scaled to the noise (then one slow rise becomes many in the null); groups
    exchanged; the blocks of a domain counted in another."""
    loss_NxM, _ = falling(300, 25)
    loss_NxM[:45] += PLANTED[name](np.arange(25))
    domain_N = np.where(np.arange(300) < 100, "planted", "clean")
    found = count_classes(loss_NxM, domain_N, threshold=0.35, draws=50)
    assert found.groups == ("all", "clean", "planted")
    kind = CLASSES.index(name)
    assert 35 <= found.count_GxC[0, kind] <= 60 and found.count_GxC[2, kind] >= 35
    assert (found.class_N[:45] == kind).sum() >= 35
    assert [found.verdict(group, kind) for group in range(3)] == [
        "more than noise gives",
        "as noise gives",
        "more than noise gives",
    ]
    assert found.verdict(2, 0) == "fewer than noise gives"


def test_the_null_is_of_its_seed_and_not_of_the_memory(monkeypatch):
    """Catches: random numbers that are not seeded; draws lost or repeated where they do not fit into memory at once."""
    loss_NxM, _ = falling(60, 10)
    whole = count_classes(loss_NxM, np.full(60, "a"), 0.1, draws=25)
    again = count_classes(loss_NxM, np.full(60, "a"), 0.1, draws=25, seed=1)
    assert not np.array_equal(whole.null_mean_GxC, again.null_mean_GxC)
    monkeypatch.setattr(trajectories, "AT_ONCE", 60 * 10 * 4)
    for left, right in zip(whole, count_classes(loss_NxM, np.full(60, "a"), 0.1, draws=25)):
        np.testing.assert_array_equal(left, right)
