"""Tables as HTML, Markdown and CSV, and the words for the numbers in them."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from lfr_jax.experiments.statistics import Estimate
from lfr_jax.terminal import printable

NONE = "–"  # where there is no number


Cell = str | tuple[str, ...]  # words; or words, and smaller lines below them


class Table(NamedTuple):
    """A table, without its caption."""

    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    marked: Sequence[int] = ()  # rows that are set off


def as_html(table: Table, caption: str) -> str:
    """The table as HTML. All words in it, and the caption, are text: nothing of them is read as HTML."""
    rows = ["".join(html_cell(cell, "th") for cell in table.head)]
    rows += [
        "".join(html_cell(cell, "td" if column else "th") for column, cell in enumerate(row)) for row in table.rows
    ]
    marks = ["", *(" class=differs" if number in table.marked else "" for number in range(len(table.rows)))]
    body = "".join(f"<tr{mark}>{row}</tr>" for mark, row in zip(marks, rows))
    return f'<div class="wide"><table><caption>{escape(printable(caption))}</caption>{body}</table></div>'


def html_cell(cell: Cell, tag: str) -> str:
    first, *others = (escape(printable(line)) for line in lines(cell))
    return f"<{tag}>{first}{''.join(f'<br><small>{line}</small>' for line in others if line)}</{tag}>"


def lines(cell: Cell) -> tuple[str, ...]:
    return (cell,) if isinstance(cell, str) else cell


def as_markdown(table: Table) -> str:
    """The table as Markdown of GitHub. Nothing in it is read as a mark of Markdown, or ends a cell.

    >>> print(as_markdown(Table(["arm", "loss"], [["a|b", ("3.5", "[3.4, 3.6]")]])), end="")
    | arm | loss |
    |:--|--:|
    | a\\|b | 3.5 \\[3.4, 3.6\\] |
    """
    rows = [
        "| " + " | ".join(escape_markdown(" ".join(lines(cell))) for cell in row) + " |"
        for row in (table.head, *table.rows)
    ]
    return "\n".join([rows[0], "|:--|" + "--:|" * (len(table.head) - 1), *rows[1:]]) + "\n"


def escape_markdown(text: str) -> str:
    """Text in which Markdown sees no mark.

    >>> escape_markdown("<b>*x*_y")
    '&lt;b&gt;\\\\*x\\\\*\\\\_y'
    """
    text = printable(text.strip()).translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]|~#"})
    return escape(text, quote=False)


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV. What is not known (NaN) is empty.

    >>> as_csv([{"arm": "lfr", "p": math.nan}])
    'arm,p\\nlfr,\\n'
    """
    rows = list(rows)
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows)
    return file.getvalue()


def with_interval(estimate: Estimate | None, form: str) -> tuple[str, str]:
    """An estimate in two lines: its value, and its interval, if it has one.

    >>> with_interval(Estimate(-0.0123, -0.02, 0.001, p=0.04, seeds=5), "+.3f")
    ('−0.012', '[−0.020, +0.001]')
    >>> with_interval(Estimate(2.0, 1.25, math.inf, p=0.01, seeds=5, sign=">"), ".2f")
    ('> 2.00', '[1.25, ∞)')
    """
    if estimate is None or not math.isfinite(estimate.value):
        return NONE, ""
    value = f"{estimate.sign} {in_words(estimate.value, form)}".strip()
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return value, ""
    high = "∞)" if math.isinf(estimate.high) else f"{in_words(estimate.high, form)}]"
    return value, f"[{in_words(estimate.low, form)}, {high}"


def on_one_line(estimate: Estimate | None, form: str) -> str:
    """An estimate with its interval on one line."""
    return " ".join(with_interval(estimate, form)).strip()


def in_words(value: float, form: str) -> str:
    """A number, with a minus sign that is as wide as a plus.

    >>> in_words(-0.5, ".2f"), in_words(math.nan, ".2f")
    ('−0.50', '–')
    """
    return format(value, form).replace("-", "−") if math.isfinite(value) else NONE


def times(factor: float) -> str:
    """A factor.

    >>> times(0.5), times(2.0)
    ('×0.5', '×2')
    """
    return f"×{factor:g}"


def millions(tokens: float) -> str:
    return f"{tokens / 1e6:.2f} M"


def p_value(p: float | None) -> str:
    """A p-value; small ones are not written out, as no such simulation or model is so exact.

    >>> print(p_value(0.0421), p_value(1e-9))
    0.042 < 0.001
    """
    if p is None or not math.isfinite(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
