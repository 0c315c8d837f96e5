"""Training, from top to bottom in the order in which it happens."""

import contextlib
import functools
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lfr_jax.config import Config
from lfr_jax.data import fim
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.phase_batches import plan_batches
from lfr_jax.data.pipeline import batches, shard_batch
from lfr_jax.distributed import cluster, compilation_cache
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.distributed.preemption import PREEMPTED, sigterm_noticed
from lfr_jax.schedule import objective_weights, weight_variance
from lfr_jax.storage.checkpoint import Checkpointer, latest_step
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import evaluate, flops, initial, optimizer, policy, reference, score, signals, start, steps
from lfr_jax.train.begin import begin_compiled
from lfr_jax.train.compiled import CompiledAhead, compiled_off_the_clock
from lfr_jax.train.held_out import HeldOutBatches
from lfr_jax.train.probes import Probes
from lfr_jax.train.track.clock import Clock, table
from lfr_jax.train.track.recorder import NonFiniteLoss, StepRecord
from lfr_jax.train.track.tracker import Tracker


class Result(NamedTuple):
    """A finished run."""

    state: steps.TrainState
    summary: dict[str, Any]  # what summary.json holds


def train(config: Config, quiet: bool = False) -> Result:
    """Trains as `config` says in `config.run_dir`, or continues the run that is there, to the last step.

    Raises:
      ValueError: the settings contradict each other, the data, the devices, or the run that is there.
      NonFiniteLoss: a loss became NaN or infinite; the message names the step, its blocks, and the checkpoint.
      SystemExit(75): SIGTERM came; everything is saved.
      OSError: not all processes connected within `distributed.start_timeout`; or the folder is in use.
    """
    clock = Clock()
    with contextlib.ExitStack() as stack:
        # What the run is made of. All that can be refused is refused here, before anything is compiled or written.
        peers = stack.enter_context(cluster.initialize(config.distributed))
        corpus = open_corpus(config.data)
        sched = policy.build(config.schedule, config.train.steps)
        policy.check_supplied(sched, config.schedule.ref_model)
        num_steps = sched.phases[-1].stop
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        start.check(config, corpus, mesh, num_steps)
        held_out = HeldOutBatches(config, corpus.valid, num_steps, mesh) if "grad_dot" in sched.extra else None
        ref = None
        if "ref_token_losses" in sched.extra:
            ref = reference.load(config.schedule.ref_model, corpus, config.data.seq_len, mesh)
        cluster.assert_equal_across_processes(peers, start.must_agree(config, corpus))
        run_dir = RunDir(config.run_dir)
        origin = start.origin(corpus) | ({"reference": ref.identity} if ref else {})
        given = initial.load(config, run_dir, corpus, sched, mesh, origin)
        claim = start.claim_run_dir(run_dir, config, corpus, sched, peers, given.block_info)
        block_info = stack.enter_context(claim)
        stack.enter_context(jax.set_mesh(mesh))

        # The jitted functions. Compiling does not count as time worked, so that runs can be compared.
        compiled = functools.partial(
            compiled_off_the_clock, paused=lambda: clock.stage("compilation"), together=peers.gather
        )
        eos_id = corpus.tokenizer.eos_id
        tx = optimizer.make_optimizer(config.optimizer, num_steps)
        learning_rate = optimizer.learning_rate(config.optimizer, num_steps)
        train_step = steps.make_train_step(
            config.model, tx, sched, config.train.grad_accum_steps, eos_id, learning_rate
        )
        parts = (config.model, tx, sched, block_info, mesh)
        abstract = steps.abstract_state(*parts)
        if latest_step(run_dir.path / "checkpoints") != num_steps:  # it takes longest to compile, so it comes first
            arguments = steps.abstract_arguments(config, sched, abstract, mesh)
            train_step = stack.enter_context(CompiledAhead(train_step, *arguments))
        train_step = compiled(train_step)
        ref_losses = ref and compiled(ref.token_losses)
        score_step = compiled(steps.make_score_step(config.model, eos_id, signals.needs_tokens(sched)))
        score_batch_size = config.train.score_batch_size or config.train.batch_size // config.train.grad_accum_steps
        observe = compiled(score.make_observe_step(sched))
        begin_phase, rates_of = begin_compiled(sched, compiled), compiled(jax.jit(sched.rates))
        weigh = compiled(jax.jit(lambda state: (objective_weights(sched, state), weight_variance(sched, state))))

        # What the run writes: checkpoints, metrics, the losses of a few probe blocks.
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpointer(run_dir.path / "checkpoints", config.train.keep_checkpoints))
        )
        tokens_per_step = config.train.batch_size * config.data.seq_len
        tracker = stack.enter_context(
            Tracker(run_dir.folder, num_steps, config.train, tokens_per_step, learning_rate, clock, peers.first, quiet)
        )
        probes = Probes(
            run_dir.folder / "scores", corpus.train, config.train.probe_blocks, sched.phases, writes=peers.first
        )
        preempted = stack.enter_context(sigterm_noticed(peers))
        stack.enter_context(divergence_explained(checkpoints))

        # What the loop does at more than one place.
        def is_due(every: int) -> bool:
            """At each multiple of `every` but the last step: what is due there is done at the end anyway."""
            return every > 0 and step % every == 0 and step < num_steps

        @contextlib.contextmanager
        def losses_of(ids: np.ndarray, name: str, workers: int = 0) -> Iterator[Iterator]:
            """A pass over the training blocks `ids`, computed as it is read, and shown under `name`."""
            with tracker.stage(name, len(ids)) as advance:
                yield score.losses(
                    score_step, state.params, corpus.train, score_batch_size, mesh, ids, workers, advance
                )

        def probe() -> None:
            """Writes down the losses of the probes. What a scoring pass has just measured is not computed again."""
            with clock.stage("probes"), losses_of(probes.missing(step), "probing") as losses:
                probes.measure(step, losses)

        def measure() -> dict[str, evaluate.Loss]:
            """The held-out loss of each domain."""
            tracker.flush()
            if step not in probes.in_passes:
                probe()
            num_blocks = len(evaluate.chosen_blocks(corpus.valid, config.train.eval_blocks))
            with clock.stage("evaluation"), tracker.stage("evaluating", num_blocks) as advance:
                losses = evaluate.held_out_loss(
                    score_step,
                    state.params,
                    corpus.valid,
                    config.train.eval_blocks,
                    score_batch_size,
                    mesh,
                    advance=advance,
                )
                tracker.evaluation(step, losses)
            evaluated.append(step)
            with clock.stage("saving"):
                run_dir.upload()
            return losses

        def save() -> None:
            """Starts to write a checkpoint; the next steps run meanwhile."""
            # All metrics are read first: a loss that is not finite ends the run here, and its params are not saved.
            tracker.flush()
            with clock.stage("saving"):
                run_dir.upload()
                spent_so_far = {"seconds": clock.seconds, "stages": clock.stages, "spent": spent}
                checkpoints.save(state, origin | spent_so_far | {"evaluated": evaluated, "began": began})

        # Restore, branch, or begin.
        restored = checkpoints.restore(abstract) or given.restored
        if restored is None:
            state = steps.init_state(*parts, config.train.seed, given.params)
            spent, evaluated, began = flops.Spent(), [], given.began
        else:
            state, meta = restored
            start.check_meta(meta, origin, config)
            spent = flops.Spent(*meta["spent"])
            # Checkpoints of older releases do not say the following.
            evaluated, began = meta.get("evaluated", []), initial.Began(*meta.get("began", ()))
            clock.credit(meta.get("stages", {"training": meta["seconds"]}))  # older releases add up all work
        step = int(state.step)
        # The tables may be ahead of the checkpoint, as a kill may come between two: what follows it goes.
        run_dir.download()
        tracker.rewind(step, evaluated, evaluate.num_losses(corpus.valid), began.step)
        probes.rewind(step, evaluated, began.step)
        probes.last, *_ = peers.gather(probes.last)  # all processes measure next, or none does
        if step == num_steps:
            return Result(state, run_dir.load_summary())
        tracker.progress.note(f"policy {policy.described(config.schedule)}")
        if began.checkpoint:
            tracker.progress.note(f"began at step {began.step}, from {began.checkpoint}")
        num_probed = probes.num_computed(config.train.eval_every)
        tracker.progress.note(flops.forecast(config, sched.phases, corpus.train, num_probed, sched.extra))
        for note in filter(None, (compilation_cache.described(), corpus.train.summary(), *corpus.unchecked)):
            tracker.progress.note(note)

        stack.enter_context(clock.stage("training"))
        for index, phase in enumerate(sched.phases):
            if step >= phase.stop:  # it was done before the run was interrupted
                continue

            if step == phase.start:
                tracker.flush()
                # Score: what the model finds hard now. It comes before `begin`, which turns the losses into rates.
                schedule_state = state.schedule
                if phase.score:
                    with clock.stage("scoring"):
                        groups_N = block_info.domain if block_info.cluster is None else block_info.cluster
                        count = flops.num_scored(config, block_info.num_blocks)
                        ids = score.sample_blocks(groups_N, count, config.train.seed, index)
                        with losses_of(ids, "scoring", config.data.workers) as losses:
                            schedule_state = score.observe_all(observe, schedule_state, step, probes.watch(losses))
                    spent = spent.score(config.model, corpus.train, ids)
                if step > 0 or phase.score:  # an untrained model says nothing of a block
                    probe()
                # Begin: from here to the phase's end the rates stand still.
                with clock.stage("selection"):
                    state = state._replace(schedule=begin_phase(schedule_state, index))

            # Plan: the order of the phase's data follows from the rates, the seed and the phase alone. So a run that
            # was interrupted plans the same again, and goes on at the step where it stopped.
            with clock.stage("selection"):
                rates_N = np.asarray(rates_of(state.schedule))
                digest = f"{zlib.crc32(rates_N):08x}"
                cluster.assert_equal_across_processes(peers, {f"the digest of the rates of {phase.name}": digest})
                tracker.phase(phase, rates_N > 0, corpus.train)
                probes.enter(phase, rates_N)
                weights_N = None
                if sched.objective is not None:  # they stay on the devices, where steps look up those of their blocks
                    weights_N, variance = weigh(state.schedule)
                    tracker.note(step, f"{phase.name}: variance of the weights {float(variance):.3g}")
            with clock.stage("plan"):
                plan = plan_batches(
                    corpus.train,
                    rates_N,
                    phase.stop - phase.start,
                    config.train.batch_size,
                    config.data,
                    config.train.seed,
                    index,
                )
            fill_in_the_middle = fim.transform(config.data, corpus.tokenizer, config.train.seed, index)
            done = step - phase.start

            loader = batches(plan, corpus.train, mesh, done, config.data.workers, fill_in_the_middle)
            for batch in clock.each("pipeline", loader):
                # Step. `metrics` stay on the device: reading them now would make it wait for the host.
                placed = shard_batch(batch, mesh)
                ids_B, (rows, length) = batch["ids"], (len(batch["ids"]), batch["tokens"].shape[1] - 1)
                spent = spent.train(config.model, rows, length)
                if ref is not None:
                    placed["ref_token_losses"] = ref_losses(ref.params, placed["tokens"])
                    spent = spent.refer(ref.config, rows, length)
                if held_out is not None:
                    placed["held_out"] = held_out[step]
                    spent = spent.dot_gradients(config.model, rows, length, held_out.shape)
                state, metrics = train_step(state, placed, weights_N)
                step += 1
                tracker.step(StepRecord(step, phase.name, spent.trained_tokens, spent.flops, ids_B, metrics))

                # Evaluate and save at their steps.
                if is_due(config.train.eval_every):
                    measure()
                # It is asked at every step, as the processes of a run agree in it on the step to stop at.
                stop = preempted(step) and step < num_steps
                if stop or is_due(config.train.checkpoint_every):
                    save()
                if stop:
                    tracker.note(
                        step, f"SIGTERM: saving, then exit code {PREEMPTED}; the same command goes on from here"
                    )
                    raise SystemExit(PREEMPTED)

        # Finish. The checkpoint comes last: where it stands, the evaluation and the summary do too.
        losses = measure()
        summary = {
            "policy": config.schedule.policy,
            "init": began.checkpoint,
            "steps": num_steps,
            **spent._asdict(),
            "seconds": clock.seconds,
            "stages": clock.stages,
            "mfu": flops.mfu(spent.flops, clock.seconds, mesh.devices.flat[0].device_kind, mesh.size),
            "held_out_loss": {domain: loss.loss for domain, loss in losses.items()},
        }
        if peers.first:
            run_dir.write_summary(summary)
        save()
        with clock.stage("saving"):
            checkpoints.wait()
        for line in ("where the time went:", *table(clock.stages)):
            tracker.progress.note(line)
        return Result(state, summary)


@contextlib.contextmanager
def divergence_explained(checkpoints: Checkpointer) -> Iterator[None]:
    """Adds to a `NonFiniteLoss` where the last good parameters are, and what to do."""
    try:
        yield
    except NonFiniteLoss as diverged:
        good = checkpoints.latest_good
        left = f"the last good checkpoint is step {good}" if good is not None else "there is no checkpoint yet"
        raise NonFiniteLoss(
            f"{diverged}; {left} in {checkpoints.folder}. Lower optimizer.peak_lr or look at these blocks, and "
            "continue in a new run_dir; the same command repeats the same steps"
        ) from None
