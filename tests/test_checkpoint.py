"""Checkpoints on a real disk: exact on any mesh, and sound after bit flips, cut files and kill -9."""

import functools
import gc
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lfr_jax import checkpoint
from lfr_jax.checkpoint import Checkpointer, DamagedCheckpoint

# What Orbax and TensorStore leave behind when a read fails half-way: coroutines and callbacks without a loop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def leftovers_end_here():
    yield
    gc.collect()


class Schedule(NamedTuple):
    rates: Any
    nothing: Any
    seen: Any


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    schedule: Any


def mesh(*shape):
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)


def make_state(mesh, step=1, size=64):
    """A state of every kind of leaf, each of whose values depends on the step."""
    draw = np.random.default_rng(step)

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, P(*spec)))

    w = draw.normal(size=(size, 16)).astype(np.float32)
    w[0, 0] = np.nan  # NaN and -0 must come back too
    w[0, 1] = -0.0
    return State(
        put(np.int32(step)),
        {"layers": {"w": put(w, "fsdp", "tensor")}, "b": put(w[1].astype(jnp.bfloat16), "tensor")},
        ((put(w * 2, "tensor", "fsdp"), ()), put(np.uint32(2**32 - step))),
        Schedule(put(draw.random(24).astype(np.float32), "fsdp"), put(np.zeros(0, np.float32)), put(w[1] > 0)),
    )


def abstract(state, mesh):
    """The shapes of `state`, to be restored on `mesh` with the first axis split where possible."""

    def leaf(x):
        spec = P("fsdp") if x.ndim and x.size else P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(leaf, state)


def assert_equal(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2, to be copied, and the two states."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpointer(folder, keep=3)
    # Large enough that arrays lie outside of TensorStore's index, whose checksums notice a flip.
    states = {step: make_state(mesh(2, 2, 2), step, size=4096) for step in (1, 2)}
    for step, state in states.items():
        checkpoints.save(state, {"seconds": step / 3})
    checkpoints.close()
    return folder, states


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "checkpoints")


def test_restores_bit_equal_on_another_mesh(saved):
    """Catches: restoring with the shardings of the file; losing the empty leaf; meta of another step."""
    folder, states = saved
    target = abstract(states[2], mesh(1, 8, 1))
    state, meta = Checkpointer(folder, keep=3).restore(target)
    assert_equal(state, states[2])
    assert meta == {"seconds": 2 / 3}
    assert jax.tree.all(jax.tree.map(lambda x, shape: x.sharding == shape.sharding, state, target))


def test_nothing_saved_is_none(tmp_path):
    """Catches: a missing folder raising, and a stray file taken for a step."""
    assert Checkpointer(tmp_path / "none", keep=1).restore(abstract(make_state(mesh(1, 1, 1)), mesh(1, 1, 1))) is None
    (tmp_path / "3.damaged").mkdir()
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.latest_step(tmp_path) is None


def test_keeps_the_newest_and_refuses_to_go_back(tmp_path):
    """Catches: keeping all; dropping a save without a word; raising at a step saved twice; keeping debris."""
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()  # of a killed run that saved at other steps
    checkpoints = Checkpointer(tmp_path, keep=2)
    for step in (1, 2, 3, 3):
        checkpoints.save(make_state(mesh(1, 1, 1), step), {})
    checkpoints.wait()
    assert sorted(checkpoint.steps_in(tmp_path)) == [2, 3] and checkpoints.latest_good == 3
    assert not unfinished(tmp_path)
    with pytest.raises(ValueError, match="holds step 3 already"):
        checkpoints.save(make_state(mesh(1, 1, 1), 1), {})
    checkpoints.close()


