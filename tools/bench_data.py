"""How fast batches reach the training step: our pipeline, Grain's own shuffle and batch, nanoGPT's loader.

    python tools/bench_data.py --tokens 2e9                          # the loaders, side by side; warm, then cold
    python tools/bench_data.py --config configs/smoke.py             # the share of a step spent waiting for data
    python tools/bench_data.py --config configs/smoke.py --data.seq-len 1024 --model.max-len 1024

The first command writes random tokens to --folder, once, in each loader's own format: about 4.5 bytes a token in all.
In each round every loader delivers --batches batches of 64 blocks of 1,024 tokens, in its own order. The next batch
is asked for when the last one is on the device. Time runs from making the iterator to the last batch. Rounds are
interleaved, and the loaders take turns in going first. Figures are medians over the rounds; a ratio is the median of
the rounds' ratios.

warm: the files were read just before, and fit into memory. cold: before each loader's turn the system drops its copies
of the files (posix_fadvise DONTNEED). The disk, or the host of a virtual machine, may still have copies of its own.
"""

import argparse
import dataclasses
import os
import pathlib
import resource
import statistics
import time

import grain
import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jax.sharding import NamedSharding

from lfr_jax import schedule
from lfr_jax.config import Config
from lfr_jax.config.words import overridden
from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.train import optimizer, policy, steps
from lfr_jax.train.policy import switched

T, B, VOCAB = 1024, 64, 50257
SHARD = 50_000  # blocks in an ArrayRecord file, 100 MB: random reads of one record slow down as files grow
MESH = make_mesh()


def ours(folder: pathlib.Path, count: int, seed: int):
    """Shuffled epochs, as under uniform shuffling."""
    blocks = Blocks(open_store(folder / "store"), T)
    draws = schedule.plan(np.ones(blocks.num_blocks, np.float32), count * B, seed, phase=0)
    return pipeline.batches(pipeline.Batched(draws, B), blocks, MESH)


def ours_unequal(folder: pathlib.Path, count: int, seed: int):
    """As under a policy whose rates all differ."""
    blocks = Blocks(open_store(folder / "store"), T)
    rates_N = np.random.default_rng(seed).random(blocks.num_blocks, np.float32)
    return pipeline.batches(pipeline.Batched(schedule.plan(rates_N, count * B, seed, phase=0), B), blocks, MESH)


def grain_array_record(folder: pathlib.Path, count: int, seed: int, options=None):
    """Grain as in its tutorials: one record for each block."""
    source = grain.sources.ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))
    dataset = grain.MapDataset.source(source).shuffle(seed).repeat()[: count * B].map(decoded).batch(B)
    return iter(dataset.to_iter_dataset(options))


def grain_four_threads(folder: pathlib.Path, count: int, seed: int):
    """The same with our number of threads."""
    return grain_array_record(folder, count, seed, grain.ReadOptions(num_threads=4, prefetch_buffer_size=16))


def decoded(record: bytes) -> dict:
    return {"tokens": np.frombuffer(record, "<u2").astype(np.int32)}


def nanogpt(folder: pathlib.Path, count: int, seed: int):
    """Random offsets, inputs and targets apart, a new mapping at each batch: what its train.py does, in NumPy."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        data = np.memmap(folder / "store" / "tokens.bin", np.uint16, "r")
        starts = rng.integers(0, len(data) - T, B)
        x = np.stack([data[i : i + T].astype(np.int64) for i in starts])
        y = np.stack([data[i + 1 : i + 1 + T].astype(np.int64) for i in starts])
        yield {"x": x, "y": y}


def bare_memmap(folder: pathlib.Path, count: int, seed: int):
    """The leanest memmap loader that we know: one mapping, one gather, one conversion, no read-ahead."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.asarray(np.memmap(folder / "store" / "tokens.bin", "<u2", "r")), T + 1
    )
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {"tokens": windows[rng.integers(0, len(windows), B)].astype(np.int32)}


LOADERS = {
    "ours": ours,
    "ours_unequal": ours_unequal,
    "grain": grain_array_record,
    "grain_4_threads": grain_four_threads,
    "nanogpt": nanogpt,
    "bare_memmap": bare_memmap,
}


def make_store(folder: pathlib.Path, num_tokens: int) -> None:
    """Random tokens as a store, whose `tokens.bin` is a nanoGPT file too."""
    if not (folder / "store").exists():
        rng = np.random.default_rng(0)
        with write_store(folder / "store", VOCAB, VOCAB - 1, "none", "-") as writer:
            writer.source("random", "random")
            for first in range(0, num_tokens, 10_000_000):
                count = min(num_tokens - first, 10_000_000)
                lengths = np.diff([*range(0, count, 1000), count])  # documents of 1,000 tokens, but for the last
                writer.add(rng.integers(0, VOCAB, count, np.uint16), lengths)


