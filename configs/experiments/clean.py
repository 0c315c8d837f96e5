"""Clean text, read four times: does any order beat shuffled epochs?

    lfr experiment configs/experiments/clean.py --out runs/clean
    lfr report configs/experiments/clean.py --out runs/clean

The text is that which Python carries, or another with LFR_TEXT (see common.py).
"""

import pathlib
import runpy

from lfr_jax.config.dotted import with_settings
from lfr_jax.experiments.plan import Arm, Plan, Store

common = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))


def policy(name: str, about: str, **options) -> Arm:
    return Arm({"schedule.policy": name, "schedule.options": options}, about=about)


mild = dict(learn=25, focus=55, review=20, focus2=0, drop=0.2, reps=1, scores="detrended")
plan = Plan(
    config=with_settings(common["config"], {"train.steps": 480}),
    stores={"whole": common["stores"]["whole"], "clean": Store(("data subset {whole} --out {out} --tokens 240_000",))},
    store="clean",
    seeds=(1, 2, 3, 4, 5),
    tuned={"optimizer.peak_lr": (5e-4, 1e-3, 2e-3), "optimizer.weight_decay": (0.1, 0.3, 1.0, 3.0)},
    tuning_seeds=(0,),
    arms={
        "lfr": policy(
            "lfr", "LFR as published: one cycle, half of the blocks dropped in Focus, 70 % in Focus 2.", reps=1
        ),
        "lfr-mild": policy("lfr", "LFR by losses of training, a fifth dropped, Review over the cooldown.", **mild),
        "random-drop": policy("random_drop", "The phases of LFR, with random blocks dropped.", reps=1),
        "infobatch": policy("infobatch", "Blocks below the mean loss are drawn less often, and count more."),
    },
    primary="lfr-mild",
    question="Clean text without duplicates, four epochs. Does a choice by loss beat shuffled epochs?",
    expected="No: published re-tests find that gains vanish against a fully decayed baseline at equal compute.",
)
