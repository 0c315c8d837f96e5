"""Training, from top to bottom in the order in which it happens. `Trainer.run` is the loop."""

import contextlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lfr_jax import schedule
from lfr_jax.config import Config
from lfr_jax.data import fim, phase_batches, pipeline
from lfr_jax.data.corpus import Corpus, open_corpus
from lfr_jax.distributed import cluster
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.distributed.peers import Peers
from lfr_jax.distributed.preemption import PREEMPTED, sigterm_noticed
from lfr_jax.storage.checkpoint import Checkpointer
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import evaluate, flops, optimizer, policy, score, start, steps
from lfr_jax.train.flops import mfu
from lfr_jax.train.probes import Probes
from lfr_jax.train.track.clock import Clock
from lfr_jax.train.track.metrics import MetricsWriter
from lfr_jax.train.track.progress import Progress
from lfr_jax.train.track.recorder import Measured, NonFiniteLoss, Recorder


class Result(NamedTuple):
    """A finished run."""

    state: steps.TrainState
    summary: dict[str, Any]  # what summary.json holds


def train(config: Config, quiet: bool = False) -> Result:
    """Trains as `config` says in `config.run_dir`, or continues what stands there, to the last step.

    Raises:
      ValueError: the settings contradict each other, the data, the devices, or the run that stands there.
      NonFiniteLoss: a loss became NaN or infinite; the message names the step, its blocks, and the checkpoint.
      SystemExit(75): SIGTERM came; everything is saved.
      OSError: of the processes that `config.distributed` names, not all have come; or the folder is in use.
    """
    with cluster.initialize(config.distributed) as peers:
        corpus = open_corpus(config.data)
        sched = policy.build(config.schedule, config.train.steps)
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        start.check(config, corpus, mesh, sched.phases[-1].stop)
        cluster.assert_equal_across_processes(peers, start.facts(config, corpus))
        run = RunDir(config.run_dir)
        with start.taken(run, config, corpus, sched, peers) as info, jax.set_mesh(mesh):
            return trained(Trainer(config, corpus, info, sched, mesh, run, peers, quiet))


def trained(trainer: "Trainer") -> Result:
    """Runs it to its end, whichever that is."""
    with (
        contextlib.closing(trainer.checkpoints),
        contextlib.closing(trainer.metrics),
        trainer.progress,
        sigterm_noticed(trainer.peers) as terminated,
    ):
        try:
            return trainer.run(terminated)
        except NonFiniteLoss as diverged:
            trainer.record(diverged.before)
            good, folder = trainer.checkpoints.latest_good, trainer.run_dir.path / "checkpoints"
            left = f"the last good checkpoint is step {good}" if good is not None else "there is no checkpoint yet"
            raise NonFiniteLoss(
                f"{diverged}; {left} in {folder}. Lower optimizer.peak_lr or look at these blocks, and continue in a "
                "new run_dir; the same command repeats the same steps"
            ) from None


