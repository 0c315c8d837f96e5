"""The figures, drawn from runs whose numbers are known."""

import io

import numpy as np
import pytest
from made_runs import COST, DOMAINS, EACH, STEPS, blocks, domain_of, make_run, probe_loss, probes_of, train_loss
from matplotlib.colors import to_hex, to_rgba

from lfr_jax.experiments import figures
from lfr_jax.experiments.results import read_results, split
from lfr_jax.experiments.trajectories import CLASSES, census


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    """Two runs of 20 steps; a step of the second one costs twice as much."""
    folder = tmp_path_factory.mktemp("runs")
    return {policy: make_run(folder / policy, policy) for policy in ("lfr", "uniform")}


@pytest.fixture(scope="module")
def runs(run_dirs):
    return [read_results(path, name) for name, path in run_dirs.items()]


@pytest.fixture(scope="module")
def censuses(runs):
    return [census(run.loss_NxM, run.domain_N, threshold=0.375, draws=5) for run in runs]


def spans(axes):
    """From where to where it is grey."""
    grey = [patch for patch in axes.patches if patch.get_facecolor() == to_rgba("0.92")]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in grey]


def names(axes):
    return [(text.get_position()[0], text.get_text().strip()) for text in axes.texts]


def test_held_out_losses_are_drawn_against_flops(run_dirs):
    """Catches: steps in place of FLOPs; one run's FLOPs for the other; domains exchanged; a curve left out."""
    _, right = figures.losses(run_dirs).axes
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
    """Catches: loss that is not smoothed; the phases of another run; Review shaded; a phase merged with the next."""
    left, _ = figures.losses(run_dirs).axes
    for (name, cost), line in zip(COST.items(), left.lines):
        x, y = line.get_data()
        assert list(x) == [cost * step for step in range(1, 21)]
        assert list(y) == figures.smoothed([train_loss(name, step) for step in range(1, 21)])
        assert line.get_label() == name
    assert spans(left) == [(900, 1200), (1700, 2000)]
    assert names(left) == [(100, "learn"), (900, "focus"), (1300, "review"), (1700, "focus2")]


def test_smoothing_starts_at_the_first_value():
    """Catches: a running mean that starts from zero; the two shares exchanged."""
    assert figures.smoothed([]) == []
    assert figures.smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert figures.smoothed([1.0, 0.0], share=0.75) == pytest.approx([1.0, 0.75 / 1.75])


def test_the_timeline_tells_what_each_phase_draws(runs):
    """Catches: domains or phases exchanged; rates written for shares; phases as long as each other; a run left out."""
    first, second, _ = figures.timeline(runs).axes
    assert [text.get_text() for text in first.get_yticklabels()] == list(DOMAINS)
    texts = {text.get_position(): text.get_text() for text in first.texts}
    assert [(name, x) for (x, y), name in texts.items() if y < 0] == [
        ("learn", 4),
        ("focus", 10),
        ("review", 14),
        ("focus2", 18),
    ]
    everything, nothing = "100 %\n×2", "0 %\n×0"
    for row, shares in enumerate(
        [
            [everything, everything, everything, everything],
            [everything, "75 %\n×1.5", everything, everything],
            [everything, nothing, everything, nothing],
        ]
    ):
        assert [texts[x, row + 0.5] for x in (4, 10, 14, 18)] == shares
    (mesh,) = first.collections
    assert mesh.get_array().tolist() == [[2, 2, 2, 2], [2, 1.5, 2, 2], [2, 0, 2, 0]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 8, 12, 16, 20]
    assert [text.get_text() for text in second.texts][0] == "uniform" and len(second.texts) == 4


