"""The figures of an experiment show what was estimated, where it belongs."""

import math

import numpy as np
import pytest
from made_evidence import FLOPS, make_baseline, make_documents, make_runs
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lfr_jax.experiments import palette
from lfr_jax.experiments.evidence import gather
from lfr_jax.experiments.evidence_figures import draw_domains, draw_losses, draw_multipliers, spread

DOCUMENTS = make_documents(("code", "$x^$"))
NAMES = ("lfr", "reducible", "oracle")


def gathered(*arms, baseline=None):
    runs = baseline or make_baseline(DOCUMENTS)
    for name, loss, references in arms:
        runs = runs + make_runs(DOCUMENTS, name, loss, references=references)
    return gather(runs, DOCUMENTS, "micro", [(name, 1.0) for name, *_ in arms])


@pytest.fixture(scope="module")
def found():
    return gathered(("lfr", 4.6, 0), ("reducible", 4.3, 0.25), ("oracle", 3.6, 0))


def marks(axes, marker) -> list[tuple[float, float, str]]:
    """Where single points with this marker are, and the colour that fills them."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]), to_hex(line.get_markerfacecolor()))
        for line in axes.lines
        if line.get_marker() == marker and len(line.get_xdata()) == 1
    ]


def pieces(axes) -> list[tuple]:
    """The ends of straight lines between two points."""
    return [
        (tuple(map(float, x.get_xdata())), tuple(map(float, x.get_ydata())))
        for x in axes.lines
        if len(x.get_xdata()) == 2
    ]


def words(drawing) -> str:
    drawing.canvas.draw()
    (axes, *_) = drawing.axes
    return "\n".join(text.get_text() for text in [*axes.texts, *axes.get_yticklabels(), axes.xaxis.label])


def test_level_lines_are_multipliers(found):
    """Catches: an arm drawn at its amortised FLOPs as if all were charged; a level line that does not end on the curve;
    the interval of another arm; a hollow mark for an arm without references."""
    drawing = draw_losses(found, "reducible")
    (axes,) = drawing.axes
    black = to_hex(palette.CHARGED)
    expected = {(FLOPS, point.loss().value, black) for point in found.arms}
    reducible = found.arms[1]
    assert set(marks(axes, "D")) == expected | {(0.75 * FLOPS, reducible.loss().value, to_hex(palette.WHITE))}
    assert [x[:2] for x in marks(axes, "o")] == [(point.flops(), point.loss().value) for point in found.baseline]
    for point in found.arms:
        y = point.loss().value
        ((first, last),) = [xs for xs, ys in pieces(axes) if ys == (y, y)]
        end = first if point.arm == "lfr" else last
        assert end == pytest.approx(point.multiplier().value * FLOPS)
        assert found.curve.loss(np.array([end]))[0] == pytest.approx(y, abs=1e-3)
        difference = point.difference()
        bar = (y + difference.low - difference.value, y + difference.high - difference.value)
        assert ((FLOPS, FLOPS), bar) in pieces(axes)


def test_names_do_not_overlap(found):
    """Catches: names of arms of equal loss that are printed on each other; names in another order than the points."""
    close = gathered(*((f"arm{number}", 4.4 + 1e-3 * number, 0) for number in range(6)), ("lfr", 3.9, 0))
    drawing = draw_losses(close, "lfr")
    drawing.canvas.draw()
    (axes,) = drawing.axes
    names = [text for text in axes.texts if text.get_text()[0] != "×"]
    names.sort(key=lambda text: text.xyann[1])
    middles = axes.transAxes.transform([(0, text.xyann[1]) for text in names])[:, 1]
    assert len(names) == 7 and np.diff(middles).min() > max(Text.get_window_extent(text).height for text in names) - 2
    by_loss = [point.name for point in sorted(close.arms, key=lambda point: point.loss().value)]
    assert [text.get_text() for text in names] == by_loss
    assert (np.diff(spread(np.array([0.0, 0.0, 0.01, 0.9]), 0.1)) >= 0.1 - 1e-12).all()


def test_each_row_has_its_multipliers(found):
    """Catches: rows exchanged; amortised drawn as charged; the primary arm not set off; a ceiling elsewhere; an
    interval that is not the estimate's."""
    drawing = draw_multipliers(found, "reducible")
    (axes,) = drawing.axes
    filled = {y: x for x, y, face in marks(axes, "D") if face == to_hex(palette.CHARGED)}
    assert [round(y) for y in filled] == [0, 1, 2]
    assert list(filled.values()) == [point.multiplier().value for point in found.arms]
    ((hollow, y, _),) = [mark for mark in marks(axes, "D") if mark[2] == to_hex(palette.WHITE)]
    assert hollow == found.arms[1].multiplier("amortised").value and round(y) == 1
    for point, y in zip(found.arms, filled):
        estimate = point.multiplier()
        assert ((estimate.low, estimate.high), (y, y)) in pieces(axes)
    shown = words(drawing)
    reducible = found.arms[1].multiplier()
    assert f"{reducible.value:.2f} [{reducible.low:.2f}, {reducible.high:.2f}]" in shown and "the ceiling" in shown
    ceiling = found.oracle.multiplier().value
    assert ((ceiling, ceiling), (0.0, 1.0)) in pieces(axes) and ((1.0, 1.0), (0.0, 1.0)) in pieces(axes)
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["normal", "bold", "normal"]
    assert "anecdote" not in shown


