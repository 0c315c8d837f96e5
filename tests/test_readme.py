"""The README's code runs as it stands there."""

import pathlib
import re

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
LFR = 'schedule.lfr(learn=2000, focus=1000, review=2000, focus2=600, reps=1, scores="train")'


def train(policy: str) -> dict:
    """The README's variables after its lines have trained a Flax model under `policy`.

    Blocks are numbers to be predicted; the second half of them is pure noise, which no model learns. `passes` counts
    the scoring passes, and `weights` holds what each step's losses were multiplied by.
    """
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22 and LFR in code
    code = code.replace(LFR, policy)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = np.where(np.arange(64) < 32, x @ [1.0, -2.0, 0.5, 1.0], 5 * rng.normal(size=64)).astype(np.float32)
    blocks = np.concatenate([x, y[:, None]], axis=1)
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    tx = optax.adam(3e-2)
    passes, weights = [], []

    def block_losses(params, batch):
        return jnp.square(nnx.merge(graphdef, params)(batch[:, :-1])[:, 0] - batch[:, -1])

    def score_all(state):
        passes.append(len(weights))
        return block_losses(state[0], blocks)

    @jax.jit
    def train_step(state, batch, ids, chosen):
        params, opt_state = state
        (total, losses), grads = jax.value_and_grad(names["loss"], has_aux=True)(params, batch, ids, chosen)
        updates, opt_state = tx.update(grads, opt_state)
        jax.debug.callback(lambda total, losses: weights.append(total / losses.mean()), total, losses, ordered=True)
        return (optax.apply_updates(params, updates), opt_state), losses

    names = dict(
        blocks=blocks,
        batch_size=8,
        block_losses=block_losses,
        score_all=score_all,
        train_step=train_step,
        state=(params, tx.init(params)),
        passes=passes,
        weights=weights,
    )
    exec(code, names)
    jax.effects_barrier()
    return names


@pytest.mark.parametrize("scores, passes", [("train", 0), ("pass", 2)])
def test_the_lines_train_a_flax_model_and_focus_on_what_is_hard(scores, passes):
    """Catches: a change of the schedule's interface that the README does not follow; no pass where one is asked for."""
    names = train(f'schedule.lfr(learn=40, focus=20, review=40, focus2=12, reps=1, scores="{scores}")')
    drawn = np.asarray(names["sched"].rates(names["chosen"])) > 0
    assert drawn.sum() == 64 - int(0.7 * 64)
    assert drawn[32:].sum() > 3 * drawn[:32].sum()
    assert len(names["passes"]) == passes
    np.testing.assert_allclose(names["weights"], 1, atol=1e-5)


def test_the_lines_follow_an_objective():
    """Catches: a README whose loop draws fewer easy blocks for `infobatch`, and does not weigh them up."""
    weights = np.array(train("schedule.infobatch(first=24, later=24, last=24, rounds=3)")["weights"])
    np.testing.assert_allclose(np.delete(weights, range(24, 48)), 1, atol=1e-5)
    assert weights[24:48].max() > 1.1 and weights[24:48].min() < 0.95


def test_the_lines_weigh_losses_where_the_policy_does():
    """Catches: a README whose loop leaves `linupper` unweighted, without an error."""
    weights = train("schedule.linupper(warmup=10, weighted=10)")["weights"]
    np.testing.assert_allclose(weights[:10], 1, atol=1e-5)
    assert min(weights[10:]) > 1.1  # hard blocks count for more
