"""Experiments whose runs take no time: on two small corpora, one of them with junk."""

import dataclasses

from helpers import documents, tiny

from lfr_jax.config.dotted import with_settings
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.experiments.plan import Arm, Plan, Reference, Store
from lfr_jax.prepare.noise import add_noise
from lfr_jax.prepare.prepare import prepare_documents

SMALL = {
    "model.dim": 8,
    "model.num_heads": 1,
    "model.num_kv_heads": 1,
    "model.mlp_dim": 8,
    "train.steps": 3,
    "optimizer.warmup_steps": 1,
}
UNSET = {"train.eval_every": 1000, "train.checkpoint_every": 1000, "train.probe_blocks": 1024}  # the defaults


def config(**changes):
    """The baseline: 16 steps on one device, whose learning rate does not depend on their number."""
    changes = {"train.steps": 16, "mesh.data": 1, "optimizer.lr_schedule": "constant", "train.log_every": 1} | changes
    return with_settings(tiny("runs/none", "none", "uniform"), UNSET | changes)


def make_stores(folder):
    """Prepares `clean`, and `junk`, which is the same with junk in it."""
    prepare_documents(folder / "clean", documents(2), Bytes(), valid_fraction=0.4)
    add_noise(str(folder / "clean"), out=str(folder / "junk"), share=0.3, kinds=("shuffled",), seq_len=32)


def plan(folder, **changes) -> Plan:
    """Two seeds of a baseline, of an oracle, and of one arm with a reference.

    Args:
      folder: where `make_stores` was.
    """
    made = Plan(
        config=config(),
        stores={name: Store(path=str(folder / name)) for name in ("clean", "junk")},
        store="junk",
        arms={
            "oracle": Arm(store="clean"),
            "reducible": Arm(
                {"schedule.policy": "reducible", "schedule.options": {"rounds": 2}}, references={"ref_loss": "small"}
            ),
        },
        references={"small": Reference("clean", SMALL)},
        seeds=(0, 1),
        curve=(0.5, 1.0),
    )
    return dataclasses.replace(made, **changes)
