"""The comparison's page, drawn from files whose numbers are known."""

import csv
import html.parser

import pytest
from matplotlib.colors import to_rgb

from lfr_jax import report

PHASES = ["learn"] * 4 + ["focus"] * 2 + ["review"] * 2 + ["focus2"] * 2


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def loss_at(name, step, domain="train"):
    return {"lfr": 5.0, "<b>uniform": 6.0}[name] - step / 10 + {"train": 0, "code": 1, "prose": 2, "all": 1.5}[domain]


@pytest.fixture
def run_dirs(tmp_path):
    """Two runs of ten steps, evaluated after 4 and after 10; a step of the second one costs twice as much."""
    runs = {"lfr": tmp_path / "lfr", "<b>uniform": tmp_path / "uniform"}
    for cost, (name, folder) in zip((100, 200), runs.items()):
        folder.mkdir()
        steps = range(1, 11)
        write_csv(
            folder / "metrics.csv",
            [
                {"step": n, "phase": phase if name == "lfr" else "uniform", "loss": loss_at(name, n), "flops": cost * n}
                for n, phase in zip(steps, PHASES)
            ],
        )
        write_csv(
            folder / "eval.csv",
            [
                {"step": n, "split": "valid", "domain": domain, "loss": loss_at(name, n, domain), "tokens": 9}
                for n in (4, 10)
                for domain in ("code", "prose", "all")
            ],
        )
    return runs


def test_held_out_losses_are_drawn_against_flops(run_dirs):
    """Catches: steps in place of FLOPs; one run's FLOPs for the other; domains exchanged; a curve left out."""
    _, right = report.figure(run_dirs).axes
    curves = {line.get_label(): line for line in right.lines}
    assert set(curves) == {f"{domain}, {name}" for domain in ("code", "prose", "all") for name in run_dirs}
    for cost, name in zip((100, 200), run_dirs):
        for domain in ("code", "prose", "all"):
            x, y = curves[f"{domain}, {name}"].get_data()
            assert list(x) == [4 * cost, 10 * cost]
            assert list(y) == [loss_at(name, 4, domain), loss_at(name, 10, domain)]
    for domain in ("code", "prose", "all"):  # one color a domain, one line style a run
        pair = [curves[f"{domain}, {name}"] for name in run_dirs]
        assert pair[0].get_color() == pair[1].get_color() and pair[0].get_linestyle() != pair[1].get_linestyle()


def test_training_loss_and_phases_are_drawn(run_dirs):
    """Catches: loss that is not smoothed; the phases of another run; Review shaded; a phase merged with the next."""
    left, _ = report.figure(run_dirs).axes
    for cost, line, name in zip((100, 200), left.lines, run_dirs):
        x, y = line.get_data()
        assert list(x) == [cost * n for n in range(1, 11)]
        assert list(y) == report.smoothed([loss_at(name, n) for n in range(1, 11)])
        assert line.get_label() == name
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in left.patches]
    assert spans == [(500, 600), (900, 1000)]
    assert all(patch.get_facecolor()[:3] == to_rgb("0.9") for patch in left.patches)
    assert [(text.get_position()[0], text.get_text().strip()) for text in left.texts] == [
        (100, "learn"), (500, "focus"), (700, "review"), (900, "focus2")
    ]  # fmt: skip


def test_smoothing_starts_at_the_first_value():
    """Catches: a running mean that starts from zero; the two shares exchanged."""
    assert report.smoothed([]) == []
    assert report.smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert report.smoothed([1.0, 0.0], share=0.75) == pytest.approx([1.0, 0.75 / 1.75])


class Links(html.parser.HTMLParser):
    """All that a browser would load, and the tags that it would see."""

    def __init__(self, page):
        super().__init__()
        self.links, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_needs_no_other_file(run_dirs, tmp_path):
    """Catches: a picture that is linked; a table or a name that is not escaped; a lost table."""
    table = "policy  steps\nlfr       10\n<b>uniform 10 & more\nlfr − <b>uniform"
    path = report.write(tmp_path / "report.html", run_dirs, table)
    assert path == tmp_path / "report.html"
    page = path.read_text(encoding="utf-8")
    found = Links(page)
    (link,) = found.links
    assert link.startswith("data:image/png;base64,iVBOR") and "b" not in found.tags
    assert html.unescape(page[page.index("<pre>") + 5 : page.index("</pre>")]) == table
    assert "Comparison: lfr, &lt;b&gt;uniform</h1>" in page
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
