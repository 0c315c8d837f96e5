"""`lfr compile`, on eight CPU devices that stand for TPUs, and with libtpu where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest
from helpers import changed, tiny

from lfr_jax import cli
from lfr_jax.commands.tpu import Compilation
from lfr_jax.compile import command, programs, roofline
from lfr_jax.compile.command import compile_run
from lfr_jax.compile.memory import TooLarge
from lfr_jax.compile.topologies import Topology
from lfr_jax.config import ModelConfig, llama
from lfr_jax.schedule import BlockInfo
from lfr_jax.train import optimizer, policy, steps


@pytest.fixture
def stand_in(monkeypatch):
    """The CPU's devices for a TPU's. They have no place in a network, so links take no time."""
    monkeypatch.setattr(Topology, "devices", lambda self: jax.devices())
    monkeypatch.setattr(roofline, "seconds", lambda *_: 0.0)


@pytest.fixture
def config(tmp_path):
    return changed(
        tiny(tmp_path, tmp_path), train__batch_size=16, train__grad_accum_steps=2, mesh__data=2, mesh__fsdp=4
    )


@pytest.mark.slow
def test_the_state_is_the_trainer_s(config):
    """Catches: a second copy of the state, of other shapes or shardings than what training has."""
    blocks = 1000
    mesh = programs.mesh_of(config, jax.devices())
    schedule = policy.build(config.schedule, config.train.steps)
    tx = optimizer.make_optimizer(config.optimizer, schedule.phases[-1].stop)
    info = BlockInfo(blocks, domain=jax.numpy.zeros(blocks, int))
    with jax.set_mesh(mesh):
        real = steps.init_state(config.model, tx, schedule, info, mesh, 0)
    abstract = programs.abstract_state(config, mesh, blocks)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for a, b in zip(jax.tree.leaves(real), jax.tree.leaves(abstract)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.slow
def test_what_is_found_and_said(config, stand_in, tmp_path):
    """Catches: a program that is not compiled; FLOPs of one chip taken for those of all, or of one micro-batch for
    those of a step; JSON that cannot be written; a line missing for people."""
    lines = []
    found = compile_run(config, "v6e-8", keep_hlo=str(tmp_path / "hlo"), say=lines.append)
    assert (tmp_path / "hlo" / "train.hlo").read_text().startswith("HloModule jit_train_step")
    json.dumps(found)
    assert found["chips"] == 8 and found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    assert found["blocks"] == policy.build(config.schedule, config.train.steps).phases[0].stop * 16
    assert list(found["programs"]) == ["train", "score", "generate"]
    for name in ("train", "score"):
        program = found["programs"][name]
        assert 0.9 < 8 * program["flops_per_chip"] / program["model_flops"] < 1.5
        assert program["fits"] and program["loops_known"] and not program["host_transfers"]
        assert program["bound_seconds"]["step"] > 0 and 0 < program["mfu_at_most"] <= 1
    assert {each["kind"] for each in found["programs"]["train"]["collectives"]} >= {"all-gather", "all-reduce"}
    text = "\n".join(lines)
    for words in ("v6e-8: 8 chips", "in 2 micro-batches of 1 rows", "train step: fits", "scoring step", "generation"):
        assert words in text


def test_what_does_not_fit_is_said_with_what_was_tried(config, stand_in, monkeypatch, tmp_path):
    """Catches: exit code 0, or a report of success, for a run that would end in an error on the TPU; the text of one
    program written over that of another."""

    def too_large(name, config, place, mesh, blocks, options, keep):
        keep(f"{config.train.score_batch_size} rows")
        return TooLarge(40, "Used 40G of 31G")

    monkeypatch.setattr(command, "examine", too_large)
    lines = []
    found = compile_run(config, "v6e-8", names=["score"], keep_hlo=str(tmp_path / "hlo"), say=lines.append)
    score = found["programs"]["score"]
    assert not score["fits"] and score["needed_gib"] == 40
    assert [attempt["options"] for attempt in score["tried"]] == [f"--train.score-batch-size {n}" for n in (32, 8)]
    assert "DOES NOT FIT" in lines[1]
    assert lines[-1] == "  nothing that was tried fits: take a smaller model, or more chips"
    texts = {path.name: path.read_text() for path in (tmp_path / "hlo").iterdir()}
    assert texts == {"score.hlo": "64 rows", "score.1.hlo": "32 rows", "score.2.hlo": "8 rows"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--topology", "v9-8"], "no topology is called 'v9-8'"),
        (["--compiler-options", "xla_flag"], "found the compiler option 'xla_flag', expected NAME=VALUE"),
        (["--mesh.fsdp", "3"], "8 devices cannot be divided by 3"),
        (["--train.batch-size", "12"], "train.batch_size=12 is not divisible by 8"),
    ],
)
def test_mistakes_are_one_line(options, message, stand_in, monkeypatch):
    """Catches: a traceback; a mistake that is found only after minutes of compiling."""
    monkeypatch.setattr(sys, "argv", ["lfr", "compile", "configs/smoke.py", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert message in ended.value.code and "\n" not in ended.value.code


def test_ranges_of_its_own_options():
    """Catches: a run on no slices at all."""
    with pytest.raises(ValueError, match="slices is 0, expected a whole number, at least 1"):
        Compilation(slices=0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[aot]'")
def test_a_model_of_two_layers_for_real_tpus(tmp_path, config):
    """Catches: text of a newer compiler that the reader does not know; attention of this machine in the place of a
    TPU's kernel; micro-batches or layers counted once; a copy to the host within a step."""
    shape: ModelConfig = llama(2, 256, 4, 2, 512, vocab_size=1024, max_len=256, dtype="bfloat16")
    here = changed(config, data__seq_len=256, mesh__data=1, mesh__fsdp=8)
    file = tmp_path / "two.py"
    file.write_text(f"from lfr_jax.config import *\n\nconfig = {here!r}\n".replace(repr(here.model), repr(shape)))
    words = ["compile", str(file), "--topology", "v6e-8", "--programs", "train", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lfr_jax.cli", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    train = json.loads(done.stdout)["programs"]["train"]
    assert train["kernels"]["splash_mha_fwd_residuals"] == 2 * 2  # layers × micro-batches
    assert 0.9 < 8 * train["flops_per_chip"] / train["model_flops"] < 1.1
    assert {each["kind"] for each in train["collectives"]} >= {"all-gather", "reduce-scatter"}
    assert train["fits"] and train["loops_known"] and not train["host_transfers"]