def make_array_record(folder: pathlib.Path) -> None:
    """The store's blocks, one record for each."""
    blocks = Blocks(open_store(folder / "store"), T)
    for number, ids in enumerate(np.split(np.arange(blocks.num_blocks), range(SHARD, blocks.num_blocks, SHARD))):
        path = folder / f"{number:05}.array_record"
        if not path.exists():
            writer = ArrayRecordWriter(str(folder / "partial"), "group_size:1,uncompressed")
            for some in np.split(ids, range(1000, len(ids), 1000)):
                for row in blocks.tokens(some).astype("<u2"):
                    writer.write(row.tobytes())
            writer.close()
            os.rename(folder / "partial", path)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder / "store" / "tokens.bin", *folder.glob("*.array_record")]


def warm_up(folder: pathlib.Path) -> None:
    for path in files(folder):
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def drop(folder: pathlib.Path) -> None:
    for path in files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def place(batch: dict) -> dict[str, jax.Array]:
    """Puts a batch on the device: ours, which may hold a part of the rows, by its own function."""
    return pipeline.shard_batch(batch, MESH) if "ids" in batch else jax.device_put(batch, NamedSharding(MESH, BATCH))


def measure(loader, folder: pathlib.Path, count: int, seed: int) -> tuple[float, float]:
    """Tokens a second delivered to the device, and the milliseconds of CPU time (all threads) that a batch cost."""
    start, cpu, delivered = time.perf_counter(), time.process_time(), 0
    for batch in loader(folder, count, seed):
        jax.block_until_ready(place(batch))
        delivered += B * T
    assert delivered == count * B * T
    return delivered / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu) / count


def compare_loaders(folder: pathlib.Path, names: list[str], rounds: int, count: int, state: str) -> None:
    """Prints a table."""
    found = {name: [] for name in names}
    if state == "warm":
        warm_up(folder)
    for round in range(rounds):
        for name in names[round % len(names) :] + names[: round % len(names)]:
            if state == "cold":
                drop(folder)
            found[name].append(measure(LOADERS[name], folder, count, seed=round))
    print(f"\n| {state} | Mtok/s | least – most | CPU ms a batch | {names[0]} is faster by |\n|---|---|---|---|---|")
    for name, results in found.items():
        speeds, cpu = zip(*results)
        ratio = statistics.median(first / speed for (first, _), speed in zip(found[names[0]], speeds))
        print(
            f"| {name} | {statistics.median(speeds) / 1e6:.1f} | {min(speeds) / 1e6:.1f} – {max(speeds) / 1e6:.1f} "
            f"| {statistics.median(cpu):.2f} | {ratio:.2f} × |",
            flush=True,
        )


def waiting(config, num_steps: int) -> None:
    """Prints the share of a training loop's time that goes into fetching and placing batches."""
    corpus = open_corpus(config.data)
    blocks, size = corpus.train, config.train.batch_size
    sched = policy.build(dataclasses.replace(config.schedule, policy="uniform", options={}), num_steps)
    tx = optimizer.make_optimizer(config.optimizer, num_steps)
    train_step = steps.make_train_step(config.model, tx, sched, config.train.grad_accum_steps, corpus.tokenizer.eos_id)
    with jax.set_mesh(MESH):
        info = schedule.BlockInfo(blocks.num_blocks, domain=blocks.domain_N)
        state = steps.init_state(config.model, tx, sched, info, MESH, config.train.seed)
        draws = schedule.plan(np.ones(blocks.num_blocks, np.float32), num_steps * size, config.train.seed, 0)
        batches, waited = pipeline.batches(pipeline.Batched(draws, size), blocks, MESH), []
        for step in range(num_steps):
            before = time.perf_counter()
            batch = pipeline.shard_batch(next(batches), MESH)
            waited.append(time.perf_counter() - before)
            state, metrics = train_step(state, batch)
            jax.block_until_ready(metrics)
            if step == num_steps // 5:  # compiled, and warm
                start, waited = time.perf_counter(), []
        step_time = (time.perf_counter() - start) / len(waited)
    print(
        f"{num_steps} steps of {size} × {config.data.seq_len} tokens: {1e3 * step_time:.2f} ms a step, of which "
        f"{1e3 * statistics.mean(waited):.3f} ms ({statistics.mean(waited) / step_time:.2%}) went into waiting for a "
        f"batch and placing it (median {1e3 * statistics.median(waited):.3f} ms)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("data/bench"))
    parser.add_argument("--tokens", type=float, default=2e9, help="in the made-up store")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=300, help="in a warm round; a cold one has a fifth")
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--config", help="measure the waiting of this one's training loop; settings may follow")
    parser.add_argument("--steps", type=int, default=200)
    asked, settings = parser.parse_known_args()
    if asked.config:
        waiting(switched(*overridden(Config, [asked.config, *settings], parser.prog)), asked.steps)
    elif settings:
        parser.error(f"found {' '.join(settings)}, which goes with --config alone")
    elif asked.tokens <= T:
        parser.error(f"found --tokens {asked.tokens:g}, expected more than {T}: a block and its last target")
    else:
        make_store(asked.folder, int(asked.tokens))
        if "grain" in asked.loaders or "grain_4_threads" in asked.loaders:
            make_array_record(asked.folder)
        compare_loaders(asked.folder, asked.loaders, asked.rounds, asked.batches, "warm")
        compare_loaders(asked.folder, asked.loaders, asked.rounds, asked.batches // 5, "cold")
        print(f"\npeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