def test_params_alone(saved, copy):
    """Catches: mixing up params with optimizer leaves; moving things under a running trainer."""
    states = saved[1]
    target = abstract(states[2].params, mesh(1, 2, 4))
    params, step = checkpoint.restore_params(copy, target)
    assert step == 2
    assert_equal(params, states[2].params)
    truncate(data_files(copy / "2"))
    with pytest.warns(UserWarning, match="checkpoint 2 .* is damaged"):
        params, step = checkpoint.restore_params(copy, target)
    assert step == 1 and checkpoint.latest_step(copy) == 2
    assert_equal(params, states[1].params)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.restore_params(copy / "none", target)


@pytest.mark.parametrize("seed", range(6))
def test_flipped_byte_falls_back(saved, copy, seed):
    """Catches: trusting Orbax (it restores most of these flips silently); taking the next-but-one step."""
    states, rng = saved[1], random.Random(seed)
    files = data_files(copy / "2")
    path = rng.choices(files, map(size_of, files))[0]
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state, meta = Checkpointer(copy, keep=3).restore(abstract(states[2], mesh(1, 8, 1)))
    caught = [warning for warning in caught if warning.category is UserWarning]
    if caught:  # the byte mattered
        assert "checkpoints/2 is damaged" in str(caught[0].message)
        assert (copy / "2.damaged").exists() and not (copy / "2").exists()
    step = 1 if caught else 2
    assert meta == {"seconds": step / 3}
    assert_equal(state, states[step])


@pytest.mark.parametrize("what", ["data cut", "data gone", "manifest gone", "meta cut", "meta changed"])
def test_broken_files_fall_back_and_the_step_can_be_saved_again(saved, copy, what):
    """Catches: letting Orbax's error through; not sealing the meta; the step blocked by a damaged folder."""
    states = saved[1]
    bad = copy / "2"
    match what:
        case "data cut":
            truncate(data_files(bad))
        case "data gone":
            max(data_files(bad), key=size_of).unlink()
        case "manifest gone":
            (bad / "state" / "manifest.ocdbt").unlink()
        case "meta cut":
            truncate([bad / "meta" / "metadata"])
        case "meta changed":
            text = (bad / "meta" / "metadata").read_text()
            assert "0.6666" in text
            (bad / "meta" / "metadata").write_text(text.replace("0.6666", "0.6766"))
    checkpoints = Checkpointer(copy, keep=3)
    with pytest.warns(UserWarning, match="checkpoints/2 is damaged"):
        state, _ = checkpoints.restore(abstract(states[2], mesh(2, 2, 2)))
    assert_equal(state, states[1])
    checkpoints.save(states[2], {})
    checkpoints.close()
    assert_equal(Checkpointer(copy, keep=3).restore(abstract(states[2], mesh(2, 2, 2)))[0], states[2])
    assert (copy / "2.damaged").exists()


def test_all_damaged_is_an_error_that_moves_nothing(saved, copy):
    """Catches: a silent start from step 0, at this start or, once all were moved aside, at the next."""
    for step in ("1", "2"):
        truncate(data_files(copy / step))
    for _ in range(2):
        with pytest.raises(DamagedCheckpoint, match="step 2: .*step 1: .*Put a copy back"):
            Checkpointer(copy, keep=3).restore(abstract(saved[1][2], mesh(2, 2, 2)))
    assert sorted(checkpoint.steps_in(copy)) == [1, 2]


