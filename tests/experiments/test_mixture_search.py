"""The search for a mixture: what the small runs are, and what becomes of their losses."""

import json
import types

import numpy as np
import pytest
from helpers import changed, tiny

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig
from lfr_jax.data.corpus import open_corpus
from lfr_jax.experiments import mixture_search
from lfr_jax.experiments.mixing_law import MixingLaw
from lfr_jax.experiments.mixture_search import Goal
from lfr_jax.train import policy

DOMAIN = np.array([0, 0, 0, 0, 0, 1, 1, 3, 3, 3])  # 5, 2, 0 and 3 blocks


def test_a_proxy_by_hand():
    """Catches: blocks outside the part that are drawn; shares of the part in place of the domain; a part of the whole
    corpus, in which small domains are missing; the first blocks of a domain in place of random ones."""
    info = schedule.BlockInfo(10, domain=DOMAIN)
    options = dict(shares=[0.5, 0.2, 0.0, 0.3], part=0.5)
    s = policy.build(ScheduleConfig(mixture_search.PROXY, options), 100)  # as a run finds it
    kept = set()
    for seed in range(20):
        s = mixture_search.proxy(**options, seed=seed)
        rate_N = np.asarray(s.rates(s.begin(s.init(info), 0)))
        assert [np.count_nonzero(rate_N[DOMAIN == d]) for d in range(4)] == [3, 1, 0, 2]
        share_D = np.bincount(DOMAIN, rate_N, minlength=4) / rate_N.sum()
        np.testing.assert_allclose(share_D, options["shares"], rtol=1e-6)
        kept |= set(np.flatnonzero(rate_N))
    assert kept == set(range(10))
    whole = mixture_search.proxy(shares=[0.5, 0.2, 0.0, 0.3])
    assert np.count_nonzero(whole.rates(whole.init(info))) == 10


def test_caps_and_parts(corpus_dir):
    """Catches: epochs of the small run in place of the run to come; a part of less than a run of that length reads."""
    config = tiny("runs/x", corpus_dir)  # 24 · 8 · 32 = 6144 tokens
    blocks = open_corpus(config.data).train
    tokens_D = np.bincount(blocks.domain_N) * 32
    goal = Goal(final_tokens=24576, most_epochs=8)
    np.testing.assert_allclose(mixture_search.caps(config, blocks, goal), np.minimum(1, 8 * tokens_D / 24576))
    shares, part = mixture_search.planned(config, blocks, 6, goal)
    assert part == 0.25 and shares.shape == (6, 3) and (shares <= 8 * tokens_D / 24576 + 1e-9).all()
    np.testing.assert_allclose(shares[0], tokens_D / tokens_D.sum())
    assert mixture_search.planned(config, blocks, 6, Goal())[1] == 1.0
    run = mixture_search.config_for_proxy(config, 2, shares[1], part)
    assert run.run_dir == "runs/x/proxy-002" and policy.num_steps(run) == 24
    for options, error in [
        (dict(final_tokens=1e9), r"most_epochs is 4.0, expected at least \d+.*: the corpus has .* tokens"),
        (dict(target="poems"), "target is 'poems'; .*there are mean, .*, all"),
    ]:
        with pytest.raises(ValueError, match=error):
            mixture_search.planned(config, blocks, 6, Goal(**options))
    with pytest.raises(ValueError, match="proxies is 3, expected more than 3, the domains"):
        mixture_search.planned(config, blocks, 3, Goal())


def test_a_search_over_losses_that_follow_a_law(corpus_dir, tmp_path, monkeypatch, capsys):
    """Catches: losses of another proxy; a target that is not looked at; domains in another order; a result that the
    policy `mixture` does not take."""
    config = tiny(tmp_path, corpus_dir)
    blocks = open_corpus(config.data).train
    law = MixingLaw(np.array([2.0, 1.5, 3.0]), np.array([[-0.5, 0.6, 0.4], [0.7, -0.9, 0.5], [0.1, 0.2, -1.5]]))

    def trained(run, quiet=False):
        losses = law.losses(np.array(run.schedule.options["shares"]))
        held_out = dict(zip(blocks.domains, losses.tolist())) | {"all": float(losses.mean())}
        return types.SimpleNamespace(summary={"held_out_loss": held_out})

    monkeypatch.setattr(mixture_search, "train", trained)
    path = mixture_search.search_mixture(config, 24, Goal(target=blocks.domains[1], kl=0.0))
    result = json.loads(path.read_text())
    assert path == tmp_path / "mixture.json" and result["domains"] == list(blocks.domains)
    assert result["share"][blocks.domains[1]] > 0.99  # which has the lowest slope
    assert result["left_out"]["rank_correlation"] > 0.95 and len(result["proxies"]) == 24
    built = policy.build(ScheduleConfig(result["policy"], result["options"]), 10)
    state = built.init(schedule.BlockInfo(blocks.num_blocks, domain=blocks.domain_N))
    shares = np.bincount(blocks.domain_N, np.asarray(built.rates(built.begin(state, 0))))
    np.testing.assert_allclose(shares / shares.sum(), list(result["share"].values()), atol=1e-3)
    out = capsys.readouterr().out
    assert "proxy 24 of 24" in out and "rank correlation" in out and "--schedule.options.stages '[[1, [" in out
    balanced = json.loads(mixture_search.search_mixture(config, 24, Goal(kl=0.5)).read_text())
    assert max(balanced["share"].values()) < 0.8 < result["share"][blocks.domains[1]]


def test_mistakes_on_the_command_line(lfr, tmp_path):
    """Catches: a policy of the small runs that is asked for and ignored; numbers that are looked at after training."""
    file = tmp_path / "file.py"
    file.write_text("from lfr_jax.config import *\nconfig = Config()\n")
    for options, error in [
        (["--schedule.policy", "lfr"], "leave out --schedule.policy"),
        (["--proxies", "0"], "proxies"),
        (["--most-epochs", "-1"], "most"),
    ]:
        code, _, err = lfr("mixture", file, *options)
        assert code in (1, 2) and error in err


@pytest.mark.slow
def test_a_search_from_the_command_line(lfr, corpus_dir, tmp_path):
    """With real runs. Catches: a policy that a run cannot save or find again; a search that does not go on."""
    config = changed(tiny(tmp_path / "runs", corpus_dir), train__steps=4, train__eval_every=0, train__probe_blocks=0)
    config = changed(config, optimizer__warmup_steps=1)
    file = tmp_path / "file.py"
    file.write_text(f"from lfr_jax.config import *\nconfig = {config!r}\n")
    words = ["mixture", file, "--proxies", "4", "--final-tokens", "4096", "--mesh.data", "1"]
    code, out, err = lfr(*words)
    assert code == 0, err
    result = json.loads((tmp_path / "runs" / "mixture.json").read_text())
    assert sum(result["share"].values()) == pytest.approx(1, abs=1e-3)
    losses = [proxy["held_out_loss"]["all"] for proxy in result["proxies"]]
    assert len(set(losses)) == 4 and all(4 < loss < 7 for loss in losses)
    assert lfr(*words).code == 0  # the runs are there, and are not repeated
    assert json.loads((tmp_path / "runs" / "mixture.json").read_text()) == result
