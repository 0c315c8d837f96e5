"""Half of the blocks are junk: shuffled words, hexadecimal digits and, in other text than Python's, code.

    lfr experiment configs/experiments/half_junk.py --out runs/half_junk
    lfr report configs/experiments/half_junk.py --out runs/half_junk

The text is that which Python carries, or another with LFR_TEXT (see common.py).
"""

import pathlib
import runpy

from lfr_jax.experiments.plan import Arm, Plan, Reference

common = runpy.run_path(str(pathlib.Path(__file__).with_name("common.py")))
tiny, constant = common["tiny"], common["constant"]


def best_half(column: str, minus: str = "", prefer: str = "high") -> dict:
    """A choice before the first step: the half of the blocks with the highest difference of two columns."""
    options = {"column": column, "minus": minus, "prefer": prefer, "keep": 0.5, "rounds": 1}
    return {"schedule.policy": "ranked", "schedule.options": options}


plan = Plan(
    config=common["config"],
    stores=common["stores"] | {"junk": common["junk"](0.5)},
    store="junk",
    seeds=(1, 2, 3),
    curve=(0.5, 0.7, 1.0, 1.4, 2.0, 2.8),
    tuned={"optimizer.peak_lr": (1e-3, 2e-3, 4e-3), "optimizer.weight_decay": (0.1, 0.3, 1.0)},
    tuning_seeds=(0,),
    references={
        "reference": Reference("reference", tiny | {"train.steps": 300, "optimizer.peak_lr": 4e-3}),
        "young": Reference("junk", tiny | constant | {"train.steps": 50, "optimizer.peak_lr": 2e-3}),
        "early": Reference("junk", tiny | constant | {"train.steps": 200, "optimizer.peak_lr": 2e-3}),
        "late": Reference("junk", tiny | constant | {"train.steps": 400, "optimizer.peak_lr": 2e-3}),
    },
    arms={
        "oracle": Arm(store="clean", about="Shuffled epochs over the clean half alone: the ceiling."),
        "two-tiny-models": Arm(
            best_half("young", "reference"),
            references={"young": "young", "reference": "reference"},
            about="The half with the highest excess loss of two tiny models: one after 50 steps on this text, and one "
            "of 300 steps on other clean text.",
        ),
        "tiny-progress": Arm(
            best_half("early", "late"),
            references={"early": "early", "late": "late"},
            about="The half whose loss falls furthest from step 200 to 400 of a tiny model on this text.",
        ),
        "low-reference-loss": Arm(
            best_half("reference", prefer="low"),
            references={"reference": "reference"},
            about="The half with the lowest loss of the reference: a static filter.",
        ),
        "lfr": Arm(
            {"schedule.policy": "lfr", "schedule.options": {"reps": 1}, "optimizer.warmup_steps": 20},
            about="LFR as published: one cycle, half of the blocks dropped in Focus, 70 % in Focus 2. Its scoring "
            "passes leave it 93 steps, so its warm-up is shorter.",
        ),
        "lfr-free": Arm(
            {"schedule.policy": "lfr", "schedule.options": {"reps": 1, "scores": "detrended"}},
            about="LFR by losses of training, which cost nothing.",
        ),
    },
    primary="two-tiny-models",
    question="Half of a corpus is junk. What is it worth to find the other half, everything charged?",
    expected="A perfect filter of inert junk of share q is worth 1/(1 − q) = 2. LFR keeps hard blocks, so junk.",
)
