#!/usr/bin/env python
"""Trains in bfloat16 on one GPU: GPT-2 124M beside compiled nanoGPT, and Llama 300M; each attention that we have.

    python tools/bench_gpu.py --out gpu.jsonl             # under ten minutes; the same command goes on where it stopped
    python tools/bench_gpu.py --out gpu.jsonl --nanogpt ../nanoGPT --nanogpt-python ../torch/bin/python

Peers run one after another, each in a process of its own (`bench_peers.py`): the GPU is not noisy, and its memory may
hold one alone. Each trains in --turns turns of --seconds, then scores. Figures are medians over the turns. A result is
a line in --out; what stands there is not measured again. A peer that fails, as where its memory is not enough, is
named, and the others go on.

MFU has the model FLOPs of PaLM (Chowdhery et al. 2022, appendix B): 6 for each parameter in a matrix product and
token, plus attention in full, not its causal half; recomputation does not count. Divided by the vendor's peak for
dense bfloat16 (`lfr_jax/train/flops.py`). Memory is what the framework's allocator had in use at most.

It needs `jax[cuda13]`, and for nanoGPT a torch with CUDA, which may be another interpreter's.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import sys
import time
from typing import Any

from bench_peers import Peer, PeerEnded, Shape, clone_nanogpt, config_of, kind
from bench_train import ROOT, commit_of

from lfr_jax.train import flops

SHAPES = {
    "gpt2_124m": Shape(layers=12, dim=768, heads=12, seq_len=1024, vocab=50304, batch=32, dtype="bfloat16"),
    "llama_300m": Shape(
        layers=20, dim=1024, heads=16, seq_len=2048, vocab=32000, batch=16, dtype="bfloat16", kv_heads=4, mlp_dim=3072
    ),
    "tiny": Shape(layers=1, dim=8, heads=2, seq_len=8, vocab=32, batch=2, dtype="bfloat16"),  # for a test
}
OURS = ("ours:attention=cudnn", "ours:attention=xla")
HEAD = ("model", "peer", "train tok/s", "MFU", "score tok/s", "peak GB", "first step s")


def measure(name: str, shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """What a peer reached on a shape."""
    theirs = kind(name) == "nanogpt"
    folder, python = (str(options.nanogpt), options.nanogpt_python) if theirs else (str(ROOT), sys.executable)
    with Peer(name, shape, folder, python=python) as peer:
        turns = [peer.turn("train", options.seconds) for _ in range(options.turns)]
        peak_bytes = turns[-1]["peak_bytes"]
        scoring = peer.turn("score", options.seconds)
    step_s = statistics.median(turn["step_s"] for turn in turns)
    work = 3 * shape.tokens * flops.forward_flops_per_token(config_of(shape), shape.seq_len)
    return peer.about | dict(
        train_tokens_per_s=shape.tokens / step_s,
        mfu=flops.mfu(work, step_s, peer.about["device"], 1),
        score_tokens_per_s=shape.tokens / scoring["step_s"],
        peak_bytes=peak_bytes,
        first_step_s=peer.first_step_s,
        tokens_per_step=shape.tokens,
        commit=commit_of(folder),
        date=str(datetime.date.today()),
    )


def table(results: list[dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for found in results:
        mfu = "–" if found["mfu"] is None else f"{100 * found['mfu']:.1f} %"
        speed = f"{found['train_tokens_per_s']:,.0f} | {mfu} | {found['score_tokens_per_s']:,.0f}"
        cost = f"{found['peak_bytes'] / 1e9:.1f} | {found['first_step_s']:.1f}"
        lines.append(f"| {found['shape']} | {found['peer']} | {speed} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a file of results, a line of JSON each")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gpt2_124m", "llama_300m"])
    parser.add_argument("--peers", nargs="+", default=[OURS[0], "nanogpt-compiled", OURS[1]])
    parser.add_argument("--batch", type=int, default=0, help="blocks in a batch; 0: 32 and 16, for 80 GB")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, about")
    parser.add_argument("--minutes", type=float, default=9.0, help="after so many no other peer begins")
    parser.add_argument("--nanogpt", type=pathlib.Path, default=ROOT / "build/nanoGPT", help="a clone; made if missing")
    parser.add_argument("--nanogpt-python", default=sys.executable, help="the interpreter that has torch")
    options = parser.parse_args()
    begun = time.monotonic()
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    results = [json.loads(line) for line in lines]
    there = {(found["shape"], found["peer"], found["tokens_per_step"]) for found in results}
    for shape_name in options.shapes:
        shape = SHAPES[shape_name]._replace(**dict(batch=options.batch) if options.batch else {})
        for name in options.peers:
            is_llama = bool(shape.mlp_dim)
            if (shape_name, name, shape.tokens) in there or (is_llama and kind(name) == "nanogpt"):
                continue
            if time.monotonic() - begun > 60 * options.minutes:
                sys.exit(f"{options.minutes:g} minutes are over: start the same command again")
            if kind(name) == "nanogpt":
                clone_nanogpt(options.nanogpt)
            try:
                results.append(dict(shape=shape_name, peer=name) | measure(name, shape, options))
            except PeerEnded as error:
                print(error, file=sys.stderr)
                continue
            with open(options.out, "a", encoding="utf-8") as out:
                print(json.dumps(results[-1]), file=out)
    print(table(results))


if __name__ == "__main__":
    main()
