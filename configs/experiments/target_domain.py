"""One domain counts: the loss on mathematics, or on prose in the text that Python carries.

    lfr experiment configs/experiments/target_domain.py --out runs/target_domain
    lfr report configs/experiments/target_domain.py --out runs/target_domain

The text is that which Python carries, or another with LFR_TEXT (see common.py).
"""

import pathlib
import runpy

from lfr_jax.experiments.plan import Arm, Plan, Reference, Store

common = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
tiny, stores = common["tiny"], common["stores"]
target = "math" if common["TEXT"] else "prose"
of_target = f"data subset {{whole}} --out {{out}} --tokens 240_000 --shares {target}=1 --without {{clean}}"


def best(keep: float) -> dict:
    """A choice before the first step: the share `keep` of the blocks with the highest prior − conditional loss."""
    options = {"column": "prior", "minus": "conditional", "keep": keep, "rounds": 1}
    return {"schedule.policy": "ranked", "schedule.options": options}


models = {"prior": "prior", "conditional": "conditional"}
plan = Plan(
    config=common["config"],
    stores={name: stores[name] for name in ("whole", "clean", "reference")} | {"target": Store((of_target,))},
    store="clean",
    measure=target,
    seeds=(1, 2, 3),
    references={
        "prior": Reference("reference", tiny | {"train.steps": 200, "optimizer.peak_lr": 4e-3}),
        "conditional": Reference("target", tiny | {"train.steps": 200, "optimizer.peak_lr": 4e-3}),
    },
    arms={
        "half": Arm(
            best(0.5), references=models, about="Half of the blocks, by two tiny models: one of them on the target."
        ),
        "third": Arm(best(0.33), references=models, about="A third of the blocks, by the same two models."),
        "lfr": Arm(
            {"schedule.policy": "lfr", "schedule.options": {"reps": 1}},
            about="LFR as published, which knows nothing of the target.",
        ),
    },
    primary="third",
    question="One domain counts, and a little of its text is at hand. What is a choice by two tiny models worth on it?",
    expected="1.2 to 2 by arithmetic; the authors of CoLoR-Filter report 11 to 25 times less data at their scale.",
)
