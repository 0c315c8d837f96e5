"""The settings that the words of a command line ask for: those of a file, overridden by options."""

import dataclasses
import itertools
import re
from typing import TypeVar

import tyro

from lfr_jax.config.files import read_config
from lfr_jax.config.saved import RENAMED
from lfr_jax.config.settings import Config

Settings = TypeVar("Settings", bound=Config)


def overridden(kind: type[Settings], args: list[str], prog: str) -> tuple[Settings, str, dict[str, str]]:
    """The settings of the file named first in `args`, overridden by the options after it, but with the file's policy.

    Returns:
      The settings; the policy asked for; and the options of policies (name -> word) that were given.
    """
    if args and args[0] in ("-h", "--help"):
        tyro.cli(kind, args=["--help"], prog=f"{prog} configs/NAME.py")
    if not args or args[0].startswith("-"):
        raise ValueError(f"name a configuration file first, then options: {prog} configs/smoke.py --train.steps 500")
    path, *overrides = args
    refuse_old_names(overrides)
    found = read_config(path)
    refuse_unnamed_code(path, found, overrides)
    overrides, given = without_policy_options(overrides)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(Config)}
    fields["schedule"] = dataclasses.replace(found.schedule, options={})  # they are not tyro's, which knows no policy
    about = (
        f"{kind.__doc__} Options of a policy: --schedule.options.NAME VALUE. The file gives {found.schedule.policy} "
        f"{found.schedule.options or 'none'}."
    )
    asked = tyro.cli(kind, default=kind(**fields), args=overrides, prog=f"{prog} {path}", description=about)
    of_file = dict(policy=found.schedule.policy, options=found.schedule.options)
    schedule = dataclasses.replace(asked.schedule, **of_file)
    return dataclasses.replace(asked, schedule=schedule), asked.schedule.policy, given


def refuse_unnamed_code(path: str, found: Config, options: list[str]) -> None:
    """Raises ValueError if JSON, which is only read, names code to be run that the command line does not name too."""
    policy = found.schedule.policy
    named = f"--schedule.policy={policy}" in options or ("--schedule.policy", policy) in itertools.pairwise(options)
    if path.endswith(".json") and ":" in policy and not named:
        raise ValueError(
            f"{path}: schedule.policy is {policy!r}, which is code to be run; if you trust it, add "
            f"--schedule.policy {policy}, or else change it in the file"
        )


def without_policy_options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command line without the options of policies, and these: name -> word.

    Raises:
      ValueError: an option has no value, or no name.

    >>> without_policy_options(["--schedule.options.drop=0.25", "--x", "1", "--schedule.options", "reps", "2"])
    (['--x', '1'], {'drop': '0.25', 'reps': '2'})
    """
    option = re.compile(r"--schedule[.]options(?:[.]([^=]+))?(?:=(.*))?", re.DOTALL)
    left, given, index = [], {}, 0
    while index < len(words):
        found = option.fullmatch(words[index])
        index += 1
        if found is None:
            left.append(words[index - 1])
            continue
        name, value = found.groups()
        pairs = [name, value] if value is not None else [name] if name else []
        while index < len(words) and not words[index].startswith("--") and not (name and len(pairs) == 2):
            pairs.append(words[index])
            index += 1
        if len(pairs) % 2 or not pairs or None in pairs:
            raise ValueError(
                f"{found[0]} stands before {len(pairs)} words, expected "
                "--schedule.options.NAME VALUE, or --schedule.options NAME VALUE NAME VALUE ..."
            )
        given |= {key.replace("-", "_"): word for key, word in zip(pairs[::2], pairs[1::2])}
    return left, given


def refuse_old_names(options: list[str]) -> None:
    """Raises ValueError if an option has the name that a setting had once, with its name today."""
    for option in options:
        name = option.partition("=")[0].removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in RENAMED:
            raise ValueError(f"{option.partition('=')[0]} is called --{RENAMED[name].replace('_', '-')} now")
