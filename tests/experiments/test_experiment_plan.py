"""What a plan may declare, and what is said of one that is wrong."""

import dataclasses
import pathlib
import re

import plans
import pytest
from helpers import write_tokens

from lfr_jax.experiments.layout import laid_out
from lfr_jax.experiments.plan import Arm, Plan, Reference, Store, load_plan

HERE = pathlib.Path("data")  # plans are not carried out here

WRONG = {
    "store": (dict(store="junks"), "store is 'junks'; did you mean 'junk'. there are clean, junk"),
    "seed twice": (dict(seeds=(1, 1)), r"seeds is \(1, 1\), expected one or more values, each once"),
    "no seed": (dict(seeds=()), r"seeds is \(\)"),
    "a seed alone": (dict(seeds=3), "seeds is 3, expected a tuple"),
    "curve": (dict(curve=(0.5,)), "curve is .*expected 1.0 among the budgets of the baseline"),
    "budget": (dict(arms={"a": Arm(budgets=(3.0,))}), r"arms\['a'\].budgets has 3.0, .*add it to curve"),
    "setting": (dict(arms={"a": Arm({"train.step": 1})}), "no setting 'train.step'; did you mean 'train.steps'."),
    "value": (dict(arms={"a": Arm({"optimizer.peak_lr": -1})}), r"arms\['a'\].settings: optimizer.peak_lr is -1"),
    "branch": (dict(arms={"a": Arm({"init.run": "runs/a"})}), "'init.run', which the experiment decides"),
    "decided": (dict(arms={"a": Arm({"train.seed": 1})}), "'train.seed', which the experiment decides"),
    "steps": (dict(arms={"a": Arm({"train.steps": 9})}), "'train.steps', which the experiment decides"),
    "arm": (dict(arms={"a b": Arm()}), "arms has 'a b', expected a name of letters"),
    "baseline": (dict(arms={"baseline": Arm()}), "arms has 'baseline'"),
    "no arm": (dict(arms={"a": {}}), r"arms\['a'\] is {}, expected Arm"),
    "reference": (dict(arms={"a": Arm(references={"ref_loss": "tiny"})}), "references is 'tiny'; there are small"),
    "its store": (dict(references={"small": Reference("text")}), r"references\['small'\].store is 'text'"),
    "primary": (dict(primary="lfr"), "primary is 'lfr'; there are oracle, reducible"),
    "half": (dict(half="chose"), "half is 'chose'; did you mean 'choose'."),
    "grid": (dict(tuned={"optimizer.peak_lr": (1.0,)}), "expected both"),
    "grid of": (dict(tuned={"train.seed": (1,)}, tuning_seeds=(9,)), "tuned has 'train.seed'"),
    "same seeds": (
        dict(tuned={"optimizer.peak_lr": (1.0,)}, tuning_seeds=(1, 9)),
        "tuning_seeds has 1, as seeds has: choose on other seeds than are reported",
    ),
    "circle": (
        dict(stores={"junk": Store(("x {clean} {out}",)), "clean": Store(("x {junk} {out}",))}),
        "stores junk, clean are made from each other in a circle",
    ),
    "placeholder": (dict(stores={"junk": Store(("x {cleen} {out}",))}), "'cleen'; there are junk"),
    "no length": (dict(config=plans.config(**{"train.steps": 0})), "config.train.steps is 0"),
    "baseline's store": (dict(baseline=Arm(store="clean")), "baseline has more than settings"),
}


@pytest.mark.parametrize("changes, error", WRONG.values(), ids=WRONG)
def test_a_wrong_plan_is_refused_when_it_is_made(changes, error):
    """Catches: a mistake that shows after hours, or never; a name that is not said to be unknown."""
    with pytest.raises(ValueError, match=error):
        plans.plan(HERE, **changes)


