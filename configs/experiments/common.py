"""What the experiments share: a model of half a million parameters, and text in parts that have no document in common.

The text is that which Python carries. With LFR_TEXT in the environment, it is that of another folder, which holds
DOMAIN/*.train.jsonl.gz and DOMAIN/*.valid.jsonl.gz.
"""

import os
import pathlib
import shlex
import sysconfig

from lfr_jax.config import Config, DataConfig, OptimizerConfig, TrainConfig, llama
from lfr_jax.experiments.plan import Store

TEXT = os.environ.get("LFR_TEXT", "")
T = 128  # tokens in a block

# With a warm-up of 20 steps the loss of some runs falls late: shuffled epochs of half junk ended at 4.36 and 4.75 with
# two seeds, and with 80 steps at 4.28 and 4.28.
config = Config(
    data=DataConfig(seq_len=T),
    model=llama(2, 128, num_heads=4, num_kv_heads=2, mlp_dim=384, vocab_size=1024, max_len=256, tied_head=True),
    optimizer=OptimizerConfig(peak_lr=1e-3, end_lr=0.0, lr_schedule="wsd", warmup_steps=80, decay_fraction=0.3),
    train=TrainConfig(steps=400, batch_size=16, score_batch_size=64),
)


def files(folder: str, pattern: str) -> str:
    """The files of a folder, as words of a command."""
    found = sorted(map(str, pathlib.Path(folder).glob(pattern)))
    if not found:
        raise ValueError(f"found no {pattern} in {folder}, expected files of text; LFR_TEXT is {TEXT!r}")
    return shlex.join(found)


if TEXT:
    train, valid = files(TEXT, "*/*.train.jsonl.gz"), files(TEXT, "*/*.valid.jsonl.gz")
    prepare = f"prepare {train} --valid {valid} --sample 0.3"
    python = files(sysconfig.get_path("stdlib"), "*.py")
    JUNK = f"--kinds shuffled hex foreign --foreign {python}"  # code is foreign to this text
else:
    prepare = "prepare --embedded --valid-fraction 0.05"
    JUNK = "--kinds shuffled hex"

stores = {
    "whole": Store((prepare + " --out {out} --train-tokenizer --vocab-size 1024",)),
    "clean": Store(("data subset {whole} --out {out} --tokens 480_000",)),
    "reference": Store(("data subset {whole} --out {out} --tokens 480_000 --without {clean}",)),
}


def junk(share: float) -> Store:
    """The clean text, and junk."""
    return Store((f"data noise {{clean}} --out {{out}} --share {share} --seq-len {T} {JUNK}",))


# A model of 0.09 of the FLOPs a token.
tiny = {"model.num_layers": 1, "model.dim": 32, "model.mlp_dim": 96, "optimizer.warmup_steps": 20}
constant = {"optimizer.lr_schedule": "constant"}
