"""Learn, Focus, Review on the text that Python itself carries, in minutes on two CPU cores.

    lfr prepare --out data/smoke --embedded --train-tokenizer --vocab-size 2048
    lfr train configs/smoke.py

`tools/smoke` does both and compares LFR with uniform shuffling at equal FLOPs.
"""

from lfr_jax.config import Config, DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, llama

config = Config(
    run_dir="runs/smoke",
    data=DataConfig(store="data/smoke", seq_len=128),
    model=llama(4, 128, num_heads=4, num_kv_heads=2, mlp_dim=384, vocab_size=2048, max_len=128, tied_head=True),
    # Relative lengths: `train.steps` stretches them.
    schedule=ScheduleConfig("lfr", dict(learn=50, focus=20, review=15, focus2=15, drop=0.5, drop2=0.7, reps=1)),
    optimizer=OptimizerConfig(peak_lr=3e-3, end_lr=0.0, shape="wsd", warmup=20, decay=0.2),
    train=TrainConfig(
        steps=400, batch_size=32, score_batch=64, eval_every=50, eval_blocks=64, checkpoint_every=100
    ),
)
