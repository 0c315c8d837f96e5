"""What a run tells its schedule about the blocks: computed when the run begins, and saved in its folder."""

import pathlib
import re
from collections.abc import Callable

import jax
import numpy as np

from lfr_jax.config import Config, ScheduleConfig
from lfr_jax.config.values import shown
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.clusters import cluster_blocks
from lfr_jax.data.column_files import read_column
from lfr_jax.data.score_files import read_scores, settings_text
from lfr_jax.schedule import BlockInfo, MissingInfo, Schedule, num_blocks
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.files import atomic_file
from lfr_jax.storage.npy import npz_members, parse_npy
from lfr_jax.storage.paths import Path
from lfr_jax.storage.remote_files import exists, read_bytes

FILE = "block_info.npz"
DTYPES = {"cluster": "<i4", "ref_loss": "<f4", "weak_loss": "<f4", "strong_loss": "<f4"}  # of the arrays in it
COLUMN = re.compile(r"([fi]4)\.(\w+)")  # the name of another column in it: its type and its own name
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
    if chosen.clusters or files_of(chosen):
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
    members = npz_members(read_bytes(path), path, Known())
    if BLOCKS in members:  # an older release wrote none
        found = parse_npy(members.pop(BLOCKS), path, "|u1", (None,)).tobytes()
        if found != identity(blocks):
            raise ValueError(
                f"{path}: is about the blocks {shown(found.decode(errors='replace'))}, expected those of "
                f"{blocks.store.path}, {shown(identity(blocks).decode())}; the run began with another data.store: put "
                "that one back, or choose another run_dir"
            )
    arrays = {}
    for member, raw in members.items():
        dtype, name = (DTYPES[member], member) if member in DTYPES else COLUMN.fullmatch(member).groups()
        arrays[name] = parse_npy(raw, f"{path}: {member}", f"<{dtype[-2:]}", (blocks.num_blocks,))
    cluster_N = arrays.get("cluster", np.zeros(1))
    if cluster_N.min() < 0 or cluster_N.max() >= blocks.num_blocks:
        raise ValueError(
            f"{path}: found clusters from {cluster_N.min()} to {cluster_N.max()}, expected 0 to less than "
            f"{blocks.num_blocks}, the blocks; put the run's own file back"
        )
    try:
        return info_of(blocks, **arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; put the run's own file back") from None


class Known:
    """The names of arrays that the file may have."""

    def __contains__(self, name: str) -> bool:
        return name in DTYPES or name == BLOCKS or COLUMN.fullmatch(name) is not None


def identity(blocks: Blocks) -> bytes:
    """Which blocks these are: of which store, and how they were cut."""
    return f"store {blocks.store.fingerprint} {settings_text(blocks)}".encode()


def info_of(blocks: Blocks, cluster: np.ndarray | None = None, **columns: np.ndarray) -> BlockInfo:
    """What a schedule is told. Raises ValueError if a column has a name that means something else."""
    info = BlockInfo(blocks.num_blocks, blocks.domain_N, cluster, blocks.bucket_N, columns)
    num_blocks(info)
    return info


def compute(config: Config, blocks: Blocks) -> dict[str, np.ndarray]:
    """The arrays of `BlockInfo` that the settings ask for, by name."""
    chosen = config.schedule
    arrays = {}
    for name, (path, read) in files_of(chosen).items():
        array = read(path, name, blocks)
        arrays[name] = array.astype(DTYPES.get(name, array.dtype))
    if chosen.clusters:
        arrays["cluster"] = cluster_blocks(blocks, chosen.clusters, config.train.seed)
    return arrays


def files_of(chosen: ScheduleConfig) -> dict[str, tuple[str, Callable[[str, str, Blocks], np.ndarray]]]:
    """The files that the settings name, and how each is read, by the name of the column.

    Raises:
      ValueError: two settings name a file for the same column.
    """
    scores = dict(ref_loss=chosen.ref_scores, weak_loss=chosen.weak_scores, strong_loss=chosen.strong_scores)
    files = {
        name: (path, lambda path, name, blocks: read_scores(path, blocks)) for name, path in scores.items() if path
    }
    columns = dict(word.split("=", 1) for word in chosen.columns)
    if twice := sorted(set(files) & set(columns)):
        setting = HINTS[twice[0]].split()[-2]
        raise ValueError(f"schedule.columns names a file for {twice[0]!r}, and so does {setting}: leave one out")
    return files | {name: (path, read_column) for name, path in columns.items()}


def save(folder: pathlib.Path, info: BlockInfo, blocks: Blocks) -> None:
    """Writes what `load_or_compute` cannot read off the blocks. It stays as it is once a checkpoint depends on it."""
    if latest_step(folder / "checkpoints") is None or not (folder / FILE).exists():
        told = dict(info.columns) | ({} if info.cluster is None else {"cluster": info.cluster})
        arrays = {}
        for name, array in told.items():
            dtype = DTYPES.get(name) or ("<i4" if np.issubdtype(np.asarray(array).dtype, np.integer) else "<f4")
            arrays[name if name in DTYPES else f"{dtype[-2:]}.{name}"] = np.asarray(array, dtype)
        arrays[BLOCKS] = np.frombuffer(identity(blocks), np.uint8)
        with atomic_file(folder / FILE) as file:
            np.savez(file.buffer, **arrays)


def with_documents(schedule: Schedule, info: BlockInfo, blocks: Blocks) -> BlockInfo:
    """Adds the documents of the blocks, if the policy needs them. They follow from the store, so they are not saved."""
    try:
        jax.eval_shape(lambda: schedule.init(info))
    except MissingInfo as missing:
        return info._replace(documents=blocks.documents()) if missing.name == "documents" else info
    return info


def stand_in(config: Config, blocks: Blocks) -> BlockInfo:
    """What the settings will tell a schedule, with zeros for all that is read or computed: for `check`, at no cost.

    Raises:
      ValueError: two settings name a file for the same column.
    """
    zeros_N = np.zeros(blocks.num_blocks, np.int32)
    info = info_of(
        blocks, zeros_N if config.schedule.clusters else None, **dict.fromkeys(files_of(config.schedule), zeros_N)
    )
    return info._replace(documents=(zeros_N[:1], zeros_N[:1], zeros_N[:1] + 1))


def check(schedule: Schedule, info: BlockInfo) -> None:
    """Raises ValueError if the policy needs an array that `info` lacks; the message names the setting that gives it."""
    try:
        jax.eval_shape(lambda: schedule.init(info))
    except MissingInfo as missing:
        hint = HINTS.get(missing.name, f"name a file that has it: --schedule.columns {missing.name}=FILE")
        raise ValueError(f"{missing}; {hint}") from None
