"""The command `lfr`: a subcommand for each thing to do with text, a run, or several runs.

A subcommand imports what it needs when it is called, so that help and mistakes answer at once.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    working = sys.path.pop(0)  # `python -m` puts it first: any tqdm.py in it would be run, and, put last, any orbax.py
    if __file__ == f"{working}/lfr_jax/cli.py":  # nothing else says where this package is
        sys.path.append(working)

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Literal

from lfr_jax.terminal import escaped, printable, shield_standard_streams
from lfr_jax.terminal.faults import (
    check_written,
    exit_at_once,
    explained,
    interrupt_kills,
    one_line,
    second_interrupt_kills,
    warnings_on_one_line,
)

try:
    with interrupt_kills():  # these take a while, and an interrupt would end in a traceback
        import tyro

        from lfr_jax.config import Config, nearest
        from lfr_jax.config.values import (
            AtLeast0,
            AtLeast1,
            NotNegative,
            Positive,
            Seed,
            ShareAbove0,
            check_value,
            checked,
        )
        from lfr_jax.config.words import overridden
        from lfr_jax.distributed.garbage import imports_uncollected
        from lfr_jax.distributed.peers import log_prefix
        from lfr_jax.storage.background import threads_left
except ModuleNotFoundError as error:  # lfr_jax was installed without the extra `train`
    sys.exit(one_line(f"lfr: {explained(error)}"))

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
    with ready_to_compute():
        config = configured(args, "lfr train")
        from lfr_jax.distributed.cluster import initialize
        from lfr_jax.train.loop import train
        from lfr_jax.train.track.progress import short

    with initialize(config.distributed) as peers:
        done = train(config).summary
        if peers.first:
            print(
                f"finished {config.run_dir}: {done['steps']} steps, {short(done['trained_tokens'])} tokens "
                f"trained, {short(done['scored_tokens'])} scored, held-out loss {done['held_out_loss']['all']:.4f}"
            )


@dataclasses.dataclass(frozen=True)
class Comparison(Config):
    """A whole run, under each of several policies."""

    policies: tuple[str, ...] = ("lfr", "uniform")  # the first one's cost is everybody's budget


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

    config = switched(
        Config(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Config)}), policy, given
    )
    place, settings = (asked.topology, asked.slices), (asked.fit, asked.compiler_options, asked.keep_hlo)
    if not print_compiled(asked.json, config, *place, asked.blocks, asked.programs, *settings):
        sys.exit(1)


def compare(args: list[str]) -> None:
    """policies at equal FLOPs:         lfr compare configs/smoke.py --policies lfr uniform random_drop"""
    asked, policy, given = overridden(Comparison, args, "lfr compare")
    if policy != asked.schedule.policy:
        raise ValueError(f"schedule.policy is {policy!r}: name the policies to compare with --policies")
    with ready_to_compute():
        from lfr_jax.experiments.compare import compare_policies

    config = Config(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Config)})
    compare_policies(config, list(asked.policies), given)


@dataclasses.dataclass(frozen=True)
class MixtureSearch(Config):
    """Small runs, each on a mixture of its own, and the best mixture of domains by the law that fits their losses."""

    proxies: AtLeast1 = 16  # small runs; several times as many as domains
    final_tokens: NotNegative = 0.0  # tokens that the run to come will train on; 0: as many as a small run
    most_epochs: Positive = 4.0  # how often that run may read a domain
    target: str = "mean"  # whose held-out loss counts: that of a domain, the mean of all domains, or of all text
    kl: NotNegative = 0.05  # what it costs to leave the natural mixture, in nats for each nat of divergence

    def __post_init__(self):
        super().__post_init__()
        for name, kind in dict(
            proxies=AtLeast1, final_tokens=NotNegative, most_epochs=Positive, kl=NotNegative
        ).items():
            check_value(name, getattr(self, name), kind)


def mixture(args: list[str]) -> None:
    """the best mixture of domains:     lfr mixture configs/smoke.py --proxies 16 --train.steps 100"""
    asked, policy, given = overridden(MixtureSearch, args, "lfr mixture")
    if policy != asked.schedule.policy or given:
        raise ValueError("the runs of a search have a policy of their own: leave out --schedule.policy and its options")
    with ready_to_compute():
        from lfr_jax.experiments.mixture_search import Goal, search_mixture

    config = Config(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Config)})
    search_mixture(config, asked.proxies, Goal(asked.final_tokens, asked.most_epochs, asked.target, asked.kl))


def evaluate(args: list[str]) -> None:
    """held-out loss of a run:          lfr evaluate runs/smoke/lfr"""

    @checked
    def arguments(run: Positional[str], store: str = "", blocks: AtLeast0 = 0):
        """Measures a run's loss on held-out text, by domain.

        Args:
          run: Run directory.
          store: A prepared corpus, in place of the run's own.
          blocks: Held-out blocks a domain; 0: all.
        """
        with ready_to_compute():
            from lfr_jax.distributed import cluster
            from lfr_jax.train import load_run

        cluster.require_one_process("lfr evaluate")
        return load_run.evaluate(load_run.load(run), store, blocks)

    for domain, (loss, tokens) in tyro.cli(arguments, args=args, prog="lfr evaluate").items():
        print(f"{printable(domain):<16} {loss:8.4f} nats/token  {tokens:>12,} tokens")


def score(args: list[str]) -> None:
    """loss of every training block:    lfr score runs/smoke/lfr --out scores.csv"""

    @checked
    def arguments(
        run: Positional[str],
        out: str,
        store: str = "",
        seq_len: AtLeast0 = 0,
        packing: Literal["", "concatenate", "best_fit", "by_length"] = "",
        shortest: AtLeast0 = 0,
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
        with ready_to_compute():
            from lfr_jax.distributed import cluster
            from lfr_jax.storage.paths import as_path
            from lfr_jax.train import load_run

        cluster.require_one_process("lfr score")
        path, loaded = as_path(out), load_run.load(run)
        return load_run.write_scores(loaded, store, path, seq_len=seq_len, packing=packing, shortest=shortest)

    print(tyro.cli(arguments, args=args, prog="lfr score"))


def generate(args: list[str]) -> None:
    """text from a run's model:         lfr generate runs/smoke/lfr --prompt "def " """

    @checked
    def arguments(
        run: Positional[str],
        prompt: str = "",
        tokens: AtLeast1 = 100,
        temperature: NotNegative = 0.8,
        top_k: AtLeast0 = 0,
        top_p: ShareAbove0 = 1.0,
        seed: Seed = 0,
    ):
        """Writes on from a prompt.

        Args:
          run: Run directory.
          prompt: The text to continue.
          tokens: At most so many new ones, up to end-of-text or model.max_len.
          temperature: 0 always takes the likeliest token.
          top_k: Draw among the k likeliest tokens; 0: all.
          top_p: Draw among the likeliest tokens that hold this share of the probability.
          seed: Of the draws.
        """
        with ready_to_compute():
            from lfr_jax.distributed import cluster
            from lfr_jax.train import load_run

        cluster.require_one_process("lfr generate")
        return load_run.generate(load_run.load(run), prompt, tokens, temperature, top_k, top_p, seed)

    text = tyro.cli(arguments, args=args, prog="lfr generate")
    print(escaped(text, keep="\n\t") if sys.stdout.isatty() else text)


