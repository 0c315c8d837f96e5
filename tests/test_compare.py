"""Equal FLOPs, and what the comparison shows."""

import csv
import math

import pytest
from helpers import changed, tiny

from lfr_jax import budget, compare, policy
from lfr_jax.blocks import Blocks, open_store


@pytest.mark.parametrize("steps, fraction", [(0, 1.0), (24, 1.0), (100, 1.0), (100, 0.25)])
def test_all_policies_cost_the_same_to_within_a_step(corpus_dir, steps, fraction):
    """Catches: scoring that is not charged, or charged to policies that do not score; a sample charged as all."""
    config = tiny("runs/x", corpus_dir, unmeasured="domain")
    config = changed(config, train__steps=steps, schedule__score_fraction=fraction)
    blocks = Blocks(open_store(corpus_dir / "train"), 32).num_blocks
    cost = budget.budget(config, blocks, blocks * 32)
    runs = compare.equal_flops(config, ["lfr", "uniform", "random_drop"], cost)
    flops, scoring = {}, {}
    for name, run in runs.items():
        phases = policy.build(run.schedule, run.train.steps).phases
        flops[name] = cost.flops(phases, run.train.steps)
        scoring[name] = cost.scored_tokens(phases, run.train.steps)
        assert phases[-1].stop == run.train.steps
    assert runs["lfr"].train.steps == (steps or 24)
    assert scoring["lfr"] == 2 * math.ceil(fraction * blocks) * 32 and scoring["uniform"] == scoring["random_drop"] == 0
    step = 3 * cost.forward_flops * cost.tokens_per_step
    for name in ("uniform", "random_drop"):
        assert 0 <= flops["lfr"] - flops[name] < step


def test_compare_prints_a_table_and_writes_a_report(corpus_dir, tmp_path, capsys, monkeypatch):
    """Catches: losses in the wrong row, a missing difference, a report that needs other files, or is without blocks."""
    config = tiny(tmp_path / "runs", corpus_dir)
    path = compare.compare(config, ["lfr", "uniform"])
    table = capsys.readouterr().out
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
