"""The report's page, its words, and what it refuses."""

import html.parser
import json
import re

import pytest
from made_runs import DOMAINS, make_run

from lfr_jax.experiments import report

PICTURES = report.page.FIGURES


class Seen(html.parser.HTMLParser):
    """All that a browser would load, and the tags and words that it would see."""

    def __init__(self, page):
        super().__init__()
        self.links, self.tags, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(report, "count_classes", lambda *args, found=report.count_classes: found(*args, draws=10))


SUMMARY = dict(steps=20, trained_tokens=5e6, scored_tokens=1e6, flops=2e3, seconds=1.0)


@pytest.fixture
def folders(tmp_path):
    """A finished run under LFR, and one under uniform shuffling that is not finished."""
    (tmp_path / "runs").mkdir()
    lfr, uniform = (make_run(tmp_path / "runs" / name, name, store="abc") for name in ("lfr", "uniform"))
    (lfr / "summary.json").write_text(json.dumps(SUMMARY | {"held_out_loss": {"<b>code": 2.5, "all": 3.25}}))
    return [lfr, uniform]


@pytest.mark.slow
def test_the_report_of_two_runs(folders, tmp_path):
    """Catches: a picture that is linked, missing, or not saved as PNG and as SVG; a name that is not escaped; counts
    of the other run, or of another class; a class or domain left out."""
    words = report.write_report(folders, tmp_path / "out", threshold=0.375)
    path = tmp_path / "out" / "report.html"
    assert words.splitlines()[-1] == f"report: {path}"
    assert words.splitlines()[0].startswith("lfr: of 12 probes learned 66.7 % (")
    assert "relearned 33.3 % (more than noise gives)" in words.splitlines()[0]
    assert words.splitlines()[1].startswith("uniform: of 12 probes learned 100.0 % (as noise gives), unlearned 0.0 %")
    seen = Seen(path.read_text(encoding="utf-8"))
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        [*(f"{p}.{kind}" for p in PICTURES for kind in ("png", "svg")), "report.html"]
    )
    assert len(seen.links) == 6 and all(link.startswith("data:image/png;base64,iVBOR") for link in seen.links)
    assert all((path.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    assert all("<svg" in (path.parent / f"{name}.svg").read_text()[:600] for name in PICTURES)
    text = " ".join(" ".join(seen.words).split())
    assert "Report: lfr, uniform" in text and "<b>code" in text and "uniform: not finished" in text
    for table in text.split("multiple descent all 12 probes")[1:]:
        assert all(f"{domain} 4 probes" in table for domain in DOMAINS)
    of_lfr = text[text.index("all 12 probes") : text.index("code 4 probes")].split("%")
    assert of_lfr[0].endswith(" 66.7 ") and of_lfr[3].endswith(" 33.3 ") and "(4) by noise alone" in of_lfr[4]
    assert "by more than 0.375 nats" in text and "kept in the phase focus of lfr" in text


def test_a_run_that_drops_nothing(folders, tmp_path):
    """Catches: figures 4 and 5 that fail where no block is left out, or are not there; a run that needs another one."""
    report.write_report([folders[1]], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("Nothing to show: no probe was left out") == 4  # two captions, each also for those who cannot see
    assert (tmp_path / "out" / "dropped.png").is_file() and "Report: uniform</h1>" in page


def test_the_blocks_of_a_phase_are_followed(folders):
    """Catches: kept for dropped; another phase than asked for; blocks that were not drawn again called restored."""

    def captions(phase):
        runs, _, split = report.analyse_probes({"lfr": folders[0]}, phase, threshold=0.375)
        return [report.draw_split(runs, split, kept)[1] for kept in (True, False)]

    kept, dropped = captions("")
    assert kept.startswith("4. Perplexity of the probes kept in the phase focus of lfr, at equal cost.")
    assert dropped.startswith(
        "5. Perplexity of the probes left out in the phase focus of lfr, and drawn again later, at"
    )
    kept, dropped = captions("focus2")
    assert "kept in the phase focus2" in kept
    assert dropped.startswith("5. Nothing to show: of the probes, none that the phase focus2 of lfr left out was drawn")


def test_one_threshold_for_both(folders, monkeypatch):
    """Catches: the threshold of the less noisy run, or a different one for each; one that was given and is not used."""
    run_dirs = dict(zip(("lfr", "uniform"), folders))
    noise = iter([0.25, 0.5, 0.75, 0.5])
    monkeypatch.setattr(report, "noise_threshold", lambda losses: next(noise))
    for expected in (0.5, 0.75):
        assert [found.threshold for found in report.analyse_probes(run_dirs).counts] == [expected, expected]
    assert [found.threshold for found in report.analyse_probes(run_dirs, threshold=0.125).counts] == [0.125, 0.125]


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    """Catches: a page of runs on other stores; a run beside itself; a threshold below 0; files left by a refusal."""
    other = make_run(tmp_path / "other", store="abd")
    for runs, settings, message in [
        ([folders[0], other], {}, "the store abc.*the store abd"),
        ([folders[0], folders[0] / ".." / "lfr"], {}, "is named twice"),
        ([folders[0]], {"threshold": -1.0}, "threshold is -1.0"),
        ([folders[0]], {"phase": "fokus"}, "did you mean 'focus'"),
        ([make_run(tmp_path / "none", probes=False)], {}, "train.probe_blocks"),
    ]:
        with pytest.raises(ValueError, match=message):
            report.write_report(runs, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_files_of_others_stay(folders, tmp_path):
    """Catches: a figure of the same name overwritten, by the command or from Python."""
    (tmp_path / "losses.png").write_text("mine")
    with pytest.raises(FileExistsError, match="found 'losses.png', and no report"):
        report.write_report(folders, tmp_path)
    with pytest.raises(FileExistsError, match="found 'losses.png', and no report"):
        report.write_html(tmp_path, {"lfr": folders[0]}, "", "no probes")
    assert (tmp_path / "losses.png").read_text() == "mine" and not (tmp_path / "report.html").exists()


def test_runs_of_one_policy_are_told_apart(folders, tmp_path):
    """Catches: two runs under one name; a policy's name where both have the same."""
    lfr, uniform = folders
    again = make_run(tmp_path / "again")
    deep = make_run(tmp_path / "deep" / "again")
    assert report.name_runs([lfr, uniform]) == {"lfr": lfr, "uniform": uniform}
    assert report.name_runs([lfr, again]) == {"lfr": lfr, "again": again}
    assert report.name_runs([again, deep]) == {str(again): again, str(deep): deep}


def test_a_comparison_follows_its_first_and_last_run(folders, tmp_path):
    """Catches: two runs in the middle compared; a comparison that fails because a run has no probes."""
    lfr, uniform = folders
    middle = make_run(tmp_path / "middle", probes=False)
    analysis = report.analyse_probes_or_reason({"lfr": lfr, "middle": middle, "uniform": uniform})
    assert [run.name for run in analysis.runs] == ["lfr", "uniform"]
    run_dirs = {"lfr": lfr, "<i>": middle}
    why = report.analyse_probes_or_reason(run_dirs)
    path = report.write_html(tmp_path / "out", run_dirs, "a table", why)
    seen = Seen(path.read_text())
    assert "train.probe_blocks=0" in why and why in seen.words and "i" not in seen.tags and len(seen.links) == 1


def test_the_table_shows_differences_from_the_first():
    """Catches: a difference of the wrong sign or row; columns exchanged; control characters on the terminal."""
    rows = {
        name: SUMMARY | {"held_out_loss": {"a\x1b": loss, "all": loss + 1}} for name, loss in dict(x=2.5, y=3.0).items()
    }
    head, x, y, gap, *_ = report.comparison_table(rows).splitlines()
    assert head.split()[-2:] == [r"a\x1b", "all"]
    assert x.split() == ["x", "20", "5.00", "M", "1.00", "M", "2.000e+03", "1", "2.5000", "3.5000"]
    assert gap.split() == ["x", "−", "y", "-0.5000", "-0.5000"] and y.split()[-1] == "4.0000"


def test_the_legend_names_every_column():
    """Catches: a column or a unit that the legend does not tell; a legend wider than the table; a difference of which
    nobody knows what its sign means; a row of differences explained where there is none."""
    losses = {f"domain{number}": 2.5 for number in range(3)} | {"all": 2.5}
    summaries = {name: SUMMARY | {"held_out_loss": losses} for name in ("first", "second")}
    table, legend = report.comparison_table(summaries).split("\n\n")
    words = " ".join(legend.split())
    for column in table.splitlines()[0].split():
        assert column in re.split(r"[:,. ]+", words), column
    assert "tokens in millions" in words and "nats per token, lower is better" in words
    assert (
        "first − second" in table
        and "policy first − second: the difference of these losses, negative if first is better" in words
    )
    assert max(map(len, legend.splitlines())) <= max(110, len(table.splitlines()[0]))
    assert "−" not in report.comparison_table({"first": summaries["first"]})
