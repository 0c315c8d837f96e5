"""The command `lfr compile`."""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from lfr_jax.compile import fit, programs, report, topologies
from lfr_jax.compile.examine import Examined, examine
from lfr_jax.compile.memory import TooLarge
from lfr_jax.config import Config


def compile_run(
    config: Config,
    topology: str,
    slices: int = 1,
    blocks: int = 0,
    names: Sequence[str] = tuple(programs.PROGRAMS),
    try_others: bool = True,
    options: Sequence[str] = (),
    keep_hlo: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What the programs of a run would take on a topology, as JSON can hold it.

    Args:
      blocks: of the corpus; 0: as many as the first phase draws.
      names: keys of `programs.PROGRAMS`.
      try_others: compile other settings too where a program does not fit.
      options: of the compiler, NAME=VALUE.
      keep_hlo: folder for the programs' scheduled HLO text, also of those that were tried; "": it is not kept.
      say: gets the same in lines for people, each as soon as it is known.

    Raises:
      ValueError: the topology is not known, or the settings do not go with it; or libtpu is not installed.
    """
    place = topologies.find(topology, slices)
    if wrong := [option for option in options if "=" not in option]:
        raise ValueError(f"found the compiler option {wrong[0]!r}, expected NAME=VALUE")
    devices, limit = place.devices(), place.generation.hbm_gib
    mesh, blocks = programs.mesh_of(config, devices), blocks or programs.num_blocks(config)
    say(report.heading(config, place, mesh, blocks))

    def run(name: str, config: Config, stem: str) -> Examined | TooLarge:
        mesh, settings = programs.mesh_of(config, devices), dict(option.split("=", 1) for option in options)
        return examine(name, config, place, mesh, blocks, settings, functools.partial(keep, stem))

    def keep(stem: str, text: str) -> None:
        if keep_hlo:
            folder = pathlib.Path(keep_hlo)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}.hlo").write_text(text, encoding="utf-8")

    found = {}
    for name in names:
        outcome = run(name, config, name)
        say(report.text(name, outcome))
        found[name] = report.as_dict(outcome)
        if found[name]["fits"] or not try_others or name == "generate":
            continue
        found[name]["tried"] = tried = []
        others = fit.search(
            name, config, outcome, devices, limit, blocks, lambda other: run(name, other, f"{name}.{len(tried) + 1}")
        )
        for attempt in others:
            say(report.attempt_text(attempt))
            tried.append({"options": attempt.options} | report.as_dict(attempt.outcome))
        say(report.advice(tried))
    return {
        "topology": topology,
        "slices": slices,
        "chips": place.num_chips,
        "mesh": dict(mesh.shape),
        "blocks": blocks,
        "programs": found,
    }


def print_compiled(as_json: bool, *args: Any) -> bool:
    """`compile_run`, printed; returns whether everything fits."""
    found = compile_run(*args, say=(lambda line: None) if as_json else say_at_once)
    if as_json:
        print(json.dumps(found, indent=1))
    return all(program["fits"] for program in found["programs"].values())


def say_at_once(line: str) -> None:
    """Prints, also where the output is a file that somebody follows: a compilation takes minutes."""
    print(line, flush=True)
