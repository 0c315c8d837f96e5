"""From a plan to batches: a Grain data set. Each of its elements is a batch.

A batch is a pure function of its position, so the pipeline holds no state. To resume, start at another position; to
change the data, build another pipeline.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import absl.flags
import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.worker_process import begin_worker
from lfr_jax.distributed.mesh import BATCH, Shards, shards_of


class Batches(Protocol):
    """Which blocks are in each batch. Pickles, and may be asked for any index, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """int64[B]: ids of blocks of one length; −1 is a row of padding."""


class Batched(NamedTuple):
    """Draws in batches of one size. −1 fills up the last batch.

    >>> [ids.tolist() for ids in map(Batched(np.array([7, 3, 5]), size=2).__getitem__, range(2))]
    [[7, 3], [5, -1]]
    """

    draws: object  # a `schedule.Plan`, or an array of block ids: indexed by int[...], and with a length
    size: int  # blocks in a batch

    def __len__(self) -> int:
        return -(-len(self.draws) // self.size)

    def __getitem__(self, index: int) -> np.ndarray:
        positions = np.arange(index * self.size, min((index + 1) * self.size, len(self.draws)))
        ids_B = np.full(self.size, -1, np.int64)
        ids_B[: len(positions)] = self.draws[positions]
        return ids_B


class Interleaved:
    """Batches of several kinds, such as several lengths, mixed.

    Args:
      kinds: the batches of each kind.
      kind_S: int[S], the kind of each batch. Batch s is the next one of that kind.
    """

    def __init__(self, kinds: Sequence[Batches], kind_S: np.ndarray):
        self.kinds, self.kind_S = kinds, kind_S
        self.number_S = np.empty(len(kind_S), np.int64)
        for kind in range(len(kinds)):
            (positions,) = np.nonzero(kind_S == kind)
            self.number_S[positions] = np.arange(len(positions))

    def __len__(self) -> int:
        return len(self.kind_S)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.kinds[self.kind_S[index]][self.number_S[index]]


class Transform(Protocol):
    """Changes the tokens of batches. Pickles, and gives equal rows each time."""

    def __call__(self, tokens_RxT1: np.ndarray, batch: int, row_R: np.ndarray) -> np.ndarray:
        """New tokens int32[R, T+1] for the rows `row_R` of batch number `batch`."""


class BatchSource(NamedTuple):
    """Element i holds all ids of batch i, and the tokens of the rows that belong to this process."""

    batches: Batches
    blocks: Blocks
    shards: Shards
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        ids_B = self.batches[index]
        # Row 0 is read too, as it is never padding: a process that has only padding gets rows of the right length.
        mine = self.shards.rows(len(ids_B))
        tokens_RxT1 = self.blocks.tokens(ids_B[np.append(0, mine)])[1:]
        if self.transform is not None:
            tokens_RxT1 = self.transform(tokens_RxT1, index, mine)
        return {"ids": ids_B.astype(np.int32), "tokens": tokens_RxT1}


def batches(
    wanted: Batches,
    blocks: Blocks,
    mesh: jax.sharding.Mesh,
    start: int = 0,
    workers: int = 0,
    transform: Transform | None = None,
) -> Iterator:
    """Iterates over the batches from number `start` on. Threads or worker processes read ahead.

    Args:
      wanted: which blocks are in each batch.
      workers: processes that read; 0: threads of this process.
      transform: changes the tokens of each batch.

    Yields:
      dict of `ids` int32[B], and `tokens` int32[R, T+1], the R rows that this process puts on the `mesh`.
    """
    if start >= len(wanted):
        return iter(())
    source = BatchSource(wanted, blocks, shards_of(mesh), transform)
    # Grain reads absl's flags, and a program without absl.app never parses them.
    absl.flags.FLAGS.mark_as_parsed()
    grain.config.update("py_traceback_filtering", "off")  # else Grain adds a note about tracebacks to every error
    # Four threads: more are slower, as an element is a whole batch.
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
    dataset = grain.MapDataset.source(source)[start:].to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), begin_worker)
    return iter(dataset)


def shard_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the devices. Rows are sharded over the mesh's batch axes."""
    sharding = NamedSharding(mesh, BATCH)
    ids_B, tokens_RxT1 = batch["ids"], batch["tokens"]
    mine = shards_of(mesh).rows(len(ids_B))  # perhaps not neighbours: devices are in the mesh in any order
    return {
        "ids": jax.make_array_from_process_local_data(sharding, ids_B[mine], ids_B.shape),
        "tokens": jax.make_array_from_process_local_data(sharding, tokens_RxT1, (len(ids_B), *tokens_RxT1.shape[1:])),
    }
