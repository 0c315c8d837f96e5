"""Searches for the best mixture of domains: trains small runs on different mixtures, and fits a law to their losses."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax import schedule
from lfr_jax.config import Config, ScheduleConfig, nearest
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.distributed import cluster
from lfr_jax.experiments.mixing_law import best_mixture, draw_mixtures, fit_law, left_out, rank_correlation
from lfr_jax.storage.mirror import atomic_file_at
from lfr_jax.storage.paths import Path, as_path
from lfr_jax.terminal import printable, show
from lfr_jax.train import initial, policy
from lfr_jax.train.loop import train

PROXY = f"{__name__}:proxy"
DIGITS = 4  # of a share


class Goal(NamedTuple):
    """What the mixture is for."""

    final_tokens: float = 0.0  # tokens that the run will train on; 0: as many as a proxy
    most_epochs: float = 4.0  # how often it may read a domain
    target: str = "mean"  # whose held-out loss counts: a domain's, "mean" of all domains, "all" text
    kl: float = 0.05  # how much it costs to leave the natural mixture, in nats for each nat of divergence


class ProxyState(NamedTuple):
    """State of a proxy's schedule."""

    rate: jax.Array  # f32[N]: of each block; 0 = not drawn


def search_mixture(config: Config, proxies: int, goal: Goal) -> Path | None:
    """Trains `proxies` runs of `config`, each on a mixture of its own, and writes the best mixture by the fitted law.

    The first proxy has the natural mixture. Each run has the folder `run_dir/proxy-NUMBER`; the result is
    `run_dir/mixture.json`, whose path is returned and printed, with the command that uses it. Call it again after an
    interruption, and it goes on. If there are several processes, only the first prints and writes, and the others
    return None.

    Where the run to come reads the corpus more often than a proxy does, proxies are trained on a random part of each
    domain, as much smaller as they are shorter. So a domain is repeated as often as it will be (Zhou et al.).

    Raises:
      ValueError: there are too few proxies, no domain of the target's name, or too little text.

    References:
      Zhou et al. 2026, "Repetition Mismatch: Why Data Mixture Experiments Don't Scale and How to Fix Them", arXiv
      2606.07597 (read: the abstract); and those of `mixing_law`.
    """
    with cluster.initialize(config.distributed) as peers:
        initial.refuse_branches(config)
        blocks = open_corpus(config.data).train
        shares_MxD, part = planned(config, blocks, proxies, goal)
        held_out = []
        for number, shares in enumerate(shares_MxD, 1):
            run = config_for_proxy(config, number, shares, part)
            if peers.first:
                show(f"\nproxy {number} of {proxies} in {run.run_dir}: {as_words(blocks.domains, shares)}", sys.stdout)
            held_out.append(train(run).summary["held_out_loss"])
        if peers.first:
            result = found(config, blocks, shares_MxD, held_out, goal)
            path = as_path(config.run_dir) / "mixture.json"
            with atomic_file_at(path) as file:
                file.write(json.dumps(result, indent=1) + "\n")
            show(f"\n{described(result)}\nmixture: {path}", sys.stdout)
            return path


def planned(config: Config, blocks: Blocks, proxies: int, goal: Goal) -> tuple[np.ndarray, float]:
    """f64[M, D]: the mixtures of the proxies; and the part of each domain that they are trained on."""
    count_D = np.bincount(blocks.domain_N, minlength=len(blocks.domains))
    if proxies < np.sum(count_D > 0) + 1:
        raise ValueError(f"proxies is {proxies}, expected more than {np.sum(count_D > 0)}, the domains")
    measured_for(goal.target, [*blocks.domains, "all"])  # refused before any training
    shares_MxD = draw_mixtures(count_D / count_D.sum(), caps(config, blocks, goal), proxies, config.train.seed)
    return shares_MxD, min(1.0, proxy_tokens(config) / final_tokens(config, goal))


def proxy_tokens(config: Config) -> int:
    return policy.num_steps(config) * config.train.batch_size * config.data.seq_len


def final_tokens(config: Config, goal: Goal) -> float:
    return goal.final_tokens or proxy_tokens(config)


def caps(config: Config, blocks: Blocks, goal: Goal) -> np.ndarray:
    """f64[D]: the largest share of each domain, with which the run to come reads it `most_epochs` times.

    Raises:
      ValueError: all of the corpus, so many times, is less than the run is to read.
    """
    count_D = np.bincount(blocks.domain_N, minlength=len(blocks.domains))
    caps_D = goal.most_epochs * blocks.num_tokens * count_D / count_D.sum() / final_tokens(config, goal)
    if caps_D.sum() < 1:
        raise ValueError(
            f"most_epochs is {goal.most_epochs}, expected at least {goal.most_epochs / caps_D.sum():.3g}: the corpus "
            f"has {blocks.num_tokens:.3g} tokens, and the run is to read {final_tokens(config, goal):.3g}"
        )
    return np.minimum(caps_D, 1.0)


def config_for_proxy(config: Config, number: int, shares: np.ndarray, part: float) -> Config:
    """The configuration with the proxy's mixture, and a run folder of its own."""
    options = dict(shares=shares.tolist(), part=part, seed=config.train.seed)
    return dataclasses.replace(
        config,
        run_dir=str(as_path(config.run_dir) / f"proxy-{number:03}"),
        schedule=ScheduleConfig(PROXY, options),
        train=dataclasses.replace(config.train, steps=policy.num_steps(config)),
    )


