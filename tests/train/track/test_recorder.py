"""Metrics are read late, in order, all of them; and what is not finite is named."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax.train.track.recorder import NonFiniteLoss, Recorder, StepRecord


def measured(step, loss=None, grad_norm=1.0, update_norm=1.0):
    loss = step / 2 if loss is None else loss
    norms = {"grad_norm": jnp.float32(grad_norm), "update_norm": jnp.float32(update_norm)}
    metrics = {"loss": jnp.float32(loss), **norms, "losses": jnp.full(2, jnp.nan)}
    return StepRecord(step, "learn", 2 * step, 6 * step, np.array([10 * step, 10 * step + 1]), metrics)


def steps_of(read):
    return [m.step for m, _ in read]


def test_steps_come_out_late_in_order_and_once():
    """Catches: reading the step just dispatched; an interval off by one; a step lost or repeated at a cut."""
    recorder = Recorder(log_every=3)
    read = [steps_of(recorder.add(measured(step))) for step in range(1, 9)]
    assert read == [[], [], [], [1, 2, 3], [], [], [4, 5, 6], []]
    rest = recorder.read()
    assert steps_of(rest) == [7, 8]
    assert rest[0][1].keys() == {"loss", "grad_norm", "update_norm"} and rest[0][1]["loss"] == 3.5
    assert recorder.read() == []


@pytest.mark.parametrize("log_every", [1, 2, 5])
def test_nothing_is_lost_whenever_it_is_read(log_every):
    """Catches: steps dropped or repeated where a reading for an evaluation falls between two others."""
    recorder, seen = Recorder(log_every), []
    for step in range(1, 30):
        seen += recorder.add(measured(step))
        if step % 7 == 0:
            seen += recorder.read()
            assert steps_of(seen) == list(range(1, step + 1))
    seen += recorder.read()
    assert steps_of(seen) == list(range(1, 30))
    assert all(values["loss"] == m.step / 2 for m, values in seen)


def test_the_newest_step_is_not_waited_for():
    """NaN shows when a value is looked at. Catches: reading at every step, or the step just dispatched."""
    recorder = Recorder(log_every=2)
    assert recorder.add(measured(1, loss=np.nan)) == [] == recorder.add(measured(2))
    with pytest.raises(NonFiniteLoss, match="step 1: "):
        recorder.add(measured(3))
    recorder = Recorder(log_every=2)
    read = [recorder.add(measured(step, loss=np.nan if step == 3 else 1.0)) for step in (1, 2, 3)]
    assert steps_of(read[-1]) == [1, 2]
    with pytest.raises(NonFiniteLoss, match="step 3: "):
        recorder.read()


@pytest.mark.parametrize(
    "bad", [dict(loss=np.nan), dict(loss=-np.inf), dict(grad_norm=np.inf), dict(update_norm=np.nan)]
)
def test_the_first_bad_step_is_named_with_its_blocks(bad):
    """Catches: naming the last one; looking at the loss alone, or for NaN alone; another step's blocks."""
    recorder = Recorder(log_every=10)
    for step in range(1, 7):
        recorder.add(measured(step, **(bad if step in (4, 6) else {})))
    with pytest.raises(NonFiniteLoss) as stopped:
        recorder.read()
    name, value = next(iter(bad.items()))
    assert str(stopped.value).startswith("step 4: ") and f"{name} = {value}" in str(stopped.value)
    assert str(stopped.value).endswith("trained on blocks [40, 41]")
