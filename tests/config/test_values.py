"""Ranges of numbers, and whose numbers they may be."""

import dataclasses
import decimal
import enum
import math
from typing import Any, get_type_hints

import numpy as np
import pytest

from lfr_jax.config import Config, OptimizerConfig, ScheduleConfig, TrainConfig
from lfr_jax.config.values import AtLeast1, Share, checked, has_range

SECTIONS = {field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)}
NUMBERS = [
    (section, name, kind)
    for section, cls in SECTIONS.items()
    for name, kind in get_type_hints(cls, include_extras=True).items()
    if kind not in (str, bool, str | None, dict[str, Any], tuple[str, ...])
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


def test_a_setting_has_the_type_that_it_declares():
    """Catches: a Decimal or an enum kept, which is not what is saved."""
    found = OptimizerConfig(peak_lr=decimal.Decimal("0.5"), warmup_steps=enum.IntEnum("E", "a").a, eps=1)
    assert [(type(x), x) for x in (found.peak_lr, found.warmup_steps, found.eps)] == [
        (float, 0.5),
        (int, 1),
        (float, 1),
    ]


def test_numbers_of_numpy_are_numbers():
    """Catches: a file of settings that computes one with NumPy, refused; NumPy's number kept, which no JSON can hold; a
    rounded one; an array or a complex number taken for one."""
    options = {"drop": np.float32(0.1), "weights": [np.int64(1), (np.bool_(True), {"a": np.float64(0.5)})]}
    found = ScheduleConfig("lfr", options, floor=np.float64(0.25)), TrainConfig(steps=np.int64(3), seed=np.array(7))
    assert found == (
        ScheduleConfig("lfr", {"drop": 0.10000000149011612, "weights": [1, (True, {"a": 0.5})]}, floor=0.25),
        TrainConfig(steps=3, seed=7),
    )
    assert [type(x) for x in (found[0].options["weights"][0], found[0].floor, found[1].steps)] == [int, float, int]
    for bad in (np.float32(3), np.array([3]), np.complex64(3), np.bool_(True), np.int64(-1), np.datetime64("2020")):
        with pytest.raises(ValueError, match="train.steps is .*, expected a whole number, at least 0"):
            TrainConfig(steps=bad)
