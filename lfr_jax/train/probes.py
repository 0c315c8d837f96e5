"""Probes: a few training blocks whose losses and rates are written down throughout a run.

`probes.csv` has their losses (mean NLL in nats per token, and the number of tokens) at each measurement. `rates.csv`
has their rates on entry of each phase: 1 is the mean rate over all blocks, 0 is not drawn.
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.domain_names import unreserved
from lfr_jax.schedule import Phase
from lfr_jax.train import evaluate, score
from lfr_jax.train.loss import mean_nll
from lfr_jax.train.track.metrics import Table

LOSSES = ("step", "phase", "block", "domain", "loss", "tokens")
RATES = ("step", "phase", "stop", "block", "rate")


class Probes:
    """About `count` of the `blocks`, equally many of each domain, evenly spaced: the same in all runs on one store.

    Call `rewind` first. A run that goes on repeats steps; what their tables hold already is not written twice. All
    processes of a run measure, and one of them `writes`.
    """

    def __init__(
        self, folder: pathlib.Path, blocks: Blocks, count: int, phases: tuple[Phase, ...], writes: bool = True
    ):
        self.folder, self.blocks, self.phases = folder, blocks, phases
        self.in_passes = {phase.start for phase in phases if phase.score}  # steps at which a pass measures probes
        self.seen: list[tuple[dict, tuple]] = []  # of the pass at this step, the batches with probes
        self.ids = evaluate.chosen_blocks(blocks, -(-count // len(blocks.domains)))
        self.losses = Table(folder / "probes.csv", LOSSES, writes)
        self.rates = Table(folder / "rates.csv", RATES, writes)

    def rewind(self, step: int, evaluated: Iterable[int] = (), began: int = 0) -> None:
        """Drops the rows of later steps; where the run begins, after `began` steps of another one, all rows.

        Warns if a phase that the run has entered is missing, or the losses after one of the steps `evaluated`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        rows, last = max(1, len(self.ids)), step if step > began else 0
        entered = {phase.start for phase in self.phases if phase.start < last and phase.stop > began}
        measured = {at for at in entered if at >= max(1, began)}
        measured |= {at for at in evaluated if at < step or at not in self.in_passes}
        self.losses.rewind(last, measured if len(self.ids) else (), rows)
        self.rates.rewind(last, entered if len(self.ids) else (), rows)

    @property
    def last(self) -> tuple[int, int]:
        """The last step in the table of losses, and in that of rates. Neither is measured again."""
        return self.losses.last, self.rates.last

    @last.setter
    def last(self, steps: tuple[int, int]) -> None:
        self.losses.last, self.rates.last = steps

    def num_computed(self, eval_every: int) -> int:
        """How many blocks a run computes for its probes, if they are in all of its scoring passes."""
        num_steps = self.phases[-1].stop
        evaluated = range(eval_every, num_steps, eval_every) if eval_every else ()
        entered = (phase.start for phase in self.phases if phase.start > 0)
        return len({*evaluated, *entered, num_steps} - self.in_passes) * len(self.ids)

    def watch(self, measured: Iterator) -> Iterator:
        """Passes a scoring pass through. `measure` takes from it what it has of the probes."""
        for batch, sums in measured:
            if np.isin(batch["ids"], self.ids).any():
                self.seen.append(({"ids": batch["ids"]}, sums[:2]))
            yield batch, sums

    def missing(self, step: int) -> np.ndarray:
        """Ids of the probes that have still to be computed at this step."""
        if self.losses.last == step:
            return self.ids[:0]
        seen = [batch["ids"] for batch, _ in self.seen]
        return self.ids[~np.isin(self.ids, np.concatenate(seen))] if seen else self.ids

    def measure(self, step: int, measured: Iterator) -> None:
        """Writes the losses after `step` steps. `measured` is what `score.losses` yields for those that are `missing`.

        The column `phase` names the phase of the last of these steps. If the table has the losses of this step already,
        `measured` is not read, and so nothing is computed.
        """
        seen, self.seen = self.seen, []
        if self.losses.last == step:
            return
        measured = itertools.chain(seen, measured)
        phase = next(phase.name for phase in self.phases if step <= phase.stop)
        found = {block: sums for batch in score.on_host(measured) for block, *sums in zip(*batch)}

        def row(block: int) -> dict[str, Any]:
            nll, count = found[block]
            domain, loss = self.domain(block), mean_nll(nll, count)
            return dict(step=step, phase=phase, block=block, domain=domain, loss=loss, tokens=int(count))

        self.losses.append([row(block) for block in self.ids])

    def enter(self, phase: Phase, rates_N: np.ndarray) -> None:
        """Writes the rates of a phase, unless the table has them already."""
        if self.rates.last == phase.start:
            return
        relative = (rates_N[self.ids] / np.mean(rates_N, dtype=np.float64)).astype(np.float32)
        self.rates.append(
            [
                dict(step=phase.start, phase=phase.name, stop=phase.stop, block=block, rate=rate)
                for block, rate in zip(self.ids, relative)
            ]
        )

    def domain(self, block: int) -> str:
        return unreserved(self.blocks.domains[self.blocks.domain_N[block]])
