"""Held-out loss: over tokens, whatever the batches."""

import jax
import numpy as np
import pytest

from lfr_jax.train import evaluate


def held_out_loss(scorer, per_domain, batch_size, **options):
    with jax.set_mesh(scorer.mesh):
        return evaluate.held_out_loss(
            scorer.step, scorer.params, scorer.valid, per_domain, batch_size, scorer.mesh, **options
        )


def expected(scorer, per_domain):
    """The losses by domain and overall, from the scoring step alone."""
    ids = evaluate.chosen_blocks(scorer.valid, per_domain)
    nll, count = scorer.directly(scorer.valid, ids)
    domain = scorer.valid.domain_N[ids]
    masks = {name: domain == scorer.valid.domains.index(name) for name in "abc"} | {"all": domain >= 0}
    return {name: (nll[of].sum() / count[of].sum(), int(count[of].sum())) for name, of in masks.items()}


@pytest.mark.parametrize("per_domain", [3, 10**6])
@pytest.mark.parametrize("batch_size", [2, 16, 64])
def test_losses_are_over_tokens(scorer, per_domain, batch_size):
    """Catches: a mean of blocks' or domains' means; padding counted; blocks of one domain charged to another."""
    measured, wanted = held_out_loss(scorer, per_domain, batch_size), expected(scorer, per_domain)
    assert list(measured) == ["a", "b", "c", "all"] and evaluate.num_losses(scorer.valid) == 4
    for name, (loss, tokens) in wanted.items():
        assert measured[name].tokens == tokens
        assert measured[name].loss == pytest.approx(loss, rel=1e-6)
    by_domain = [measured[name] for name in "abc"]
    total = sum(loss * tokens for loss, tokens in by_domain) / sum(tokens for _, tokens in by_domain)
    assert measured["all"].loss == pytest.approx(total, rel=1e-9)
    means = np.mean([loss for loss, _ in by_domain])
    assert abs(means - total) > 1e-4 * total  # the two differ here


def test_the_mean_of_block_means_is_another_number(scorer):
    """The test above sees the difference between tokens and blocks as units."""
    nll, count = scorer.directly(scorer.valid, np.arange(scorer.valid.num_blocks))
    assert np.mean(nll / count) != pytest.approx(nll.sum() / count.sum(), rel=1e-4)


def test_all_blocks_where_fewer_are_there(scorer):
    """Catches: a block dropped or measured twice; all of them measured although some were asked for."""
    n, done = scorer.valid.num_blocks, []
    held_out_loss(scorer, 2, 16, advance=done.append)
    assert done == [6]
    done.clear()
    exactly = max(np.bincount(scorer.valid.domain_N))
    assert held_out_loss(scorer, 10**6, 16) == held_out_loss(scorer, exactly, 16, advance=done.append)
    assert sum(done) == n
    assert evaluate.chosen_blocks(scorer.valid, 10**6).tolist() == list(range(n))


@pytest.mark.parametrize("per_domain", [1, 2, 3, 4, 5])
def test_chosen_blocks_are_spread_evenly(scorer, per_domain):
    """Catches: the first blocks of each domain; random ones; a domain that gets more than its share."""
    chosen = evaluate.chosen_blocks(scorer.valid, per_domain)
    np.testing.assert_array_equal(chosen, evaluate.chosen_blocks(scorer.valid, per_domain))
    for domain in range(3):
        ids = np.flatnonzero(scorer.valid.domain_N == domain)
        here = chosen[scorer.valid.domain_N[chosen] == domain]
        assert len(here) == min(per_domain, len(ids)) and here[0] == ids[0]
        if len(here) > 1:
            gaps = np.diff(here)
            assert here[-1] == ids[-1] and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_a_domain_without_a_whole_block_is_left_out(scorer):
    """Catches: a division by zero tokens. The held-out text of a domain may be short."""
    assert scorer.valid.domains == ("a", "b", "c", "d") and not np.any(scorer.valid.domain_N == 3)
    assert "d" not in held_out_loss(scorer, 1, 16)


def test_a_domain_called_all_and_the_total_are_two_numbers(scorer, monkeypatch):
    """Catches: a domain that its own name replaces by the total."""
    usual = held_out_loss(scorer, 3, 16)
    monkeypatch.setattr(scorer.valid, "domains", ("all", "all (domain)", "c", "d"))
    found = held_out_loss(scorer, 3, 16)
    assert list(found) == ["all (domain)", "all (domain) (domain)", "c", "all"]
    assert list(found.values()) == list(usual.values())
