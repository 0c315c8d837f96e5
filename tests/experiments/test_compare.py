"""Equal FLOPs, and what the comparison shows."""

import csv
import json
import math

import numpy as np
import pytest
from helpers import changed, tiny

from lfr_jax.config import llama
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.experiments import compare
from lfr_jax.train import flops, policy
from lfr_jax.train.flops import Spent


@pytest.mark.parametrize("steps, fraction", [(0, 1.0), (24, 1.0), (100, 1.0), (100, 0.25)])
def test_all_policies_cost_the_same_to_within_a_step(corpus_dir, steps, fraction):
    """Catches: scoring that is not charged, or charged to policies that do not score; a sample charged as all."""
    config = tiny("runs/x", corpus_dir, unmeasured="domain")
    config = changed(config, train__steps=steps, schedule__score_fraction=fraction)
    blocks = Blocks(open_store(corpus_dir / "train"), 32)
    cost, scored = flops.expected(config, blocks), np.arange(math.ceil(fraction * blocks.num_blocks))
    of_first, passes = compare.count_steps_and_passes(config, ["lfr", "uniform", "random_drop"])
    assert of_first == (steps or 24) and passes == {"lfr": 2, "uniform": 0, "random_drop": 0}

    def spent(steps: int, scoring: int) -> int:
        total = Spent()
        for _ in range(steps):
            total = total.train(config.model, 8, 32)
        for _ in range(scoring):
            total = total.score(config.model, blocks, scored)
        return total.flops

    budget = spent(of_first, 2)
    assert cost.steps_within(budget, 2) == of_first
    for name in ("uniform", "random_drop"):
        run = compare.config_for_policy(config, name, cost.steps_within(budget, passes[name]))
        assert run.schedule.policy == name and run.run_dir == f"runs/x/{name}"
        assert policy.build(run.schedule, run.train.steps).phases[-1].stop == run.train.steps > of_first
        assert 0 <= budget - spent(run.train.steps, 0) < spent(1, 0)


@pytest.mark.parametrize(
    "second, options, error",
    [
        ("token_selection", {"by": "excess"}, "none is named: --schedule.ref-model RUN"),
        ("ranked", {}, r"ranked needs BlockInfo.columns\['quality'\].*--schedule.columns quality=FILE"),
        ("lfr_clusters", {}, "--schedule.clusters 64"),
    ],
)
def test_what_a_later_policy_needs_is_missed_before_any_training(
    corpus_dir, tmp_path, monkeypatch, second, options, error
):
    """Catches: the first policy trained to its end, and then the second refused."""
    monkeypatch.setattr(compare, "train", lambda run: pytest.fail("it trains"))
    with pytest.raises(ValueError, match=error):
        compare.compare_policies(tiny(tmp_path / "runs", corpus_dir), ["uniform", second], options)


def test_what_the_settings_give_is_not_missed(corpus_dir):
    """No file is read. Catches: a policy refused that a file or the store serves."""
    config = changed(tiny("runs/x", corpus_dir), schedule__columns=("quality=q.csv",), schedule__clusters=3)
    config = changed(config, schedule__ref_scores="r.csv", schedule__ref_model="runs/r")
    blocks = open_corpus(config.data).train
    compare.check_needs(config, blocks, ["ranked", "repetition", "lfr_clusters", "doremi", "aioli", "data_shapley"])
    compare.check_needs(config, blocks, ["token_selection"], {"by": "excess"})


def test_options_of_the_compared_policies(corpus_dir):
    """Catches: options of the file's policy inherited by another; one by hand that is lost, or refused by a policy
    that does not take it; one that nobody takes and nobody refuses; a policy that would continue itself."""
    config = changed(tiny("runs/x", corpus_dir, drop=0.25), train__steps=0)
    given = {"drop": "0.75", "rounds": "2"}
    runs = [compare.config_for_policy(config, name, 24, given) for name in ("lfr", "seta", "uniform")]
    of_file = config.schedule.options | dict(drop=0.75)
    assert [run.schedule.options for run in runs] == [of_file, dict(drop=0.75, rounds=2), {}]
    assert compare.count_steps_and_passes(config, ["seta", "lfr"], given) == (24, {"seta": 0, "lfr": 2})
    assert compare.count_steps_and_passes(config, ["lfr"], {"learn": "20"})[0] == 34
    for policies, options, error in [
        (["seta", "lfr"], {"tolerance": "1"}, "'tolerance', which seta and lfr do not take; .*; lfr takes learn, "),
        (["lfr", "lfr"], {}, "policies are lfr, lfr, expected one or more, each once"),
        ([], {}, "policies are none"),
    ]:
        with pytest.raises(ValueError, match=error):
            compare.count_steps_and_passes(config, policies, options)


def test_files_of_others_are_noticed_before_the_training(corpus_dir, tmp_path):
    """Catches: hours of training, and then a report that may not be written; a file of others overwritten."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "losses.png").write_text("mine")
    with pytest.raises(FileExistsError, match="found 'losses.png', and no report"):
        compare.compare_policies(tiny(tmp_path, corpus_dir), ["uniform"])
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*sources have no")
def test_compare_prints_a_table_and_writes_a_report(short_documents, tmp_path, capsys):
    """In blocks of several lengths. Catches: losses in the wrong row, a missing difference, a report that needs other
    files, or is without blocks; a budget that the first run was expected to spend, in place of what it spent."""
    config = changed(
        tiny(tmp_path / "runs", short_documents, learn=2, focus=10, review=2, focus2=10, drop=0.8, drop2=0.8),
        data__packing="by_length", data__shortest=16, train__batch_size=16, train__probe_blocks=60,
        model=llama(8, 16, 2, 2, 16, vocab_size=264, max_len=32, tied_head=True),
    )  # fmt: skip
    path = compare.compare_policies(config, ["lfr", "uniform"])
    table = capsys.readouterr().out
    cost = flops.expected(config, open_corpus(config.data).train)
    first, second = (json.loads((tmp_path / "runs" / name / "summary.json").read_text()) for name in ("lfr", "uniform"))
    assert second["steps"] == cost.steps_within(first["flops"], 0)
    assert second["steps"] != cost.steps_within(24 * cost.step + 2 * cost.scoring_pass, 0)
    assert abs(first["flops"] - second["flops"]) < 2 * cost.step
    lines = {line.split("  ")[0].strip(): line.split() for line in table.splitlines() if line.strip()}
    for name in ("lfr", "uniform"):
        with open(tmp_path / "runs" / name / "eval.csv", newline="") as file:
            last = {row["domain"]: float(row["loss"]) for row in csv.DictReader(file)}
        assert lines[name][-1] == f"{last['all']:.4f}"
    gap = float(lines["lfr"][-1]) - float(lines["uniform"][-1])
    assert float(lines["lfr − uniform"][-1]) == pytest.approx(gap, abs=2e-4)
    page = path.read_text()
    assert "data:image/png;base64," in page and "lfr − uniform" in page
    assert "kept in the phase focus of lfr" in page  # so what training wrote down of the probes was read back
    assert (path.parent / "losses.png").read_bytes().startswith(b"\x89PNG")
