"""Commands about several runs, and figures of runs."""

import dataclasses

import tyro

from lfr_jax.commands.arguments import ready_to_compute, settings_of
from lfr_jax.config import Config
from lfr_jax.config.values import AtLeast0, AtLeast1, NotNegative, Positive, check_value, checked
from lfr_jax.config.words import overridden
from lfr_jax.distributed.garbage import imports_uncollected

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Comparison(Config):
    """A whole run, under each of several policies."""

    policies: tuple[str, ...] = ("lfr", "uniform")  # the first one's cost is everybody's budget


def compare(args: list[str]) -> None:
    """policies at equal FLOPs:         lfr compare configs/smoke.py --policies lfr uniform random_drop"""
    asked, policy, given = overridden(Comparison, args, "lfr compare")
    if policy != asked.schedule.policy:
        raise ValueError(f"schedule.policy is {policy!r}: name the policies to compare with --policies")
    with ready_to_compute():
        from lfr_jax.experiments.compare import compare_policies

    config = settings_of(asked)
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

    config = settings_of(asked)
    search_mixture(config, asked.proxies, Goal(asked.final_tokens, asked.most_epochs, asked.target, asked.kl))


def experiment(args: list[str]) -> None:
    """evidence, from a declared plan:  lfr experiment configs/experiments/half_junk.py --out runs/half_junk"""

    @checked
    def arguments(plan: Positional[str], out: str, workers: AtLeast0 = 0, dry_run: bool = False):
        """Makes what is missing of an experiment: its stores, references and runs, each once.

        Start it again after an interruption, in several terminals, or on several machines that share the folder.

        Args:
          plan: Python file that sets `plan` to an lfr_jax.experiments.plan.Plan.
          out: Folder for everything that is made. Other plans may share it.
          workers: Processes side by side; 0: as many as there are cores, or one on an accelerator.
          dry_run: Only show what there is to do, and what it costs.
        """
        with imports_uncollected():
            import jax

            from lfr_jax.experiments import experiment
            from lfr_jax.experiments.plan import load_plan
            from lfr_jax.storage.paths import require_local

        jax.config.update("jax_platforms", "cpu")  # this process only plans: an accelerator is for its workers
        declared, folder = load_plan(plan), require_local(out)
        if dry_run:
            print(experiment.dry_run(declared, folder))
        elif failed := experiment.run_experiment(declared, folder, workers):
            raise RuntimeError(f"{failed} cells have failed; the same command tries them again")

    tyro.cli(arguments, args=args, prog="lfr experiment")


def report(args: list[str]) -> None:
    """figures of runs, or evidence:    lfr report runs/smoke/lfr runs/smoke/uniform"""

    @checked
    def arguments(
        run: Positional[str],
        other: Positional[str] = "",
        out: str = "",
        phase: str = "",
        threshold: NotNegative = 0.0,
        half: str = "",
    ):
        """Draws how the losses of the probe blocks changed, in one run or in two; or what an experiment has found.

        Both give figures, and an HTML page of them. `lfr report PLAN.py --out DIR` shows the experiment in DIR.

        Args:
          run: Run directory; or the plan of an experiment, a file whose name ends with .py.
          other: Another run on the same data, to compare with.
          out: Folder for the page and the figures; by default RUN/report. Of an experiment: its folder DIR, as in
            `lfr experiment`; the page is DIR/report/report.html.
          phase: Follow the blocks that the phase of this name kept or dropped; by default the first that dropped any.
          threshold: Nats by which a loss must move to count as a fall or rise; 0: by the noise in the runs.
          half: Of an experiment: which held-out documents, "choose", "report" or "all"; by default as the plan says.
        """
        if run.endswith(".py"):
            refuse("of a run, and no option of an experiment", other=other, phase=phase, threshold=threshold)
            return report_of_experiment(run, out, half)
        refuse("of an experiment, and no option of a run", half=half)
        from lfr_jax.experiments.report import write_report
        from lfr_jax.storage.paths import as_path

        runs = [as_path(folder) for folder in (run, other) if folder]
        return write_report(runs, as_path(out) if out else runs[0] / "report", phase, threshold)

    print(tyro.cli(arguments, args=args, prog="lfr report"))


def report_of_experiment(plan: str, out: str, half: str) -> str:
    """Writes the report of an experiment, and returns what it says in short."""
    if not out:
        raise ValueError(f"found no --out, expected the folder of the experiment: lfr report {plan} --out DIR")
    with imports_uncollected():
        import jax

        from lfr_jax.experiments.evidence_report import write_report
        from lfr_jax.storage.paths import require_local

    jax.config.update("jax_platforms", "cpu")  # nothing is trained here
    return write_report(plan, require_local(out), half)


def refuse(why: str, **given: object) -> None:
    """Raises ValueError for an argument that belongs to another use of a command."""
    for name, value in given.items():
        if value:
            raise ValueError(f"found {name} {value!r}, which is {why}; leave it out")
