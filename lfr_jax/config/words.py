"""The words of a command line, before its parser sees them."""

import re

from lfr_jax.config.saved import RENAMED


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
