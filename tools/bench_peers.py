"""The processes that `bench_train.py` and `bench_gpu.py` measure: this project, or nanoGPT, on one model.

All train on the same random tokens with AdamW (decay on matrices alone) and clipping, and keep all on their device.
Ours is its jitted train and score step; nanoGPT is its `model.py`, `configure_optimizers` and the inner loop of its
`train.py`. It needs torch (the extra `parity`), is run beside ours and is no part of this project.
"""

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

NANOGPT = "https://github.com/karpathy/nanoGPT"
COMMIT = "3adf61e154c3fe3fca428ad6bc3818b27a3b8291"  # of nanoGPT
LEARNING_RATE, WEIGHT_DECAY, CLIP, BETAS = 3e-4, 0.1, 1.0, (0.9, 0.95)
BATCHES = 8  # different ones, used in turn


class Shape(NamedTuple):
    """A model, and the batch that it is trained on. GPT-2's family, unless there is an `mlp_dim`: then Llama's."""

    layers: int
    dim: int
    heads: int
    seq_len: int
    vocab: int
    batch: int
    dtype: str = "float32"
    kv_heads: int = 0
    mlp_dim: int = 0

    @property
    def tokens(self) -> int:
        return self.batch * self.seq_len


class PeerEnded(Exception):
    """The process of a peer is gone. What it said stands on standard error."""


class Steps(NamedTuple):
    """A peer, ready to run."""

    train: Callable[[int], Any]  # a step on the batch of this number; may return before it is done
    score: Callable[[int], Any]
    wait: Callable[[Any], Any]  # until what a step returned is there
    peak_bytes: Callable[[], int]
    about: dict[str, Any]


def tokens_of(shape: Shape):
    import numpy as np

    size = (BATCHES, shape.batch, shape.seq_len + 1)
    return np.random.default_rng(0).integers(1, shape.vocab, size, dtype=np.int32)


def resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def config_of(shape: Shape, **overrides):
    """Our `ModelConfig` of a shape."""
    from lfr_jax.config import gpt2, llama

    sizes = dict(vocab_size=shape.vocab, max_len=shape.seq_len, dtype=shape.dtype) | overrides
    if shape.mlp_dim:
        return llama(shape.layers, shape.dim, shape.heads, shape.kv_heads, shape.mlp_dim, **sizes)
    return gpt2(shape.layers, shape.dim, shape.heads, **sizes)


def ours(shape: Shape, **overrides) -> Steps:
    """The steps of the `lfr_jax` that Python finds. `overrides` are fields of its `ModelConfig`."""
    with contextlib.suppress(ImportError):  # an older checkout has none
        from lfr_jax.distributed.malloc import keep_freed_memory

        keep_freed_memory()
    import jax
    import numpy as np

    from lfr_jax import schedule
    from lfr_jax.config import OptimizerConfig
    from lfr_jax.data import pipeline
    from lfr_jax.distributed.mesh import make_mesh
    from lfr_jax.train import optimizer, steps

    config = config_of(shape, **overrides)
    num_steps, mesh, uniform = 10**6, make_mesh(1, 1, 1), schedule.uniform(steps=10**6)
    rates = dict(peak_lr=LEARNING_RATE, lr_schedule="constant", warmup_steps=0, beta1=BETAS[0], beta2=BETAS[1])
    tx = optimizer.make_optimizer(
        OptimizerConfig(**rates, weight_decay=WEIGHT_DECAY, clip_norm=CLIP, end_lr=LEARNING_RATE), num_steps
    )
    device, ids = mesh.devices.flat[0], np.arange(shape.batch)
    jax.set_mesh(mesh)
    batches = [pipeline.shard_batch(dict(ids=ids, tokens=tokens), mesh) for tokens in tokens_of(shape)]
    state = steps.init_state(config, tx, uniform, schedule.BlockInfo(shape.batch), mesh, seed=0)
    train_step = steps.make_train_step(config, tx, uniform, 1, eos_id=0)
    score_step = steps.make_score_step(config, eos_id=0)

    def train(number: int):
        nonlocal state
        state, metrics = train_step(state, batches[number % BATCHES])
        return state, metrics

    def score(number: int):
        return score_step(state.params, batches[number % BATCHES]["tokens"])

    def peak_bytes() -> int:
        return (device.memory_stats() or {}).get("peak_bytes_in_use") or resident_bytes()

    about = dict(version=f"jax {jax.__version__}", device=device.device_kind)
    return Steps(train, score, jax.block_until_ready, peak_bytes, about)


