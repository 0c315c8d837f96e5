"""What happens before the first step: settings are checked, and one process claims the run directory for all."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from lfr_jax.config import Config, flat
from lfr_jax.data import fim
from lfr_jax.data.corpus import Corpus
from lfr_jax.distributed import cluster
from lfr_jax.distributed.peers import Peers
from lfr_jax.model import attention, decoder
from lfr_jax.schedule import BlockInfo, Schedule
from lfr_jax.storage.checkpoint import latest_step
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import block_info, optimizer


def check(config: Config, corpus: Corpus, mesh: jax.sharding.Mesh, num_steps: int) -> None:
    """Raises ValueError if settings contradict each other, the data or the devices. Nothing is written yet."""
    check_devices(config, mesh)
    optimizer.make_optimizer(config.optimizer, num_steps)
    ids = corpus.tokenizer.vocab_size
    if config.model.vocab_size < ids:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the tokenizer's {ids}: "
            f"raise it to {ids} or more"
        )
    if config.data.fim_rate and config.model.vocab_size <= max(fim.sentinels(ids)):
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} leaves no room for the three sentinels of data.fim_rate, the "
            f"ids after the tokenizer's {ids}: raise it to {ids + 3} or more"
        )
    if config.data.seq_len > config.model.max_len:
        raise ValueError(
            f"data.seq_len={config.data.seq_len} is longer than model.max_len={config.model.max_len}: "
            "raise model.max_len, or cut shorter blocks"
        )
    if config.data.curriculum != "uniform" and config.data.packing != "by_length":
        raise ValueError(
            f"data.curriculum={config.data.curriculum} orders blocks by their length, and those of data.packing="
            f"{config.data.packing} have one: set data.packing=by_length, or leave data.curriculum out"
        )


def check_devices(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError if the model, its attention or the batches do not fit the devices."""
    decoder.abstract(config.model, mesh)
    lengths = [config.data.seq_len] + [config.data.shortest] * (config.data.packing == "by_length")
    with jax.set_mesh(mesh):
        for length in lengths:
            attention.check_kernel(config.model.attention, length, config.model.dtype)
    train, rows = config.train, mesh.shape["data"] * mesh.shape["fsdp"]
    for name, batch, pieces in [
        ("train.batch_size", train.batch_size, train.grad_accum_steps * rows),
        ("train.score_batch_size", train.score_batch_size, rows),
    ]:
        if batch % pieces:
            raise ValueError(
                f"{name}={batch} is not divisible by {pieces}: the batch is cut into train.grad_accum_steps="
                f"{train.grad_accum_steps} micro-batches and over mesh.data × mesh.fsdp = {rows} devices"
            )


NAMES = {
    "fingerprint": "the fingerprint of the training text",
    "held_out_fingerprint": "the fingerprint of the held-out text",
    "reference": "the reference model",
    "matmul_precision": "JAX_DEFAULT_MATMUL_PRECISION",
}


def origin(corpus: Corpus) -> dict[str, Any]:
    """What decides the numbers in a run's tables, beside its settings. Checkpoints hold it, under these names.

    A store's fingerprint covers its tokens, its domains and its tokenizer.
    """
    return {
        "fingerprint": corpus.fingerprint,
        "held_out_fingerprint": corpus.valid.store.fingerprint,
        "matmul_precision": jax.config.jax_default_matmul_precision,
    }


def must_agree(config: Config, corpus: Corpus) -> dict[str, Any]:
    """What must be equal in all processes of a run: settings, versions, source code, data, flags of JAX."""
    settings = {name: value for name, value in flat(config).items() if not name.startswith("distributed.")}
    return settings | cluster.versions() | {NAMES[name]: value for name, value in origin(corpus).items()}


@contextlib.contextmanager
def claim_run_dir(
    run: RunDir, config: Config, corpus: Corpus, sched: Schedule, peers: Peers, told: BlockInfo | None = None
) -> Iterator[BlockInfo]:
    """Locks the run directory, saves the settings in it, and yields what the schedule is told of the blocks.

    One process does this for all. The others wait, then read what it saved.

    Args:
      told: of another run, of which this one is a branch.
    """
    with contextlib.ExitStack() as held:
        if peers.first:
            run.check_config(config)  # before what depends on the settings is read
            info = told or block_info.load_or_compute(run.path, config, corpus.train)
            info = block_info.with_documents(sched, info, corpus.train)
            block_info.check(sched, info)
            held.enter_context(run.lock())
            run.save_config(config)
            block_info.save(run.folder, info, corpus.train)
            corpus.tokenizer.save(run.folder / "tokenizer")
            run.upload()
        # The others look only after this: a network file system may remember for a while that a file was not there.
        last, *_ = peers.gather(latest_step(run.path / "checkpoints") if peers.first else None)
        if not peers.first:
            check_shared(run, last)
            info = block_info.with_documents(sched, block_info.load(run.path, corpus.train), corpus.train)
        yield info


def check_shared(run: RunDir, last: int | None) -> None:
    """Raises ValueError if this process does not see the newest checkpoint that process 0 sees, of step `last`."""
    found = latest_step(run.path / "checkpoints")
    if found != last or not run.exists:
        raise ValueError(
            f"run_dir={run.path} is not the folder that process 0 has under this name (found "
            f"{'checkpoint ' + str(found) if run.exists else 'no run'}, there it is checkpoint {last}): name one on a "
            "file system that all hosts share"
        )


def check_meta(meta: dict[str, Any], now: dict[str, Any], config: Config) -> None:
    """Raises ValueError unless a checkpoint with this metadata can go on with the `origin` that there is now."""
    if "spent" not in meta:
        raise ValueError(
            f"the checkpoint in {config.run_dir} does not say what the run has cost so far: an older release wrote it; "
            "go on with that one, or begin a new run"
        )
    # Checkpoints of older releases name the training text alone.
    differing = [
        f"{NAMES[name]} is {str(value)[:16]} now, and was {str(meta[name])[:16]} when it began"
        for name, value in now.items()
        if meta.get(name, value) != value
    ]
    if differing:
        raise ValueError(
            f"the run in {config.run_dir} cannot go on with other data or flags (data.store is {config.data.store}): "
            f"{'; '.join(differing)}; put back what it began with, or begin a new run"
        )