def report(args: list[str]) -> None:
    """figures of single blocks:        lfr report runs/smoke/lfr runs/smoke/uniform"""

    @checked
    def arguments(
        run: Positional[str], other: Positional[str] = "", out: str = "", phase: str = "", threshold: NotNegative = 0.0
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


COMMANDS = {
    f.__name__: f for f in (prepare, link, data, compile, train, compare, mixture, evaluate, score, generate, report)
}
RESULT_IS_TEXT = ("data", "compile", "evaluate", "generate")  # on standard output; the others make files


def entry_point() -> None:
    """The program `lfr`: `main`, and the end of this process."""
    try:
        main()
    except SystemExit as end:
        if threads_left.is_set():
            exit_at_once(end.code)
        raise


def main() -> None:
    """Runs one subcommand. Whatever fails ends in one line on standard error and exit code 1, not in a traceback.

    With the environment variable LFR_TRACEBACK the traceback is shown.
    """
    shield_standard_streams()
    # XLA's errors come as exceptions. What it logs as one may be none: that a processor lacks a feature which says how
    # to tune code, a page for each program in the cache (jax#38445).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name, *rest = sys.argv[1:] or ["--help"]
    result_is_text = name not in COMMANDS or name in RESULT_IS_TEXT
    try:
        with second_interrupt_kills(), safe_path_in_workers(), warnings_on_one_line():
            if name in ("-h", "--help"):
                print("usage: lfr COMMAND ...   (lfr COMMAND --help tells more)\n")
                print("\n".join(f"  {name:<9} {command.__doc__.strip()}" for name, command in COMMANDS.items()))
            elif name in COMMANDS:
                COMMANDS[name](rest)
            else:
                sys.exit(f"lfr: no command {name!r}; {nearest(name, COMMANDS)}there are {', '.join(COMMANDS)}")
    except SystemExit as end:
        if end.code:
            raise
        result_is_text = True  # the help of a command
    except KeyboardInterrupt:
        threads_left.set()  # anything may have been going on, also in threads of libraries
        sys.exit(f"\nlfr {name}: interrupted; the same command goes on from what was saved")
    except BaseException as error:
        if os.environ.get("LFR_TRACEBACK"):
            raise
        sys.exit(one_line(f"lfr {name}: {log_prefix()}{explained(error)}"))
    finally:
        sys.stdout.flush()
    if result_is_text:
        check_written(name)


@contextlib.contextmanager
def ready_to_compute() -> Iterator[None]:
    """Makes this process fast at what a command computes, which is imported within. No library changes a process so."""
    with imports_uncollected():
        from lfr_jax.distributed import compilation_cache, malloc

        malloc.keep_freed_memory()
        compilation_cache.keep_compiled_programs()
        yield


@contextlib.contextmanager
def safe_path_in_workers() -> Iterator[None]:
    """Within it, processes that begin do not look for Python modules in the working directory."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def configured(args: list[str], prog: str) -> Config:
    """The `config` of the file named first in `args`, overridden by the options after it."""
    config, name, given = overridden(Config, args, prog)
    from lfr_jax.train import policy

    return policy.switched(config, name, given)


if __name__ == "__main__":
    entry_point()
