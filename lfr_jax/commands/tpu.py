"""The command that compiles a run for TPUs that are not here."""

import dataclasses
import sys
from typing import Literal

from lfr_jax.commands.arguments import settings_of
from lfr_jax.config import Config
from lfr_jax.config.values import AtLeast0, AtLeast1, check_value
from lfr_jax.config.words import overridden


@dataclasses.dataclass(frozen=True)
class Compilation(Config):
    """A whole run, compiled for TPUs that are not here. It says whether the run fits, and what limits it."""

    topology: str = "v6e-8"  # an accelerator type, or a generation and the shape of a slice: v5e:2x4, v5p:2x2x2
    slices: AtLeast1 = 1  # slices of this shape
    blocks: AtLeast0 = 0  # blocks in the corpus; 0: as many as the first phase draws
    programs: tuple[Literal["train", "score", "generate"], ...] = ("train", "score", "generate")
    fit: bool = True  # try other settings where a program does not fit
    json: bool = False  # one JSON object in place of the text
    compiler_options: tuple[str, ...] = ()  # of libtpu, as NAME=VALUE
    keep_hlo: str = ""  # folder for the compiled programs as HLO text; "": they are not kept

    def __post_init__(self):
        super().__post_init__()
        check_value("slices", self.slices, AtLeast1)
        check_value("blocks", self.blocks, AtLeast0)


def compile(args: list[str]) -> None:
    """does it fit a TPU, how fast:     lfr compile configs/smoke.py --topology v6e-8"""
    asked, policy, given = overridden(Compilation, args, "lfr compile")
    from lfr_jax.compile.command import print_compiled
    from lfr_jax.train.policy import switched

    config = switched(settings_of(asked), policy, given)
    place, settings = (asked.topology, asked.slices), (asked.fit, asked.compiler_options, asked.keep_hlo)
    if not print_compiled(asked.json, config, *place, asked.blocks, asked.programs, *settings):
        sys.exit(1)
