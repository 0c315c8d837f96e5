"""The files in configs/: their sizes are what their names say, and they fit eight devices; plans can be carried out."""

import dataclasses
import functools
import gzip
import importlib.util
import itertools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

import lfr_jax.schedule
from lfr_jax.compile import programs, topologies
from lfr_jax.config import Config
from lfr_jax.config.dotted import with_settings
from lfr_jax.config.words import overridden
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.experiments.experiment import dry_run
from lfr_jax.experiments.plan import load_plan
from lfr_jax.model import decoder
from lfr_jax.train import policy

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
PLANS = [path.stem for path in sorted((FOLDER / "experiments").glob("*.py")) if path.stem != "common"]  # they share it
TABLE = runpy.run_path(str(FOLDER.parent / "tools" / "tpu_table.py"))

# (parameters, the vocabulary they are counted with)
SIZES = {
    "gpt2_124m_openwebtext": (124_439_808, 50257),
    "gpt2_345m_openwebtext": (354_823_168, 50257),
    "gpt2_774m_openwebtext": (774_030_080, 50257),
    "gpt2_1558m_openwebtext": (1_557_611_200, 50257),
    "llama_120m_slimpajama": (121_129_728, 32000),
    "llama_300m_slimpajama": (306_750_464, 32000),
    "llama_500m_slimpajama": (494_859_520, 32000),
    "llama_1b_slimpajama": (1_100_048_384, 32000),
}


def load(name: str) -> Config:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.config


def last_logits(config, params, tokens_BxT):
    model = decoder.merge(config, params)
    return jax.vmap(lambda tokens_T: model.logits(model.hidden(tokens_T)[-1:])[0])(tokens_BxT)


@pytest.mark.parametrize("name", SIZES)
def test_has_the_published_parameters_and_fits_eight_devices(name):
    """Catches: a layer, width or head count of any file changed; an untied GPT-2; a batch that eight devices
    cannot share; a warm-up longer than Learn."""
    config = load(name)
    params, vocab_size = SIZES[name]
    padding = (config.model.vocab_size - vocab_size) * config.model.dim
    assert decoder.num_params(config.model) == params + padding

    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    shapes = decoder.abstract(config.model, mesh)
    assert shapes["embedding"].sharding.mesh == mesh
    assert mesh.size == 8
    with jax.set_mesh(mesh):
        tokens = jax.ShapeDtypeStruct((8, config.data.seq_len), jnp.int32, sharding=NamedSharding(mesh, BATCH))
        logits = jax.eval_shape(functools.partial(last_logits, config.model), shapes, tokens)
    assert logits.shape == (8, config.model.vocab_size)
    rows = config.train.batch_size // config.train.grad_accum_steps
    assert rows * config.train.grad_accum_steps == config.train.batch_size
    assert rows % 8 == 0 and config.train.score_batch_size % 8 == 0
    assert config.data.seq_len <= config.model.max_len

    schedule = getattr(lfr_jax.schedule, config.schedule.policy)(**config.schedule.options)
    assert [phase.name for phase in schedule.phases] == ["learn", "focus", "review", "focus2"]
    assert config.optimizer.warmup_steps < schedule.phases[0].stop == 20_000
    assert (schedule.phases[1].stop, schedule.phases[-1].stop) == (60_000, 100_000)


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a TPU as a mesh asks for."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    client: None = None


@pytest.mark.parametrize("place", TABLE["PLACES"])
@pytest.mark.parametrize("name", SIZES)
def test_fits_every_place_with_the_options_of_the_table(name, place):
    """Catches: a batch that the chips of a place cannot share; sizes of the mesh that do not divide the model; options
    of docs/tpu.md that the trainer would refuse, after a TPU was asked for."""
    accelerator, slices = TABLE["parted"](place)
    topology = topologies.find(accelerator, slices)
    sizes = (*topology.shape, *(1,) * (3 - len(topology.shape)))
    chips = [Chip(0, index, at) for index in range(slices) for at in itertools.product(*map(range, sizes))]
    chips = [dataclasses.replace(chip, id=number) for number, chip in enumerate(chips)]
    job = TABLE["job"](name, place)
    config, *_ = overridden(Config, [str(FOLDER / f"{name}.py"), *job.options], "lfr train")
    mesh = programs.mesh_of(config, chips)
    assert mesh.size == topology.num_chips == len(chips)
    rows = config.train.batch_size / config.train.grad_accum_steps / mesh.shape["data"] / mesh.shape["fsdp"]
    assert 1 <= rows <= 32


def test_every_big_config_is_tested():
    """Catches: a file added to configs/ without its count."""
    assert {path.stem for path in FOLDER.glob("*.py")} - {"smoke"} == set(SIZES)


def make_text(folder: pathlib.Path) -> str:
    """A folder as LFR_TEXT names it, whose name has a space."""
    for side in ("train", "valid"):
        (folder / "own text" / "prose").mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / "own text" / "prose" / f"0.{side}.jsonl.gz", "wt") as file:
            file.write('{"text": "What is read."}\n')
    return str(folder / "own text")


@pytest.mark.parametrize("own_text", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_one_with_policies_that_exist(name, own_text, tmp_path, monkeypatch):
    """Catches: a plan that is refused, alone or with LFR_TEXT; a policy without this option; a file that sets no plan;
    a text of one's own that is not read."""
    monkeypatch.setenv("LFR_TEXT", make_text(tmp_path) if own_text else "")
    plan = load_plan(str(FOLDER / "experiments" / f"{name}.py"))
    commands = " ".join(command for store in plan.stores.values() for command in store.commands)
    assert ("own text" in commands) == own_text
    for arm in (plan.baseline, *plan.arms.values()):
        policy.build(with_settings(plan.config, arm.settings).schedule, plan.config.train.steps)
    assert f"store/{plan.store}" in dry_run(plan, tmp_path / "out")
    assert plan.primary and plan.question and plan.expected


def test_an_empty_folder_is_no_text(tmp_path, monkeypatch):
    """Catches: a plan that would prepare nothing, and say so when its store is made."""
    monkeypatch.setenv("LFR_TEXT", str(tmp_path))
    with pytest.raises(ValueError, match=r"found no \*/\*.train.jsonl.gz in .*, expected files of text"):
        load_plan(str(FOLDER / "experiments" / "clean.py"))
