"""What is known of blocks beforehand: columns by name, and the three losses that may be given like fields."""

import pickle

import jax
import numpy as np
import pytest

from lfr_jax import schedule

INFO = schedule.BlockInfo(2, domain=[0, 1], ref_loss=[1.0, 2.0], columns={"quality": [3.0, 4.0]})


def test_losses_are_columns():
    """Catches: a loss given by name that `columns` lacks; one given as a column that the old name does not read."""
    assert dict(INFO.columns) == {"quality": [3.0, 4.0], "ref_loss": [1.0, 2.0]}
    assert INFO.ref_loss == [1.0, 2.0] and INFO.weak_loss is None and INFO.strong_loss is None
    given = schedule.BlockInfo(2, columns={"weak_loss": [5.0, 6.0]})
    assert given.weak_loss == [5.0, 6.0] and schedule.required(given, "weak_loss", "mine") == [5.0, 6.0]
    assert schedule.BlockInfo(2).columns == {}


def test_replacing_and_copying():
    """Catches: `_replace` that loses columns, adds to those of the first one, or takes any name."""
    changed = INFO._replace(ref_loss=None, strong_loss=[7.0, 8.0], num_blocks=2)
    assert sorted(changed.columns) == ["quality", "strong_loss"] and sorted(INFO.columns) == ["quality", "ref_loss"]
    assert INFO._replace(columns={}).columns == {} and INFO._replace(domain=None).ref_loss == [1.0, 2.0]
    assert pickle.loads(pickle.dumps(INFO)) == INFO
    assert jax.tree.map(lambda x: x, INFO) == INFO and type(jax.tree.map(np.asarray, INFO)) is schedule.BlockInfo
    with pytest.raises((TypeError, ValueError), match="quality"):
        INFO._replace(quality=[1.0, 2.0])
    with pytest.raises(TypeError, match="BlockInfo has no field 'quality': give it as columns="):
        schedule.BlockInfo(2, quality=[1.0, 2.0])


def test_columns_are_required_by_name():
    """Catches: a column that `required` does not see; an error that names the wrong place; a method taken for one."""
    assert schedule.required(INFO, "quality", "mine") == [3.0, 4.0]
    for name in ("toxicity", "index", "columns", "num_blocks"):
        with pytest.raises(
            schedule.MissingInfo, match=rf"mine needs BlockInfo.*{name}.*, one number for each block"
        ) as e:
            schedule.required(INFO, name, "mine")
        assert e.value.name == name
    for name in ("domain", "phase", "num_blocks"):
        with pytest.raises(ValueError, match=f"BlockInfo.columns has '{name}', which means something else"):
            schedule.num_blocks(schedule.BlockInfo(2, columns={name: [0, 0]}))


def test_columns_reach_a_policy_and_each_group():
    """Catches: a skeleton that knows the three losses alone; columns not cut to a group by `stratified`."""
    by_quality = schedule.scored(
        schedule.uniform().phases, (lambda loss_N, info: info["quality"],), needs=("quality",), dtype=np.float32
    )
    info = schedule.BlockInfo(4, domain=[0, 1, 0, 1], columns={"quality": np.array([1, 2, 3, 6])})
    assert by_quality.rates(by_quality.begin(by_quality.init(info), 0)).tolist() == [1, 2, 3, 6]
    s = schedule.stratified(by_quality)
    assert s.rates(s.begin(s.init(info), 0)).tolist() == [0.5, 0.5, 1.5, 1.5]
