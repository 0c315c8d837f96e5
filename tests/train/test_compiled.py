"""When programs are compiled. That it does not count as work is tested in track/test_clock.py."""

import threading

import jax
import jax.numpy as jnp
import pytest
from helpers import changed, tiny

from lfr_jax.train import steps
from lfr_jax.train.compiled import CompiledAhead, compiled_off_the_clock
from lfr_jax.train.loop import train


class Lowered:
    """A jitted function that notes the threads in which it is lowered and compiled."""

    __name__ = "step"

    def __init__(self, jitted, fault=None):
        self.jitted, self.fault, self.lowered_in, self.compiled_in = jitted, fault, [], []

    def lower(self, *args):
        self.lowered_in.append(threading.current_thread())
        self.lowered = self.jitted.lower(*args)
        return self

    def compile(self):
        self.compiled_in.append(threading.current_thread())
        if self.fault:
            raise self.fault
        return self.lowered.compile()


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_program_of_the_same_shapes_is_not_compiled_again():
    """Catches: a program made ahead that nobody uses; one used for other shapes; tracing in the thread, in which
    JAX's settings are others."""
    step = Lowered(jax.jit(lambda state, x: (state + 1, 2 * x)))
    with CompiledAhead(step, shape(), shape(2)) as ahead:
        call = compiled_off_the_clock(ahead, threading.Lock)
        assert ahead.__name__ == "step" and call(jnp.ones(()), jnp.ones(2))[1].tolist() == [2, 2]
        here = threading.current_thread()
        assert step.lowered_in == [here] and len(step.compiled_in) == 1 and step.compiled_in[0] is not here
        assert call(jnp.ones(()), jnp.ones(3))[1].tolist() == [2, 2, 2]
        assert step.lowered_in == [here] * 2 and step.compiled_in[1] is here
    assert not step.compiled_in[0].is_alive()


def test_what_the_compiler_says_comes_out_where_the_program_is_called():
    """Catches: an error that is lost in the thread, after which a run would wait for ever or end without a word."""
    with CompiledAhead(Lowered(jax.jit(jnp.add), fault=MemoryError("too large")), shape(), shape(2)) as ahead:
        with pytest.raises(MemoryError, match="too large"):
            compiled_off_the_clock(ahead, threading.Lock)(jnp.ones(()), jnp.ones(2))


@pytest.mark.slow
def test_a_run_lowers_its_train_step_once_and_a_finished_one_never(corpus_dir, tmp_path, monkeypatch):
    """Catches: abstract arguments that are not those of the first step, which would compile it twice; a run that is
    done, and compiles."""
    made, make = [], steps.make_train_step
    monkeypatch.setattr(steps, "make_train_step", lambda *args: made.append(Lowered(make(*args))) or made[-1])
    config = changed(tiny(tmp_path / "run", corpus_dir, "uniform"), train__steps=2, optimizer__warmup_steps=0)
    train(config, quiet=True)
    assert len(made[0].lowered_in) == 1
    train(config, quiet=True)
    assert not made[1].lowered_in
