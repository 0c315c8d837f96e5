"""GPT-2 345M (medium): Learn, Focus, Review on OpenWebText.

    lfr prepare --out data/openwebtext --gpt2 gpt2/ openwebtext/
    lfr train configs/gpt2_345m_openwebtext.py

`openwebtext/` holds the text (.txt, .jsonl, .gz, .zst), `gpt2/` OpenAI's encoder.json and vocab.bpe. Meant
for 8 GPUs of 80 GB; we have not run it. TPUs: docs/tpu.md.

The paper gives the shape (GPT-2; 354.8 M parameters, 354.9 M as trained with the vocabulary padded to
50,304), Learn up to step 20,000 and Focus up to 60,000 (the paper's GPT-2 figure), the shares dropped. We
do not know what the paper used for the rest. Our choice: the lengths of Review and Focus 2, and the
optimizer: nanoGPT's for GPT-2 (0.5 M tokens a step, warm-up 2,000 steps), with the learning rate of GPT-3
350M (Brown et al. 2020, table 2.1).
"""

from lfr_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, ScheduleConfig, TrainConfig, gpt2

config = Config(
    run_dir="runs/gpt2_345m_openwebtext",
    data=DataConfig(store="data/openwebtext", seq_len=1024, workers=4),
    model=gpt2(24, 1024, 16, vocab_size=50304, max_len=1024, dtype="bfloat16"),
    schedule=ScheduleConfig(
        "lfr",
        dict(learn=20_000, focus=40_000, review=20_000, focus2=20_000, drop=0.5, drop2=0.7, reps=1, scores="pass"),
    ),
    optimizer=OptimizerConfig(peak_lr=3e-4, end_lr=3e-5, lr_schedule="cosine", warmup_steps=2000),
    mesh=MeshConfig(data=-1),
    train=TrainConfig(batch_size=512, grad_accum_steps=16, score_batch_size=256, eval_every=1000),
)
