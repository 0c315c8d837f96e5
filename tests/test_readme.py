"""The README's code runs as it stands there."""

import pathlib
import re

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_ten_lines_train_a_flax_model_and_focus_on_what_is_hard():
    """Blocks are numbers to be predicted; half of them are pure noise, which no model learns.

    Catches: a change of the schedule's interface that the README does not follow.
    """
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    code = code.replace("2000", "40").replace("1000", "20").replace("600", "12")

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = np.where(np.arange(64) < 32, x @ [1.0, -2.0, 0.5, 1.0], 5 * rng.normal(size=64)).astype(np.float32)
    blocks = np.concatenate([x, y[:, None]], axis=1)
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    tx = optax.adam(3e-2)

    @jax.jit
    def train_step(state, batch):
        params, opt_state = state

        def loss(params):
            losses = jnp.square(nnx.merge(graphdef, params)(batch[:, :-1])[:, 0] - batch[:, -1])
            return losses.mean(), losses

        grads, losses = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), losses

    names = dict(blocks=blocks, batch_size=8, train_step=train_step, state=(params, tx.init(params)))
    exec(code, names)
    drawn = np.asarray(names["sched"].rates(names["chosen"])) > 0
    assert drawn.sum() == 64 - int(0.7 * 64)
    assert drawn[32:].sum() > 3 * drawn[:32].sum()
