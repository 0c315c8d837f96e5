"""The blocks of a phase in the order of its draws, in the form that data loaders read."""

import zlib
from typing import Any, Protocol

import numpy as np

from lfr_jax.schedule.draws.plan import Plan

CHUNK = 1024  # draws computed at once: one alone takes 0.2 ms, and so do these together


class Source(Protocol):
    """What has a length and an item at each number: a data source, a `grain.MapDataset`, an array, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DrawnSource:
    """The blocks of one phase, in the order in which they are to be trained on, each with its id.

    Element i is `(draws[i], source[draws[i]])`. A loader that reads the elements in order trains by the schedule. It
    must not shuffle, repeat or filter them. This is a `RandomAccessDataSource` of Grain: for `grain.MapDataset.source`,
    and for a `grain.DataLoader` with a `SequentialSampler`. It is also a map-style data set of torch.

    A source belongs to one phase and has no position. So a loader may read ahead. When the next phase begins, make its
    source and a new loader. To go on in the middle of a phase, make its source again from the saved state, and read on
    at the position (step − `phase.start`) · batch size, or restore the loader's iterator. Grain's `DataLoader` compares
    the `repr`, which differs between phases, seeds and rates, and refuses an iterator of another source. A
    `MapDataset` does not compare anything.

    It can be pickled if `source` can, and several threads can read it at once.

    Args:
      source: all blocks of the corpus, by id. Not only those of one process or of one domain.
      draws: of the phase, from `plan`.

    Raises:
      IndexError: where an element is read: there is no such position, or `source` has no such block.

    Examples:
      >>> from lfr_jax import schedule
      >>> draws = schedule.plan([1, 0, 1, 0], num_draws=4, seed=0, phase=1)
      >>> drawn = schedule.DrawnSource(["first", "second", "third", "fourth"], draws)
      >>> sorted(drawn[i] for i in range(len(drawn)))
      [(0, 'first'), (0, 'first'), (2, 'third'), (2, 'third')]
      >>> drawn
      DrawnSource(list of 4, phase 1, 4 draws, 4791bcc1)
    """

    def __init__(self, source: Source, draws: Plan):
        self.source, self.draws = source, draws
        self._chunk = -1, np.empty(0, np.int64)  # its number, and its ids; replaced at once, as threads share it

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, position: int) -> tuple[int, Any]:
        if not 0 <= position < len(self.draws):
            raise IndexError(f"position {position}, expected 0 to {len(self.draws) - 1}: the phase has no other draws")
        wanted, offset = divmod(int(position), CHUNK)
        number, ids = self._chunk
        if number != wanted:
            ids = self.draws[wanted * CHUNK : (wanted + 1) * CHUNK]
            self._chunk = wanted, ids
        block = int(ids[offset])
        if block >= len(self.source):  # a MapDataset of Grain would begin again at its first element
            raise IndexError(
                f"the phase draws block {block}, and the source has {len(self.source)}: expected one element for each "
                "rate; a source that is split among processes has to be split after the draws"
            )
        return block, self.source[block]

    def __repr__(self) -> str:
        positions = np.linspace(0, len(self) - 1, min(len(self), CHUNK)).astype(np.int64)
        sample = zlib.crc32(self.draws[positions].astype("<i8").tobytes())
        source = f"{type(self.source).__name__} of {len(self.source)}"
        return f"DrawnSource({source}, phase {self.draws.phase}, {len(self)} draws, {sample:08x})"
