"""LFR's main claim, at a small scale: with 5 % or 19 % of the tokens, does it do as well as uniform with all of them?

    lfr experiment configs/experiments/few_tokens.py --out runs/few_tokens
    lfr report configs/experiments/few_tokens.py --out runs/few_tokens

All of the tokens are twenty epochs, so 5 % are one. LFR decides by the losses of training, as in the first version of
the paper: two scoring passes would be two thirds of what the smallest runs may spend.
"""

import pathlib
import runpy

from lfr_jax.config.dotted import with_settings
from lfr_jax.experiments.plan import Arm, Plan, Store

common = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))


def policy(name: str, about: str, **options) -> Arm:
    settings = {"schedule.policy": name, "schedule.options": {"reps": 1, **options}}
    return Arm(settings, budgets=(0.05, 0.19), about=about)


plan = Plan(
    config=with_settings(common["config"], {"train.steps": 2400}),
    stores={"whole": common["stores"]["whole"], "clean": Store(("data subset {whole} --out {out} --tokens 240_000",))},
    store="clean",
    seeds=(1, 2, 3),
    curve=(0.05, 0.1, 0.19, 0.4, 0.7, 1.0),
    tuned={"optimizer.peak_lr": (5e-4, 1e-3, 2e-3), "optimizer.weight_decay": (0.1, 1.0)},
    tuning_seeds=(0,),
    arms={
        "lfr": policy("lfr", "LFR, one cycle, by the losses of training.", scores="train"),
        "random-drop": policy("random_drop", "The phases of LFR, with random blocks dropped."),
    },
    primary="lfr",
    question="Does LFR with 5 % or 19 % of the tokens reach what uniform shuffling reaches with all of them?",
    expected="If it does, its multiplier is 20 or more at 5 %, and 5.3 or more at 19 %. Others' re-tests suggest 1.",
)
