"""The pictures of the policies' pages, drawn from runs whose numbers are known."""

import pathlib
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import DOMAINS, STEPS, blocks, domain_of, make_run, probe_loss
from matplotlib.colors import to_hex, to_rgba

from lfr_jax.experiments import palette

TOOL = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "tools" / "policy_figures.py"))
CORPUS = SimpleNamespace(domains=list(DOMAINS), domain_N=np.repeat(np.arange(3), 10))


def test_rates_of_each_domain(tmp_path):
    """Catches: domains or phases exchanged; curves of one width, so that the last one hides all that it coincides
    with; a palette of its own; phases without names or bands; a domain that the legend lacks."""
    drawing = TOOL["draw_run"](make_run(tmp_path / "run"), CORPUS, weighted=False)
    (axes,) = drawing.axes
    code, prose, tables = [patch for patch in axes.patches if hasattr(patch, "get_data")]  # of axes.stairs
    assert [curve.get_data().values.tolist() for curve in (code, prose, tables)] == [
        [2, 2, 2, 2], [2, 1.5, 2, 2], [2, 0, 2, 0]
    ]  # fmt: skip
    assert list(code.get_data().edges) == [0, 8, 12, 16, 20]
    assert code.get_linewidth() > prose.get_linewidth() + 1 > tables.get_linewidth() + 2
    assert code.get_zorder() < prose.get_zorder() < tables.get_zorder()
    colors = palette.domain_colors(DOMAINS)
    assert [to_hex(curve.get_edgecolor()).upper() for curve in (code, prose, tables)] == [colors[d] for d in DOMAINS]
    assert [text.get_text().strip() for text in axes.texts] == ["learn", "focus", "review", "focus2"]
    grey = [patch for patch in axes.patches if patch.get_facecolor() == to_rgba(palette.LEAVES_OUT)]
    assert [(patch.get_x(), patch.get_width()) for patch in grey] == [(8, 4), (16, 4)]
    assert [text.get_text() for text in drawing.legends[0].get_texts()] == [*DOMAINS, "the phase leaves blocks out"]


def test_weights_of_linupper(tmp_path):
    """Catches: losses, or the weights of another domain, in their place; weights before the policy weighs, or none
    after; a jump drawn as a slope."""
    drawing = TOOL["draw_run"](make_run(tmp_path / "run", "uniform"), CORPUS, weighted=True)
    assert len(drawing.axes) == 2
    starts = [0, 6]  # of 'warmup' and 'weighted'
    steps, weight_MxD = TOOL["read_weights"](tmp_path / "run", CORPUS, starts)
    assert steps == sorted([*STEPS, 6])
    np.testing.assert_array_equal(weight_MxD[: steps.index(6) + 1], 1)
    later = weight_MxD[steps.index(6) + 1 :]
    loss = {d: np.mean([probe_loss("uniform", b, 6) for b in blocks() if domain_of(b) == d]) for d in DOMAINS}
    assert loss["code"] > loss["prose"] > loss["tables"]
    assert (later[:, 0] > later[:, 1]).all() and (later[:, 1] > later[:, 2]).all() and (later[:, 2] < 0.9).all()
    np.testing.assert_allclose(later.mean(axis=1), 1, atol=0.03)  # as every domain has equally many blocks


@pytest.mark.parametrize("count, named", [(9, True), (10, False)])
def test_many_phases(tmp_path, count, named):
    """Catches: names of phases on top of each other; nothing that says how many phases there are."""
    folder = make_run(tmp_path / "run")
    rows = [f"{2 * p},round.{p},{2 * p + 2},{block},1.0" for p in range(count) for block in blocks()]
    (folder / "scores" / "rates.csv").write_text("\n".join(["step,phase,stop,block,rate", *rows, ""]))
    drawing = TOOL["draw_run"](folder, CORPUS, weighted=False)
    assert (len(drawing.axes[0].texts) == count) == named
    assert drawing.get_suptitle() == ("" if named else "10 phases, from round.0 to round.9")
