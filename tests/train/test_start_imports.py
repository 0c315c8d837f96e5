"""What a run without clusters imports before its first step."""

import subprocess
import sys

import pytest

SLOW = ("scipy", "tensorboardX", "torch", "matplotlib", "tensorflow_datasets", "pyarrow", "transformers", "datasets")


@pytest.mark.slow
def test_training_imports_nothing_slow_that_few_runs_need():
    """Catches: an eager import of SciPy's clustering; of what only reports, TFDS or TensorBoard need."""
    code = f"import sys, lfr_jax.train.loop; print([name for name in {SLOW} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
