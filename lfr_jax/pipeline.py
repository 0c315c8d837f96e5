"""From a plan to batches: a Grain data set whose elements are whole batches.

The order is a pure function of position, so the pipeline holds no state: to resume, start
it at another position; to change the data, build another one.
"""

from collections.abc import Iterator

import absl.flags
import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from lfr_jax.blocks import Blocks
from lfr_jax.sharding import BATCH


class BatchSource:
    """Element i: rows i·B to i·B + B of `draws`, read from `blocks`; rows past the end are padding.

    Args:
      draws: positions int[...] -> block ids, and a length: a `schedule.Plan`, or `InOrder`.
    """

    def __init__(self, draws, blocks: Blocks, batch_size: int):
        self.draws, self.blocks, self.batch_size = draws, blocks, batch_size

    def __len__(self) -> int:
        return -(-len(self.draws) // self.batch_size)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = index * self.batch_size
        positions = np.arange(start, min(start + self.batch_size, len(self.draws)))
        ids = np.full(self.batch_size, -1, np.int64)
        ids[: len(positions)] = self.draws[positions]
        return {"ids": ids.astype(np.int32), "tokens": self.blocks.rows(ids)}


class InOrder:
    """The blocks `ids` (all of them if an int: 0, 1, ..., n−1), once, in order: for scoring and evaluation."""

    def __init__(self, ids: int | np.ndarray):
        self.ids = ids

    def __len__(self) -> int:
        return self.ids if isinstance(self.ids, int) else len(self.ids)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return positions if isinstance(self.ids, int) else self.ids[positions]


def batches(draws, blocks: Blocks, batch_size: int, start: int = 0, workers: int = 0) -> Iterator[dict]:
    """Iterates over batches `start`, `start + 1`, ... of `draws`, read ahead by threads or worker processes."""
    source = BatchSource(draws, blocks, batch_size)
    if start >= len(source):
        return iter(())
    # Four threads: more are slower when an element is a whole batch.
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
    dataset = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
    if workers:
        # Grain reads absl's flags, which a program without absl.app never parses.
        absl.flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def place(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the devices, its rows split over the mesh's batch axes."""
    sharding = NamedSharding(mesh, BATCH)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
