"""`lfr_jax.schedule` alone: in a trainer that has jax and numpy, and nothing else of ours or of others."""

import ast
import configparser
import fnmatch
import pathlib
import subprocess
import sys

import lfr_jax.schedule

ROOT = pathlib.Path(lfr_jax.__file__).parents[1]


def in_a_fresh_process(code: str) -> None:
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_import_is_light_and_touches_no_device():
    """Catches: an import of flax, optax, scipy, ... ; one of our other modules; a module-level jnp constant."""
    in_a_fresh_process("""
import sys
import jax, jax.numpy, numpy
before = set(sys.modules)
import lfr_jax.schedule
new = {name for name in set(sys.modules) - before if not name.startswith(("lfr_jax.schedule", "jax.", "numpy."))}
assert {name.partition(".")[0] for name in new} - sys.stdlib_module_names == {"lfr_jax"}, new
assert {name for name in new if name.startswith("lfr_jax")} == {"lfr_jax"}, new
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
""")


def test_import_of_the_top_package_brings_nothing():
    """Catches: `lfr_jax/__init__.py` importing the trainer, and with it everything."""
    in_a_fresh_process("""
import sys
before = set(sys.modules)
import lfr_jax
new = set(sys.modules) - before
assert new == {"lfr_jax"}, new
""")


def test_nothing_else_is_imported_later():
    """Catches: an import of another package within a function, which the import of the package does not run."""
    paths = list((ROOT / "lfr_jax" / "schedule").rglob("*.py"))
    assert len(paths) > 30
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                ours = module.startswith("lfr_jax.schedule")
                package = module.partition(".")[0]
                assert ours or package in {"jax", "numpy"} | sys.stdlib_module_names, f"{path.name} imports {module}"


def test_the_package_is_installed_with_its_subpackages():
    """Catches: `packages = lfr_jax` in setup.cfg; a folder of modules without `__init__.py`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options"]["packages"] == "find:"
    folders = {path.parent for path in (ROOT / "lfr_jax").rglob("*.py")}
    assert ROOT / "lfr_jax" / "schedule" in folders
    for folder in folders:
        name = ".".join(folder.relative_to(ROOT).parts)
        assert fnmatch.fnmatch(name, config["options.packages.find"]["include"]), name
        assert (folder / "__init__.py").exists(), name
