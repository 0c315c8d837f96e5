"""Every policy, as the tests drive it: those of `schedule.POLICIES`, some variants, and some under wrappers.

A new policy in `lfr_jax.schedule` is tested without a line here.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from lfr_jax import schedule

N = 24  # blocks, where a test does not need another number: few shapes, few compilations


def code_of(page: str) -> dict:
    """What the Python code of a page of the documentation defines, run from top to bottom."""
    text = (pathlib.Path(__file__).parent.parent / page).read_text()
    names = {"__name__": page}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(code, names)
    return names


ADDED = code_of("docs/add_a_policy.md")
FROM_SCRATCH = code_of("docs/policy_from_scratch.md")
VARIANTS = {
    "lfr, losses of training": schedule.lfr(reps=1, scores="train"),
    "lfr, detrended": schedule.lfr(reps=1, scores="detrended"),
    "lfr, mixed": schedule.lfr(reps=1, scores="mixed", unmeasured="domain"),
    "lfr, dropping nothing": schedule.lfr(reps=1, drop=0, drop2=0),
    "odm, exp3": schedule.odm(rounds=4, reward="exp3", warmup=8),
    "middle": ADDED["middle"](),
    "falling": FROM_SCRATCH["falling"](),
}
LFR = schedule.lfr(reps=1)
WRAPPED = {
    "chain": schedule.chain(schedule.uniform(8), schedule.linupper(), LFR),
    "floor": schedule.floor(LFR, 0.2),
    "floor, everything": schedule.floor(LFR, 1.0),
    "stratified": schedule.stratified(LFR),
    "stratified, weighing": schedule.stratified(schedule.infobatch(rounds=3)),
    "cap_noise": schedule.cap_noise(LFR, 0.1),
    "cap_noise, detrended": schedule.cap_noise(VARIANTS["lfr, detrended"], 0.5),
    "unbiased": schedule.unbiased(schedule.floor(schedule.softmax_rounds(rounds=3), 0.2)),
    "all four": schedule.cap_noise(schedule.floor(schedule.chain(schedule.uniform(8), schedule.stratified(LFR)))),
}


def supplied(s: schedule.Schedule) -> schedule.Schedule:
    """The schedule with its signals made up of the losses, so that `observe` takes four arguments whatever it needs."""

    def observe(state, ids_B, losses_B, step):
        signals = dict(grad_dot=losses_B - 3.5, learning_rate=0.5)
        return s.observe(state, ids_B, losses_B, step, **{name: signals[name] for name in s.extra})

    return s._replace(observe=observe, extra=()) if s.extra else s


SCHEDULES = {name: supplied(policy()) for name, policy in schedule.POLICIES.items()} | VARIANTS | WRAPPED


def block_info(n: int = N) -> schedule.BlockInfo:
    """All that can be known of n blocks: 3 domains, 4 clusters, 3 lengths, all unequal; losses of three models."""
    rng = np.random.default_rng(n)
    weak_N = rng.gamma(4, 1, n).astype(np.float32)
    return schedule.BlockInfo(
        num_blocks=n,
        domain=np.minimum(np.arange(n) % 5, 2).astype(np.int32),
        cluster=np.minimum(np.arange(n) % 7, 3).astype(np.int32),
        length=np.minimum(np.arange(n) % 6, 2).astype(np.int32),
        ref_loss=rng.gamma(4, 1, n).astype(np.float32),
        weak_loss=weak_N,
        strong_loss=weak_N * rng.uniform(0.3, 1.1, n).astype(np.float32),
        columns={"quality": rng.uniform(0, 1, n).astype(np.float32)},
    )


FIELDS = ("domain", "cluster", "length", "ref_loss", "weak_loss", "strong_loss")  # of `block_info`, without "quality"


def run(s: schedule.Schedule, state, losses_PxN):
    """Goes through all phases, each block measured as each begins; the last state, and the rates f32[P, N]."""
    ids_N = jnp.arange(losses_PxN.shape[1], dtype=jnp.int32)
    rates = []
    for index, phase in enumerate(s.phases):
        state = s.begin(s.observe(state, ids_N, losses_PxN[index], phase.start), index)
        rates.append(s.rates(state))
    return state, jnp.stack(rates)


def gamma(shape, seed: int = 0) -> jax.Array:
    """Losses such as a model may have, nats per token."""
    return jnp.asarray(np.random.default_rng(seed).gamma(4, 1, shape), jnp.float32)


def same(a, b, message: str = "") -> None:
    """Asserts that two trees are alike: structure, shapes, dtypes, and every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b), message
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b)):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.shape, x.dtype) == (y.shape, y.dtype), f"{message}{jax.tree_util.keystr(path)}"
        np.testing.assert_array_equal(x, y, f"{message}{jax.tree_util.keystr(path)}")


def parts(state, kind: type) -> list:
    """The parts of a state that are a `kind`, such as `schedule.Measured`."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]
