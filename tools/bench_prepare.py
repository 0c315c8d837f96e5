#!/usr/bin/env python
"""How fast text becomes a store: `lfr prepare`, beside SentencePiece alone in as many processes.

    python tools/bench_prepare.py --megabytes 48                     # the text that every Python carries, repeated
    python tools/bench_prepare.py --text FOLDER --sentencepiece tokenizer.model

SentencePiece alone: each process has its part of the documents in memory, and encodes them in lists of 500 with one
thread. Time runs from a common start to the end of the last process; starting them does not count. `lfr prepare`: the
whole command, from the start of Python to the synced store: reading, parsing, encoding, finding duplicates, writing.
Rounds are interleaved, and the two take turns in going first. Figures are medians; the ratio is the median of the
rounds' ratios. CPU time is that of all processes, their start included. On a busy machine it says more.
"""

import argparse
import json
import multiprocessing
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import sentencepiece

from lfr_jax.data.tokenizer import SentencePiece, train_sentencepiece
from lfr_jax.prepare import embedded, inputs, text_source


def library(model: bytes, texts: list[str], begin, done) -> None:
    """One process of SentencePiece alone."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    begin.wait()
    for start in range(0, len(texts), 500):
        processor.encode(texts[start : start + 500], num_threads=1)
    done.wait()


def time_library(model: bytes, texts: list[str], workers: int) -> float:
    context = multiprocessing.get_context("spawn")
    begin, done = context.Barrier(workers + 1), context.Barrier(workers + 1)
    shares = [texts[number::workers] for number in range(workers)]
    processes = [context.Process(target=library, args=(model, share, begin, done)) for share in shares]
    for process in processes:
        process.start()
    begin.wait()
    started = time.perf_counter()
    done.wait()
    seconds = time.perf_counter() - started
    for process in processes:
        process.join()
    return seconds


def time_prepare(paths: list[str], model: pathlib.Path, out: pathlib.Path, workers: int) -> float:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "lfr_jax.cli", "prepare", *paths, "--out", out, "--sentencepiece", model]
    started = time.perf_counter()
    subprocess.run([*map(str, command), "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def repeated(path: pathlib.Path, megabytes: float) -> None:
    """The embedded corpus as a `.jsonl` file of about this size, no document twice."""
    written, copy = 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while written < 1e6 * megabytes:
            for document in embedded.documents():
                text = f"copy {copy}\n{document.text}"
                written += file.write(json.dumps({"text": text, "domain": document.domain}) + "\n")
                if written >= 1e6 * megabytes:
                    break
            copy += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="*", default=[], help="files and folders, in place of the embedded corpus")
    parser.add_argument("--sentencepiece", help="a .model file; one of 4,096 pieces is trained if not given")
    parser.add_argument("--megabytes", type=float, default=48)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        paths = options.text or [str(folder / "text.jsonl")]
        if not options.text:
            repeated(folder / "text.jsonl", options.megabytes)
        texts = [document.text for document in text_source.documents(inputs.of_paths(paths)) if document.text.strip()]
        if options.sentencepiece:
            tokenizer = SentencePiece(options.sentencepiece)
        else:
            tokenizer = train_sentencepiece(texts, 4096)
        tokenizer.save(folder / "tokenizer")
        model = folder / "tokenizer" / "tokenizer.model"
        mega = sum(len(text.encode()) for text in texts) / 1e6
        about = f"{mega:.1f} MB of text in {len(texts):,} documents, vocabulary {tokenizer.vocab_size:,}"
        print(f"{about}, {options.workers} processes")
        runs = {
            "SentencePiece alone": lambda: time_library(model.read_bytes(), texts, options.workers),
            "lfr prepare": lambda: time_prepare(paths, model, folder / "out", options.workers),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.rounds):
            for name in sorted(runs, reverse=number % 2 == 1):
                before = cpu_seconds()
                seconds[name].append(runs[name]())
                cpu[name].append(cpu_seconds() - before)
        tokens = json.loads((folder / "out/prepared.json").read_text(encoding="utf-8"))
        total = sum(count["tokens"] for side in ("train", "valid") for count in tokens[side].values())
        for name, took in seconds.items():
            median = statistics.median(took)
            rounds = ", ".join(f"{s:.1f}" for s in took)
            speed = f"{mega / median:6.2f} MB/s {total / median / 1e6:6.2f} M tokens/s"
            print(f"{name:<20} {speed}   seconds: {rounds}; of CPU time: {statistics.median(cpu[name]):.1f}")
        for what, took in (("throughput", seconds), ("throughput for the same CPU time", cpu)):
            ratios = [a / b for a, b in zip(*(took[name] for name in runs))]
            print(f"{what}, lfr prepare / SentencePiece alone: {statistics.median(ratios):.0%}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"largest process among all that were started: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