def test_an_interval_without_an_end_is_an_arrow(found):
    """Catches: an axis without end; an interval that seems to stop where the axis does."""
    arm = found.arms[0]
    keys = [key for key in arm.estimates if key.quantity == "multiplier"]
    endless = arm.multiplier()._replace(value=3.0, low=0.0, high=math.inf, sign=">")
    arm = arm._replace(estimates={**arm.estimates, **dict.fromkeys(keys, endless)})
    drawing = draw_multipliers(found._replace(arms=(arm, *found.arms[1:])), "")
    (axes,) = drawing.axes
    low, high = axes.get_xlim()
    assert 0.3 < low < 1 and 3 < high < 10
    assert [x for x, *_ in marks(axes, ">")] == [high] and [x for x, *_ in marks(axes, "<")] == [low]
    assert "> 3.00 [0.00, ∞)" in words(drawing)


def test_domains_have_rows(found):
    """Catches: a domain in another one's row or colour; an arm without a panel; a name that matplotlib reads as a
    formula, and fails."""
    drawing = draw_domains(found, "lfr")
    drawing.canvas.draw()
    assert [axes.get_title() for axes in drawing.axes] == list(NAMES)
    colors = palette.domain_colors(found.domains)
    for axes, point in zip(drawing.axes, found.arms):
        drawn = {
            round(float(line.get_ydata()[0])): (float(line.get_xdata()[0]), line.get_color())
            for line in axes.lines
            if len(line.get_xdata()) == 1
        }
        expected = {
            0: ("micro", "black"),
            1: ("macro", "black"),
            2: ("$x^$", colors["$x^$"]),
            3: ("code", colors["code"]),
        }
        assert drawn == {row: (point.difference(of).value, color) for row, (of, color) in expected.items()}
    assert [label.get_text() for label in drawing.axes[0].get_yticklabels()] == [
        "all, micro",
        "all, macro",
        r"\$x^\$",
        "code",
    ]


def test_little_is_drawn_too():
    """Catches: a figure that fails before the first arm is finished, without a curve, for one seed, or for an arm that
    has diverged."""
    assert draw_losses(gathered(), "lfr").axes
    one = gather(
        make_baseline(DOCUMENTS, seeds=[1]) + make_runs(DOCUMENTS, "lfr", 4.3, seeds=[1]),
        DOCUMENTS,
        "micro",
        [("lfr", 1.0)],
    )
    assert "one seed: no intervals, an anecdote" in words(draw_multipliers(one, "lfr"))
    assert len(draw_losses(one, "lfr").axes) == len(draw_domains(one, "lfr").axes) == 1
    no_curve = gathered(("lfr", 4.3, 0), baseline=make_baseline(DOCUMENTS, (1.0,)))
    assert draw_losses(no_curve, "lfr").axes
    runs = make_baseline(DOCUMENTS) + [
        run._replace(nll_D=run.nll_D * np.nan)
        for run in make_runs(DOCUMENTS, "lfr", 4.3) + make_runs(DOCUMENTS, "oracle", 4)
    ]
    diverged = gather(runs, DOCUMENTS, "micro", [("lfr", 1.0), ("oracle", 1.0)])
    assert "–" in words(draw_multipliers(diverged, "lfr"))
    for draw in (draw_losses, draw_domains):
        draw(diverged, "lfr").canvas.draw()
