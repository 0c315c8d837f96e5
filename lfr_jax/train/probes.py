"""Probes: the same few training blocks, looked at again and again, to show what becomes of a block.

`probes.csv` has their losses (mean NLL in nats per token, and of how many) whenever they are measured, `rates.csv` the
rate of each on entry of each phase: 1 is the mean rate over all blocks, 0 is not drawn.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from lfr_jax.data.blocks import Blocks
from lfr_jax.schedule import Phase
from lfr_jax.train import evaluate, score
from lfr_jax.train.steps import mean_nll
from lfr_jax.train.track.metrics import Table

LOSSES = ("step", "phase", "block", "domain", "loss", "tokens")
RATES = ("step", "phase", "stop", "block", "rate")


class Probes:
    """About `count` of the `blocks`, as many of each domain, evenly spaced: the same in all runs on one store.

    Call `rewind` first. What a run that goes on does again is not written twice. Of several processes
    that train together all measure, and one `writes`.
    """

    def __init__(
        self, folder: pathlib.Path, blocks: Blocks, count: int, phases: tuple[Phase, ...], writes: bool = True
    ):
        self.folder, self.blocks, self.phases = folder, blocks, phases
        self.ids = evaluate.chosen_blocks(blocks, -(-count // len(blocks.domains)))
        self.losses = Table(folder / "probes.csv", LOSSES, max(1, len(self.ids)), writes)
        self.rates = Table(folder / "rates.csv", RATES, max(1, len(self.ids)), writes)

    def rewind(self, step: int) -> None:
        """Drops what stands there of later steps; at step 0 everything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.losses.rewind(step)
        self.rates.rewind(step)

    @property
    def last(self) -> tuple[int, int]:
        """The last steps of losses and of rates that stand there: what they are is not measured again."""
        return self.losses.last, self.rates.last

    @last.setter
    def last(self, steps: tuple[int, int]) -> None:
        self.losses.last, self.rates.last = steps

    def measure(self, step: int, measured: Iterator) -> None:
        """Writes the losses after `step` steps. `measured` is what `score.losses` yields for `ids`.

        `phase` is the one that the last of these steps was taken in. Where the losses of this
        step stand already, `measured` is left alone, and so nothing is computed.
        """
        if self.losses.last == step:
            return
        phase = next(phase.name for phase in self.phases if step <= phase.stop)
        found = {block: sums for batch in score.on_host(measured) for block, *sums in zip(*batch)}

        def row(block: int) -> dict[str, Any]:
            nll, count = found[block]
            domain, loss = self.domain(block), mean_nll(nll, count)
            return dict(step=step, phase=phase, block=block, domain=domain, loss=loss, tokens=int(count))

        self.losses.append([row(block) for block in self.ids])

    def enter(self, phase: Phase, rates_N: np.ndarray) -> None:
        """Writes the rates of a phase, unless they stand there already."""
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
        return self.blocks.domains[self.blocks.domain_N[block]]
