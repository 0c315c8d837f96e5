"""Every test runs on eight CPU devices, offline, with a compilation cache that later runs reuse."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: XLA's optimisations would cost more than they save.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from lfr_jax.corpus import Document  # noqa: E402


def documents(count: int, seed: int = 0):
    """Made-up text of three kinds: `easy` repeats itself, `hard` is random letters, `words` is in between."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(50)]
    for i in range(count):
        yield Document(f"easy-{i}", f"the cat sat on mat {i}. " * 30, "easy", "made-up")
        yield Document(f"words-{i}", " ".join(rng.choice(words, 120)), "words", "made-up")
        yield Document(f"hard-{i}", "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz "), 600)), "hard", "made-up")


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory):
    """A small prepared corpus of bytes: three domains, about 120 blocks of 32 tokens each for training."""
    from lfr_jax.prepare import prepare
    from lfr_jax.tokenizer import Bytes

    folder = tmp_path_factory.mktemp("data") / "corpus"
    prepare(folder, documents(8), Bytes(), valid_fraction=0.2)
    return folder
