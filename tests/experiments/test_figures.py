"""The figures, drawn from runs whose numbers are known."""

import io

import numpy as np
import pytest
from made_runs import COST, DOMAINS, EACH, STEPS, blocks, domain_of, make_run, probe_loss, probes_of
from matplotlib.colors import to_hex, to_rgba

from lfr_jax.experiments import figures, palette
from lfr_jax.experiments.loss_curves import draw_losses
from lfr_jax.experiments.results import read_results, split_by_phase
from lfr_jax.experiments.trajectories import CLASSES, count_classes


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    """Two runs of 20 steps; a step of the second one costs twice as much."""
    folder = tmp_path_factory.mktemp("runs")
    return {policy: make_run(folder / policy, policy) for policy in ("lfr", "uniform")}


@pytest.fixture(scope="module")
def runs(run_dirs):
    return [read_results(path, name) for name, path in run_dirs.items()]


@pytest.fixture(scope="module")
def counts(runs):
    return [count_classes(run.loss_NxM, run.domain_N, threshold=0.375, draws=5) for run in runs]


def spans(axes):
    """From where to where it is grey."""
    grey = [patch for patch in axes.patches if patch.get_facecolor() == to_rgba(palette.LEAVES_OUT)]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in grey]


def key(drawing):
    """The entries of the figure's legend: words -> handle."""
    (legend,) = drawing.legends
    return {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}


def test_every_panel_over_time_has_the_bands(runs, run_dirs, counts):
    """Catches: a new panel, or the panels of a run that leaves nothing out, without the bands of Focus; bands that no
    legend explains."""
    divided = split_by_phase(runs)
    drawn = [
        draw_losses(run_dirs),
        figures.draw_timeline(runs),
        figures.draw_sampled_blocks(runs, counts),
        figures.draw_forgotten_blocks(runs, counts),
        figures.draw_chosen_blocks(runs, divided.run, divided.kept_N, ""),
    ]
    over_time = [axes for drawing in drawn for axes in drawing.axes if axes.get_label() != "<colorbar>"]
    assert len(over_time) == 2 + 2 + 6 + 6 + 3
    without = [axes for axes in over_time if len(spans(axes)) != 2]
    # In the timeline, the phases of `uniform` are their own boxes.
    assert [axes.get_ylabel() for axes in without] == ["uniform"]
    assert all(any("leaves blocks out" in words for words in key(drawing)) for drawing in drawn)


def names(axes):
    return [(text.get_position()[0], text.get_text().strip()) for text in axes.texts]


def test_the_timeline_tells_what_each_phase_draws(runs):
    """Catches: domains or phases exchanged; rates written for shares; phases as long as each other; a run left out."""
    first, second, _ = figures.draw_timeline(runs).axes
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


def test_sampled_blocks_are_of_every_domain(runs, counts):
    """Catches: losses on an axis of perplexities; the first blocks in place of a sample; a mean of perplexities, or of
    blocks in place of tokens; the colour of another class or domain; a panel without bands; bands at the steps of the
    other run, in place of its FLOPs; a title that does not say of what it counts."""
    drawing = figures.draw_sampled_blocks(runs, counts, count=6)
    assert len(drawing.axes) == 6 and all(axes.get_yscale() == "log" for axes in drawing.axes)
    for axes, (run, found, domain) in zip(
        drawing.axes, [(run, found, d) for run, found in zip(runs, counts) for d in DOMAINS], strict=True
    ):
        *lines, mean = axes.lines
        assert axes.get_title() == f"{run.name}: {domain}\n{len(lines)} of {EACH} probes"
        own = [block for block in blocks() if domain_of(block) == domain]
        of_block = {tuple(np.exp([probe_loss(run.name, b, s) for s in STEPS if s]).round(9)): b for b in own}
        for line in lines:
            block = of_block[tuple(line.get_ydata().round(9))]
            kind = CLASSES[found.class_N[run.block_N.tolist().index(block)]]
            assert line.get_color() == palette.CLASS_COLORS[kind] and list(line.get_xdata()) == list(STEPS)[1:]
            del of_block[tuple(line.get_ydata().round(9))]
        np.testing.assert_allclose(
            mean.get_ydata(), np.exp(probes_of(run.name, lambda block: domain_of(block) == domain))
        )
        assert mean.get_color() == palette.domain_colors(DOMAINS)[domain]
        # `uniform` spends twice as much a step: its bands are where it has spent what `lfr` had in Focus.
        assert spans(axes) == ([(8, 12), (16, 20)] if run.name == "lfr" else [(4, 6), (8, 10)])
    assert [len(axes.lines) - 1 for axes in drawing.axes] == [2, 2, 2, 2, 2, 2]


