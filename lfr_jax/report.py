"""A comparison as one self-contained HTML page, with its figure also as a PNG file beside it."""

import base64
import csv
import html
import pathlib
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure

PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ overflow-x: auto; background: #f6f6f6; padding: 1rem }} img {{ max-width: 100% }}</style>
<h1>{title}</h1>
<p>All policies were given the same total FLOPs; scoring passes are charged.</p>
<pre>{table}</pre>
<img alt="Training loss, and held-out loss by domain, against FLOPs" src="data:image/png;base64,{figure}">
"""


def write(path: pathlib.Path, run_dirs: dict[str, pathlib.Path], table: str) -> pathlib.Path:
    """Writes the report of the runs `run_dirs` (policy -> run directory) to `path`, and returns `path`."""
    picture = path.with_suffix(".png")
    figure(run_dirs).savefig(picture, dpi=120)
    encoded = base64.b64encode(picture.read_bytes()).decode()
    title = "Comparison: " + ", ".join(run_dirs)
    path.write_text(PAGE.format(title=html.escape(title), table=html.escape(table), figure=encoded))
    return path


def figure(run_dirs: dict[str, pathlib.Path]) -> Figure:
    """On the left the training loss, with the phases; on the right the held-out loss of each domain."""
    train = {name: read(path / "metrics.csv") for name, path in run_dirs.items()}
    held_out = {name: read(path / "eval.csv") for name, path in run_dirs.items()}
    domains = sorted({row["domain"] for rows in held_out.values() for row in rows} - {"all"})
    drawing = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = drawing.subplots(1, 2)
    shade_phases(left, next(iter(train.values())))
    for name, rows in train.items():
        x, y = flops_of(rows), smoothed([float(row["loss"]) for row in rows])
        left.plot(x, y, label=name, lw=1.2)
    left.set(title="training loss (running mean)", xlabel="FLOPs, scoring included", ylabel="nats per token")
    left.legend()
    for number, (name, rows) in enumerate(held_out.items()):
        flops_at = {row["step"]: float(row["flops"]) for row in train[name]}
        for color, domain in enumerate([*domains, "all"]):
            points = [(flops_at[row["step"]], float(row["loss"])) for row in rows if row["domain"] == domain]
            right.plot(
                *zip(*points), color=f"C{color}", ls=("-", "--", ":", "-.")[number % 4],
                label=f"{domain}, {name}", lw=2 if domain == "all" else 1,
            )  # fmt: skip
    right.set(title="held-out loss", xlabel="FLOPs, scoring included", ylabel="nats per token")
    right.legend(fontsize="small", ncols=2)
    return drawing


def shade_phases(axes, rows: list[dict[str, Any]]) -> None:
    """Marks the phases of a run: Focus phases in grey, each with its name."""
    for name, of_phase in groupby(rows, key=lambda row: row["phase"]):
        x = flops_of(list(of_phase))
        if name.startswith("focus"):
            axes.axvspan(x[0], x[-1], color="0.9", zorder=0)
        axes.text(x[0], 0.99, f" {name}", transform=axes.get_xaxis_transform(), va="top", fontsize="small")


def flops_of(rows: list[dict[str, Any]]) -> list[float]:
    return [float(row["flops"]) for row in rows]


def smoothed(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential running mean, corrected for its start."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        means.append(total / weight)
    return means


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
