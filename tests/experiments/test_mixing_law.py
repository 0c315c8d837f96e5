"""The law of mixtures: fitted to losses that follow it, and minimised."""

import numpy as np
import pytest

from lfr_jax.experiments.mixing_law import (
    MixingLaw,
    best_mixture,
    capped,
    draw_mixtures,
    fit_law,
    left_out,
    rank_correlation,
)

NATURAL = np.array([0.6, 0.3, 0.1])
LAW = MixingLaw(np.array([2.0, 1.5]), np.array([[-0.5, 0.6, 0.4], [0.7, -0.9, 0.5]]))


def test_drawn_mixtures():
    """Catches: a first mixture that is not the natural one; a share above its cap; shares of a domain without text; a
    Dirichlet distribution of one strength; other mixtures with the same seed."""
    caps = np.array([1.0, 1.0, 0.2])
    drawn = draw_mixtures(NATURAL, caps, 400, seed=1)
    assert drawn.shape == (400, 3) and np.allclose(drawn.sum(axis=1), 1)
    np.testing.assert_allclose(drawn[0], NATURAL)
    assert (drawn[:, 2] <= 0.2 + 1e-12).all() and (drawn[1:, 0] > 0.95).any() and (drawn[1:, 1] > 0.95).any()
    around = np.sqrt(NATURAL) / np.sqrt(NATURAL).sum()
    free = draw_mixtures(NATURAL, np.ones(3), 4000, seed=2)[1:]
    np.testing.assert_allclose(free.mean(axis=0), around, atol=0.03)
    np.testing.assert_array_equal(draw_mixtures(NATURAL, caps, 400, seed=1), drawn)
    assert (draw_mixtures(np.array([0.5, 0.0, 0.5]), np.ones(3), 20, seed=0)[:, 1] == 0).all()


def test_capped_by_hand():
    """Catches: what is cut off shared equally; a domain that is raised above its own cap; caps that cannot be met."""
    np.testing.assert_allclose(capped(np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.5, 1.0])), [0.3, 0.5, 0.2])
    np.testing.assert_allclose(capped(NATURAL, np.ones(3)), NATURAL)
    with pytest.raises(ValueError, match="the shares may add up to 0.9, expected 1 or more"):
        capped(NATURAL, np.array([0.3, 0.3, 0.3]))
    with pytest.raises(ValueError, match="add up to 0.5"):
        capped(np.array([1.0, 0.0]), np.array([0.5, 1.0]))


def test_a_law_is_found_again():
    """Catches: a floor of 0; slopes of another domain; errors of logarithms in place of losses."""
    shares = draw_mixtures(NATURAL, np.ones(3), 40, seed=0)
    fitted = fit_law(shares, LAW.losses(shares))
    new = draw_mixtures(NATURAL, np.ones(3), 100, seed=9)
    np.testing.assert_allclose(fitted.losses(new), LAW.losses(new), atol=0.01)
    noise = 0.01 * np.random.default_rng(0).normal(size=(40, 2))
    noisy = fit_law(shares, LAW.losses(shares) + noise)
    assert np.sqrt(np.mean((noisy.losses(new) - LAW.losses(new)) ** 2)) < 0.01


def test_the_best_mixture():
    """Catches: a descent that stops early; caps or the natural mixture ignored; importances of the wrong domain."""
    grid = np.array([[a, b, 1 - a - b] for a in np.linspace(0, 1, 201) for b in np.linspace(0, 1 - a, 201)])

    def value(shares, importance, kl):
        shares = np.maximum(shares, 1e-12)
        return LAW.losses(shares) @ importance + kl * np.sum(shares * np.log(shares / NATURAL), axis=-1)

    for importance, kl, caps in [
        (np.array([1.0, 1.0]), 0.0, np.ones(3)),
        (np.array([1.0, 0.2]), 0.05, np.ones(3)),
        (np.array([0.1, 1.0]), 0.1, np.array([1.0, 0.35, 0.05])),
        (np.array([1.0, 0.0]), 0.0, np.array([0.5, 1.0, 1.0])),
    ]:
        found = best_mixture(LAW, importance, NATURAL, caps, kl)
        allowed = grid[(grid <= caps + 1e-9).all(axis=1)]
        assert np.isclose(found.sum(), 1) and (found <= caps + 1e-9).all()
        assert value(found, importance, kl) <= value(allowed, importance, kl).min() + 1e-4
    assert np.allclose(best_mixture(LAW, np.ones(2), NATURAL, np.ones(3), kl=1e3), NATURAL, atol=1e-2)


def test_how_well_it_foretells():
    """Catches: a proxy in the fit that is to foretell it; ties that count as an order; 0 / 0."""
    shares = draw_mixtures(NATURAL, np.ones(3), 12, seed=0)
    losses = LAW.losses(shares)
    np.testing.assert_allclose(left_out(shares, losses), losses, atol=0.05)
    odd = losses.copy()
    odd[5] += 1.0  # which the others do not know of
    assert np.abs(left_out(shares, odd)[5] - losses[5]).max() < 0.2
    assert rank_correlation(np.array([1.0, 2.0, 2.0, 3.0]), np.array([-1.0, -2.0, -2.0, -3.0])) == pytest.approx(-1)
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_what_no_law_can_be_fitted_to():
    """Catches: a run that diverged, taken for a loss; more unknowns than proxies."""
    shares = draw_mixtures(NATURAL, np.ones(3), 5, seed=0)
    with pytest.raises(ValueError, match="found losses from nan to nan, expected positive numbers"):
        fit_law(shares, np.full((5, 2), np.nan))
    with pytest.raises(ValueError, match="found 2 proxies of 3 domains, expected at least as many"):
        fit_law(shares[:2], LAW.losses(shares[:2]))
