"""What the tests share: made-up text, a tiny run and its rows, a model of random weights that scores."""

import csv
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lfr_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    llama,
)
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import Store, open_store
from lfr_jax.data.tokenizer import Ids
from lfr_jax.prepare.store_writer import write_store
from lfr_jax.prepare.text_source import Document
from lfr_jax.storage import made_from
from lfr_jax.train import score


def documents(count: int, seed: int = 0):
    """Made-up text of three kinds: `easy` repeats itself, `hard` is random letters, `words` is in between."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(50)]
    for i in range(count):
        yield Document(f"easy-{i}", f"the cat sat on mat {i}. " * 30, "easy", "made-up")
        yield Document(f"words-{i}", " ".join(rng.choice(words, 120)), "words", "made-up")
        yield Document(f"hard-{i}", "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), 600)), "hard", "made-up")


def write_tokens(folder, train, valid, vocab_size=1000):
    """A folder such as `lfr prepare` writes, of token ids without text.

    Args:
      train, valid: The documents of each (domain, source), as lists of ids.
    """
    tokenizer = Ids(vocab_size, vocab_size - 1)
    for side, sources in (("train", train), ("valid", valid)):
        with write_store(folder / side, vocab_size, tokenizer.eos_id, tokenizer.kind, tokenizer.digest) as writer:
            for (domain, name), made in sources.items():
                writer.source(name, domain)
                writer.add(np.concatenate(made), np.array([len(document) for document in made]))
    tokenizer.save(folder / "tokenizer")
    return folder


MADE_BY = ("bytes", "d" * 64)  # a tokenizer, by its kind and digest


def write_side(path, sources, vocab_size=257, eos_id=256) -> Store:
    """One side of a corpus. `sources`: (name, domain, list of documents), a document being a list of tokens."""
    with write_store(path, vocab_size, eos_id, *MADE_BY) as writer:
        for name, domain, documents in sources:
            writer.source(name, domain)
            for document in documents:
                writer.add(np.array(document), np.array([len(document)]))
    return open_store(path)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """The content of each file below a folder, but not where the folder was made from."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != made_from.FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def opened(folder: pathlib.Path) -> tuple[Store, Store]:
    """The two sides of a prepared corpus."""
    return open_store(folder / "train"), open_store(folder / "valid")


LENGTHS = dict(learn=10, focus=5, review=5, focus2=4, reps=1)  # 24 steps, with edges at 10, 15, 20


def tiny(run_dir, corpus_dir, policy="lfr", **options) -> Config:
    return Config(
        run_dir=str(run_dir),
        data=DataConfig(store=str(corpus_dir), seq_len=32),
        model=llama(1, 16, 2, 2, 32, vocab_size=264, max_len=32, tied_head=True),
        schedule=ScheduleConfig(policy, LENGTHS | options if policy != "uniform" else options),
        optimizer=OptimizerConfig(peak_lr=3e-3, end_lr=0.0, warmup_steps=4),
        mesh=MeshConfig(data=2),
        train=TrainConfig(
            steps=24,
            batch_size=8,
            score_batch_size=64,
            log_every=3,
            eval_every=6,
            checkpoint_every=4,
            eval_blocks=8,
            probe_blocks=9,
        ),  # fmt: skip
    )


def replaced(config, dotted: str, value):
    """The config with one field replaced, named as on the command line: "train.seed"."""
    first, _, rest = dotted.partition(".")
    return dataclasses.replace(config, **{first: replaced(getattr(config, first), rest, value) if rest else value})


def changed(config, **changes):
    """The config with fields replaced by dotted name, dots written as __."""
    for name, value in changes.items():
        config = replaced(config, name.replace("__", "."), value)
    return config


UNUSUAL = Config(
    run_dir="runs/a",
    data=DataConfig(store="elsewhere", seq_len=64),
    model=ModelConfig(num_layers=2, norm="rmsnorm", bias=False),
    schedule=ScheduleConfig("lfr", {"learn": 20, "drop": 0.5, "shares": [0.1, 0.2], "nested": {"a": None}}),
    optimizer=OptimizerConfig(peak_lr=1 / 3),
    mesh=MeshConfig(tensor=2),
    train=TrainConfig(steps=7, seed=3),
)


def rows(run_dir, name="metrics.csv"):
    with open(run_dir / name, newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


# Of `Scorer`. Blocks differ in how many of their targets count, as documents are short and masked off.
SCORED = llama(1, 16, 2, 2, 32, vocab_size=264, max_len=32, tied_head=True, mask_documents=True)


class Scorer(NamedTuple):
    """A model of random weights, and what it scores."""

    step: Callable
    params: Any
    mesh: jax.sharding.Mesh
    train: Blocks
    valid: Blocks

    def losses(self, blocks, batch_size, **options):
        """Host copies of what `score.losses` yields."""
        with jax.set_mesh(self.mesh):
            yielded = score.losses(self.step, self.params, blocks, batch_size, self.mesh, **options)
            return [jax.device_get((batch, sums)) for batch, sums in yielded]

    def directly(self, blocks, ids):
        """(nll_N, count_N) of the blocks `ids`: the scoring step alone, all rows in one batch."""
        rows = blocks.tokens(np.concatenate([ids, np.full(-len(ids) % 256, -1)]))
        with jax.set_mesh(self.mesh):
            sharded = jax.device_put(rows, jax.sharding.NamedSharding(self.mesh, jax.P("data")))
            return [np.asarray(x, np.float64)[: len(ids)] for x in self.step(self.params, sharded)]