def nanogpt(shape: Shape, compiled: bool) -> Steps:
    """nanoGPT's model and optimizer, and the inner loop of its train.py; its clone is on Python's path."""
    import torch
    from model import GPT, GPTConfig

    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    sizes = dict(block_size=shape.seq_len, vocab_size=shape.vocab, dropout=0.0, bias=True)
    network = GPT(GPTConfig(n_layer=shape.layers, n_head=shape.heads, n_embd=shape.dim, **sizes)).to(device)
    tx = network.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, device)
    tokens = torch.from_numpy(tokens_of(shape)).long().to(device)
    batches = [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in tokens]
    forward = torch.compile(network) if compiled else network
    low = shape.dtype != "float32"

    def loss_of(number: int):
        inputs, targets = batches[number % BATCHES]
        with torch.autocast(device, torch.bfloat16) if low else contextlib.nullcontext():
            return forward(inputs, targets)[1]

    def train(number: int):
        network.train()
        loss_of(number).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        tx.step()
        tx.zero_grad(set_to_none=True)

    def score(number: int):
        network.eval()
        with torch.no_grad():
            return loss_of(number)

    def wait(_) -> None:
        if gpu:
            torch.cuda.synchronize()

    peak_bytes = torch.cuda.max_memory_allocated if gpu else resident_bytes
    about = dict(version=f"torch {torch.__version__}", device=torch.cuda.get_device_name() if gpu else "cpu")
    return Steps(train, score, wait, peak_bytes, about)


def serve(peer: str, shape: Shape) -> None:
    """The process of a peer: a JSON line once its first step is done, and one for each line on standard input."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what others print is no reply
    name, _, settings = peer.partition(":")
    overrides = {key: literal(word) for key, _, word in (part.partition("=") for part in settings.split(",") if part)}
    if name.startswith("nanogpt-"):
        steps = nanogpt(shape, compiled=name == "nanogpt-compiled")
    else:
        steps = ours(shape, **overrides)
    steps.wait(steps.train(0))
    print(json.dumps(steps.about), file=replies)
    for line in sys.stdin:
        what, seconds = line.split()
        step = dict(train=steps.train, score=steps.score)[what]
        steps.wait(step(0))  # compiles, if it is the first; brings this model's arrays into the caches
        duration = timed(step, steps.wait, 1)
        count = max(1, round(float(seconds) / duration))
        print(json.dumps(dict(step_s=timed(step, steps.wait, count), peak_bytes=steps.peak_bytes())), file=replies)


def timed(step: Callable, wait: Callable, count: int) -> float:
    """Seconds a step, of `count` steps that follow each other as in training: none waits for the one before."""
    begun = time.perf_counter()
    for number in range(count):
        result = step(number)
    wait(result)
    return (time.perf_counter() - begun) / count


def literal(word: str) -> Any:
    """A value of a setting: JSON where it is, else the word itself."""
    with contextlib.suppress(ValueError):
        return json.loads(word)
    return word


class Peer:
    """The process of a peer on a shape, ready for its turns. A context manager, which ends it.

    Args:
      name: "nanogpt-compiled", "nanogpt-eager", "ours" or "ours-before". Settings of our model may follow a colon:
        "ours:remat=block".
      folder: where Python finds its modules.
      environment: variables that are set beside those of this process.
      python: the interpreter.

    Raises:
      PeerEnded: it failed. So does `turn`.
    """

    def __init__(
        self, name: str, shape: Shape, folder: str, environment: dict[str, str] = {}, python: str = sys.executable
    ):
        self.name = name
        self.caches = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        cold = dict(JAX_COMPILATION_CACHE_DIR="", TORCHINDUCTOR_CACHE_DIR=self.caches.name, PYTHONPATH=folder)
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [python, __file__, name, json.dumps(shape)],
            env=os.environ | cold | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._reply()
        self.first_step_s = time.perf_counter() - begun

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        self.process.communicate()  # the end of its input ends it
        self.caches.cleanup()

    def turn(self, what: str, seconds: float) -> dict[str, float]:
        """Trains or scores ("train", "score") for about so many seconds: seconds a step, and peak bytes until now."""
        print(what, seconds, file=self.process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise PeerEnded(f"{self.name} ended with {self.process.wait()}; what it said stands above")
        return json.loads(line)


def kind(name: str) -> str:
    """ "nanogpt", "ours" or "ours-before"."""
    return "nanogpt" if name.startswith("nanogpt") else name.partition(":")[0]


def clone_nanogpt(folder: pathlib.Path) -> None:
    """Clones nanoGPT to `folder`, at the commit that we compare with, unless something is there."""
    if not folder.exists():
        for command in (["clone", "--quiet", NANOGPT, str(folder)], ["-C", str(folder), "checkout", "--quiet", COMMIT]):
            if subprocess.run(["git", *command]).returncode:
                sys.exit(f"{__file__}: could not fetch {NANOGPT}; name a clone with --nanogpt, or use --peers ours")


if __name__ == "__main__":
    serve(sys.argv[1], Shape(*json.loads(sys.argv[2])))
