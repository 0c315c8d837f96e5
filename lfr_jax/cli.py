"""The command `lfr`: a subcommand for each thing to do with text, a run, or several runs.

A subcommand imports what it needs when it is called, so that help and mistakes answer at once.
"""

import dataclasses
import os
import pathlib
import re
import runpy
import sys
import traceback
from typing import Literal

import tyro

from lfr_jax.config import RENAMED, Config, nearest
from lfr_jax.distributed.peers import log_prefix
from lfr_jax.terminal import shield_standard_streams

Positional = tyro.conf.Positional


def prepare(args: list[str]) -> None:
    """text -> token store:             lfr prepare --out data/mine book.txt talks.jsonl.gz --train-tokenizer"""
    from lfr_jax.prepare.prepare import prepare_paths

    print(tyro.cli(prepare_paths, args=args, prog="lfr prepare"))


def data(args: list[str]) -> None:
    """looks into a store:              lfr data info data/mine; also: verify, sample, clean, noise"""
    from lfr_jax.prepare.clean.clean import clean_corpus
    from lfr_jax.prepare.inspect import info, sample, verify
    from lfr_jax.prepare.noise import add_noise

    commands = {"info": info, "verify": verify, "sample": sample, "noise": add_noise, "clean": clean_corpus}
    tyro.extras.subcommand_cli_from_dict(commands, args=args, prog="lfr data")


def link(args: list[str]) -> None:
    """token files -> token store:      lfr link --out data/owt openwebtext/train.bin --gpt2 tokenizers/gpt2"""
    from lfr_jax.prepare.link import link_paths

    print(tyro.cli(link_paths, args=args, prog="lfr link"))


def train(args: list[str]) -> None:
    """train, or continue a run:        lfr train configs/smoke.py --train.steps 500"""
    config = configured(Config, args, "lfr train")
    from lfr_jax.distributed.cluster import initialize
    from lfr_jax.train.loop import train

    with initialize(config.distributed) as peers:
        done = train(config).summary
        if peers.first:
            print(
                f"finished {config.run_dir}: {done['steps']} steps, {done['trained_tokens'] / 1e6:.2f} M tokens "
                f"trained, {done['scored_tokens'] / 1e6:.2f} M scored, held-out loss {done['held_out_loss']['all']:.4f}"
            )


@dataclasses.dataclass(frozen=True)
class Comparison(Config):
    """A whole run, under each of several policies."""

    policies: tuple[str, ...] = ("lfr", "uniform")  # the first one's cost is everybody's budget


def compare(args: list[str]) -> None:
    """policies at equal FLOPs:         lfr compare configs/smoke.py --policies lfr uniform random_drop"""
    asked = configured(Comparison, args, "lfr compare")
    from lfr_jax.experiments.compare import compare_policies

    config = Config(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Config)})
    compare_policies(config, list(asked.policies))


def evaluate(args: list[str]) -> None:
    """held-out loss of a run:          lfr evaluate runs/smoke/lfr"""

    def arguments(run: Positional[str], store: str = "", blocks: int = 0):
        """Measures a run's loss on held-out text, by domain.

        Args:
          run: Run directory.
          store: A prepared corpus, in place of the run's own.
          blocks: Held-out blocks a domain; 0: all.
        """
        from lfr_jax.distributed import cluster
        from lfr_jax.train import load_run

        cluster.require_one_process("lfr evaluate")
        return load_run.evaluate(load_run.load(run), store, blocks)

    for domain, (loss, tokens) in tyro.cli(arguments, args=args, prog="lfr evaluate").items():
        print(f"{domain:<16} {loss:8.4f} nats/token  {tokens:>12,} tokens")


def score(args: list[str]) -> None:
    """loss of every training block:    lfr score runs/smoke/lfr --out scores.csv"""

    def arguments(
        run: Positional[str],
        out: str,
        store: str = "",
        seq_len: int = 0,
        packing: Literal["", "concatenate", "best_fit", "by_length"] = "",
        shortest: int = 0,
    ):
        """Scores every training block under a run's model, for another run's --schedule.ref-scores.

        Args:
          run: Run directory.
          out: CSV file to write, or the URL of one: block id, domain, loss (mean NLL, nats per token).
          store: A prepared corpus, in place of the run's own.
          seq_len: Tokens in a block; 0: as in the run.
          packing: How documents become blocks; "": as in the run.
          shortest: Of by_length: tokens in the shortest blocks; 0: as in the run.
        """
        from lfr_jax.distributed import cluster
        from lfr_jax.storage.paths import as_path
        from lfr_jax.train import load_run

        cluster.require_one_process("lfr score")
        path, loaded = as_path(out), load_run.load(run)
        return load_run.write_scores(loaded, store, path, seq_len=seq_len, packing=packing, shortest=shortest)

    print(tyro.cli(arguments, args=args, prog="lfr score"))


