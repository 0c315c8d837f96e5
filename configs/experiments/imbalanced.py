"""Three fifths of the text are of one domain, and every domain counts alike: the loss is the mean over domains.

    lfr experiment configs/experiments/imbalanced.py --out runs/imbalanced
    lfr report configs/experiments/imbalanced.py --out runs/imbalanced

The text is that which Python carries, or another with LFR_TEXT (see common.py).
"""

import pathlib
import runpy

from lfr_jax.experiments.plan import Arm, Plan, Store

common = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
shares = "conversational=0.60 math=0.05" if common["TEXT"] else "code=0.60 tables=0.05"


def policy(name: str, about: str, **options) -> Arm:
    return Arm({"schedule.policy": name, "schedule.options": options}, about=about)


plan = Plan(
    config=common["config"],
    stores={name: common["stores"][name] for name in ("whole",)}
    | {"imbalanced": Store((f"data subset {{whole}} --out {{out}} --tokens 480_000 --shares {shares}",))},
    store="imbalanced",
    measure="macro",
    seeds=(1, 2, 3),
    arms={
        "equal": policy("mixture", "Every domain equally often.", stages=[[400, "equal"]]),
        "odm": policy("odm", "Online data mixing: domains by EXP3 on their loss."),
        "ado": policy("ado", "Domains by the slope of a power law that is fitted to their loss."),
        "lfr": policy("lfr", "LFR as published.", reps=1),
    },
    primary="equal",
    question="One domain is most of the text, and all domains count alike. What are other shares of the draws worth?",
    expected="Equal shares should win (1.15 to 1.3 by arithmetic), and then be the baseline for policies that learn "
    "shares.",
)
