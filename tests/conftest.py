"""Every test runs on eight CPU devices, offline, with a compilation cache that later runs reuse."""

import fcntl
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: XLA's optimisations would cost more than they save, and so would its newer way
# of emitting fused loops, a third of the CPU time of compiling. (An XLA that no longer knows the latter ignores it.)
# And so would cutting each program into parts that are compiled side by side.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0"
    + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    + " --xla_cpu_parallel_codegen_split_count=1"
)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from buckets import emulated  # noqa: E402
from cloud import desk as desks  # noqa: E402
from cloud.trial import Trial  # noqa: E402
from helpers import SCORED, Scorer, documents, tiny  # noqa: E402

from lfr_jax.data.blocks import Blocks  # noqa: E402
from lfr_jax.data.store import open_store  # noqa: E402
from lfr_jax.data.tokenizer import Bytes  # noqa: E402
from lfr_jax.distributed.mesh import make_mesh  # noqa: E402
from lfr_jax.model import decoder  # noqa: E402
from lfr_jax.prepare.prepare import prepare_documents  # noqa: E402
from lfr_jax.prepare.text_source import Document  # noqa: E402
from lfr_jax.storage.run_dir import RunDir  # noqa: E402
from lfr_jax.train import steps  # noqa: E402
from lfr_jax.train.loop import train  # noqa: E402

pytest_plugins = ["parallel", "commands"]
# How long an example takes depends on what else the machine does.
patient = dict(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("patient", **patient)
hypothesis.settings.load_profile("patient")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """What `make(path)` made at a path, in one of the parallel workers; none of them changes it."""
    base = factory.getbasetemp()
    shared = base.parent / "shared" if os.environ.get("PYTEST_XDIST_WORKER") else base / "shared"
    shared.mkdir(exist_ok=True)
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / f"{name}.made").exists():
            make(shared / name)
            (shared / f"{name}.made").touch()
    return shared / name


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory):
    """A small prepared corpus of bytes: three domains, about 110 blocks of 32 tokens each for training."""
    return once(
        tmp_path_factory, "corpus", lambda folder: prepare_documents(folder, documents(8), Bytes(), valid_fraction=0.2)
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, corpus_dir):
    """An uninterrupted LFR run: (its config, its folder, its result). One worker trains it, and each has a copy."""
    results = []
    trained = once(
        tmp_path_factory, "finished", lambda folder: results.append(train(tiny(folder, corpus_dir), quiet=True))
    )
    config = tiny(tmp_path_factory.mktemp("finished") / "run", corpus_dir)
    shutil.copytree(trained, config.run_dir)
    settings = pathlib.Path(config.run_dir) / "config.json"
    settings.write_text(settings.read_text().replace(str(trained), config.run_dir))
    return config, RunDir(config.run_dir).path, results[0] if results else train(config, quiet=True)


@pytest.fixture(scope="session")
def bucket():
    """A bucket of Google Cloud Storage; skips where the extra `checks` is not installed."""
    with emulated() as found:
        yield found


@pytest.fixture(scope="session")
def short_documents(tmp_path_factory):
    """A prepared corpus of bytes: many short documents, and a domain `d` that is too short for a block."""
    random = np.random.default_rng(0)
    documents = []
    for domain, count, shortest, longest in (("a", 100, 20, 80), ("b", 150, 10, 30), ("c", 200, 3, 5), ("d", 1, 9, 9)):
        for number in range(count):
            letters = random.choice(list("abcdefgh "), random.integers(shortest, longest + 1))
            documents.append(Document(f"{domain}{number}", "".join(letters), domain, "made-up"))
    return once(
        tmp_path_factory, "short", lambda folder: prepare_documents(folder, documents, Bytes(), valid_fraction=0.4)
    )


@pytest.fixture(scope="session")
def scorer(short_documents):
    mesh = make_mesh(2, 1, 1)
    _, params = decoder.init(SCORED, mesh, jax.random.key(0))
    params = jax.tree.map(lambda x: 8 * x, params)  # else every block's loss is about log(264)
    blocks = [Blocks(open_store(short_documents / side), 32) for side in ("train", "valid")]
    return Scorer(steps.make_score_step(SCORED, Bytes.eos_id), params, mesh, *blocks)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A fake cloud of TPU VMs and a home to reach it from, with the real gcloud; skips where it cannot be."""
    if why := desks.missing():
        pytest.skip(why)
    with desks.desk(tmp_path_factory.mktemp("cloud")) as opened:
        yield opened


@pytest.fixture
def trial(desk):
    """A function that makes a `Trial` of these settings: a TPU under `tpu/tpu.py`. It is gone after the test."""
    made = []

    def make(name, **settings):
        desk.hurry()
        made.append(Trial(desk, name, **settings))
        return made[-1]

    yield make
    for each in made:
        each.remove()


@pytest.fixture
def namespace(tmp_path) -> list[str]:
    """What goes before a command that may mount a disk in memory on the folder `disk`, made here."""
    command = ["unshare", "--map-root-user", "--mount"]
    (tmp_path / "disk").mkdir()
    mount = [*command, "mount", "-t", "tmpfs", "tmpfs", tmp_path / "disk"]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk in memory can be mounted here: no user namespaces")
    return command