def test_forgotten_blocks(runs, counts):
    """Catches: blocks that learned among them; more of them than asked for; those of one class left out."""
    tables = [axes for axes in figures.draw_forgotten_blocks(runs, counts).axes if "tables" in axes.get_title()]
    assert [axes.get_title() for axes in tables] == [
        f"{name}\n{count} such probes" for name, count in (("lfr: tables", "4 of 4"), ("uniform: tables", "0 of 0"))
    ]
    assert {to_hex(line.get_color()) for line in tables[0].lines[:-1]} == {to_hex(palette.CLASS_COLORS["relearned"])}
    assert [len(axes.lines) for axes in tables] == [5, 1]
    fewer = figures.draw_forgotten_blocks(runs, counts, count=3).axes
    assert [axes.get_title().removesuffix(" such probes") for axes in fewer] == [
        "lfr: code\n0 of 0", "lfr: prose\n0 of 0", "lfr: tables\n3 of 4", *(f"uniform: {d}\n0 of 0" for d in DOMAINS)
    ]  # fmt: skip
    other = counts[0]._replace(class_N=np.array([CLASSES.index(name) for name in CLASSES] * 3)[:12])
    shown = sum(len(axes.lines) - 1 for axes in figures.draw_forgotten_blocks(runs[:1], [other]).axes)
    assert shown == sum(CLASSES[kind] not in ("learned", "unlearned") for kind in other.class_N) == 6


def test_means_of_the_blocks_kept(runs):
    """Catches: a mean of perplexities, or of blocks in place of tokens; the blocks that were dropped; steps in place of
    FLOPs; one run's FLOPs for the other; the phases of the run that has no Focus; a panel without blocks; panels with
    y axes of their own; a policy that changes its line style where it is alone."""
    divided = split_by_phase(runs)
    drawing = figures.draw_chosen_blocks(runs, divided.run, divided.kept_N, "Kept in Focus")
    assert [axes.get_title() for axes in drawing.axes] == [
        "all domains\n7 of 12 probes", "code\n4 of 4 probes", "prose\n3 of 4 probes"
    ]  # fmt: skip
    assert drawing.get_suptitle() == "Kept in Focus"
    assert len({axes.get_ylim() for axes in drawing.axes}) == 1
    colors, lines = palette.domain_colors(DOMAINS), palette.policy_lines(COST)
    for axes, domains in zip(drawing.axes, [("code", "prose"), ("code",), ("prose",)], strict=True):
        assert [line.get_label() for line in axes.lines] == ["lfr", "uniform"]
        of_panel = colors["all" if len(domains) > 1 else domains[0]]
        assert [line.get_color() for line in axes.lines] == [of_panel, of_panel]
        for line, (policy, cost) in zip(axes.lines, COST.items()):
            x, y = line.get_data()
            assert list(x) == [cost * step for step in STEPS if step]
            expected = probes_of(policy, lambda block: domain_of(block) in domains and block != 10)
            np.testing.assert_allclose(y, np.exp(expected))
        assert spans(axes) == [(800, 1200), (1600, 2000)]
    one = figures.draw_chosen_blocks(runs[1:], runs[1], divided.kept_N, "", lines)
    assert len(one.axes[0].lines) == 1
    assert key(one)["uniform"].get_linestyle() == key(drawing)["uniform"].get_linestyle() == "--"


def test_many_domains_and_odd_names(runs, counts):
    """Catches: panels beyond the edge of the figure; names read as formulas; two runs in one row."""
    odd = ["$x^$", "a\x1bb", "_c", "d $", "e"]
    domain_N = np.array([odd[number % 5] for number in range(12)])
    strange = [run._replace(domain_N=domain_N, name=f"{run.name}$") for run in runs]
    drawing = figures.draw_sampled_blocks(strange, counts)
    assert len(drawing.axes) == 10
    rows = [axes.get_subplotspec().rowspan.start for axes in drawing.axes]
    assert rows == [0, 0, 0, 0, 1, 2, 2, 2, 2, 3]
    figures.draw_chosen_blocks(strange, strange[0], np.arange(12) < 5, "$_").savefig(io.BytesIO(), dpi=30)
    figures.draw_timeline(strange).savefig(io.BytesIO(), dpi=30)
    assert drawing.axes[0].get_title().startswith(r"lfr\$: \$x^\$")
