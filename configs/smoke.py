"""Learn, Focus, Review on text that Python itself carries, in minutes on two CPU cores.

    lfr prepare --out data/smoke --embedded --sample 0.07 --valid-fraction 0.2 --train-tokenizer --vocab-size 1024
    lfr train configs/smoke.py

`tools/smoke` does both, under LFR and under uniform shuffling at equal FLOPs, and compares them.

The paper gives the phases (one epoch each; an epoch of Focus is one pass over the blocks that it keeps) and
the shares dropped. The rest is our choice. The learning rate is the best of 2e-3, 4e-3, 8e-3, 16e-3 for
uniform shuffling; lower ones were not tried.
"""

from lfr_jax.config import Config, DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, llama

config = Config(
    run_dir="runs/smoke",
    data=DataConfig(store="data/smoke", seq_len=128),
    model=llama(2, 128, num_heads=4, num_kv_heads=2, mlp_dim=384, vocab_size=1024, max_len=256, tied_head=True),
    schedule=ScheduleConfig(
        "lfr", dict(learn=100, focus=50, review=100, focus2=30, drop=0.5, drop2=0.7, reps=1, scores="pass")
    ),
    optimizer=OptimizerConfig(peak_lr=2e-3, end_lr=0.0, lr_schedule="wsd", warmup_steps=20, decay_fraction=0.3),
    train=TrainConfig(
        steps=360,
        batch_size=16,
        score_batch_size=64,
        eval_every=40,
        eval_blocks=64,
        probe_blocks=63,
        checkpoint_every=90,
    ),
)
