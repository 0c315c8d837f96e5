"""How well free and sampled scores replace a full scoring pass, and what each costs.

    python tools/score_study.py configs/smoke.py --steps 60 129 225 321

Trains as the configuration says, with a policy that goes by the losses of training (`scores="detrended"`). At each
of `steps` it scores every training block with the parameters of that step, and compares these losses with the
scores that would be known without that pass. `--drop 0` trains on all blocks throughout.

Columns: the FLOPs of the scores, relative to training for one epoch; Spearman's rank correlation with the full
pass, over all blocks and within domains (the mean over them); of the half that LFR would drop, the share that the
full pass drops too (chance: 50 %). Rows of samples are means of ten samples.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lfr_jax import schedule
from lfr_jax.config import read_config
from lfr_jax.data import clusters, pipeline
from lfr_jax.data.corpus import open_corpus
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.schedule import estimate, groups_of, num_kept
from lfr_jax.train import optimizer, policy, score, steps
from lfr_jax.train.loss import mean_nll

SAMPLES = 10  # draws of each sample
FRACTIONS = (0.1, 0.25)


def study(config, at: list[int], num_clusters: int) -> None:
    """Trains, and prints a table for each step in `at`."""
    corpus = open_corpus(config.data)
    blocks, eos_id = corpus.train, corpus.tokenizer.eos_id
    cluster_N = clusters.cluster_blocks(blocks, num_clusters, config.train.seed)
    info = schedule.BlockInfo(blocks.num_blocks, domain=blocks.domain_N, cluster=cluster_N)
    sched = policy.build(config.schedule, config.train.steps)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    tx = optimizer.make_optimizer(config.optimizer, sched.phases[-1].stop)
    train_step = steps.make_train_step(config.model, tx, sched, config.train.grad_accum_steps, eos_id)
    score_step = steps.make_score_step(config.model, eos_id)
    size = config.train.batch_size
    with jax.set_mesh(mesh):
        state = steps.init_state(config.model, tx, sched, info, mesh, config.train.seed)
        for index, phase in enumerate(sched.phases):
            state = state._replace(schedule=sched.begin(state.schedule, index))
            rates_N = np.asarray(sched.rates(state.schedule))
            draws = schedule.plan(rates_N, (phase.stop - phase.start) * size, config.train.seed, index)
            for step, batch in enumerate(
                pipeline.batches(pipeline.Batched(draws, size), blocks, mesh), start=phase.start
            ):
                if step in at:
                    loss_N = all_losses(score_step, state.params, blocks, config, mesh)
                    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
                        report(step, phase.name, loss_N, jax.device_get(state.schedule.measured), info)
                if step == max(at):
                    return
                state, _ = train_step(state, pipeline.shard_batch(batch, mesh))


def all_losses(score_step, params, blocks, config, mesh) -> np.ndarray:
    """f32[N]: a full scoring pass."""
    loss_N = np.empty(blocks.num_blocks, np.float32)
    batch_size = config.train.score_batch_size or config.train.batch_size
    for ids_B, nll_B, count_B in score.on_host(score.losses(score_step, params, blocks, batch_size, mesh)):
        loss_N[ids_B] = mean_nll(nll_B, count_B)
    return loss_N


def report(step, phase, loss_N, measured, info) -> None:
    """Prints one table."""
    trained_on = np.mean(measured.step >= 0)
    print(f"\nafter {step} steps, in {phase}; {trained_on:.0%} of the blocks were trained on before")
    print(f"{'scores':<44}{'FLOPs':>8}{'rank, all':>11}{'in domains':>12}{'dropped half':>14}")

    def row(name, share, guesses):
        """`guesses`: arrays f32[N], one of each sample."""
        overall, within, dropped = np.mean([agreement(loss_N, guess_N, info.domain) for guess_N in guesses], axis=0)
        print(f"{name:<44}{share / 3:>8.1%}{overall:>11.3f}{within:>12.3f}{dropped:>14.1%}", flush=True)

    groups = {name: groups_of(info, name, "the study") for name in ("domain", "cluster")}
    row("full pass", 1.0, [loss_N])
    for scores in ("train", "detrended"):
        row(f"{scores}; unseen: domain's mean", 0, [estimate(measured, scores, groups["domain"])])
    row("detrended without domains", 0, [estimate(measured, "detrended")])
    nothing = schedule.init_measured(len(loss_N))
    for fraction in FRACTIONS:
        for name, of in groups.items():
            samples = [
                score.sample_blocks(np.asarray(of.of), round(fraction * len(loss_N)), 0, i) for i in range(SAMPLES)
            ]
            for label, known, scores in [("pass", nothing, "pass"), ("mixed", measured, "mixed")]:
                told = [schedule.observe(known, ids, loss_N[ids], step) for ids in samples]
                label = f"{label}, {fraction:.0%} sampled; others: {name}'s mean"
                row(label, fraction, [estimate(m, scores, of) for m in told])


def agreement(loss_N, guess_N, domain_N) -> tuple[float, float, float]:
    """Rank correlation over all blocks and within domains, and the share of the dropped half in common."""
    guess_N = np.nan_to_num(np.asarray(guess_N), nan=np.inf)  # policies take what nothing is known of for the hardest
    domains = [domain_N == domain for domain in np.unique(domain_N)]
    within = np.mean([stats.spearmanr(loss_N[of], guess_N[of]).statistic for of in domains])
    k = num_kept(len(loss_N), 0.5)
    drop_N, guessed_N = (~np.asarray(schedule.hardest(jnp.asarray(x_N), k)) for x_N in (loss_N, guess_N))
    return stats.spearmanr(loss_N, guess_N).statistic, within, np.sum(drop_N & guessed_N) / np.sum(drop_N)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a file such as configs/smoke.py")
    parser.add_argument("--store", help="the prepared text, in place of the configuration's")
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 129, 225, 321], help="when to compare")
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--drop", type=float, help="share of blocks that both Focus phases drop")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    config = read_config(asked.config)
    options = config.schedule.options | dict(scores="detrended")
    if asked.drop is not None:
        options |= dict(drop=asked.drop, drop2=asked.drop)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, store=asked.store or config.data.store),
        schedule=dataclasses.replace(config.schedule, options=options),
        train=dataclasses.replace(config.train, seed=asked.seed),
    )
    study(config, asked.steps, asked.clusters)
