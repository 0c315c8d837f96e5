"""Checks of the settings that the commands which make a corpus share."""

from collections.abc import Mapping


def check_settings(
    valid_fraction: float, sample: float = 1.0, tolerate: float = 0.0, workers: int = 1, vocab_size: int | None = None
) -> None:
    """Raises ValueError if a number is out of its range. To be called before any work is done."""
    for name, value, is_right, expected in (
        ("valid_fraction", valid_fraction, 0 < valid_fraction < 1, "more than 0 and less than 1"),
        ("sample", sample, 0 < sample <= 1, "more than 0, at most 1"),
        ("tolerate", tolerate, 0 <= tolerate <= 1, "a share: at least 0, at most 1"),
        ("workers", workers, workers >= 0, "a number of processes, or 0 for as many as there are cores"),
        ("vocab_size", vocab_size, vocab_size is None or vocab_size > 0, "1 or more"),
    ):
        if not is_right:
            raise ValueError(f"found {name}={value}, expected {expected}")


def chosen_options(options: Mapping[str, object]) -> list[str]:
    """The names of the options that are set: neither None nor False.

    >>> chosen_options({"--gpt2": "folder", "--sentencepiece": None, "--byte-tokenizer": False})
    ['--gpt2']
    """
    return [name for name, value in options.items() if value is not None and value is not False]