def proxy(*, shares: Sequence[float], part: float = 1.0, seed: int = 0) -> schedule.Schedule:
    """Draws from the domains in given proportions, but only from a random part of each domain.

    Args:
      shares: of the draws, one for each domain.
      part: share of the blocks of each domain that is drawn from, rounded up.
      seed: decides which blocks these are.

    Returns:
      The schedule; its state is a `ProxyState`.
    """
    phases = schedule.consecutive([("proxy", 1000)])

    def init(info):
        n, share_D = schedule.num_blocks(info), np.array(shares)
        domain_N = np.asarray(schedule.required(info, "domain", "proxy"))
        rank_N = np.empty(n, np.int64)  # of each block in a random order of its domain
        order_N = np.lexsort((np.random.default_rng(seed).permutation(n), domain_N))
        count_D = np.bincount(domain_N, minlength=len(share_D))
        rank_N[order_N] = np.arange(n) - np.repeat(np.cumsum(count_D) - count_D, count_D)
        kept_D = np.ceil(part * count_D)
        rate_N = np.where(rank_N < kept_D[domain_N], (share_D / np.maximum(kept_D, 1))[domain_N], 0.0)
        return ProxyState(jnp.asarray(rate_N / rate_N.max(), jnp.float32))

    def begin(state, phase_index):
        schedule.check_phase(phases, phase_index)
        return state

    return schedule.Schedule(phases, init, schedule.ignore_losses, begin, lambda state: state.rate)


def found(
    config: Config, blocks: Blocks, shares_MxD: np.ndarray, held_out: list[dict[str, float]], goal: Goal
) -> dict[str, Any]:
    """The best mixture, as a setting of the policy `mixture`; and how well the law foretells the proxies."""
    names = measured_for(goal.target, list(held_out[0]))
    losses_MxK = np.array([[losses[name] for name in names] for losses in held_out])
    importance = np.ones(len(names)) / len(names)
    law, natural = fit_law(shares_MxD, losses_MxK), shares_MxD[0]
    best = best_mixture(law, importance, natural, caps(config, blocks, goal), goal.kl).round(DIGITS)
    best /= best.sum()
    foretold_M, measured_M = left_out(shares_MxD, losses_MxK) @ importance, losses_MxK @ importance
    count_D = np.bincount(blocks.domain_N, minlength=len(blocks.domains))
    tokens_D = blocks.num_tokens * count_D / count_D.sum()
    epochs_D = best * final_tokens(config, goal) / np.maximum(tokens_D, 1)
    return {
        "policy": "mixture",
        "options": {"stages": [[1, best.round(DIGITS).tolist()]]},
        "domains": blocks.domains,
        "share": dict(zip(blocks.domains, best.round(DIGITS).tolist())),
        "natural_share": dict(zip(blocks.domains, natural.round(DIGITS).tolist())),
        "epochs": dict(zip(blocks.domains, epochs_D.round(2).tolist())),
        "target": goal.target,
        "law": {"floor": law.floor.tolist(), "slope": law.slope.tolist(), "of": names},
        "loss_by_law": {
            "found": float(law.losses(best) @ importance),
            "natural": float(law.losses(natural) @ importance),
        },
        "left_out": {
            "rank_correlation": rank_correlation(foretold_M, measured_M),
            "mean_error": float(np.mean(np.abs(foretold_M - measured_M))),
            "spread": float(measured_M.std()),
        },
        "proxies": [{"share": p.tolist(), "held_out_loss": losses} for p, losses in zip(shares_MxD, held_out)],
    }


def measured_for(target: str, names: list[str]) -> list[str]:
    """The held-out losses that the target is a mean of; `names` are those of all domains, and "all"."""
    domains = [name for name in names if name != "all"]
    if target == "mean":
        return domains
    if target not in names:
        raise ValueError(f"target is {target!r}; {nearest(target, names)}there are mean, {', '.join(names)}")
    return [target]


def as_words(domains: list[str], shares: np.ndarray) -> str:
    return ", ".join(f"{printable(domain)} {share:.3f}" for domain, share in zip(domains, shares))


def described(result: dict[str, Any]) -> str:
    """The result for people: a table of the domains, how far to trust it, and the command that uses it."""
    width = max(6, *(len(printable(domain)) for domain in result["domains"]))
    lines = [f"{'domain':<{width}}  natural    found   epochs"]
    lines += [
        f"{printable(domain):<{width}}  {result['natural_share'][domain]:7.4f}  {result['share'][domain]:7.4f}"
        f"  {result['epochs'][domain]:7.2f}"
        for domain in result["domains"]
    ]
    by_law, left = result["loss_by_law"], result["left_out"]
    stages = json.dumps(result["options"]["stages"])
    return "\n".join(
        [
            *lines,
            "",
            f"held-out loss ({printable(result['target'])}) by the law: found {by_law['found']:.4f}, natural "
            f"{by_law['natural']:.4f}",
            f"each proxy foretold by the others: rank correlation {left['rank_correlation']:.2f}, mean error "
            f"{left['mean_error']:.4f} nats, where proxies differ by {left['spread']:.4f} (standard deviation)",
            f"use it: --schedule.policy mixture --schedule.options.stages '{stages}'",
        ]
    )
