#!/usr/bin/env python
"""Writes docs/policies/: a page for each policy and wrapper, from the docstrings, and with --figures the pictures.

    python tools/policy_docs.py                        # the pages, in seconds
    python tools/policy_docs.py --figures              # every picture too: under a minute each on two CPU cores
    python tools/policy_docs.py --figures lfr replay   # these pictures

A picture shows how often a policy drew from each domain in a short run of configs/smoke.py. The runs stay in
runs/policy_docs, and are not repeated while they are there.
"""

import argparse
import dataclasses
import inspect
import itertools
import pathlib
import re
import subprocess
import sys
import textwrap

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lfr_jax import schedule  # noqa: E402

PAGES = ROOT / "docs" / "policies"
SECTIONS = ("Args", "Returns", "Raises", "Examples", "References")
STEPS = 120  # of the runs that the pictures show
SHOWN = {  # settings of these runs, where the policy's name alone would show nothing
    "mixture": dict(options=dict(stages=[(1, "natural"), (1, "equal")])),
    "ranked": dict(options=dict(column="ref_loss", prefer="low", keep=0.5, tilt=0.5)),
    "repetition": dict(options=dict(column="ref_loss", prefer="low")),
    "aioli": dict(score_fraction=0.1, options=dict(rounds=3, trial_steps=3, round_steps=22)),
    "stratified": dict(policy="lfr", stratify="domain"),
    "floor": dict(policy="lfr", floor=0.25),
    "cap_noise": dict(policy="lfr", cap_noise=0.1),
}
CAPTION = "Mean rate of each domain's blocks in a short run, relative to all blocks; lines mark where phases begin"


def pages() -> dict[str, str]:
    """Every page by its name, without the ending: what docs/policies must hold."""
    made = {name: page(name) for name in (*schedule.POLICIES, *schedule.WRAPPERS)}
    return made | {"README": index()}


def index() -> str:
    """The list of all pages."""
    lines = ["# The policies", "", "Written by `tools/policy_docs.py` from the docstrings of `lfr_jax.schedule`.", ""]
    lines += ["| policy | | needs of `BlockInfo` | needs of the trainer |", "|---|---|---|---|"]
    for name in schedule.POLICIES:
        s = getattr(schedule, name)()
        info = ", ".join(f"`{field}`" for field in needed(s))
        needs = ", ".join(words for words, _ in trainer(s))
        lines.append(f"| [{name}]({name}.md) | {summary(name)} | {info or '–'} | {needs or '–'} |")
    lines += [
        "",
        "The needs are those of the default arguments. `schedule.check_trainer` raises where a trainer does less:",
        "without what it needs, a policy trains as another one, and reports no error.",
        "",
    ]
    lines += ["| wrapper | |", "|---|---|"]
    lines += [f"| [{name}]({name}.md) | {summary(name)} |" for name in schedule.WRAPPERS]
    return "\n".join([*lines, "", "A policy of your own: [add_a_policy.md](../add_a_policy.md)", ""])


def trainer(s: schedule.Schedule) -> list[tuple[str, str]]:
    """What the schedule needs of its trainer, besides `begin` and the draws; and what `check_trainer` calls it."""
    passes = sum(phase.score for phase in s.phases)
    found = [
        (passes, f"{passes} scoring pass{'es' * (passes > 1)} (`Phase.score`)", "scores_blocks=True"),
        (s.observe_train, "the losses of training steps (`observe_train`)", "observes_training=True"),
        (s.loss_weights, "weights on the losses (`loss_weights`)", "weighs_losses=True"),
        (s.objective, "weights that undo the rates (`objective_weights`)", "follows_objective=True"),
        (s.token_weights, "weights on the losses of tokens (`token_weights`)", "weighs_tokens=True"),
        (s.extra, f"signals (`extra`): {', '.join(s.extra)}", f"supplies={s.extra}"),
    ]
    return [(words, argument) for needed, words, argument in found if needed]


def summary(name: str) -> str:
    return inspect.getdoc(getattr(schedule, name)).partition("\n")[0]