@pytest.mark.parametrize("fields", [{}, dict(commands=("prepare --out {out}",), path="data/x"), dict(commands=("x",))])
def test_a_store_is_made_or_there(fields):
    """Catches: a store that nothing makes; one with a command whose folder nobody finds."""
    with pytest.raises(ValueError, match="commands"):
        Store(**fields)


def test_the_digest_is_of_the_whole_plan():
    """Catches: a primary figure, a question or a seed that can be changed after the fact without another digest."""
    first = plans.plan(HERE)
    assert first.digest == plans.plan(HERE).digest
    changes = [
        dict(primary="oracle"),
        dict(question="?"),
        dict(seeds=(0, 2)),
        dict(half="report"),
        dict(measure="macro"),
    ]
    changed = {plans.plan(HERE, **change).digest for change in changes}
    assert len(changed | {first.digest}) == len(changes) + 1


START = """
from lfr_jax.config import Config, TrainConfig
from lfr_jax.experiments.plan import Arm, Plan, Store
"""
WHOLE = (
    START
    + """
plan = Plan(config=Config(train=TrainConfig(steps=5)), stores={"a": Store(path="x")}, store="a", arms={}, seeds=(1,))
"""
)


def test_a_plan_is_a_python_file(tmp_path):
    """Catches: another name looked for; a plan that comes out changed."""
    (tmp_path / "plan.py").write_text(WHOLE)
    found = load_plan(str(tmp_path / "plan.py"))
    assert isinstance(found, Plan) and found.seeds == (1,) and found.config.train.steps == 5


@pytest.mark.parametrize(
    "text, error",
    [
        ("", "must set `plan` to an lfr_jax.experiments.plan.Plan; found NoneType"),
        (WHOLE.replace("seeds=(1,)", "seeds=()"), "line 5: ValueError: seeds is"),
        (WHOLE.replace("seeds", "seed"), "unexpected keyword argument 'seed'"),
    ],
)
def test_a_file_without_a_plan_is_refused(tmp_path, text, error):
    """Catches: a traceback; an error without the file and the line."""
    (tmp_path / "plan.py").write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'plan.py'))}.*{error}"):
        load_plan(str(tmp_path / "plan.py"))
    with pytest.raises(FileNotFoundError, match="no plan file"):
        load_plan(str(tmp_path / "other.py"))


ROOT = pathlib.Path(__file__).parents[2]


def test_the_plan_of_the_page_is_one(monkeypatch):
    """Catches: a page that shows a plan of names that do not exist."""
    monkeypatch.delenv("LFR_TEXT", raising=False)
    text = (ROOT / "docs" / "experiments.md").read_text()
    (block,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    shipped = load_plan(str(ROOT / "configs" / "experiments" / "half_junk.py"))
    names = {"config": shipped.config}
    exec(block, names)
    assert isinstance(names["plan"], Plan) and set(names["plan"].stores) == set(shipped.stores)


def test_the_shipped_plan_can_be_paid(tmp_path, monkeypatch):
    """Its stores stand for 360 steps an epoch. Catches: an arm whose references and scoring passes are dearer than its
    budget; a setting that no policy takes."""
    monkeypatch.delenv("LFR_TEXT", raising=False)
    shipped = load_plan(str(ROOT / "configs" / "experiments" / "half_junk.py"))
    tokens = [list(range(100, 228)) * (16 * 360)]
    store = write_tokens(tmp_path / "store", {("text", "a"): tokens}, {("text", "a"): tokens}, vocab_size=1024)
    here = {name: Store(path=str(store)) for name in shipped.stores}
    layout = laid_out(dataclasses.replace(shipped, stores=here, tuned={}, tuning_seeds=()), tmp_path)
    assert not layout.unknown and len(layout.runs) == 3 * (6 + 6)
    assert {run.run.config.train.steps >= 50 for run in layout.runs.values()} == {True}


def test_a_plan_cannot_be_changed():
    """Catches: a plan that is edited while it runs."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        plans.plan(HERE).seeds = (1,)
