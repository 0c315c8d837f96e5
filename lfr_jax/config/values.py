"""What a value may be: its type, and the range of a number.

A number declares its range beside it, as the type of the field or of the argument:

    keep_checkpoints: AtLeast1 = 2
    def sample(store: str, docs: AtLeast1 = 3): ...

The fields of a `Section` of settings are checked when it is made, the arguments of a `checked` function when it is
called, and what a file holds by `json_files.from_json`.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

# Of int32 and float32, which the device computes with. It takes smaller numbers for 0.
LARGEST_INT, LARGEST_FLOAT, SMALLEST_FLOAT = 2**31 - 1, 3e38, 1.2e-38

AtLeast0 = Annotated[int, Meta(ge=0, le=LARGEST_INT)]
AtLeast1 = Annotated[int, Meta(ge=1, le=LARGEST_INT)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST_FLOAT)]
Positive = Annotated[float, Meta(ge=SMALLEST_FLOAT, le=LARGEST_FLOAT)]
Share = Annotated[float, Meta(ge=0, le=1)]
ShareBelow1 = Annotated[float, Meta(ge=0, lt=1)]  # of what may not be left out wholly
ShareAbove0 = Annotated[float, Meta(gt=0, le=1)]
ShareBetween = Annotated[float, Meta(gt=0, lt=1)]  # of what has to leave something on both sides

Function = TypeVar("Function", bound=Callable[..., Any])


def converted(value: Any, kind: Any) -> Any:
    """`value` as a value of the type `kind`.

    Raises:
      msgspec.ValidationError: it is none. Nor is half of a surrogate pair, which JSON can spell.
    """
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError as error:
        raise msgspec.ValidationError(f"Found text that is not Unicode ({error})") from None


def plain(value: Any) -> Any:
    """The value with the numbers of NumPy in it as Python's own, also those in its lists, tuples and dicts.

    JSON cannot hold NumPy's, and a file of settings in Python may well compute with them.
    """
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    found = value.item() if is_scalar else value
    return found if type(found) in (bool, int, float) else value


def check_value(name: str, value: Any, kind: Any) -> None:
    """Raises ValueError, with the value and what was expected, unless `value` is of the type `kind`.

    >>> check_value("train.keep_checkpoints", 0, AtLeast1)
    Traceback (most recent call last):
    ValueError: train.keep_checkpoints is 0, expected a whole number, at least 1, at most 2147483647
    """
    try:
        converted(value, kind)
    except msgspec.ValidationError:
        raise ValueError(f"{name} is {shown(value)}, expected {described(kind)}") from None


def from_word(name: str, word: str, kind: Any) -> Any:
    """What a word of a command line means as a value of the type `kind`: a Python literal, or else the word itself.

    Raises:
      ValueError: it means neither; as `check_value`.

    >>> [from_word("x", word, kind) for word, kind in [("4", float), ("4", str), ("[1, 2]", list[int]), ("a", Any)]]
    [4.0, '4', [1, 2], 'a']
    """
    meant = [word]
    with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        meant.insert(0, ast.literal_eval(word))
    for value in meant:
        with contextlib.suppress(msgspec.ValidationError):
            return converted(value, kind)
    raise ValueError(f"{name} is {shown(word)}, expected {described(kind)}")


def checked(function: Function) -> Function:
    """The same function; it first refuses arguments outside the ranges that their annotations declare.

    Only arguments with a range are looked at. The error is a ValueError, see `check_value`.

    >>> @checked
    ... def sample(store: str, docs: AtLeast1 = 3): ...
    >>> sample("data/mine", docs=-1)
    Traceback (most recent call last):
    ValueError: docs is -1, expected a whole number, at least 1, at most 2147483647
    """
    signature = inspect.signature(function)
    ranges = {name: hint for name, hint in get_type_hints(function, include_extras=True).items() if has_range(hint)}

    @functools.wraps(function)
    def call(*args, **kwargs):
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in ranges:
                check_value(name, value, ranges[name])
        return function(*args, **kwargs)

    return call


class Bounded(reprlib.Repr):
    """`repr`, cut short where a value is long or deep. It takes any whole number: Python's own has a limit."""

    def __init__(self):
        super().__init__()
        self.maxtuple = self.maxlist = self.maxdict = 20
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 256 else f"a number of {x.bit_length()} bits"


def shown(value: Any) -> str:
    """A value for an error message: on one line, and not longer than a line, whatever its length and depth.

    >>> shown({"text": 10**5000, "id": None})
    "{'id': None, 'text': a number of 16610 bits}"
    """
    text = repr(value) if isinstance(value, str) else Bounded().repr(value)
    if len(text) <= 80:
        return text
    return f"{text[:60]}…" + f" ({len(text):,} characters)" * isinstance(value, str)


def has_range(hint: Any) -> bool:
    """Whether a type, or a part of it, declares a range."""
    if any(isinstance(mark, Meta) for mark in getattr(hint, "__metadata__", ())):
        return True
    return any(has_range(part) for part in get_args(hint) if not isinstance(part, str))


def described(hint: Any) -> str:
    """A type in words.

    >>> described(Positive | None)
    'a number, at least 1.2e-38, at most 3e+38, or None'
    """
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        return ", ".join([described(base), *(bounds for mark in marks if (bounds := bounds_of(mark)))])
    if get_origin(hint) in (types.UnionType, typing.Union):
        return ", or ".join(described(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", type(None): "None"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def bounds_of(mark: Any) -> str:
    """A range in words.

    >>> bounds_of(Meta(gt=0, le=1))
    'over 0, at most 1'
    """
    if not isinstance(mark, Meta):
        return ""
    bounds = [("at least", mark.ge), ("over", mark.gt), ("at most", mark.le), ("less than", mark.lt)]
    return ", ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to put into an error message, or nothing.

    >>> nearest("unifrom", ["uniform", "lfr"])
    "did you mean 'uniform'? "
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
