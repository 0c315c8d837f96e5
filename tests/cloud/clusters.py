"""What tests of ways to start several processes share."""

JOIN = """
import jax
jax.distributed.initialize()
from jax.experimental import multihost_utils
ids = multihost_utils.process_allgather(jax.numpy.int32(jax.process_index())).tolist()
print(f"\\nids {ids} {jax.process_index()}\\n", end="", flush=True)  # in one piece: others print at the same time
"""  # a program that says with whom it found itself together, by what JAX detects