def test_another_model_is_not_damage(saved, copy):
    """Catches: treating a mismatch as damage; Orbax's silent cut or cast to the asked shape or type."""
    right = abstract(saved[1][2], mesh(2, 2, 2))
    b, w = right.params["b"], right.params["layers"]["w"]

    def like(x, shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=x.sharding)

    shape = right._replace(params={"b": b, "layers": {"w": like(w, (2048, 16), w.dtype)}})
    dtype = right._replace(params={"b": like(b, b.shape, jnp.float32), "layers": {"w": w}})
    fewer = right._replace(params={"layers": {"w": w}})
    more = right._replace(params={"b": b, "c": b, "layers": {"w": w}})
    for wrong, message in [
        (
            shape,
            r"params.layers.w is float32\[4096,16\] in the checkpoint, and float32\[2048,16\] in this run",
        ),
        (dtype, r"params.b is bfloat16\[16\] in the checkpoint, and float32\[16\]"),
        (fewer, r"params.b is bfloat16\[16\] in the checkpoint, and absent"),
        (more, r"params.c is absent in the checkpoint, and bfloat16\[16\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            Checkpointer(copy, keep=3).restore(wrong)
    with pytest.raises(ValueError, match="params.layers.w"):
        checkpoint.restore_params(copy, shape.params)
    assert sorted(checkpoint.steps_in(copy)) == [1, 2]


def test_saved_is_the_state_at_the_time_of_saving(tmp_path):
    """Catches: saving from buffers that the next, donating step overwrites (on CPU the copy is a view)."""

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state):
        return state._replace(
            step=state.step + 1,
            params=jax.tree.map(lambda x: x + 1, state.params),
            opt_state=jax.tree.map(lambda x: x + 1, state.opt_state),
        )

    checkpoints = Checkpointer(tmp_path, keep=100)
    state = make_state(mesh(2, 2, 2), size=16384)  # 1 MB leaves: the write is under way while steps run
    host = jax.tree.map(lambda x: np.array(x, copy=True), state)
    for _ in range(6):
        checkpoints.save(state, {})
        for _ in range(10):
            state = train_step(state)
    checkpoints.close()
    target = abstract(state, mesh(1, 8, 1))
    for step in (1, 11, 21, 31, 41, 51):
        leaves = checkpoint.named(target)
        content = checkpoint.read_meta(tmp_path / str(step))
        restored = checkpoint.read_leaves(tmp_path / str(step), leaves)
        assert not checkpoint.changed(restored, content["digests"])
        assert int(restored["step"]) == step
        assert int(restored["opt_state.1"]) == (int(host.opt_state[1]) + step - 1) % 2**32
        expected = host.params["layers"]["w"]
        for _ in range(step - 1):
            expected = expected + np.float32(1)
        np.testing.assert_array_equal(np.asarray(restored["params.layers.w"]), expected)


def test_digest_does_not_depend_on_the_mesh_but_on_every_bit_and_place():
    """Catches: hashing shard-local positions; leaving out the position; a dtype whose bits are rounded."""
    state = make_state(mesh(2, 2, 2))
    elsewhere = jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), state, abstract(state, mesh(1, 8, 1)))
    digests = checkpoint.digests(checkpoint.named(state))
    assert digests == checkpoint.digests(checkpoint.named(elsewhere))
    assert len(set(digests.values())) == len(digests)
    for name, leaf in checkpoint.named(state).items():
        bits = np.array(leaf).reshape(-1).view(bool if leaf.dtype == bool else np.uint8)
        for place in [0, bits.size // 2, bits.size - 1] if bits.size else []:
            changed = bits.copy()
            changed[place] ^= True
            changed = jax.device_put(changed.view(leaf.dtype).reshape(leaf.shape), leaf.sharding)
            assert checkpoint.digests({name: changed})[name] != digests[name]
        if leaf.ndim == 2:
            swapped = np.array(leaf)
            swapped[[0, 1], [1, 0]] = swapped[[1, 0], [0, 1]]
            assert checkpoint.digests({name: jax.device_put(swapped, leaf.sharding)})[name] != digests[name]


def test_digest_needs_scalar_reductions_only():
    """Catches: gathering the state onto one device; an array of positions as large as a whole leaf."""
    leaves = list(checkpoint.named(make_state(mesh(2, 2, 2))).values())
    program = checkpoint._digests.lower(leaves).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program
    assert "[32,8]" in program and "[64,16]" not in program  # its shards; the whole


SAVE_UNTIL_KILLED = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import conftest
from test_checkpoint import Checkpointer, make_state, mesh
checkpoints = Checkpointer({folder!r}, keep=2)
for step in range(1, 1000):
    state = make_state(mesh(2, 2, 2), step, size=65536)
    print(step, flush=True)
    checkpoints.save(state, dict(step=step))
"""


def test_kill_9_while_saving_leaves_a_sound_checkpoint(tmp_path):
    """Catches: an unfinished save taken for a checkpoint, or in the way of the same step's next save."""
    tests = pathlib.Path(__file__).parent
    trainers = {}
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "c"):
        program = SAVE_UNTIL_KILLED.format(root=str(tests.parent), tests=str(tests), folder=str(folder))
        trainers[folder] = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    rng, interrupted = random.Random(), 0
    for folder, trainer in trainers.items():
        with trainer, trainer.stdout:
            next(line for line in trainer.stdout if line == "3\n")
            while not unfinished(folder):  # a save begins
                assert trainer.poll() is None
            time.sleep(rng.uniform(0, 0.05))
            os.kill(trainer.pid, signal.SIGKILL)
        interrupted += bool(unfinished(folder))
        checkpoints = Checkpointer(folder, keep=2)
        target = abstract(make_state(mesh(2, 2, 2), size=65536), mesh(1, 8, 1))
        state, meta = checkpoints.restore(target)
        step = meta["step"]
        assert step >= 1 and int(state.step) == step
        assert_equal(state, make_state(mesh(2, 2, 2), step, size=65536))
        again = make_state(mesh(2, 2, 2), step + 1, size=65536)
        checkpoints.save(again, {"step": step + 1})
        checkpoints.close()
        assert_equal(checkpoints.restore(target)[0], again)
        assert not unfinished(folder)
    print(f"{interrupted} of 3 kills fell into a save")