def page(name: str) -> str:
    """One page: what the docstring says, section by section, then what the policy itself shows."""
    function = getattr(schedule, name)
    body, sections = cut(inspect.getdoc(function))
    first, _, rest = body.partition("\n")
    lines = [f"# {name}", "", first, "", "```python", signature(name, function), "```", ""]
    if (PAGES / f"{name}.png").exists():
        lines += [f"![{CAPTION}]({name}.png)", "", f"*{CAPTION}.*", ""]
    lines += [markdown(rest.strip()), ""]
    for title, text in sections.items():
        lines += [f"## {title}", "", SHAPE[title](text), ""]
    if name in schedule.POLICIES:
        lines += of_policy(function()) + of_state(function())
    elif name not in ("floor", "unbiased"):  # which have no state of their own
        lines += of_state(function(schedule.lfr()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def cut(doc: str) -> tuple[str, dict[str, str]]:
    """A docstring's text before its sections, and the sections by title, each dedented."""
    body, *parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", doc, flags=re.MULTILINE)
    return body.strip(), {title: textwrap.dedent(text).strip() for title, text in zip(parts[::2], parts[1::2])}


def signature(name: str, function) -> str:
    """The function's signature, a parameter a line."""
    of = inspect.signature(function)
    written = str(of.replace(return_annotation=of.empty))[1:-1]
    written = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", written)  # types without the modules that they are from
    parameters = re.split(r", (?=\*|\w+(?::|=|,|$))", written)
    return "\n".join([f"schedule.{name}(", *(f"    {p}," for p in parameters), ")"])


def markdown(text: str) -> str:
    """Maths in the backticked forms of GitHub, whose plain ones lose backslashes; papers and code with links."""
    text = re.sub(r"\$\$\s*(.+?)\s*\$\$\s*", lambda m: f"```math\n{m[1]}\n```\n\n", text, flags=re.DOTALL)
    text = re.sub(r"\$((?:[^$`\n]|\n(?!\n))+)\$", lambda m: f"$`{' '.join(m[1].split())}`$", text)
    text = re.sub(r"(?<![\w/])(github\.com/[\w-]+/[\w-]+)", r"[\1](https://\1)", text)
    return re.sub(r"arXiv[ :]\s*(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text).strip()


def entries(text: str) -> str:
    """`name: meaning`, continued on indented lines, as a list."""
    items = (" ".join(item.split()) for item in re.split(r"\n(?=\S)", text))
    return markdown("\n".join("- " + re.sub(r"^([\w*, ]+):\s", bold, item) for item in items))


def bold(match: re.Match) -> str:
    return ", ".join(f"`{name.strip()}`" for name in match[1].split(",")) + ": "


def examples(text: str) -> str:
    """Doctests in fences, words between them as they are."""
    pieces = [(code, "\n".join(lines)) for code, lines in itertools.groupby(text.splitlines(), shown())]
    fenced = (f"```pycon\n{piece}\n```" if code else markdown(piece) for code, piece in pieces)
    return "\n\n".join(piece for piece in fenced if piece)


def shown():
    """Whether a line belongs to a doctest: from its prompt to the next empty line."""
    within = False

    def key(line: str) -> bool:
        nonlocal within
        within = line.startswith(">>>") or (within and bool(line.strip()))
        return within

    return key


def references(text: str) -> str:
    """A list, an entry a paragraph."""
    return markdown("\n".join("- " + " ".join(entry.split()) for entry in re.split(r"\n\s*\n", text)))


SHAPE = dict(Args=entries, Returns=markdown, Raises=entries, Examples=examples, References=references)


def of_policy(s: schedule.Schedule) -> list[str]:
    """What a schedule itself shows, built with its default arguments: phases and needs."""
    rows = [f"| {p.name} | {p.start}–{p.stop} | {'yes' if p.score else '–'} |" for p in s.phases]
    if len(rows) > 8:
        rows[3:-1] = ["| ... | | |"]
    places = [f"BlockInfo.{f}" if hasattr(schedule.BlockInfo, f) else f'BlockInfo.columns["{f}"]' for f in needed(s)]
    needs = ", ".join(f"`{place}`" for place in places) or "nothing but the number of blocks"
    words = ", ".join(words for words, _ in trainer(s)) or "nothing"
    arguments = "".join(f", {argument}" for _, argument in trainer(s))
    training = f"Of its trainer it needs {words}: `schedule.check_trainer(s{arguments})`."
    head = ["## Phases by default", "", "| phase | steps | scoring pass on entry |", "|---|---|---|"]
    return [*head, *rows, "", f"It needs {needs}.", training, ""]


def of_state(s: schedule.Schedule) -> list[str]:
    """The fields of a schedule's state."""
    kind = type(s.init(block_info()))
    head = ["## State", "", f"`{kind.__name__}`: {kind.__doc__.splitlines()[0]}", "", "| field | |", "|---|---|"]
    return head + [f"| `{field}` | {cell(meaning)} |" for field, meaning in commented(kind).items()]


def cell(text: str) -> str:
    """Words in a table."""
    return markdown(text).replace("|", "\\|")


def commented(kind: type) -> dict[str, str]:
    """What the comments say of a NamedTuple's fields."""
    source = inspect.getsource(kind)
    found = {field: re.search(rf"^    {field}: .*?# (.*(?:\n +# .*)*)", source, re.MULTILINE) for field in kind._fields}
    return {field: " ".join(re.sub(r"\n +# ", " ", m[1]).split()) if m else "" for field, m in found.items()}


def block_info() -> schedule.BlockInfo:
    """All that can be known of 8 blocks."""
    group, loss = np.arange(8, dtype=np.int32) % 2, np.linspace(1, 2, 8, dtype=np.float32)
    losses = dict(ref_loss=loss, weak_loss=loss + 1, strong_loss=loss)
    return schedule.BlockInfo(8, domain=group, cluster=group, **losses, columns={"quality": loss})


def needed(s: schedule.Schedule) -> list[str]:
    """The fields of `BlockInfo` that the schedule cannot begin without."""
    full, needs = block_info(), []
    for field in ("domain", "cluster", "length", *full.columns):
        try:
            s.init(without(full, field))
        except ValueError:
            needs.append(field)
    return needs


def without(info: schedule.BlockInfo, field: str) -> schedule.BlockInfo:
    """The same, but for one array."""
    if field in info.columns:
        return info._replace(columns={name: array for name, array in info.columns.items() if name != field})
    return info._replace(**{field: None})


def draw_all(names: list[str]) -> None:
    """Trains each policy for a short while and draws its rates."""
    from policy_figures import draw

    from lfr_jax.config import ScheduleConfig, read_config

    prepare()
    base = read_config(str(ROOT / "configs" / "smoke.py"))
    for name in names:
        settings = dict(policy=name) | SHOWN.get(name, {})
        if settings["policy"] not in schedule.POLICIES:  # chain, which no setting of a run names
            continue
        needs = needed(getattr(schedule, settings["policy"])(**settings.get("options", {})))
        settings |= {f"{field.removesuffix('_loss')}_scores": scores(base, field) for field in needs if "loss" in field}
        settings |= dict(clusters=16) if "cluster" in needs else {}
        draw(trained(base, name, STEPS, ScheduleConfig(**settings)), PAGES / f"{name}.png")


def prepare() -> None:
    """The corpus of the smoke run, as tools/smoke makes it."""
    if not (ROOT / "data" / "smoke").is_dir():
        command = "prepare --out data/smoke --embedded --sample 0.07 --valid-fraction 0.2 --train-tokenizer"
        arguments = [*command.split(), "--vocab-size", "1024"]
        subprocess.run([sys.executable, "-m", "lfr_jax.cli", *arguments], cwd=ROOT, check=True)


def trained(base, name: str, steps: int, scheduled) -> pathlib.Path:
    """The folder of a finished run."""
    from lfr_jax.train.loop import train

    folder = ROOT / "runs" / "policy_docs" / name
    print(f"{name}: {steps} steps in {folder}", flush=True)
    config = dataclasses.replace(
        base,
        run_dir=str(folder),
        data=dataclasses.replace(base.data, store=str(ROOT / "data" / "smoke")),
        schedule=scheduled,
        train=dataclasses.replace(
            base.train,
            steps=steps,
            eval_every=10 if scheduled.policy == "linupper" else 0,  # its weights change with the losses of the probes
            eval_blocks=4,
            checkpoint_every=0,
            probe_blocks=300,
        ),
    )
    train(config, quiet=True)
    return folder


def scores(base, field: str) -> str:
    """A score file of every block: under a weak model, or under a strong one, which is the reference too."""
    from lfr_jax.config import ScheduleConfig
    from lfr_jax.train import load_run as finished

    name, steps = ("weak", 60) if field == "weak_loss" else ("strong", 240)
    out = ROOT / "runs" / "policy_docs" / f"{name}.csv"
    if not out.exists():
        folder = trained(base, name, steps, ScheduleConfig("uniform"))
        finished.write_scores(finished.load(str(folder)), "", out)
    return str(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*schedule.POLICIES, *schedule.WRAPPERS]
    parser.add_argument("--figures", nargs="*", metavar="NAME", choices=every, help="draw these; none named: all")
    asked = parser.parse_args().figures
    PAGES.mkdir(parents=True, exist_ok=True)
    if asked is not None:
        draw_all(asked or every)
    for name, text in pages().items():
        (PAGES / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