class Trainer:
    """The parts of one run. Only `run` decides when what happens."""

    def __init__(self, config: Config, corpus: Corpus, info, sched, mesh, run: RunDir, peers: Peers, quiet: bool):
        self.config, self.corpus, self.schedule, self.mesh, self.run_dir = config, corpus, sched, mesh, run
        self.info, self.peers = info, peers
        self.num_steps = sched.phases[-1].stop
        self.spent = flops.Spent()
        self.optimizer = optimizer.make_optimizer(config.optimizer, self.num_steps)
        self.learning_rate = optimizer.learning_rate(config.optimizer, self.num_steps)
        eos_id = corpus.tokenizer.eos_id
        self.clock = Clock()
        grad_accum_steps = config.train.grad_accum_steps
        train_step = steps.make_train_step(config.model, self.optimizer, sched, grad_accum_steps, eos_id)
        self.train_step = steps.compiled_off_the_clock(train_step, self.clock.paused, peers.gather)
        score_step = steps.make_score_step(config.model, eos_id)
        self.score_step = steps.compiled_off_the_clock(score_step, self.clock.paused, peers.gather)
        self.begin = jax.jit(sched.begin, static_argnums=1, donate_argnums=0)
        self.score_batch_size = config.train.score_batch_size or config.train.batch_size // grad_accum_steps
        self.checkpoints = Checkpointer(run.path / "checkpoints", config.train.keep_checkpoints)
        self.metrics = MetricsWriter(run.folder)
        self.probes = Probes(
            run.folder / "scores", corpus.train, config.train.probe_blocks, sched.phases, writes=peers.first
        )
        self.progress = Progress(self.num_steps, quiet=quiet or not peers.first)
        self.recorder = Recorder(config.train.log_every)

    def run(self, terminated: Callable[[int], bool]) -> Result:
        with self.clock.paused():
            state = self.restored_or_fresh()
        step = int(state.step)
        if step == self.num_steps:
            return Result(state, self.run_dir.load_summary())
        if about := self.corpus.train.summary():
            self.progress.note(about)
        for index, phase in enumerate(self.schedule.phases):
            if step >= phase.stop:
                continue
            if step == phase.start:
                state = self.enter(state, index)
            for batch in self.phase_batches(state, index, step):
                state, on_device = self.train_step(state, pipeline.shard_batch(batch, self.mesh))
                step += 1
                self.spent = self.spent.train(self.config.model, len(batch["ids"]), batch["tokens"].shape[1] - 1)
                tokens, flops = self.spent.trained_tokens, self.spent.flops
                self.record(self.recorder.add(Measured(step, phase.name, tokens, flops, batch["ids"], on_device)))
                if self.due(step, self.config.train.eval_every):
                    self.evaluate(state, step)
                stop = terminated(step) and step < self.num_steps
                if stop or self.due(step, self.config.train.checkpoint_every):
                    self.save(state)
                if stop:
                    self.progress.note(
                        f"step {step}/{self.num_steps}  SIGTERM: saving, then exit code {PREEMPTED}; the same command "
                        "goes on from here"
                    )
                    raise SystemExit(PREEMPTED)
        return self.finish(state)

    def restored_or_fresh(self) -> steps.TrainState:
        """The newest sound checkpoint's state, or the first one. Results of later steps are cut off."""
        parts = (self.config.model, self.optimizer, self.schedule, self.info, self.mesh)
        restored = self.checkpoints.restore(steps.abstract_state(*parts))
        if restored is None:
            state = steps.init_state(*parts, self.config.train.seed)
        else:
            state, meta = restored
            start.check_meta(meta, self.corpus.fingerprint, self.config)
            self.clock.credit(meta["seconds"])
            self.spent = flops.Spent(*meta["spent"])
        self.run_dir.download()
        if self.peers.first:
            self.metrics.rewind(int(state.step))
        self.probes.rewind(int(state.step))
        self.probes.last, *_ = self.peers.gather(self.probes.last)  # or not all of them would measure next
        return state

    def enter(self, state: steps.TrainState, index: int) -> steps.TrainState:
        """Scores the data if the phase wants it, and sets the phase's rates."""
        phase, config = self.schedule.phases[index], self.config
        self.record(self.recorder.read())
        self.probe(state, phase.start)
        schedule_state = state.schedule
        if phase.score:
            groups_N = self.info.domain if self.info.cluster is None else self.info.cluster
            count = flops.num_scored(config, self.info.num_blocks)
            ids = score.sample(groups_N, count, config.train.seed, index)
            with self.scored("scoring", state, ids, config.data.workers) as measured:
                schedule_state = score.observe_all(self.schedule, schedule_state, phase.start, measured)
            self.spent = self.spent.score(config.model, self.corpus.train, ids)
        return state._replace(schedule=self.begin(schedule_state, index))

    def probe(self, state: steps.TrainState, step: int) -> None:
        """Measures the probes: on entry of every phase, and at every evaluation."""
        with self.clock.paused(), self.scored("probing", state, self.probes.ids) as measured:
            self.probes.measure(step, measured)

    @contextlib.contextmanager
    def scored(self, name: str, state: steps.TrainState, ids: np.ndarray, workers: int = 0):
        """A pass over the training blocks `ids`, shown under `name` while it is read."""
        with self.progress.stage(name, len(ids)) as advance:
            yield score.losses(
                self.score_step, state.params, self.corpus.train, self.score_batch_size, self.mesh,
                ids=ids, workers=workers, advance=advance,
            )  # fmt: skip

    def phase_batches(self, state: steps.TrainState, index: int, step: int):
        """The phase's remaining batches. They follow from the state that the phase began with, seed and step alone."""
        phase, blocks, config = self.schedule.phases[index], self.corpus.train, self.config
        rates_N = np.asarray(self.schedule.rates(state.schedule))
        cluster.assert_equal_across_processes(
            self.peers, {f"the digest of the rates of {phase.name}": f"{zlib.crc32(rates_N):08x}"}
        )
        self.announce(phase, rates_N > 0)
        self.probes.enter(phase, rates_N)
        wanted = phase_batches.plan_batches(
            blocks, rates_N, phase.stop - phase.start, config.train.batch_size, config.data, config.train.seed, index
        )
        change = fim.transform(config.data, self.corpus.tokenizer, config.train.seed, index)
        return pipeline.batches(wanted, blocks, self.mesh, step - phase.start, config.data.workers, change)

    def announce(self, phase: schedule.Phase, drawn_N: np.ndarray) -> None:
        """Shows a phase and, where it leaves blocks out, how much of each domain it draws from."""
        self.progress.phase(phase.name, kept=np.mean(drawn_N))
        blocks = self.corpus.train
        if not drawn_N.all():
            of_domain = {name: drawn_N[blocks.domain_N == i] for i, name in enumerate(blocks.domains)}
            parts = "  ".join(f"{name} {100 * np.mean(of):.0f} %" for name, of in of_domain.items() if len(of))
            self.progress.note(f"step {phase.start}/{self.num_steps}  {phase.name} keeps  {parts}")

    def record(self, measured: list[tuple[Measured, dict[str, np.ndarray]]]) -> None:
        """Writes and shows what was read from the devices."""
        if not measured:
            return
        rates = np.asarray(self.learning_rate(np.array([at.step - 1 for at, _ in measured])), np.float32)
        rows = [
            {
                "step": at.step,
                "phase": at.phase,
                "loss": numbers["loss"],
                "grad_norm": numbers["grad_norm"],
                "learning_rate": rate,
                "tokens": at.tokens,
                "flops": at.flops,
                "blocks": f"{zlib.crc32(at.ids_B.tobytes()):08x}",  # shows which blocks, in which order
                "seconds": self.clock.seconds,
            }
            for (at, numbers), rate in zip(measured, rates)
        ]
        if self.peers.first:
            self.metrics.train(rows)
        tokens_per_step = self.config.train.batch_size * self.config.data.seq_len
        self.progress.update(rows[-1]["step"], rows[-1]["loss"], tokens_per_step)

    def due(self, step: int, every: int) -> bool:
        """At each multiple of `every`, but for the last step: `finish` does what is due there."""
        return every > 0 and step % every == 0 and step < self.num_steps

    def evaluate(self, state: steps.TrainState, step: int) -> dict[str, evaluate.Loss]:
        """Measures, writes and shows the held-out loss."""
        self.record(self.recorder.read())
        self.probe(state, step)
        blocks, per_domain = self.corpus.valid, self.config.train.eval_blocks
        chosen = len(evaluate.chosen_blocks(blocks, per_domain))
        with self.clock.paused(), self.progress.stage("evaluating", chosen) as advance:
            losses = evaluate.held_out_loss(
                self.score_step, state.params, blocks, per_domain, self.score_batch_size, self.mesh, advance=advance
            )
        if self.peers.first:
            self.metrics.evaluate(step, losses)
            self.run_dir.upload()
        parts = "  ".join(f"{domain} {measured.loss:.3f}" for domain, measured in losses.items())
        self.progress.note(f"step {step}/{self.num_steps}  held-out loss  {parts}")
        return losses

    def save(self, state: steps.TrainState) -> None:
        """Starts a checkpoint. What was measured is read first: a non-finite loss or gradient stops it."""
        self.record(self.recorder.read())
        self.run_dir.upload()
        meta = {"fingerprint": self.corpus.fingerprint, "seconds": self.clock.seconds, "spent": self.spent}
        self.checkpoints.save(state, meta)

    def finish(self, state: steps.TrainState) -> Result:
        """The last evaluation, the summary, the last checkpoint: where that stands, the others do too."""
        losses, device = self.evaluate(state, self.num_steps), self.mesh.devices.flat[0]
        summary = {
            "policy": self.config.schedule.policy,
            "steps": self.num_steps,
            **self.spent._asdict(),
            "seconds": self.clock.seconds,
            "mfu": mfu(self.spent.flops, self.clock.seconds, device.device_kind, self.mesh.size),
            "held_out_loss": {domain: loss.loss for domain, loss in losses.items()},
        }
        if self.peers.first:
            self.run_dir.write_summary(summary)
        self.save(state)
        self.checkpoints.wait()
        return Result(state, summary)
