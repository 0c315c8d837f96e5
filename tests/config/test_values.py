"""Ranges of numbers, and typed values from files."""

import dataclasses
import json
import math
from typing import Any, Literal, get_type_hints

import pytest

from lfr_jax.config import Config
from lfr_jax.config.values import AtLeast1, Share, ShareBelow1, checked, from_json, has_range

SECTIONS = {field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)}
NUMBERS = [
    (section, name, kind)
    for section, cls in SECTIONS.items()
    for name, kind in get_type_hints(cls, include_extras=True).items()
    if kind not in (str, bool, str | None, dict[str, Any])
    and not getattr(kind, "__origin__", None).__name__ == "Literal"
]


def test_every_number_of_the_settings_declares_its_range():
    """Catches: a setting that is a bare int or float."""
    assert len(NUMBERS) > 40
    assert [f"{section}.{name}" for section, name, kind in NUMBERS if not has_range(kind)] == []


@pytest.mark.parametrize("section, name, kind", NUMBERS)
def test_numbers_out_of_range_are_refused_by_name(section, name, kind):
    """Catches: a range that is declared and not checked; NaN and infinity, which compare as false; numbers as text."""
    for bad in (math.nan, math.inf, -math.inf, -2, 10**40, "7", True, None):
        with pytest.raises(ValueError, match=rf"^{section}\.{name} is .+, expected a .*number"):
            SECTIONS[section](**{name: bad})


@pytest.mark.parametrize(
    "dotted",
    ["train.keep_checkpoints", "train.eval_blocks", "train.batch_size", "train.grad_accum_steps", "train.log_every"]
    + ["model.loss_chunk", "model.num_layers", "optimizer.peak_lr", "data.seq_len", "mesh.data", "model.norm_eps"],
)
def test_zero_is_refused_where_it_means_nothing(dotted):
    """Catches: a run without a checkpoint, a held-out loss over no block, a division by zero."""
    section, name = dotted.split(".")
    with pytest.raises(ValueError, match=f"{section}.{name} is 0, expected"):
        SECTIONS[section](**{name: 0})


@pytest.mark.parametrize("dotted", ["optimizer.peak_lr", "optimizer.eps", "model.norm_eps", "model.rope_theta"])
def test_what_float32_takes_for_zero_is_refused(dotted):
    """Catches: a learning rate or an epsilon that is above 0 here, and 0 on the device: no learning, or NaN."""
    section, name = dotted.split(".")
    with pytest.raises(ValueError, match=f"{section}.{name} is 1e-40, expected a number, at least 1.2e-38"):
        SECTIONS[section](**{name: 1e-40})


def test_checked_functions_refuse_before_they_begin():
    """Catches: defaults that are looked at, arguments by position that are not, types without a range that are."""
    calls = []

    @checked
    def count(store: int, rate: Share | None = None, docs: AtLeast1 = 3) -> None:
        calls.append((store, rate, docs))

    for args, message in [
        (("a", 2.0), "^rate is 2.0, expected a number, at least 0, at most 1, or None$"),
        ((1, None, 0), "^docs is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            count(*args)
    assert calls == []
    count("any", docs=5)
    assert calls == [("any", None, 5)]


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    size: AtLeast1


@dataclasses.dataclass(frozen=True)
class Card:
    parts: tuple[Part, ...]
    files: dict[str, Part]
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
