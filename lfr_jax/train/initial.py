"""What a run begins from, where that is a checkpoint of another run: all of its state, or its weights.

A branch (`init.run`) goes on from the whole state: step, weights, optimizer, schedule, and what was spent. It must be
the run that would have come to this state under its own settings. So all that has decided the state must be equal, but
for numbers of the optimizer and options of the policy, which count from here on; and the phases so far, and the order
of their data, must be the same. Then a branch has the same bits as a run of its own, wherever that run would have been
in the same state.

The weights alone (`init.params`) need the same model and tokenizer, and nothing else.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lfr_jax.config import Config, differing_settings
from lfr_jax.data import tokenizer
from lfr_jax.data.corpus import Corpus
from lfr_jax.data.phase_batches import is_prefix_of_longer
from lfr_jax.model import decoder
from lfr_jax.schedule import BlockInfo, Phase, Schedule
from lfr_jax.storage.checkpoint import newest_step_in
from lfr_jax.storage.digests import leaves_by_name
from lfr_jax.storage.named_checkpoint import NamedCheckpoint
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import block_info, optimizer, policy, start, steps

# Beside those that may always change. They count from the branch on, or change nothing that is trained.
FREE_IN_A_BRANCH = re.compile(r"init[.]|optimizer[.](?!name$)|schedule[.]options[.]|train[.](steps|probe_blocks)$")


class Began(NamedTuple):
    """Where a run began. Its checkpoints say so."""

    step: int = 0  # how many steps of another run came before
    checkpoint: str = ""  # RUN@STEP, of which it took the state or the weights


class Initial(NamedTuple):
    """What a run begins from; nothing is set where it begins from random weights, or goes on."""

    began: Began = Began()
    params: Any = None  # the weights alone
    restored: tuple[steps.TrainState, dict[str, Any]] | None = None  # of a branch, as `Checkpointer.restore` gives it
    block_info: BlockInfo | None = None  # of a branch: what the schedule was told when the other run began


def load(
    config: Config, run_dir: RunDir, corpus: Corpus, sched: Schedule, mesh: jax.sharding.Mesh, origin: dict[str, Any]
) -> Initial:
    """What the settings say that a run begins from. A run that has a checkpoint goes on from that; nothing is read.

    Args:
      origin: of this run, see `start.origin`.

    Raises:
      FileNotFoundError, DamagedCheckpoint, Unreadable: of `NamedCheckpoint`.
      ValueError: this run cannot begin from that checkpoint; the message says why.
    """
    name = config.init.run or config.init.params
    if not name or newest_step_in(run_dir.path / "checkpoints", tried={}) is not None:
        return Initial()
    checkpoint = NamedCheckpoint(name)
    with explained(f"init.{'run' if config.init.run else 'params'}={checkpoint.name}"):
        check_tokenizer(checkpoint, corpus)
        if config.init.run:
            return branch(config, checkpoint, corpus, sched, mesh, origin)
        return weights(config, checkpoint, mesh)


@contextlib.contextmanager
def explained(setting: str) -> Iterator[None]:
    """Puts the setting before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from None


def branch(
    config: Config,
    checkpoint: NamedCheckpoint,
    corpus: Corpus,
    sched: Schedule,
    mesh: jax.sharding.Mesh,
    origin: dict[str, Any],
) -> Initial:
    """The whole state of a checkpoint, with which this run goes on."""
    trunk = checkpoint.run.load_config()
    check_settings(trunk, config)
    start.check_meta(checkpoint.meta, origin, dataclasses.replace(config, run_dir=str(checkpoint.run.path)))
    trunk_sched = policy.build(trunk.schedule, trunk.train.steps)
    check_phases(checkpoint.step, trunk_sched.phases, sched.phases)
    info = block_info.load_or_compute(checkpoint.run.path, config, corpus.train)
    info = block_info.with_documents(sched, info, corpus.train)
    check_options(trunk_sched.init(info), sched.init(info))
    tx = optimizer.make_optimizer(config.optimizer, sched.phases[-1].stop)
    state = checkpoint.restore(steps.abstract_state(config.model, tx, sched, info, mesh))
    with jax.set_mesh(mesh):
        check_order(checkpoint.step, trunk_sched, sched, state.schedule, config)
    began = Began(checkpoint.step, checkpoint.name)
    return Initial(began, None, (state, checkpoint.meta | {"evaluated": [], "began": began}), info)