def test_sampled_blocks_are_of_every_domain(runs, censuses):
    """Catches: losses on an axis of perplexities; the first blocks in place of a sample; a mean of perplexities, or of
    blocks in place of tokens; the colour of another class; the phases of the other run."""
    drawing = figures.sampled(runs, censuses, count=6)
    assert len(drawing.axes) == 6 and all(axes.get_yscale() == "log" for axes in drawing.axes)
    for axes, (run, found, domain) in zip(
        drawing.axes, [(run, found, d) for run, found in zip(runs, censuses) for d in DOMAINS], strict=True
    ):
        *lines, mean = axes.lines
        assert axes.get_title() == f"{run.name}: {domain}\n{len(lines)} of {EACH}"
        own = [block for block in blocks() if domain_of(block) == domain]
        of_block = {tuple(np.exp([probe_loss(run.name, b, s) for s in STEPS if s]).round(9)): b for b in own}
        for line in lines:
            block = of_block[tuple(line.get_ydata().round(9))]
            kind = CLASSES[found.class_N[run.block_N.tolist().index(block)]]
            assert line.get_color() == figures.CLASS_COLORS[kind] and list(line.get_xdata()) == list(STEPS)[1:]
            del of_block[tuple(line.get_ydata().round(9))]
        np.testing.assert_allclose(
            mean.get_ydata(), np.exp(probes_of(run.name, lambda block: domain_of(block) == domain))
        )
        assert spans(axes) == ([(8, 12), (16, 20)] if run.name == "lfr" else [])
    counts = [len(axes.lines) - 1 for axes in drawing.axes]
    assert counts == [2, 2, 2, 2, 2, 2]


def test_forgotten_blocks(runs, censuses):
    """Catches: blocks that learned among them; more of them than asked for; those of one class left out."""
    tables = [axes for axes in figures.forgotten(runs, censuses).axes if "tables" in axes.get_title()]
    assert [axes.get_title() for axes in tables] == ["lfr: tables\n4 of 4", "uniform: tables\n0 of 0"]
    assert {to_hex(line.get_color()) for line in tables[0].lines[:-1]} == {to_hex(figures.CLASS_COLORS["relearned"])}
    assert [len(axes.lines) for axes in tables] == [5, 1]
    fewer = figures.forgotten(runs, censuses, count=3).axes
    assert [axes.get_title() for axes in fewer] == [
        "lfr: code\n0 of 0", "lfr: prose\n0 of 0", "lfr: tables\n3 of 4", *(f"uniform: {d}\n0 of 0" for d in DOMAINS)
    ]  # fmt: skip
    other = censuses[0]._replace(class_N=np.array([CLASSES.index(name) for name in CLASSES] * 3)[:12])
    shown = sum(len(axes.lines) - 1 for axes in figures.forgotten(runs[:1], [other]).axes)
    assert shown == sum(CLASSES[kind] not in ("learned", "unlearned") for kind in other.class_N) == 6


def test_means_of_the_blocks_kept(runs):
    """Catches: a mean of perplexities, or of blocks in place of tokens; the blocks that were dropped; steps in place of
    FLOPs; one run's FLOPs for the other; the phases of the run that has no Focus; a panel without blocks."""
    divided = split(runs)
    drawing = figures.means(runs, divided.run, divided.kept_N)
    assert [axes.get_title() for axes in drawing.axes] == [
        "all domains\n7 of 12", "code\n4 of 4", "prose\n3 of 4"
    ]  # fmt: skip
    for axes, domains in zip(drawing.axes, [("code", "prose"), ("code",), ("prose",)], strict=True):
        assert [line.get_label() for line in axes.lines] == ["lfr", "uniform"]
        for line, (policy, cost) in zip(axes.lines, COST.items()):
            x, y = line.get_data()
            assert list(x) == [cost * step for step in STEPS if step]
            expected = probes_of(policy, lambda block: domain_of(block) in domains and block != 10)
            np.testing.assert_allclose(y, np.exp(expected))
        assert spans(axes) == [(800, 1200), (1600, 2000)]
    assert len(figures.means(runs[1:], runs[1], divided.kept_N).axes[0].lines) == 1


def test_many_domains_and_odd_names(runs, censuses):
    """Catches: panels beyond the edge of the figure; names read as formulas; two runs in one row."""
    odd = ["$x^$", "a\x1bb", "_c", "d $", "e"]
    domain_N = np.array([odd[number % 5] for number in range(12)])
    strange = [run._replace(domain_N=domain_N, name=f"{run.name}$") for run in runs]
    drawing = figures.sampled(strange, censuses)
    assert len(drawing.axes) == 10
    rows = [axes.get_subplotspec().rowspan.start for axes in drawing.axes]
    assert rows == [0, 0, 0, 0, 1, 2, 2, 2, 2, 3]
    figures.means(strange, strange[0], np.arange(12) < 5).savefig(io.BytesIO(), dpi=30)
    figures.timeline(strange).savefig(io.BytesIO(), dpi=30)
    assert drawing.axes[0].get_title().startswith(r"lfr\$: \$x^\$")
