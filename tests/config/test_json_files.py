"""What a JSON file holds as typed values, or an error that names file and key."""

import dataclasses
import json
from typing import Literal

import pytest

from lfr_jax.config.json_files import from_json
from lfr_jax.config.values import AtLeast1, ShareBelow1


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    size: AtLeast1
    unit: Literal["MB", "GB"] = "MB"


@dataclasses.dataclass(frozen=True)
class Card:
    parts: tuple[Part, ...]
    files: dict[str, Part] | None
    rate: ShareBelow1 = 0.0
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "card.json: found no valid JSON"),
        ("[" * 100_000, "card.json: found no valid JSON"),
        ('{"files": ' + "[" * 900 + "]" * 900 + "}", "card.json: found JSON nested more than 100 deep"),
        ("9" * 5000, "card.json: found no valid JSON"),
        (b"\xff", "card.json: found no valid JSON"),
        (
            '{"rate": 0.5, "files": {"a": 1, "a": 2}}',
            "card.json: found the key 'a' twice in one object, expected it once",
        ),
        ("[]", "card.json: expected `object`, got `array`"),
        ('{"files": {}}', "card.json: object missing required field `parts`"),
        ('{"files": {}, "parts": [{"name": 7, "size": 1}]}', "card.json: parts.0.name is 7: expected `str`, got `int`"),
        (
            '{"parts": [], "files": {"a": {"name": "a", "size": 1}, "b.c": {"name": "b", "size": 0}}}',
            "card.json: files.b.c.size is 0: expected `int` >= 1",
        ),
        ('{"parts": [], "files": {}, "rate": NaN}', "card.json: rate is nan: expected `float` >= 0.0"),
        (
            json.dumps({"parts": [], "files": {}, "kind": " - at `$.parts`" * 9999}),
            "card.json: kind is ' - at `$.parts` - at",
        ),
        (
            '{"parts": [], "files": {"a.b": {"name": "a", "size": 1, "unit": "KB"}}}',
            "card.json: files.a.b.unit is 'KB': expected one of 'MB', 'GB'",
        ),
        (
            '{"parts": [{"name": "a", "size": 1, "unit": 7}]}',
            "card.json: parts.0.unit is 7: expected one of 'MB', 'GB'",
        ),
        (json.dumps({"parts": [], "files": {"x" * 70_000: 1}}), f"card.json: files.{'x' * 74} is 1: expected `object`"),
    ],
)
def test_what_a_file_holds_is_named_with_its_key(text, message):
    """Catches: a traceback for a file that somebody edited; a bad value under a key of a dict that is not named."""
    with pytest.raises(ValueError) as error:
        from_json(text, Card, "card.json")
    assert str(error.value).startswith(message) and len(str(error.value)) < 400


def test_a_sound_file_is_read():
    """Catches: a key refused because it is not known; a list where a tuple is declared; a default that is lost."""
    card = from_json('{"parts": [{"name": "a", "size": 3}], "files": {}, "more": 1}', Card, "card.json")
    assert card == Card((Part("a", 3),), {})