ONE_OF_TWO_PROCESSES = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import conftest, jax
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize("127.0.0.1:{port}", num_processes=2, process_id={process})
from test_checkpoint import *
mesh = mesh(2, 2, 2)

def state(step):
    rows = np.random.default_rng(step).normal(size=(4096, 16)).astype(np.float32)
    def put(x, *spec):
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, P(*spec)), lambda index: x[index])
    return State(put(np.int32(step)), dict(w=put(rows, ("data", "fsdp"), "tensor")), (), ())

folder = pathlib.Path({folder!r})
checkpoints = Checkpointer(folder, keep=3)
for step in (1, 2):
    checkpoints.save(state(step), dict(step=step))
checkpoints.wait()
if {process} == 1:
    for path in (folder / "2/state/ocdbt.process_1/d").iterdir():
        path.unlink()
jax.experimental.multihost_utils.sync_global_devices("damaged")
target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(1))
restored, meta = checkpoints.restore(target)
assert int(restored.step) == meta["step"] == 1
for got, put in zip(restored.params["w"].addressable_shards, state(1).params["w"].addressable_shards):
    np.testing.assert_array_equal(np.asarray(got.data), np.asarray(put.data))
assert (folder / "2.damaged").exists() and not (folder / "2").exists()
checkpoints.save(state(2), dict(step=2))
checkpoints.close()
assert checkpoint.latest_step(folder) == 2
print("sound")
"""


def test_two_processes_agree_when_one_cannot_read_its_part(tmp_path):
    """Catches: one process that falls back alone; waiting for one that failed; two renames;
    a step that cannot be saved again by the same object that found it damaged."""
    tests = pathlib.Path(__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = dict(root=str(tests.parent), tests=str(tests), folder=str(tmp_path / "checkpoints"), port=port)
    programs = [ONE_OF_TWO_PROCESSES.format(process=process, **places) for process in (0, 1)]
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for program in programs
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert out.endswith("sound\n") and "moved to" in err, err[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def unfinished(folder):
    """What a save that is under way, or was killed, has there."""
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def data_files(checkpoint_folder):
    """The files that hold arrays."""
    return sorted(path for path in (checkpoint_folder / "state").rglob("d/*"))


def size_of(path):
    return path.stat().st_size


def truncate(paths):
    for path in paths:
        os.truncate(path, size_of(path) // 2)
