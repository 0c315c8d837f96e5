"""Damage sets a checkpoint aside, and nothing else does: files are broken, or kept from being read, one by one."""

import contextlib
import gc
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import warnings

import pytest
from buckets import URL, impatient
from made_states import (
    abstract,
    assert_equal,
    data_files,
    mesh,
    saved_at,
    size_of,
    truncate,
)
from running import ended, held_port

from lfr_jax.storage import checkpoint, damage
from lfr_jax.storage.checkpoint import Checkpointer, DamagedCheckpoint
from lfr_jax.storage.damage import Unreadable

# What Orbax and TensorStore leave behind when a read fails half-way: coroutines and callbacks without a loop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def leftovers_end_here():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2, to be copied, and the two states."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    return folder, saved_at(folder)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "checkpoints")


def flip(path, place):
    """Flips a bit of the first byte of `place`, which is there once or more."""
    content = bytearray(path.read_bytes())
    content[content.index(place)] ^= 1
    path.write_bytes(content)


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


@pytest.mark.parametrize(
    "what",
    [
        "data cut",
        "data gone",
        "manifest gone",
        "manifest no code",
        "a leaf less",
        "list cut",
        "meta cut",
        "meta gone",
        "meta changed",
        "index changed",
    ],
)
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
        case "manifest no code":
            flip(bad / "state" / "manifest.ocdbt", b"\x28\xb5\x2f\xfd")
        case "a leaf less":
            flip(bad / "state" / "_METADATA", b'schedule.rates", "key_type')
        case "list cut":
            truncate([bad / "state" / "_METADATA"])
        case "index changed":
            flip(*(bad / "state" / "d").iterdir(), place=b"")
        case "meta gone":
            (bad / "meta" / "metadata").unlink()
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


@contextlib.contextmanager
def forbidden(path):
    """No rights to the file: for root, who has all of them, as another user."""
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


@contextlib.contextmanager
def no_end_of_links(path):
    """A path that the system gives up on: any of its errors that is not about rights."""
    kept = path.rename(path.with_name("kept"))
    path.symlink_to(path)
    try:
        yield
    finally:
        kept.replace(path)


@pytest.mark.parametrize("prevented", [forbidden, no_end_of_links])
@pytest.mark.parametrize("which", ["meta", "list", "index", "manifest", "data"])
def test_what_cannot_be_read_is_not_damaged(saved, which, prevented):
    """Catches: a sound checkpoint set aside, and training gone back to the one before, for want of rights or such."""
    with tempfile.TemporaryDirectory() as folder:  # another user cannot enter pytest's
        os.chmod(folder, 0o755)
        copy = shutil.copytree(saved[0], f"{folder}/checkpoints")
        files = sorted(data_files(pathlib.Path(copy, "2")), key=size_of)
        (index,) = pathlib.Path(copy, "2/state/d").iterdir()
        path = {
            "meta": pathlib.Path(copy, "2/meta/metadata"),
            "list": pathlib.Path(copy, "2/state/array_metadatas/process_0"),
            "index": index,
            "manifest": pathlib.Path(copy, "2/state/manifest.ocdbt"),
            "data": files[-1],
        }[which]
        target = abstract(saved[1][2], mesh(1, 8, 1))
        with prevented(path):
            with pytest.raises(Unreadable, match="checkpoints/2 cannot be read .* nothing was moved: check") as error:
                Checkpointer(copy, keep=3).restore(target)
        assert str(path) in str(error.value)
        assert sorted(os.listdir(copy)) == ["1", "2"]
        assert_equal(Checkpointer(copy, keep=3).restore(target)[0], saved[1][2])


@pytest.fixture(scope="module")
def saved_there(bucket):
    """The URL of checkpoints of steps 1 and 2, and the shapes of their state."""
    url = f"{URL}/damage"
    return url, abstract(saved_at(url)[2], mesh(1, 8, 1))


@pytest.mark.parametrize("status", [0, 400, 401, 403, 429, 500, 503])
@pytest.mark.parametrize(
    "where", ["", "2/commit_success", "2/meta/metadata", "2/state/_METADATA", "2/state/d/", "_0/d/"]
)
def test_a_server_in_trouble_is_not_damage(bucket, saved_there, where, status, monkeypatch):
    """The connection is cut, or another answer given than asked for, from some point on. Catches: the newest
    checkpoint renamed, or not seen, in a network's or a server's bad minute; an error that no command explains."""
    impatient(monkeypatch)
    url, target = saved_there
    monkeypatch.setattr(bucket, "trouble", (where, status))
    for read in (
        lambda: Checkpointer(url, keep=3).restore(target),
        lambda: checkpoint.restore_params(url, target.params),
    ):
        with pytest.raises(OSError, match=f"{url}.*(does not answer as it should|cannot be read)") as error:
            read()
        assert not isinstance(error.value, (FileNotFoundError, DamagedCheckpoint))
    monkeypatch.setattr(bucket, "trouble", None)
    assert sorted(bucket.files.ls(url)) == ["bucket/damage/1", "bucket/damage/2"]
    assert Checkpointer(url, keep=3).restore(target)[0].step == 2