def generate(args: list[str]) -> None:
    """text from a run's model:         lfr generate runs/smoke/lfr --prompt "def " """

    def arguments(
        run: Positional[str],
        prompt: str = "",
        tokens: int = 100,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ):
        """Writes on from a prompt.

        Args:
          run: Run directory.
          prompt: The text to continue.
          tokens: At most so many new ones.
          temperature: 0 always takes the likeliest token.
          top_k: Draw among the k likeliest tokens; 0: all.
          top_p: Draw among the likeliest tokens that hold this share of the probability.
          seed: Of the draws.
        """
        from lfr_jax.distributed import cluster
        from lfr_jax.train import load_run

        cluster.require_one_process("lfr generate")
        return load_run.generate(load_run.load(run), prompt, tokens, temperature, top_k, top_p, seed)

    print(tyro.cli(arguments, args=args, prog="lfr generate"))


def report(args: list[str]) -> None:
    """figures of single blocks:        lfr report runs/smoke/lfr runs/smoke/uniform"""

    def arguments(
        run: Positional[str], other: Positional[str] = "", out: str = "", phase: str = "", threshold: float = 0.0
    ):
        """Draws how the losses of the probe blocks changed, in one run or in two: figures, and an HTML page of them.

        Args:
          run: Run directory.
          other: Another one on the same data, to compare with.
          out: Folder for the page and the figures; by default RUN/report.
          phase: Follow the blocks that the phase of this name kept or dropped; by default the first that dropped any.
          threshold: Nats by which a loss must move to count as a fall or rise; 0: by the noise in the runs.
        """
        from lfr_jax.experiments.report import write_report
        from lfr_jax.storage.paths import as_path

        runs = [as_path(folder) for folder in (run, other) if folder]
        return write_report(runs, as_path(out) if out else runs[0] / "report", phase, threshold)

    print(tyro.cli(arguments, args=args, prog="lfr report"))


COMMANDS = {f.__name__: f for f in (prepare, link, data, train, compare, evaluate, score, generate, report)}


def main() -> None:
    """Runs one subcommand. Bad input ends in one line on standard error and exit code 1, not in a traceback."""
    shield_standard_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, "")  # policies of one's own are found where the command runs, as under `python -m`
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lfr COMMAND ...   (lfr COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<9} {command.__doc__.strip()}" for name, command in COMMANDS.items()))
        return
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"lfr: no command {name!r}; {nearest(name, COMMANDS)}there are {', '.join(COMMANDS)}")
    try:
        COMMANDS[name](rest)
    except (ValueError, OSError, ArithmeticError, ModuleNotFoundError) as error:
        if os.environ.get("LFR_TRACEBACK"):
            raise
        sys.exit("\n".join([f"lfr {name}: {log_prefix()}{error}", *getattr(error, "__notes__", [])]))
    except KeyboardInterrupt:
        sys.exit(f"\nlfr {name}: interrupted; the same command goes on from what was saved")


def configured(kind: type[Config], args: list[str], prog: str) -> Config:
    """The `config` of the file named first in `args`, overridden by the options after it."""
    if args and args[0] in ("-h", "--help"):
        tyro.cli(kind, args=["--help"], prog=f"{prog} configs/NAME.py")
    if not args or args[0].startswith("-"):
        raise ValueError(f"name a configuration file first, then options: {prog} configs/smoke.py --train.steps 500")
    path, *overrides = args
    refuse_old_names(overrides)
    found = read(path)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(Config)}
    config = tyro.cli(kind, default=kind(**fields), args=overrides, prog=f"{prog} {path}")
    if config.schedule.policy != found.schedule.policy:  # the file's options are those of the file's policy
        from lfr_jax.train.policy import switch

        config = dataclasses.replace(config, schedule=switch(config.schedule, config.schedule.policy))
    return config


def read(path: str) -> Config:
    """The `config` that a Python file sets. What fails in the file comes out as a ValueError that names the line."""
    if not pathlib.Path(path).is_file():
        known = sorted(str(file) for file in pathlib.Path("configs").glob("*.py"))
        hint = nearest(path, known) or "name a Python file that sets `config`"
        raise FileNotFoundError(f"no configuration file {path!r}; {hint.strip()}")
    try:
        found = runpy.run_path(path).get("config")
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        unknown = re.search("unexpected keyword argument '(.+)'", str(error))
        hint = f"; {renamed(unknown[1]) or nearest(unknown[1], setting_names(Config))}".rstrip("; ") if unknown else ""
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ValueError(f"{where}: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(found, Config):
        raise ValueError(f"{path} must set `config` to an lfr_jax.config.Config; found {type(found).__name__}")
    return found


def refuse_old_names(options: list[str]) -> None:
    """Raises ValueError if an option has the name that a setting had once, with its name today."""
    for option in options:
        name = option.partition("=")[0].removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in RENAMED:
            raise ValueError(f"{option.partition('=')[0]} is called --{RENAMED[name].replace('_', '-')} now")


def renamed(name: str) -> str:
    """What a field of this name is called today, for an error; or nothing."""
    return " or ".join(f"it is called {new} now" for old, new in RENAMED.items() if old.endswith(f".{name}"))


def setting_names(kind: type) -> set[str]:
    """The fields of a settings class, and of those within it."""
    inner = (setting_names(field.type) for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type))
    return {field.name for field in dataclasses.fields(kind)}.union(*inner)


if __name__ == "__main__":
    main()
