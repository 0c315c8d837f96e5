"""Held-out batches that take part in training: a policy may ask for the dot product of gradients with theirs."""

import jax
import numpy as np

from lfr_jax import schedule
from lfr_jax.config import Config
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.pipeline import shard_batch
from lfr_jax.distributed.mesh import shards_of
from lfr_jax.train.evaluate import chosen_blocks


class HeldOutBatches:
    """A small batch of held-out blocks for each step, in shuffled epochs, of those that evaluation does not measure.

    So the held-out loss that a run reports stays one of text that no decision has seen.

    Args:
      blocks: all held-out blocks.
      num_steps: of the run.

    Raises:
      ValueError: evaluation measures all of them; or a batch cannot be split over the devices.
    """

    def __init__(self, config: Config, blocks: Blocks, num_steps: int, mesh: jax.sharding.Mesh):
        rows, self.size = mesh.shape["data"] * mesh.shape["fsdp"], config.schedule.held_out_blocks
        if self.size % rows:
            raise ValueError(
                f"schedule.held_out_blocks={self.size} is not divisible by {rows}: the policy {config.schedule.policy} "
                "asks for their gradient, and they are cut over mesh.data × mesh.fsdp devices"
            )
        measured = chosen_blocks(blocks, config.train.eval_blocks)
        self.ids = np.setdiff1d(np.arange(blocks.num_blocks), measured)
        if not len(self.ids):
            raise ValueError(
                f"evaluation measures all {blocks.num_blocks} held-out blocks (train.eval_blocks="
                f"{config.train.eval_blocks} of each domain), and the policy {config.schedule.policy} needs others: "
                "lower train.eval_blocks"
            )
        seed = schedule.random_seed(schedule.Purpose.HELD_OUT, config.train.seed, 0, 0)
        self.order = schedule.plan(np.ones(len(self.ids), bool), num_steps * self.size, seed, 0)
        self.blocks, self.mesh = blocks, mesh
        self.shape = self.size, blocks.seq_len  # rows of a batch, and tokens in each

    def ids_of(self, step: int) -> np.ndarray:
        """i32[B]: the blocks of a step, before which `step` steps were done."""
        return self.ids[self.order[step * self.size : (step + 1) * self.size]].astype(np.int32)

    def __getitem__(self, step: int) -> jax.Array:
        """Their tokens i32[B, T+1], on the mesh."""
        ids_B = self.ids_of(step)
        tokens_RxT1 = self.blocks.tokens(ids_B[shards_of(self.mesh).rows(self.size)])
        return shard_batch({"ids": ids_B, "tokens": tokens_RxT1}, self.mesh)["tokens"]