@pytest.mark.parametrize("broken", ["cut", "gone", "empty"])
def test_objects_that_are_gone_or_cut_are_damage(bucket, saved_there, broken):
    """Catches: a checkpoint in a bucket that is damaged for good, taken for one that cannot be reached."""
    url, target = saved_there
    kept = {name: bucket.files.cat_file(name) for name in bucket.files.find(f"{url}/2") if "_0/d/" in name}
    for name, content in kept.items():
        bucket.files.rm(name)
        if broken != "gone":
            bucket.files.pipe_file(name, content[: len(content) // 2 if broken == "cut" else 0])
    with pytest.warns(UserWarning, match=f"checkpoint 2 in {url} is damaged"):
        assert checkpoint.restore_params(url, target.params)[1] == 1
    for name, content in kept.items():
        bucket.files.pipe_file(name, content)
    assert checkpoint.restore_params(url, target.params)[1] == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(28, "No space left on device"), TimeoutError(), RuntimeError("no more threads")]
)
def test_what_is_not_known_to_be_damage_is_not(tmp_path, error):
    """Catches: a list of what may pass, which always lacks something."""

    def read(path):
        raise error

    with pytest.raises(Unreadable, match=rf"{tmp_path} cannot be read \({type(error).__name__}"):
        damage.try_read(read, tmp_path)


def test_a_pipe_in_a_checkpoint_is_not_waited_for(saved, copy):
    """Catches: a reader that hangs at a named pipe, which TensorStore opens."""
    for name in ("state/manifest.ocdbt", "meta/metadata"):
        path = copy / "2" / name
        kept = path.rename(copy / "kept")
        os.mkfifo(path)
        with pytest.raises(Unreadable, match=f"{path}: found a named pipe, expected a regular file"):
            Checkpointer(copy, keep=3).restore(abstract(saved[1][2], mesh(1, 1, 1)))
        kept.replace(path)


RESTORE = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import conftest
from made_states import Checkpointer, abstract, make_state, mesh
assert Checkpointer({folder!r}, keep=3).restore(abstract(make_state(mesh(1, 1, 1), size=4096), mesh(1, 1, 1)))
"""


@pytest.mark.slow
def test_damage_is_told_in_one_line(copy):
    """Catches: what Orbax, TensorStore and asyncio print beside it, hundreds of lines."""
    max(data_files(copy / "2"), key=size_of).unlink()
    tests = pathlib.Path(__file__).parents[1]
    program = RESTORE.format(root=str(tests.parent), tests=str(tests), folder=str(copy))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    line, *code = done.stderr.splitlines()
    assert done.returncode == 0 and "checkpoints/2 is damaged" in line and len(code) <= 1  # that warns


ONE_OF_TWO_PROCESSES = """
import sys, time
sys.path.insert(0, {here!r})
import conftest, jax
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize("127.0.0.1:{port}", num_processes=2, process_id={process})
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from test_damage import *
from made_states import State
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
target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(1))
together = jax.experimental.multihost_utils.sync_global_devices
data = list((folder / "2/state/ocdbt.process_1/d").iterdir())
together("found")
if {process} == 1:
    for path in data:
        path.rename(path.with_suffix(".kept"))
        path.symlink_to(path)
together("out of reach")
with pytest.raises(Unreadable, match="links" if {process} else "cannot be read by another process"):
    checkpoints.restore(target)
together("tried")
if {process} == 1:
    for path in data:
        path.unlink()
    verified = checkpoint.read_verified
    checkpoint.read_verified = lambda *args: (verified(*args), time.sleep(1))[0]  # and so it looks after the renaming
together("damaged")
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


@pytest.mark.slow
def test_two_processes_agree_when_one_cannot_read_its_part(tmp_path):
    """Catches: one process that falls back alone, or that gives up alone; waiting for one that failed, or for one that
    no longer finds what the other has renamed; two renames;
    a step that cannot be saved again by the same object that found it damaged."""
    places = dict(here=str(pathlib.Path(__file__).parent), folder=str(tmp_path / "checkpoints"))
    with held_port() as port:
        programs = [ONE_OF_TWO_PROCESSES.format(process=process, port=port, **places) for process in (0, 1)]
        found = ended([["-c", program] for program in programs], [{}, {}])
    for process, (_, out, err) in enumerate(found):
        assert out.endswith("sound\n") and ("moved to" in err) == (process == 0), err[-3000:]
