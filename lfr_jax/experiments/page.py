"""A report as HTML: one page that needs no other file, with its figures and tables inside."""

import base64
import os
import pathlib
from collections.abc import Iterable
from html import escape

import matplotlib
from matplotlib.figure import Figure

from lfr_jax.experiments import palette
from lfr_jax.experiments.trajectories import CLASSES, ClassCounts
from lfr_jax.storage.files import write_atomically
from lfr_jax.storage.paths import Path
from lfr_jax.storage.remote_files import exists, explain_errors, read_bytes

FILE = "report.html"
FIGURES = ("losses", "timeline", "sampled", "forgotten", "kept", "dropped")  # beside the page, as PNG and SVG
TITLE = "Report: "  # how every title begins

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; overflow-wrap: break-word }}
h2 {{ margin-top: 2.5rem }}
pre, .wide {{ overflow-x: auto }}
pre {{ background: #f6f6f6; padding: 1rem; line-height: 1.35 }}
figure {{ margin: 2rem 0 }}
img {{ max-width: 100%; height: auto }}
figcaption, small, dl {{ color: #444 }}
table {{ border-collapse: collapse }}
caption {{ text-align: left; font-weight: bold; padding: .5rem 0 }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }}
th:first-child {{ text-align: left }}
.differs {{ background: #fdf3dc }}
.lead {{ font-size: 1.25rem; padding: .8rem 1rem; border-left: .3rem solid #1a1a1a; background: #f6f6f6 }}
.caution {{ padding: .5rem 1rem; border-left: .3rem solid #1a1a1a; background: #fdf3dc }}
dt {{ float: left; clear: left; width: 9.5rem; font-style: italic }}
dd {{ margin-left: 9.5rem }}
</style></head><body>
<h1>{title}</h1>
{content}
</body></html>
"""

ABOUT_FILES = "<p>Every figure also lies beside this page, as PNG and, for slides and papers, as SVG.</p>"

CLASSES_EXPLAINED = """
<p>A probe is a training block whose loss is measured at every evaluation and on every edge between two phases. Every
domain has equally many probes, whatever its share of the corpus; so each domain counts the same under “all”. A loss
falls or rises if it moves by more than <b>{threshold:.3g} nats</b>.</p>
<dl><dt>learned</dt><dd>falls, and never rises after that</dd>
<dt>unlearned</dt><dd>never falls</dd>
<dt>forgotten</dt><dd>falls, then rises, and does not fall again</dd>
<dt>relearned</dt><dd>falls, rises once, and falls again</dd>
<dt>multiple descent</dt><dd>rises twice or more after a first fall</dd></dl>
<p>Noise alone also makes losses fall and rise. So each count is compared with simulated losses that have the same
trend and the same noise, but no forgetting. “By noise alone” gives the mean count over the simulations and, in
brackets, where 95 % of them lie. Only a count well above these is evidence of forgetting; by chance, one count in
twenty is outside. A rise that all blocks share is part of the trend, and so of the simulations. (A simulation puts
each block’s residuals around the common trend into a random order, after scaling them to the noise.)</p>
<p>Published, without such a comparison: multiple descent of 78.5 % of SlimPajama’s samples under a Llama of 300 M
parameters, and of about 20 % under GPT-2 345M (Prakriya et al., arXiv 2409.06131). Such a share depends on what counts
as a rise; we do not know what counted there.</p>
"""


def require_replaceable(folder: Path, figures: Iterable[str] = FIGURES, others: Iterable[str] = ()) -> None:
    """Refuses to write a report to `folder`, if files of other origin would be overwritten. An earlier report may be.

    Args:
      figures: of the report, without `.png`.
      others: more files of it.

    Raises:
      FileExistsError: a file there has a name of the report's, and the page is not there or is none of ours.
      OSError: the page is a folder or a named pipe, or cannot be read.
    """
    names = names_of(figures, others)
    with explain_errors(folder):
        there = [name for name in names if exists(folder / name)]
        if there and not (there[0] == FILE and is_page(folder / FILE)):
            raise FileExistsError(
                f"{folder}: found {there[0]!r}, and no report that `lfr` wrote; expected a new folder, or an earlier "
                "report: choose another --out, or move the file away"
            )


def names_of(figures: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """The files of a report, the page first."""
    return [FILE, *(f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")), *others]


def is_page(path: Path) -> bool:
    """Whether a file begins as our pages do."""
    return read_bytes(path).startswith((PAGE.partition("{title}")[0] + TITLE).encode())


def write_page(path: pathlib.Path, names: str, content: list[str]) -> None:
    """Writes the page on the runs `names`, which are text; `content` is HTML."""
    write_atomically(path, PAGE.format(title=escape(TITLE + names), content="\n".join(content)))


def move_report(
    made: pathlib.Path, folder: pathlib.Path, figures: Iterable[str] = FIGURES, others: Iterable[str] = ()
) -> None:
    """Moves a report's files into `folder`, and removes those of an earlier one that it has not.

    The page is first: it says that the files beside it may be replaced.
    """
    names = names_of(figures, others)
    for name in [FILE, *sorted(names[1:])]:
        if (made / name).exists():
            os.replace(made / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def save_figure(drawing: Figure, path: pathlib.Path, caption: str) -> str:
    """Saves a figure as PNG at `path` and as SVG beside it; returns HTML that contains the PNG."""
    with matplotlib.rc_context(palette.STYLE):
        drawing.savefig(path, dpi=120)
        drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    encoded = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'


def class_table(name: str, found: ClassCounts) -> str:
    """A table of the counts by class and domain; below each count stands what noise alone gives."""
    rows = ["<th></th>" + "".join(f"<th>{kind}</th>" for kind in CLASSES)]
    for group, group_name in enumerate(found.groups):
        size = found.count_GxC[group].sum()
        row = f"<th>{escape(group_name)}<br><small>{size} probes</small></th>"
        for kind, count in enumerate(found.count_GxC[group]):
            low, high = found.null_low_GxC[group, kind], found.null_high_GxC[group, kind]
            row += (
                f"<td{'' if low <= count <= high else ' class=differs'}><b>{100 * count / size:.1f} %</b> ({count})<br>"
                f"<small>by noise alone {found.null_mean_GxC[group, kind]:.1f} ({low}–{high})<br>"
                f"{found.verdict(group, kind)}</small></td>"
            )
        rows.append(row)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><caption>{escape(name)}</caption>{body}</table></div>'
