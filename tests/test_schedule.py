"""The schedule package as others meet it: imports, documentation, and what every policy must do."""

import doctest
import importlib
import pathlib
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

LENGTHS = dict(learn=3, focus=2, review=3, focus2=1)
POLICIES = {
    "uniform": schedule.uniform(9),
    "lfr-pass": schedule.lfr(**LENGTHS, reps=1),
    "lfr-train": schedule.lfr(**LENGTHS, reps=1, scores="train"),
    "lfr-detrended": schedule.lfr(**LENGTHS, reps=1, scores="detrended"),
    "random_drop": schedule.random_drop(**LENGTHS, reps=1),
}
MODULES = ["lfr_jax.schedule"] + [f"lfr_jax.schedule.{m.name}" for m in pkgutil.iter_modules(schedule.__path__)]


def test_import_is_light_and_touches_no_device():
    """Catches: an import of flax, optax, ... ; a module-level jnp constant."""
    code = """
import sys
import jax, jax.numpy, numpy
before = set(sys.modules)
import lfr_jax.schedule
expected = ("lfr_jax.schedule", "jax.", "numpy.")
new = {name for name in set(sys.modules) - before if not name.startswith(expected)}
assert {name.partition(".")[0] for name in new} - sys.stdlib_module_names == {"lfr_jax"}, new
assert {name for name in new if name.startswith("lfr_jax")} == {"lfr_jax"}, new
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    root = pathlib.Path(schedule.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    """Catches: any change of behaviour that an example shows."""
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_public_functions_have_examples():
    """Catches: dropping the example of a public function."""
    for name in (
        "lfr",
        "uniform",
        "random_drop",
        "plan",
        "hardest",
        "observe",
        "detrend",
        "fit",
        "in_epochs",
    ):
        assert ">>>" in getattr(schedule, name).__doc__, name


def run(s, state, losses_PxN):
    """Goes through all phases, measuring every block in each; the rates of each phase."""
    ids_N = jnp.arange(losses_PxN.shape[1], dtype=jnp.int32)
    rates = []
    for i, phase in enumerate(s.phases):
        state = s.observe(state, ids_N, losses_PxN[i], phase.start)
        state = s.begin(state, i)
        rates.append(s.rates(state))
    return state, jnp.stack(rates)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_works_under_jit_and_vmap(name):
    """Catches: Python control flow on values; an axis number counted from the front."""
    s = POLICIES[name]
    losses_2xPxN = jnp.asarray(np.random.default_rng(0).gamma(2, 1, (2, len(s.phases), 40)), jnp.float32)
    state = s.init(schedule.BlockInfo(40))
    one = [run(s, state, losses) for losses in losses_2xPxN]
    same(one[0], jax.jit(lambda state, losses: run(s, state, losses))(state, losses_2xPxN[0]))
    both = jax.vmap(lambda losses: run(s, state, losses))(losses_2xPxN)
    same(one, [jax.tree.map(lambda x, i=i: x[i], both) for i in range(2)])


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_observes_under_scan(name):
    """Catches: a state whose dtypes or structure change from step to step."""
    s = POLICIES[name]
    state = s.init(schedule.BlockInfo(6))
    ids = jnp.array([[0, 1], [1, 5], [5, -1]], jnp.int32)
    losses = jnp.array([[3.0, 2.0], [jnp.nan, 1.0], [4.0, 9.0]])

    def step(state, x):
        return s.observe(state, *x), None

    scanned, _ = jax.lax.scan(step, state, (ids, losses, jnp.arange(3)))
    for i in range(3):
        state = s.observe(state, ids[i], losses[i], i)
    same(scanned, state)


@pytest.mark.parametrize("name", POLICIES)
def test_rates_depend_on_begin_alone(name):
    """Catches: rates computed from the losses; a `begin` that is not deterministic."""
    s = POLICIES[name]
    losses_PxN = jnp.asarray(np.random.default_rng(1).gamma(2, 1, (len(s.phases), 40)), jnp.float32)
    state, rates_PxN = run(s, s.init(schedule.BlockInfo(40)), losses_PxN)
    assert rates_PxN.dtype == jnp.float32
    later = s.observe(state, jnp.arange(40), 100 - losses_PxN[0], 99)
    same(s.rates(later), rates_PxN[-1])


@pytest.mark.parametrize("name", POLICIES)
def test_state_holds_arrays_only_and_survives_a_round_trip(name):
    """Catches: a Python number or None in the state, which a checkpoint would lose."""
    s = POLICIES[name]
    state = s.init(schedule.BlockInfo(5))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state, is_leaf=lambda x: x is None))
    leaves, tree = jax.tree.flatten(state)
    again = jax.tree.unflatten(tree, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    same(s.begin(again, 0), s.begin(state, 0))


@pytest.mark.parametrize("name", POLICIES)
def test_one_block(name):
    """Catches: dropping floor + 1, which would leave nothing of one block."""
    s = POLICIES[name]
    _, rates_PxN = run(s, s.init(schedule.BlockInfo(1)), jnp.ones((len(s.phases), 1)))
    assert rates_PxN.tolist() == [[1.0]] * len(s.phases)


@pytest.mark.parametrize("name", POLICIES)
def test_no_blocks(name):
    """Catches: dropping the check of the block information from `init`."""
    with pytest.raises(ValueError, match="num_blocks is 0"):
        POLICIES[name].init(schedule.BlockInfo(0))


def test_block_info_arrays_must_fit():
    """Catches: checking the first array only; comparing the length alone."""
    good = np.zeros(3, np.int32)
    POLICIES["lfr-pass"].init(schedule.BlockInfo(3, domain=good, ref_loss=good))
    with pytest.raises(ValueError, match=r"BlockInfo.ref_loss has shape \(4,\), expected \(3,\)"):
        POLICIES["lfr-pass"].init(schedule.BlockInfo(3, domain=good, ref_loss=np.zeros(4)))
    with pytest.raises(ValueError, match=r"BlockInfo.domain has shape \(3, 1\)"):
        POLICIES["uniform"].init(schedule.BlockInfo(3, domain=good[:, None]))
