"""A corpus of which half is junk, as crawls are: what choosing the data is worth, at equal FLOPs.

    lfr experiment configs/experiments/smoke.py --out runs/evidence

The stores are made first. The text is what Python itself carries, and the baseline is tuned before the arms run.
"""

from lfr_jax.config import Config, DataConfig, OptimizerConfig, TrainConfig, llama
from lfr_jax.experiments.plan import Arm, Plan, Reference, Store

config = Config(
    data=DataConfig(seq_len=128),
    model=llama(2, 128, num_heads=4, num_kv_heads=2, mlp_dim=384, vocab_size=1024, max_len=256, tied_head=True),
    optimizer=OptimizerConfig(peak_lr=4e-3, end_lr=0.0, lr_schedule="wsd", warmup_steps=20, decay_fraction=0.3),
    train=TrainConfig(steps=720, batch_size=16, score_batch_size=64, eval_blocks=16),
)

plan = Plan(
    config=config,
    stores={
        "clean": Store(
            ("prepare --out {out} --embedded --sample 0.07 --valid-fraction 0.2 --train-tokenizer --vocab-size 1024",)
        ),
        "junk": Store(("data noise {clean} --out {out} --share 0.5 --kinds shuffled hex --seq-len 128",)),
    },
    store="junk",
    arms={
        "oracle": Arm(store="clean", about="Trains on the clean part alone: what a perfect filter would give."),
        "reducible": Arm(
            {"schedule.policy": "reducible", "schedule.options": {"rounds": 3}},
            references={"ref_loss": "tiny"},
            about="Prefers blocks whose loss is furthest above that of a small model of clean text.",
        ),
        "lfr": Arm(
            {"schedule.policy": "lfr", "schedule.options": {"reps": 1}},
            about="Learn, Focus, Review as published: hard blocks first, whether they can be learned or not.",
        ),
    },
    references={
        "tiny": Reference(
            "clean",
            {"model.dim": 32, "model.num_heads": 2, "model.num_kv_heads": 1, "model.mlp_dim": 96, "train.steps": 300},
        )
    },
    seeds=(1, 2, 3),
    tuned={"optimizer.peak_lr": (2e-3, 4e-3, 8e-3), "optimizer.weight_decay": (0.1, 1.0)},
    tuning_seeds=(0,),
    primary="reducible",
    question="Which policies find the clean half?",
    expected="Those with a reference do. A policy that prefers hard blocks prefers junk.",
)
