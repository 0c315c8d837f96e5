"""Settings that contradict each other are refused before anything is traced or written; the others can be traced."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from lfr_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from lfr_jax.data.corpus import open_corpus
from lfr_jax.distributed.mesh import BATCH, make_mesh
from lfr_jax.schedule import BlockInfo
from lfr_jax.train import optimizer, policy, start, steps


def usually(common, *rare):
    return st.sampled_from([common] * 8 + list(rare))


MODELS = st.fixed_dictionaries(
    dict(
        vocab_size=usually(264, 1, 256, 259, 260),
        num_layers=st.just(1),
        dim=usually(16, 1, 12, 18),
        num_heads=usually(2, 1, 3, 4),
        num_kv_heads=usually(2, 1, 3),
        mlp_dim=usually(8, 1, 7),
        max_len=usually(32, 1, 15),
        positions=st.sampled_from(["learned", "rope"]),
        dtype=st.sampled_from(["float32", "bfloat16"]),
        attention=usually("auto", "xla", "blocked", "cudnn", "splash"),
        mask_documents=st.booleans(),
        reset_positions=usually(False, True),
        loss_chunk=usually(8, 1, 128),
    )
)
REST = st.fixed_dictionaries(
    dict(
        seq_len=usually(16, 1, 15, 64),
        packing=st.sampled_from(["concatenate", "best_fit", "by_length"]),
        curriculum=usually("uniform", "grow_p2"),
        fim_rate=usually(0.0, 0.5),
        batch_size=usually(8, 1, 3),
        grad_accum_steps=usually(1, 2, 3),
        score_batch_size=usually(0, 1, 6),
        data=usually(1, -1, 3, 16),
        fsdp=usually(1, 2),
        tensor=usually(1, 2, 3),
        name=usually("adamw", "muon", "sgd"),
        warmup_steps=usually(1, 0, 12),
    )
)


@pytest.mark.slow
@settings(max_examples=40)
@given(model=MODELS, rest=REST)
def test_what_is_not_refused_can_be_traced(corpus_dir, model, rest):
    """Catches: shapes that fail while the first step is compiled, when the run has its folder already."""

    def part(cls, **more):
        return cls(**{name: rest[name] for name in rest if name in cls.__dataclass_fields__}, **more)

    try:
        config = Config(
            "run", part(DataConfig, store=str(corpus_dir), shortest=8), ModelConfig(**model), ScheduleConfig(),
            part(OptimizerConfig), part(MeshConfig), part(TrainConfig, steps=12),
        )  # fmt: skip
        corpus, sched = open_corpus(config.data), policy.build(config.schedule, 12)
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        start.check(config, corpus, mesh, 12)
    except ValueError:
        return
    tx, rows, tokens = optimizer.make_optimizer(config.optimizer, 12), config.train.batch_size, config.data.seq_len + 1
    with jax.set_mesh(mesh):
        state = steps.abstract_state(config.model, tx, sched, BlockInfo(corpus.train.num_blocks), mesh)
        batch = {
            name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(mesh, BATCH))
            for name, shape in {"ids": (rows,), "tokens": (rows, tokens)}.items()
        }
        step = steps.make_train_step(config.model, tx, sched, config.train.grad_accum_steps, corpus.tokenizer.eos_id)
        _, metrics = jax.eval_shape(step, state, batch)
    assert metrics["losses"].shape == (rows,)
