"""The parts of a page: what is counted stands there, and names are never read as HTML."""

import html.parser

import numpy as np
import pytest
from matplotlib.figure import Figure

from lfr_jax.experiments import page
from lfr_jax.experiments.trajectories import CLASSES, ClassCounts

FOUND = ClassCounts(
    groups=("all", "<i>code"),
    count_GxC=np.array([[5, 0, 2, 1, 2], [1, 0, 2, 1, 0]]),
    null_mean_GxC=np.array([[7.5, 0, 1, 1, 0.25], [1, 0, 2, 1, 0]]),
    null_low_GxC=np.array([[6, 0, 1, 0, 0], [1, 0, 2, 1, 0]]),
    null_high_GxC=np.array([[9, 0, 2, 3, 1], [1, 0, 2, 1, 0]]),
    class_N=np.zeros(10, int),
    threshold=0.5,
)


class Cells(html.parser.HTMLParser):
    """The rows of a table, each cell as its attributes and its words."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append((dict(attributes), []))

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][-1][1].append(data)


def test_counts_stand_beside_the_null():
    """Catches: classes or groups exchanged; shares of all blocks in a domain's row; a difference that is not marked, or
    one marked that is none; names read as HTML."""
    table = Cells(page.class_table("<i>lfr", FOUND))
    head, everything, code = [[" ".join(words) for _, words in row] for row in table.rows]
    assert head == ["", *CLASSES] and "i" not in table.tags
    assert everything[:2] == ["all 10 probes", "50.0 %  (5) by noise alone 7.5 (6–9) fewer than noise gives"]
    assert everything[3] == "20.0 %  (2) by noise alone 1.0 (1–2) as noise gives"
    assert everything[5] == "20.0 %  (2) by noise alone 0.2 (0–1) more than noise gives"
    assert code[0] == "<i>code 4 probes" and code[3].startswith("50.0 %  (2)")
    marked = [[attributes.get("class") == "differs" for attributes, _ in row] for row in table.rows[1:]]
    assert marked == [[False, True, False, False, False, True], [False] * 6]


def test_a_picture_is_saved_and_inlined(tmp_path):
    """Catches: a figure without its SVG; a link to the file; a caption that ends its attribute; a title read as
    HTML."""
    drawing = page.save_figure(Figure((1, 1)), tmp_path / "one.png", 'a "caption" of <i>')
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "one.svg").read_text()
    page.write_page(tmp_path / "page.html", "<i>run", [drawing, "<p>words"])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>Report: &lt;i&gt;run</title>" in text and "<i>" not in text and drawing + "\n<p>words" in text
    assert (
        'alt="a &quot;caption&quot; of &lt;i&gt;" src="data:image/png;base64,iVBOR' in drawing and "one.png" not in text
    )
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one.png", "one.svg", "page.html"]


@pytest.mark.parametrize("name", ["report.html", "losses.png", "dropped.svg"])
def test_only_reports_are_replaced(tmp_path, name):
    """Catches: somebody's page or figure overwritten; a report that cannot be written again, also one whose writer was
    killed after the page; a folder that is refused for other files in it."""
    (tmp_path / "notes.txt").write_text("of mine")
    page.require_replaceable(tmp_path)
    page.require_replaceable(tmp_path / "new")
    (tmp_path / name).write_text("<!doctype html>\n<title>Report: of mine</title>")
    with pytest.raises(FileExistsError, match=f"found '{name}', and no report"):
        page.require_replaceable(tmp_path)
    page.write_page(tmp_path / "report.html", "lfr", [])
    page.require_replaceable(tmp_path)


def test_the_page_is_moved_first(tmp_path, monkeypatch):
    """Catches: figures without the page beside them, after a kill, which the next report would refuse to replace."""
    (tmp_path / "made").mkdir()
    for name in ("dropped.png", "report.html", "losses.png"):
        (tmp_path / "made" / name).write_text("new")
    moved = []
    replace = page.os.replace
    monkeypatch.setattr(page.os, "replace", lambda old, new: (moved.append(new.name), replace(old, new)))
    page.move_report(tmp_path / "made", tmp_path)
    assert moved == ["report.html", "dropped.png", "losses.png"]
