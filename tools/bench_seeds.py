#!/usr/bin/env python
"""How several seeds of one small model share a machine best: one after another, side by side, or vmapped.

    python tools/bench_seeds.py                     # a model as large as configs/smoke.py, 5 seeds vmapped
    python tools/bench_seeds.py --dim 256 --layers 4 --rounds 5

one after another: a process with all cores trains one seed. side by side: a process for each core, each of which trains
a seed. vmapped: a process with all cores trains all seeds in one program. The ways take turns; the order moves on by
one each round. Figures are medians over rounds of the steps of all seeds in a second; a ratio is the median of the
rounds' ratios to "one after another".

The model is a plain one in JAX, as the trainer's own step cannot be vmapped: jax 0.10 has no batching for the shardings
of its gradients. `lfr experiment` runs its seeds side by side.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time

WAYS = ("one after another", "side by side", "vmapped")


class Worker:
    """A process that trains `seeds` models at once for as long as it is told, on some cores."""

    def __init__(self, options: argparse.Namespace, seeds: int, cores: list[int]):
        shape = [f"--{name}={getattr(options, name)}" for name in ("layers", "dim", "vocab", "batch", "length")]
        command = [sys.executable, __file__, *shape, f"--work={seeds}"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        self.answer()  # it is compiled

    def answer(self) -> float:
        if not (line := self.process.stdout.readline()):
            sys.exit(f"{__file__}: a worker ended with code {self.process.wait()}")
        return float(line)

    def begin(self, seconds: float) -> None:
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def work(options: argparse.Namespace) -> None:
    """What a worker does: for each line of its input, seconds, it says how many steps a second it made."""
    import jax
    import jax.numpy as jnp
    import optax

    heads, seeds = 4, options.work
    D, V, B, T = options.dim, options.vocab, options.batch, options.length

    def init(key):
        def normal(name, *shape):
            return 0.02 * jax.random.normal(jax.random.fold_in(key, name), shape)

        Y = options.layers
        layers = [normal(1, Y, D, 3 * D), normal(2, Y, D, D), normal(3, Y, D, 6 * D), normal(4, Y, 3 * D, D)]
        return {"embedding": normal(0, V, D), "layers": layers}

    def norm(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)

    def layer(x, weights):
        qkv, out, up, down = weights
        q, k, v = jnp.split((norm(x) @ qkv).reshape(B, T, 3 * heads, D // heads), 3, axis=2)
        x += jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, T, D) @ out
        gate, value = jnp.split(norm(x) @ up, 2, axis=-1)
        return x + (jax.nn.silu(gate) * value) @ down, None

    def loss(params, tokens):
        x, _ = jax.lax.scan(layer, params["embedding"][tokens[:, :-1]], params["layers"])
        logits = norm(x) @ params["embedding"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    optimizer = optax.adamw(1e-3)

    def step(params, opt_state, tokens):
        grads = jax.grad(loss)(params, tokens)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    keys = jax.random.split(jax.random.key(0), seeds)
    tokens = jax.random.randint(jax.random.key(1), (seeds, B, T + 1), 0, V)
    params = jax.vmap(init)(keys)
    opt_state = jax.vmap(optimizer.init)(params)
    if seeds == 1:
        params, opt_state, tokens = jax.tree.map(lambda x: x[0], (params, opt_state, tokens))
    step = jax.jit(step if seeds == 1 else jax.vmap(step), donate_argnums=(0, 1))
    state = jax.block_until_ready(step(params, opt_state, tokens))
    print(0, flush=True)
    for line in sys.stdin:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < float(line):
            state, steps = jax.block_until_ready(step(*state, tokens)), steps + 1
        print(seeds * steps / (time.perf_counter() - began), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(layers=2, dim=128, vocab=1024, batch=16, length=128, seeds=5, rounds=5, work=0).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=argparse.SUPPRESS if name == "work" else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    options = parser.parse_args()
    if options.work:
        return work(options)
    cores = sorted(os.sched_getaffinity(0))
    speeds = {way: [] for way in WAYS}
    with contextlib.ExitStack() as running:

        def started(seeds: int, cores: list[int]) -> Worker:
            return running.enter_context(contextlib.closing(Worker(options, seeds, cores)))

        workers = {
            "one after another": [started(1, cores)],
            "side by side": [started(1, [core]) for core in cores],
            "vmapped": [started(options.seeds, cores)],
        }
        for round in range(options.rounds):
            for way in WAYS[round % 3 :] + WAYS[: round % 3]:
                for worker in workers[way]:
                    worker.begin(options.seconds)
                speeds[way].append(sum(worker.answer() for worker in workers[way]))
    print(f"{len(cores)} cores, {options.seeds} seeds vmapped, {options.rounds} rounds of {options.seconds} s\n")
    print("| way | steps/s, all seeds | ratio |\n|---|---|---|")
    for way in WAYS:
        ratio = statistics.median(now / first for now, first in zip(speeds[way], speeds[WAYS[0]]))
        print(f"| {way} | {statistics.median(speeds[way]):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
