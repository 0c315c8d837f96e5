"""Llama 500M: Learn, Focus, Review on SlimPajama.

    lfr prepare --out data/slimpajama --sentencepiece llama2/tokenizer.model slimpajama/
    lfr train configs/llama_500m_slimpajama.py

`slimpajama/` holds some of SlimPajama's .jsonl.zst files, about 10 billion tokens: Learn is one pass over
them, and a scoring pass costs a third of that. `llama2/tokenizer.model` is Llama 2's. Meant for 8 GPUs of
80 GB; we have not run it. TPUs: docs/tpu.md.

The paper gives the size by name, the data, the shares dropped. We do not know what the paper used for the
rest. Our choice: the shape (24 layers of width 1,280, 4 key heads; 494.9 M parameters), the phases'
lengths, and the optimizer: nanoGPT's for GPT-2 (0.5 M tokens a step, warm-up 2,000 steps), with the
learning rate of GPT-3 760M (Brown et al. 2020, table 2.1).
"""

from lfr_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, ScheduleConfig, TrainConfig, llama

config = Config(
    run_dir="runs/llama_500m_slimpajama",
    data=DataConfig(store="data/slimpajama", seq_len=2048, workers=4),
    model=llama(24, 1280, num_heads=20, num_kv_heads=4, mlp_dim=3456, dtype="bfloat16"),
    schedule=ScheduleConfig(
        "lfr",
        dict(learn=20_000, focus=40_000, review=20_000, focus2=20_000, drop=0.5, drop2=0.7, reps=1, scores="pass"),
    ),
    optimizer=OptimizerConfig(peak_lr=2.5e-4, end_lr=2.5e-5, lr_schedule="cosine", warmup_steps=2000),
    mesh=MeshConfig(data=-1),
    train=TrainConfig(batch_size=256, grad_accum_steps=32, score_batch_size=128, eval_every=1000),
)
