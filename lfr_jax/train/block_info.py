"""What a run tells its schedule about the blocks: computed when the run begins, and saved in its folder."""

import io
import pathlib

import jax
import numpy as np

from lfr_jax.config import Config
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.clusters import cluster_blocks
from lfr_jax.data.score_files import read_scores
from lfr_jax.schedule import BlockInfo, MissingInfo, Schedule
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.files import atomic_file
from lfr_jax.storage.remote_files import exists, read_bytes

FILE = "block_info.npz"
HINTS = {
    "cluster": "say how many there are to be: --schedule.clusters 64",
    "length": "cut blocks of several lengths: --data.packing by_length",
    "ref_loss": "name what `lfr score` wrote of a reference model: --schedule.ref-scores FILE",
    "weak_loss": "name what `lfr score` wrote of the weaker of two models: --schedule.weak-scores FILE",
    "strong_loss": "name what `lfr score` wrote of the stronger of two models: --schedule.strong-scores FILE",
}


def load_or_compute(folder: pathlib.Path, config: Config, blocks: Blocks) -> BlockInfo:
    """Computes what the settings ask for; a run that has a checkpoint loads what it saved when it began.

    So a run goes on unchanged even if a score file has changed since, or is gone.

    Raises:
      FileNotFoundError, ValueError: of `read_scores` and `clusters`.
    """
    if latest_step(folder / "checkpoints") is not None and exists(folder / FILE):
        return load(folder, blocks)
    return info_of(blocks, **compute(config, blocks))


def load(folder: pathlib.Path, blocks: Blocks) -> BlockInfo:
    """Reads what `save` wrote."""
    with np.load(io.BytesIO(read_bytes(folder / FILE))) as saved:
        return info_of(blocks, **saved)


def info_of(blocks: Blocks, **arrays: np.ndarray) -> BlockInfo:
    return BlockInfo(blocks.num_blocks, domain=blocks.domain_N, length=blocks.bucket_N, **arrays)


def compute(config: Config, blocks: Blocks) -> dict[str, np.ndarray]:
    """The arrays of `BlockInfo` that the settings ask for, by name."""
    chosen = config.schedule
    files = dict(ref_loss=chosen.ref_scores, weak_loss=chosen.weak_scores, strong_loss=chosen.strong_scores)
    arrays = {name: read_scores(path, blocks) for name, path in files.items() if path}
    if chosen.clusters:
        arrays["cluster"] = cluster_blocks(blocks, chosen.clusters, config.train.seed)
    return arrays


def save(folder: pathlib.Path, info: BlockInfo) -> None:
    """Writes what `load_or_compute` cannot read off the blocks. It stays as it is once a checkpoint depends on it."""
    if latest_step(folder / "checkpoints") is None or not (folder / FILE).exists():
        names = [name for name in HINTS if name != "length" and getattr(info, name) is not None]  # the blocks say it
        arrays = {name: getattr(info, name) for name in names}
        with atomic_file(folder / FILE) as file:
            np.savez(file.buffer, **arrays)


def check(schedule: Schedule, info: BlockInfo) -> None:
    """Raises ValueError if the policy needs an array that `info` lacks; the message names the setting that gives it."""
    try:
        jax.eval_shape(lambda: schedule.init(info))
    except MissingInfo as missing:
        raise ValueError(f"{missing}; {HINTS[missing.name]}") from None
