"""What a run tells its schedule about the blocks: computed when the run begins, and saved in its folder."""

import pathlib

import jax
import numpy as np

from lfr_jax.config import Config
from lfr_jax.config.values import shown
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.clusters import cluster_blocks
from lfr_jax.data.score_files import read_scores, settings_text
from lfr_jax.schedule import BlockInfo, MissingInfo, Schedule
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.files import atomic_file
from lfr_jax.storage.npy import npz_members, parse_npy
from lfr_jax.storage.paths import Path
from lfr_jax.storage.remote_files import exists, read_bytes

FILE = "block_info.npz"
DTYPES = {"cluster": "<i4", "ref_loss": "<f4", "weak_loss": "<f4", "strong_loss": "<f4"}  # of the arrays in it
BLOCKS = "blocks"  # the array that says which blocks the others are of, in UTF-8
HINTS = {
    "cluster": "say how many there are to be: --schedule.clusters 64",
    "length": "cut blocks of several lengths: --data.packing by_length",
    "ref_loss": "name what `lfr score` wrote of a reference model: --schedule.ref-scores FILE",
    "weak_loss": "name what `lfr score` wrote of the weaker of two models: --schedule.weak-scores FILE",
    "strong_loss": "name what `lfr score` wrote of the stronger of two models: --schedule.strong-scores FILE",
}


def load_or_compute(folder: Path, config: Config, blocks: Blocks) -> BlockInfo:
    """Computes what the settings ask for; a run that has a checkpoint loads what it saved when it began.

    So a run goes on unchanged even if a score file has changed since, or is gone.

    Raises:
      FileNotFoundError, ValueError: of `read_scores` and `clusters`; or the run has a checkpoint, and what it saved is
        gone or damaged.
    """
    if latest_step(folder / "checkpoints") is None:
        return info_of(blocks, **compute(config, blocks))
    if exists(folder / FILE):
        return load(folder, blocks)
    chosen = config.schedule
    if chosen.clusters or chosen.ref_scores or chosen.weak_scores or chosen.strong_scores:
        raise FileNotFoundError(
            f"{folder / FILE}: is not there, and the checkpoints of this run depend on what it says of the blocks; put "
            "it back, or begin a new run"
        )
    return info_of(blocks)


def load(folder: Path, blocks: Blocks) -> BlockInfo:
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is damaged, or is of other blocks.
    """
    path = folder / FILE
    members = npz_members(read_bytes(path), path, (*DTYPES, BLOCKS))
    if BLOCKS in members:  # an older release wrote none
        found = parse_npy(members.pop(BLOCKS), path, "|u1", (None,)).tobytes()
        if found != identity(blocks):
            raise ValueError(
                f"{path}: is about the blocks {shown(found.decode(errors='replace'))}, expected those of "
                f"{blocks.store.path}, {shown(identity(blocks).decode())}; the run began with another data.store: put "
                "that one back, or choose another run_dir"
            )
    arrays = {
        name: parse_npy(raw, f"{path}: {name}", DTYPES[name], (blocks.num_blocks,)) for name, raw in members.items()
    }
    cluster_N = arrays.get("cluster", np.zeros(1))
    if cluster_N.min() < 0 or cluster_N.max() >= blocks.num_blocks:
        raise ValueError(
            f"{path}: found clusters from {cluster_N.min()} to {cluster_N.max()}, expected 0 to less than "
            f"{blocks.num_blocks}, the blocks; put the run's own file back"
        )
    return info_of(blocks, **arrays)


def identity(blocks: Blocks) -> bytes:
    """Which blocks these are: of which store, and how they were cut."""
    return f"store {blocks.store.fingerprint} {settings_text(blocks)}".encode()


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


def save(folder: pathlib.Path, info: BlockInfo, blocks: Blocks) -> None:
    """Writes what `load_or_compute` cannot read off the blocks. It stays as it is once a checkpoint depends on it."""
    if latest_step(folder / "checkpoints") is None or not (folder / FILE).exists():
        names = [name for name in DTYPES if getattr(info, name) is not None]
        arrays = {name: np.asarray(getattr(info, name), DTYPES[name]) for name in names}
        arrays[BLOCKS] = np.frombuffer(identity(blocks), np.uint8)
        with atomic_file(folder / FILE) as file:
            np.savez(file.buffer, **arrays)


def check(schedule: Schedule, info: BlockInfo) -> None:
    """Raises ValueError if the policy needs an array that `info` lacks; the message names the setting that gives it."""
    try:
        jax.eval_shape(lambda: schedule.init(info))
    except MissingInfo as missing:
        raise ValueError(f"{missing}; {HINTS[missing.name]}") from None
