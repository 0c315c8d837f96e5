"""The loss curves, drawn from runs whose numbers are known."""

import csv

import pytest
from made_runs import COST, DOMAINS, make_run, train_loss, write_csv
from matplotlib.colors import to_rgba

from lfr_jax.experiments import palette
from lfr_jax.experiments.loss_curves import draw_losses, running_mean


@pytest.fixture
def run_dirs(tmp_path):
    """Two runs of 20 steps; a step of the second one costs twice as much."""
    return {policy: make_run(tmp_path / policy, policy) for policy in ("lfr", "uniform")}


def spans(axes):
    """From where to where it is grey."""
    grey = [patch for patch in axes.patches if patch.get_facecolor() == to_rgba(palette.LEAVES_OUT)]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in grey]


def names(axes):
    return [(text.get_position()[0], text.get_text().strip()) for text in axes.texts]


def test_held_out_losses_are_drawn_against_flops(run_dirs):
    """Catches: steps in place of FLOPs; one run's FLOPs for the other; domains exchanged; a curve left out."""
    _, right = draw_losses(run_dirs).axes
    curves = {line.get_label(): line for line in right.lines}
    assert set(curves) == {f"{domain}, {name}" for domain in (*DOMAINS, "all") for name in run_dirs}
    for name, cost in COST.items():
        for domain in (*DOMAINS, "all"):
            x, y = curves[f"{domain}, {name}"].get_data()
            assert list(x) == [4 * cost, 10 * cost]
            assert list(y) == [train_loss(name, 4, domain), train_loss(name, 10, domain)]
    for domain in (*DOMAINS, "all"):  # one color a domain, one line style a run
        pair = [curves[f"{domain}, {name}"] for name in run_dirs]
        assert pair[0].get_color() == pair[1].get_color() and pair[0].get_linestyle() != pair[1].get_linestyle()


def test_training_loss_and_phases_are_drawn(run_dirs):
    """Catches: loss that is not smoothed; the phases of another run, or in one panel alone; Review shaded; a phase
    merged with the next."""
    left, right = draw_losses(run_dirs).axes
    for (name, cost), line in zip(COST.items(), left.lines):
        x, y = line.get_data()
        assert list(x) == [cost * step for step in range(1, 21)]
        assert list(y) == running_mean([train_loss(name, step) for step in range(1, 21)])
        assert line.get_label() == name
    for axes in (left, right):
        assert spans(axes) == [(800, 1200), (1600, 2000)]
        assert names(axes) == [(0, "learn"), (800, "focus"), (1200, "review"), (1600, "focus2")]


def test_curves_are_level_where_the_run_scores(run_dirs):
    """Catches: a scoring pass that looks like training; one that no band marks; a level after the pass, not before;
    a second run that is level where only the first one scores."""
    path = run_dirs["lfr"] / "metrics.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    write_csv(path, [row | {"flops": float(row["flops"]) + 400 * (int(row["step"]) > 8)} for row in rows])
    drawing = draw_losses(run_dirs)
    left, right = drawing.axes
    lfr, uniform = left.lines
    x, y = map(list, lfr.get_data())
    assert x[7:10] == [800, 1200, 1300] and y[7] == y[8] != y[9] and len(x) == 21
    assert list(uniform.get_xdata()) == [200 * step for step in range(1, 21)]
    (code,) = [line for line in right.lines if line.get_label() == "code, lfr"]
    assert list(code.get_xdata()) == [400, 1200, 1400] and code.get_markevery() == [0, 2]
    assert code.get_ydata()[0] == code.get_ydata()[1] == train_loss("lfr", 4, "code")
    for axes in (left, right):
        hatched = [patch for patch in axes.patches if patch.get_hatch()]
        assert [(patch.get_x(), patch.get_width()) for patch in hatched] == [(800, 400)]
        assert spans(axes) == [(1200, 1600), (2000, 2400)]
    assert "lfr scores (no training)" in [text.get_text() for text in drawing.legends[0].get_texts()]


def test_runs_without_probes_have_bands_too(tmp_path):
    """Catches: bands that need the rates of probes; Review in grey where nothing says which phases leave blocks out; a
    comparison without bands because its first policy leaves nothing out."""
    left, _ = draw_losses({"lfr": make_run(tmp_path / "lfr", probes=False)}).axes
    assert spans(left) == [(800, 1200), (1600, 2000)]
    left, _ = draw_losses({"uniform": make_run(tmp_path / "uniform", "uniform"), "lfr": tmp_path / "lfr"}).axes
    assert spans(left) == [(800, 1200), (1600, 2000)]


def test_policies_and_domains_are_not_confused(run_dirs):
    """Catches: a colour that is a policy on the left and a domain on the right; a legend that lacks one of them."""
    drawing = draw_losses(run_dirs)
    left, right = drawing.axes
    assert {line.get_color() for line in left.lines} == {palette.ALL_DOMAINS}
    lines = [line.get_linestyle() for line in left.lines]
    for line in right.lines:
        domain, policy = line.get_label().split(", ")
        assert line.get_color() == palette.domain_colors(DOMAINS)[domain]
        assert line.get_linestyle() == lines[list(run_dirs).index(policy)]
        assert line.get_marker() == palette.domain_markers(DOMAINS)[domain]
    texts = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert texts == ["lfr", "uniform", *DOMAINS, "all domains", "lfr leaves blocks out"]


def test_smoothing_starts_at_the_first_value():
    """Catches: a running mean that starts from zero; the two shares exchanged."""
    assert running_mean([]) == []
    assert running_mean([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert running_mean([1.0, 0.0], share=0.75) == pytest.approx([1.0, 0.75 / 1.75])
