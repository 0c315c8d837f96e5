"""Parts of a report as HTML: one page that needs no other file, its pictures, its tables."""

import base64
import pathlib
from html import escape

from matplotlib.figure import Figure

from lfr_jax.experiments.trajectories import CLASSES, Census
from lfr_jax.storage.files import write_atomically

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
dt {{ float: left; clear: left; width: 9.5rem; font-style: italic }}
dd {{ margin-left: 9.5rem }}
</style></head><body>
<h1>{title}</h1>
{content}
</body></html>
"""

CLASSES_EXPLAINED = """
<p>A probe is a training block whose loss was measured at every evaluation and on entry of every phase. There are as
many of each domain, whatever its share of the corpus, so that under “all” each domain counts the same. A loss falls or
rises where it moves by more than <b>{threshold:.3g} nats</b>.</p>
<dl><dt>learned</dt><dd>falls, and never rises after that</dd>
<dt>unlearned</dt><dd>never falls</dd>
<dt>forgotten</dt><dd>falls, then rises, for good</dd>
<dt>relearned</dt><dd>falls, rises once, and falls again</dd>
<dt>multiple descent</dt><dd>rises twice or more after a first fall</dd></dl>
<p>Noise alone makes losses fall and rise. So beside each count stands that of a null: the same trend and the same
noise, but no memory. (Residuals around the common trend, scaled to the noise and put into random orders; the mean of
these draws, and where 95 % of them lie.) Only what is well above the null is evidence: one count in twenty is outside
by chance. Rises that all blocks share are in the trend, and so in the null too.</p>
<p>Published, without a null: multiple descent of 78.5 % of SlimPajama's samples under a Llama of 300 M parameters, and
of about 20 % under GPT-2 345M (Prakriya et al., arXiv 2409.06131). Such a share depends on what counts as a rise; we do
not know what did there.</p>
"""


def write_page(path: pathlib.Path, title: str, content: list[str]) -> None:
    """Writes the page with this title (text) and content (HTML)."""
    write_atomically(path, PAGE.format(title=escape(title), content="\n".join(content)))


def picture(drawing: Figure, path: pathlib.Path, caption: str) -> str:
    """Saves a figure as PNG, and gives it as HTML, inlined."""
    drawing.savefig(path, dpi=120)
    encoded = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'


def class_table(name: str, found: Census) -> str:
    """The counts of each class and domain, each with the null's below it."""
    rows = ["<th></th>" + "".join(f"<th>{kind}</th>" for kind in CLASSES)]
    for group, group_name in enumerate(found.groups):
        size = found.count_GxC[group].sum()
        row = f"<th>{escape(group_name)}<br><small>{size} probes</small></th>"
        for kind, count in enumerate(found.count_GxC[group]):
            low, high = found.null_low_GxC[group, kind], found.null_high_GxC[group, kind]
            row += (
                f"<td{'' if low <= count <= high else ' class=differs'}><b>{100 * count / size:.1f} %</b> ({count})<br>"
                f"<small>null {found.null_mean_GxC[group, kind]:.1f} ({low}–{high})<br>"
                f"{found.verdict(group, kind)}</small></td>"
            )
        rows.append(row)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><caption>{escape(name)}</caption>{body}</table></div>'
