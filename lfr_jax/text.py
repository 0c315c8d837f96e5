"""Words for people: what an error message suggests."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to put into an error message, or nothing.

    >>> nearest("unifrom", ["uniform", "lfr"])
    "did you mean 'uniform'? "
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
