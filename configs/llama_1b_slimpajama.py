"""Llama 1.1B: Learn, Focus, Review on SlimPajama.

    lfr prepare --out data/slimpajama --sentencepiece llama2/tokenizer.model slimpajama/
    lfr train configs/llama_1b_slimpajama.py

`slimpajama/` holds some of SlimPajama's .jsonl.zst files, about 40 billion tokens: Learn is one pass over
them, and a scoring pass costs a third of that. `llama2/tokenizer.model` is Llama 2's. Meant for 8 GPUs of
80 GB; we have not run it. TPUs: docs/tpu.md.

The paper gives the size by name, the data, the shares dropped. We do not know what the paper used for the
rest. Our choice: the shape (TinyLlama's, Zhang et al. 2024; 1,100.0 M parameters), the phases' lengths, and
the optimizer: TinyLlama's (2 M tokens a step, learning rate 4e-4, warm-up 2,000 steps).
"""

from lfr_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, ScheduleConfig, TrainConfig, llama

config = Config(
    run_dir="runs/llama_1b_slimpajama",
    data=DataConfig(store="data/slimpajama", seq_len=2048, workers=4),
    model=llama(22, 2048, num_heads=32, num_kv_heads=4, mlp_dim=5632, dtype="bfloat16", remat="block"),
    schedule=ScheduleConfig(
        "lfr",
        dict(learn=20_000, focus=40_000, review=20_000, focus2=20_000, drop=0.5, drop2=0.7, reps=1, scores="pass"),
    ),
    optimizer=OptimizerConfig(peak_lr=4e-4, end_lr=4e-5, lr_schedule="cosine", warmup_steps=2000),
    mesh=MeshConfig(data=1, fsdp=-1),
    train=TrainConfig(batch_size=1024, grad_accum_steps=8, score_batch_size=128, eval_every=1000),
)
