#!/usr/bin/env python
"""Trains and scores the same GPT-2 side by side on CPUs, in float32: this project, and nanoGPT compiled and eager.

    python tools/bench_train.py                                        # shapes A, B, s; clones nanoGPT from GitHub
    python tools/bench_train.py --shapes A s --nanogpt ../nanoGPT      # with a clone that is there already
    python tools/bench_train.py --peers ours-before ours --ours-before ../before --shapes A    # two checkouts of ours
    python tools/bench_train.py --peers ours ours:remat=block --shapes A                       # settings of the model

Each peer is a process of its own (`bench_peers.py`). They start one after another, and then take turns: in each round
every peer trains for --seconds, then every peer scores for as long; the order moves on by one each round. The first
two steps of a turn do not count. Figures are medians over rounds; a ratio is the median of the rounds' ratios to the
first peer. `first step` is from the start of the process until its first step is done; nothing is compiled before.
Memory is the peak of the resident set.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from typing import Any

from bench_peers import Peer, PeerEnded, Shape, clone_nanogpt, kind

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = ("nanogpt-compiled", "nanogpt-eager", "ours")
SHAPES = {
    "A": Shape(layers=6, dim=384, heads=6, seq_len=256, vocab=8192, batch=16),
    "B": Shape(layers=12, dim=768, heads=12, seq_len=512, vocab=50304, batch=2),  # GPT-2 124M
    "s": Shape(layers=2, dim=128, heads=4, seq_len=128, vocab=1024, batch=16),  # as large as configs/smoke.py
    "tiny": Shape(layers=1, dim=8, heads=2, seq_len=8, vocab=32, batch=2),  # for a test
}
HEAD = ("shape", "peer", "train tok/s", "ratio", "score tok/s", "ratio", "peak MB", "first step s")


def compare(names: list[str], shape: Shape, folders: dict[str, str], rounds: int, seconds: float) -> list[dict]:
    """What each peer reached on a shape, in the order of the names."""
    cpu = dict(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
    turns = {name: dict(train=[], score=[]) for name in names}
    with contextlib.ExitStack() as running:
        peers = {name: running.enter_context(Peer(name, shape, folders[kind(name)], cpu)) for name in names}
        for round in range(rounds):
            for what in ("train", "score"):
                for name in names[round % len(names) :] + names[: round % len(names)]:
                    turns[name][what].append(last := peers[name].turn(what, seconds))
                    turns[name]["peak_bytes"] = last["peak_bytes"]

    def result(name: str) -> dict[str, Any]:
        found = dict(peer=name, version=peers[name].about["version"], rounds=rounds)
        for what in ("train", "score"):
            each = [turn["step_s"] for turn in turns[name][what]]
            firsts = [turn["step_s"] for turn in turns[names[0]][what]]
            found[f"{what}_tokens_per_s"] = shape.tokens / statistics.median(each)
            found[f"{what}_ratio"] = statistics.median(first / step for first, step in zip(firsts, each))
        return found | dict(peak_bytes=turns[name]["peak_bytes"], first_step_s=peers[name].first_step_s)

    return list(map(result, names))


def commit_of(folder: str) -> str:
    """The commit of a checkout, with a + if files in it were changed."""
    git = ["git", "-C", folder, "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "no git"


def hardware() -> str:
    """The processor, and how many of its cores this process may use."""
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{cores} cores of {names[0] if names else platform.processor() or platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["A", "B", "s"])
    parser.add_argument("--peers", nargs="+", default=PEERS, help=f"of {', '.join(PEERS)} and ours-before")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, about")
    parser.add_argument("--nanogpt", type=pathlib.Path, default=ROOT / "build/nanoGPT", help="a clone; made if missing")
    parser.add_argument("--ours", default=str(ROOT), help="a checkout of this project")
    parser.add_argument("--ours-before", default=str(ROOT), help="another one")
    parser.add_argument("--out", default=os.devnull, help="a file to which each result is appended as a line of JSON")
    options = parser.parse_args()
    folders = {"ours": options.ours, "ours-before": options.ours_before, "nanogpt": str(options.nanogpt)}
    if any(kind(name) == "nanogpt" for name in options.peers):
        clone_nanogpt(options.nanogpt)
    commits = ", ".join(f"{name} {commit_of(folders[name])}" for name in sorted(set(map(kind, options.peers))))
    about = dict(date=str(datetime.date.today()), hardware=hardware(), load=round(os.getloadavg()[0], 1))
    print(f"{about['date']}, {about['hardware']}, load {about['load']}; {commits}; {options.rounds} rounds\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with open(options.out, "a", encoding="utf-8") as out:
        for shape in options.shapes:
            for found in compare(list(options.peers), SHAPES[shape], folders, options.rounds, options.seconds):
                print(json.dumps(dict(shape=shape) | found | about | dict(commits=commits)), file=out, flush=True)
                speeds = [f"{found[f'{x}_tokens_per_s']:,.0f} | {found[f'{x}_ratio']:.2f}" for x in ("train", "score")]
                costs = f"{found['peak_bytes'] / 1e6:,.0f} | {found['first_step_s']:.1f}"
                print(f"| {shape} | {found['peer']} | {' | '.join(speeds)} | {costs} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except PeerEnded as error:
        sys.exit(f"{__file__}: {error}")
