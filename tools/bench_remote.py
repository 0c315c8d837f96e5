"""How fast batches come out of an object store: in the first epoch, and from the cache after it.

    python tools/bench_remote.py --tokens 5e8 --latency 0.03

No object store is needed: a small server on this machine answers like Google Cloud Storage, --latency seconds after
each request. It shares the processor with the reader. So this measures what the reader costs and how it hides the
latency, not a network. Random tokens are made in --folder, once. Batches of 64 blocks of 1,024 tokens are
read in shuffled order by the pipeline's four threads, to host memory.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import time
from urllib.parse import unquote

import jax
import numpy as np

from lfr_jax import schedule
from lfr_jax.data import pipeline
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.storage import remote_files

T, B, VOCAB = 1024, 64, 50257


def make_store(folder: pathlib.Path, tokens: int) -> None:
    if not (folder / "store").exists():
        with write_store(folder / "store", VOCAB, VOCAB - 1, "random", "none") as writer:
            writer.source("random", "random")
            rng = np.random.default_rng(0)
            for first in range(0, tokens, 10_000_000):
                count = min(tokens - first, 10_000_000) // 1000  # documents of 1,000 tokens
                writer.add(rng.integers(0, VOCAB, 1000 * count, np.uint16), np.full(count, 1000))


def serve(folder: pathlib.Path, latency: float, port) -> None:
    """Answers for the objects gs://bucket/PATH, which are the files of `folder`."""

    async def answer(reader, writer):
        try:
            while line := await reader.readline():
                path, start, stop = unquote(line.split()[1].decode()), 0, None
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    if found := re.match(rb"range: bytes=(\d+)-(\d+)", header, re.IGNORECASE):
                        start, stop = int(found[1]), int(found[2]) + 1
                await asyncio.sleep(latency)
                file = folder / path.partition("/o/")[2].partition("?")[0]
                status, content = 404, b""
                if "/o/" in path and file.is_file():
                    if path.startswith("/download/"):
                        with open(file, "rb") as opened:
                            opened.seek(start)
                            status, content = 206, opened.read(None if stop is None else stop - start)
                    else:
                        name = str(file.relative_to(folder))
                        described = {"name": name, "bucket": "bucket", "size": file.stat().st_size, "generation": "1"}
                        status, content = 200, json.dumps(described).encode()
                elif path.endswith("/o") or "/o?" in path:
                    status, content = 200, b"{}"
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
                await writer.drain()
        except ConnectionError:
            pass  # gcsfs hangs up on questions that another answer settled
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


def epoch(url: str, cache: str, batches: int, seed: int) -> tuple[float, float, float]:
    """Seconds until the store is open, until the first batch, and for all of them."""
    start = time.perf_counter()
    blocks = Blocks(open_store(url, cache), T)
    opened = time.perf_counter() - start
    draws = schedule.plan(np.ones(blocks.num_blocks, np.float32), batches * B, seed, phase=0)
    first = None
    for _ in pipeline.batches(pipeline.Batched(draws, B), blocks, make_mesh(devices=jax.devices()[:1])):
        first = first or time.perf_counter() - start
    return opened, first, time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("data/bench_remote"))
    parser.add_argument("--tokens", type=float, default=5e8, help="in the made-up store")
    parser.add_argument("--latency", type=float, default=0.03, help="seconds, of each request")
    parser.add_argument("--chunks", type=int, nargs="+", default=[remote_files.CHUNK], help="bytes")
    parser.add_argument("--uncached", type=int, default=50, help="batches to read without a cache")
    asked = parser.parse_args()
    make_store(asked.folder, int(asked.tokens))
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(asked.folder, asked.latency, port), daemon=True
    )
    server.start()
    while not port.value:
        time.sleep(0.01)
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port.value}"
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # would ask Google what kind of bucket it is
    batches = int(asked.tokens) // T // B
    print(
        "| chunk | open | first batch | 100 batches | first epoch | | from the cache |\n|---|---|---|---|---|---|---|"
    )
    for chunk in asked.chunks:
        remote_files.CHUNK = chunk
        cache = asked.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        _, _, hundred = epoch("gs://bucket/store", str(cache), 100, seed=0)
        shutil.rmtree(cache)
        opened, first, cold = epoch("gs://bucket/store", str(cache), batches, seed=0)
        _, _, warm = epoch("gs://bucket/store", str(cache), batches, seed=1)
        speeds = [batches * B * T / seconds / 1e6 for seconds in (cold, warm)]
        print(
            f"| {chunk >> 10} KiB | {opened:.2f} s | {first:.2f} s | {hundred:.1f} s | {cold:.1f} s "
            f"| {speeds[0]:.1f} Mtok/s | {speeds[1]:.1f} Mtok/s |",
            flush=True,
        )
    if asked.uncached:
        _, first, all_of_them = epoch("gs://bucket/store", "", asked.uncached, seed=0)
        print(f"\nwithout a cache: first batch {first:.2f} s, {asked.uncached * B * T / all_of_them / 1e6:.2f} Mtok/s")
    server.terminate()