def weights(config: Config, checkpoint: NamedCheckpoint, mesh: jax.sharding.Mesh) -> Initial:
    """The parameters of a checkpoint, with which this run begins at step 0."""
    params = checkpoint.restore(decoder.abstract(config.model, mesh), prefix="params.")
    return Initial(Began(0, checkpoint.name), params)


def check_tokenizer(checkpoint: NamedCheckpoint, corpus: Corpus) -> None:
    """Raises ValueError if the weights read tokens of another tokenizer."""
    found = tokenizer.load_tokenizer(checkpoint.run.path / "tokenizer").digest
    if found != corpus.tokenizer.digest:
        raise ValueError(
            f"that run reads tokens of another tokenizer (sha256 {found[:12]}…) than data.store has "
            f"({corpus.tokenizer.digest[:12]}…): prepare the text with the run's tokenizer, which is in "
            f"{checkpoint.run.path / 'tokenizer'}"
        )


def check_settings(trunk: Config, config: Config) -> None:
    """Raises ValueError that lists the settings which have decided the state of the trunk, and differ here."""
    differing = {
        name: values for name, values in differing_settings(trunk, config).items() if not FREE_IN_A_BRANCH.match(name)
    }
    if differing:
        changes = [f"{name} is {before!r} there and {now!r} here" for name, (before, now) in differing.items()]
        raise ValueError(
            f"a branch goes on with the state and the data of that run, which had other settings: "
            f"{'; '.join(changes)}; use those, or take its weights alone (init.params)"
        )


def check_phases(step: int, before: tuple[Phase, ...], now: tuple[Phase, ...]) -> None:
    """Raises ValueError unless two runs have the same phases up to `step`, and this one goes on after it.

    The phase in which `step` lies may have another length, see `check_order`.
    """
    if step >= now[-1].stop:
        raise ValueError(
            f"that run is at step {step} there, and this one ends at step {now[-1].stop}: raise train.steps, or name "
            "an earlier checkpoint, RUN@STEP"
        )
    if up_to(step, before) != up_to(step, now):
        there, here = (", ".join(f"{p.name} {p.start}–{p.stop}" for p in up_to(step, p)) for p in (before, now))
        raise ValueError(
            f"up to step {step} that run had the phases {there}, and this run would have had {here}: a branch needs "
            "the same ones. train.steps stretches all phases of a policy: set it to 0, and their lengths by "
            "schedule.options; or keep train.steps"
        )


def up_to(step: int, phases: tuple[Phase, ...]) -> list[Phase]:
    """The phases of the first `step` steps, the last one cut off there."""
    return [phase._replace(stop=min(phase.stop, step)) for phase in phases if phase.start < step]


def check_options(there: Any, here: Any) -> None:
    """Raises ValueError if two schedules begin with different states: these hold options, which a branch keeps."""
    before, now = leaves_by_name(there), leaves_by_name(here)
    for name in before | now:
        if not np.array_equal(before.get(name), now.get(name), equal_nan=True):
            raise ValueError(
                f"the policy writes its options into its state when a run begins ({name}), so others would not count "
                "in a branch: use the schedule.options and train.steps of that run, or take its weights alone "
                "(init.params)"
            )


def check_order(step: int, trunk: Schedule, sched: Schedule, state: Any, config: Config) -> None:
    """Raises ValueError if the data of the phase in which `step` lies would not go on in the order of the trunk.

    Args:
      state: the schedule's, at `step`.
    """
    index = len(up_to(step, sched.phases)) - 1
    there, here = trunk.phases[index], sched.phases[index]
    rates_N, rates_there_N = (np.asarray(jax.jit(of.rates)(state)) for of in (sched, trunk))
    if there.stop != here.stop and not is_prefix_of_longer(rates_there_N, config.data):
        raise ValueError(
            f"the phase {here.name} has {there.stop - there.start} steps there and {here.stop - here.start} here, and "
            "the order of its data depends on that, as it draws some blocks more often than others or has several "
            f"lengths: give it as many steps, or branch where a phase ends there (step {there.stop})"
        )
    if step < here.stop and not np.array_equal(rates_N, rates_there_N):
        raise ValueError(
            f"schedule.options change the draw rates of the phase {here.name} in its middle: branch where a phase "
            f"ends (step {here.stop}), or use the options of that run"
        )


def refuse_branches(config: Config) -> None:
    """Raises ValueError if `init.run` is set, for commands whose runs have other policies than the settings say."""
    if config.init.run:
        raise ValueError(
            f"init.run={config.init.run}: each run of this command has a policy of its own, and a branch keeps that of "
            f"its run: leave it out. With --init.params {config.init.run} all of them begin from the same weights"
        )
