"""Numbers that a policy is given: refused by name, unless they are in range."""

import operator
import sys
from typing import Any, NamedTuple

import numpy as np

STEPS = 2**31 - 1  # the largest number of steps: a step is an int32
PHASES = 10**6  # the largest number of phases: more would fill the memory


class Range(NamedTuple):
    """The numbers from `least` to `most`, without an end that is open."""

    words: str  # what is expected
    least: float
    most: float
    open_least: bool = False
    open_most: bool = False

    def __contains__(self, x: float) -> bool:
        above = self.least < x if self.open_least else self.least <= x
        below = x < self.most if self.open_most else x <= self.most
        return above and below


DROP = Range("a share of the blocks: at least 0, less than 1", 0, 1, open_most=True)
KEEP = Range("a share of the blocks: more than 0, at most 1", 0, 1, open_least=True)
SHARE = Range("a share: 0 to 1", 0, 1)
SHARE_BELOW_1 = Range("a share: at least 0, less than 1", 0, 1, open_most=True)
WEIGHT = Range("a finite number, 0 or more", 0, sys.float_info.max)
# Far from the ends of float32, so that quotients and products with losses stay finite.
POSITIVE = Range("a positive number: 1e-30 to 1e30", 1e-30, 1e30)
NOT_NEGATIVE = Range("a number from 0 to 1e30", 0, 1e30)
FACTOR = Range("a factor from 1 to 1e30", 1, 1e30)


def real_number(name: str, value: Any, expected: Range) -> float:
    """`value` as a float, if it is a number in the range.

    Raises:
      ValueError: it is no number, or not in the range. The message has the name, the value and what is expected.
    """
    try:
        number = float("nan" if isinstance(value, str | bytes | bool | np.bool_) else value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")  # which is in no range
    if number not in expected:
        raise ValueError(f"{name} is {shown(value)}, expected {expected.words}")
    return number


def whole_number(name: str, value: Any, least: int, most: int, because: str = "") -> int:
    """`value` as an int, if it is a whole number from `least` to `most`.

    Raises:
      ValueError: it is not. The message has the name, the value, what is expected and `because`.
    """
    try:
        number = operator.index("no number" if isinstance(value, bool) else value)
    except TypeError:
        raise ValueError(f"{name} is {shown(value)}, expected a whole number") from None
    if number < least:
        raise ValueError(f"{name} is {shown(number)}, expected at least {least}{because}")
    if number > most:
        raise ValueError(f"{name} is {shown(number)}, expected at most {most}{because}")
    return number


def positive_int(name: str, value: Any, most: int = STEPS) -> int:
    """`value` as an int, if it is a whole number from 1 to `most`."""
    return whole_number(name, value, 1, most)


def seed_number(name: str, value: Any) -> int:
    """`value` as an int, if `jax.random.key` takes all of its bits: 32."""
    return whole_number(name, value, -(2**31), 2**32 - 1)


def shown(value: Any) -> str:
    """A value in a message; Python writes out no integer of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"{'-' * (value < 0)}2**{value.bit_length() - 1} or more"
    return repr(value)
