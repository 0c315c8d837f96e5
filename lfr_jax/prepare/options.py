"""Which options were given, of those that exclude one another."""

from collections.abc import Mapping


def chosen_options(options: Mapping[str, object]) -> list[str]:
    """The names of the options that are set: neither None nor False.

    >>> chosen_options({"--gpt2": "folder", "--sentencepiece": None, "--byte-tokenizer": False})
    ['--gpt2']
    """
    return [name for name, value in options.items() if value is not None and value is not False]
