"""Somebody's loop of optax alone, with a Grain pipeline and a scoring pass of their own: as in MaxText."""

import absl.flags
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from outsiders import BATCH, BLOCKS, LENGTHS, VOCAB, check, recipe

from lfr_jax import schedule

sched = schedule.lfr(**LENGTHS, scores="pass")
schedule.check_trainer(sched, scores_blocks=True)
optimizer = optax.adam(0.1)
observe = jax.jit(sched.observe, donate_argnums=0)
phase_batches = recipe("Grain, as in MaxText and torchtitan")["phase_batches"]
RECORDS = grain.MapDataset.source(BLOCKS).map(lambda tokens: {"inputs": tokens[:-1], "targets": tokens[1:]})


def block_losses(table, records):
    """The table of logits of each token after each other one is the whole model."""
    losses = optax.softmax_cross_entropy_with_integer_labels(table[records["inputs"]], records["targets"])
    return losses.mean(axis=1)


@jax.jit
def train_step(table, opt_state, records):
    grads = jax.grad(lambda table: block_losses(table, records).mean())(table)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(table, updates), opt_state


score_step = jax.jit(block_losses)


def scored(chosen, table, step):
    for position in range(0, len(RECORDS), 16):
        records = RECORDS[position : position + 16].batch(16)[0]
        chosen = observe(chosen, np.arange(position, position + 16), score_step(table, records), step)
    return chosen


def trainer(restores_iterators: bool):
    """A trainer that resumes by the iterator, which it saves beside the state; or else by the number of the batch."""

    def train(folder, stop=None):
        table, first, drawn = jnp.zeros((VOCAB, VOCAB)), 0, []
        state = (table, optimizer.init(table), sched.init(schedule.BlockInfo(num_blocks=len(RECORDS))))
        with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=True)) as manager:
            if manager.latest_step() is not None:
                first = manager.latest_step()
                wanted = ocp.args.Composite(state=ocp.args.StandardRestore(state))
                state = manager.restore(first, args=wanted)["state"]
            table, opt_state, chosen = state
            for index, phase in enumerate(sched.phases):
                if first >= phase.stop:
                    continue
                if first <= phase.start:
                    chosen = sched.begin(scored(chosen, table, phase.start) if phase.score else chosen, index)
                draws = schedule.plan(sched.rates(chosen), (phase.stop - phase.start) * BATCH, seed=0, phase=index)
                begun = max(first - phase.start, 0)
                batches = iter(phase_batches(RECORDS, draws, BATCH, 0 if restores_iterators else begun))
                if restores_iterators and begun:
                    wanted = ocp.args.Composite(iterator=grain.checkpoint.CheckpointRestore(batches))
                    batches = manager.restore(first, args=wanted)["iterator"]
                for step, (ids, records) in enumerate(batches, start=phase.start + begun):
                    table, opt_state = train_step(table, opt_state, records)
                    drawn.append((phase.name, ids))
                    if step + 1 == stop:
                        items = ocp.args.Composite(
                            state=ocp.args.StandardSave((table, opt_state, chosen)),
                            iterator=grain.checkpoint.CheckpointSave(batches),
                        )
                        manager.save(stop, args=items)
                        return None, drawn
        return (table, opt_state, chosen), drawn

    return train


@pytest.mark.parametrize("restores_iterators", [True, False])
def test_a_grain_pipeline_chooses_and_resumes(restores_iterators, tmp_path):
    """Catches: a source that threads cannot share, or that Grain cannot slice; scores of an earlier pass that count;
    an iterator of one phase that is taken for the next one's."""
    check(trainer(restores_iterators), tmp_path, 19, 24)


def draws_of(phase: int, batches: int = 6) -> schedule.Plan:
    return schedule.plan(np.repeat([0.0, 1.0, 3.0], [20, 22, 22]), batches * BATCH, seed=0, phase=phase)


def ids(batches) -> list[list[int]]:
    return [np.asarray(ids).tolist() for ids, _ in batches]


def test_processes_share_the_batches_of_a_phase():
    """Catches: rows that no process has, or two; processes that share blocks out before they are drawn."""
    draws = draws_of(1)
    parts = [ids(phase_batches(BLOCKS, draws, BATCH, 2, process, 4)) for process in range(4)]
    assert [sorted(sum(rows, [])) for rows in zip(*parts, strict=True)] == np.sort(
        draws[2 * BATCH :].reshape(4, BATCH)
    ).tolist()


@pytest.mark.slow
def test_workers_do_not_change_the_batches():
    """Catches: batches that are made in the workers; a source that cannot be pickled."""
    absl.flags.FLAGS.mark_as_parsed()
    draws = draws_of(1)
    assert ids(phase_batches(BLOCKS, draws, BATCH, 1, workers=2)) == draws[BATCH:].reshape(5, BATCH).tolist()


def loader(draws) -> grain.DataLoader:
    return grain.DataLoader(
        data_source=schedule.DrawnSource(BLOCKS, draws),
        sampler=grain.samplers.SequentialSampler(len(draws), grain.sharding.NoSharding()),
        operations=[grain.transforms.Batch(BATCH)],
        worker_count=0,
    )


def test_the_older_data_loader_reads_a_phase_and_refuses_another():
    """Catches: a `repr` that does not tell phases or rates apart, or that differs from process to process."""
    draws, batches = draws_of(1), iter(loader(draws_of(1)))
    assert ids([next(batches), next(batches)]) == draws[: 2 * BATCH].reshape(2, BATCH).tolist()
    resumed = iter(loader(draws_of(1)))
    resumed.set_state(batches.get_state())
    assert ids(resumed) == draws[2 * BATCH :].reshape(4, BATCH).tolist()
    other_rates = schedule.plan(np.ones(64), 6 * BATCH, seed=0, phase=1)
    for other in (draws_of(2), other_rates):
        with pytest.raises(ValueError, match="DataSource in checkpoint does not match"):
            iter(loader(other)).set_state(batches.get_state())
