"""A twentieth of the blocks occur ten times, each time with other 15 % of their tokens replaced.

    lfr experiment configs/experiments/near_duplicates.py --out runs/near_duplicates
    lfr report configs/experiments/near_duplicates.py --out runs/near_duplicates

The text is that which Python carries, or another with LFR_TEXT (see common.py).
"""

import pathlib
import runpy

from lfr_jax.experiments.plan import Arm, Plan, Store

common = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
near = "data noise {clean} --out {out} --kinds near_duplicated --copied 0.05 --copies 9 --edited 0.15 --seq-len 128"


def policy(name: str, about: str, **options) -> Arm:
    return Arm({"schedule.policy": name, "schedule.options": options}, about=about)


plan = Plan(
    config=common["config"],
    stores={name: common["stores"][name] for name in ("whole", "clean")} | {"near": Store((near,))},
    store="near",
    seeds=(1, 2, 3),
    arms={
        "oracle": Arm(store="clean", about="Shuffled epochs over the text without copies: the ceiling."),
        "lfr": policy("lfr", "LFR as published: it drops what is easy, so what was seen often.", reps=1),
        "lfr-free": policy("lfr", "LFR by losses of training, which cost nothing.", reps=1, scores="detrended"),
        "infobatch": policy("infobatch", "Blocks below the mean loss are drawn less often, and count more."),
    },
    primary="lfr-free",
    question="Near-duplicates are 31 % of the blocks. What is it worth not to read them?",
    expected="The text without copies is worth up to 1 / (1 − 0.31) = 1.45. Easy blocks are the copies, so LFR may "
    "find them.",
)
