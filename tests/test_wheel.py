"""What is installed is what is here: the wheel, built offline, has the whole package and needs no checkout.

Without extras it requires jax and numpy, for `lfr_jax.schedule` in other people's trainers.
"""

import ast
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Of the modules that were imported, none may be that of the checkout.
FROM_HERE = """
import pathlib, sys
ours = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "lfr_jax"}
assert ours and all(pathlib.Path(file).is_relative_to(sys.argv[1]) for file in ours.values()), ours
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel holds. It is built from a copy, as building leaves files behind."""
    pytest.importorskip("setuptools", minversion="70.1", reason="builds wheels by itself")
    source, dist, site = (tmp_path_factory.mktemp(name) for name in ("source", "dist", "site"))
    shutil.copytree(ROOT / "lfr_jax", source / "lfr_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    built = subprocess.run([sys.executable, "-c", build, dist], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site: pathlib.Path, folder: pathlib.Path, code: str, *arguments: str) -> str:
    """What a fresh process prints that finds the package in `site`, and is in another folder than the checkout."""
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_wheel_holds_every_file_of_the_package(installed):
    """Catches: a folder without `__init__.py`, which `find:` passes over; a file that is no module; a file too many."""
    here, there = (
        {path.relative_to(root) for path in (root / "lfr_jax").rglob("*") if path.is_file()}
        for root in (ROOT, installed)
    )
    assert {path for path in here if "__pycache__" not in path.parts} == there and len(there) > 100


def test_the_command_of_the_wheel_starts(installed, tmp_path):
    """Catches: an entry point that names a module from before a move; a command that imports what is not there."""
    code = f"""
import sys
{imports_the_command(installed)}
site, sys.argv = sys.argv[1], ["lfr", "train", "--help"]
try:
    entry_point()
except SystemExit as end:
    assert not end.code
sys.argv[1:] = [site]
{FROM_HERE}"""
    assert "--train.batch-size" in run(installed, tmp_path, code, installed)


def imports_the_command(installed: pathlib.Path) -> str:
    """A line that imports `entry_point` as the program `lfr` does."""
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    module, _, function = entry.read_text().partition("lfr = ")[2].split()[0].partition(":")
    return f"from {module} import {function} as entry_point"


def required(requirements: list[str], extras: set[str]) -> dict[str, set[str]]:
    """The packages that some requirements name under some extras of ours, each with its own extras."""
    markers = pytest.importorskip("packaging.requirements", reason="comes with pytest")
    found: dict[str, set[str]] = {}
    for text in requirements:
        requirement = markers.Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            found.setdefault(requirement.name.lower().replace("_", "-"), set()).update(requirement.extras)
    return found


def packages(installed: pathlib.Path, *extras: str) -> set[str]:
    """The packages that pip installs with the wheel and some of its extras, from what is installed here."""
    (ours,) = importlib.metadata.distributions(path=[str(installed)])
    names, todo = set(), {("lfr-jax", extra) for extra in (*extras, "")}
    while todo - names:
        name, extra = (todo - names).pop()
        names.add((name, extra))
        requires = ours.requires if name == "lfr-jax" else importlib.metadata.requires(name)
        for other, others in required(requires or [], {extra}).items():
            todo |= {(other, extra) for extra in others | {""}}
    return {name for name, _ in names} - {"lfr-jax"}


@pytest.fixture(scope="module")
def alone(installed, tmp_path_factory):
    """A folder with the wheel and what it requires without extras: links to what is installed here."""
    site = tmp_path_factory.mktemp("alone")
    files = {path.name: path for path in installed.iterdir()}
    for name in packages(installed):
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files} - {"..", "__pycache__", "bin"}
        files |= {top: distribution.locate_file(top) for top in tops}
    for name, path in files.items():
        (site / name).symlink_to(path)
    return site


def test_without_extras_it_requires_jax_and_numpy(installed):
    """Catches: a requirement of training, or of the tests, that others' environments would get with the schedules."""
    (ours,) = importlib.metadata.distributions(path=[str(installed)])
    assert set(required(ours.requires, set())) == {"jax", "numpy"}
    assert not packages(installed) & {"flax", "optax", "orbax-checkpoint", "grain", "etils", "pytest", "hypothesis"}


def test_what_setup_installs(installed):
    """Catches: a package that leaves the documented installation; tests among what training requires."""
    assert '--editable ".[test' in (ROOT / "tools" / "setup").read_text()
    train = packages(installed, "train")
    assert {"jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "sentencepiece"} <= train
    assert not train & {"pytest", "pytest-xdist", "hypothesis"}
    assert packages(installed, "test") >= train | {"pytest", "pytest-xdist", "hypothesis"}


@pytest.mark.parametrize("extra", ["gcs", "hf", "aot", "checks", "parity"])
def test_every_other_extra_brings_what_training_needs(installed, extra):
    """Catches: `pip install 'lfr_jax[gcs]'`, as the pages print it, after which `lfr train` does not start."""
    (ours,) = importlib.metadata.distributions(path=[str(installed)])
    named = required(ours.requires, {extra})
    assert "train" in named["lfr-jax"] or "train" in required(ours.requires, named["lfr-jax"])["lfr-jax"]


def test_every_package_that_is_imported_is_required(installed):
    """Catches: an import of what only the tests, or only this machine, have."""
    by_module = importlib.metadata.packages_distributions()
    optional = {"datasets", "huggingface_hub", "libtpu", "gcsfs"}  # of other extras; imported where they are asked for
    train = packages(installed, "train")
    modules = set()
    for path in (ROOT / "lfr_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules |= {name.partition(".")[0] for name in names}
    modules -= sys.stdlib_module_names | optional | {"lfr_jax"}
    assert len(modules) > 15
    for module in modules:
        owners = {name.lower().replace("_", "-") for name in by_module[module]}
        assert owners & train, f"{module} comes from {owners}"


def run_alone(alone: pathlib.Path, folder: pathlib.Path, code: str) -> subprocess.CompletedProcess:
    """A process that finds the folder `alone`, Python's own library, and nothing else."""
    env = {name: value for name, value in os.environ.items() if name != "LFR_TRACEBACK"}
    env |= {"PYTHONPATH": str(alone), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-S", "-c", code, alone]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_the_schedule_works_with_jax_and_numpy_alone(alone, tmp_path):
    """Catches: a policy that the wheel lacks, and that an editable installation has; an import of another package."""
    code = f"""
import importlib.util
import jax, numpy as np
from lfr_jax import schedule
assert not any(importlib.util.find_spec(name) for name in ("flax", "optax", "orbax", "grain", "etils", "pytest"))
s = schedule.lfr(learn=2, focus=2, review=2, focus2=2, drop=0.5, reps=1)
state = jax.jit(s.observe)(s.init(schedule.BlockInfo(8)), np.arange(8), np.arange(8.0, dtype=np.float32), 2)
draws = schedule.plan(s.rates(jax.jit(s.begin)(state, 1)), 8, seed=0, phase=1)
print(sorted(i for i, _ in map(schedule.DrawnSource(list("abcdefgh"), draws).__getitem__, range(8))))
{FROM_HERE}"""
    ended = run_alone(alone, tmp_path, code)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "[4, 4, 5, 5, 6, 6, 7, 7]\n"


def test_without_the_extra_the_command_names_it(alone, installed, tmp_path):
    """Catches: a traceback, or a message that does not say what to install."""
    code = f"import sys; sys.argv[1:] = ['train', '--help']; {imports_the_command(installed)}; entry_point()"
    ended = run_alone(alone, tmp_path, code)
    assert ended.returncode == 1 and not ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("lfr: No module named ") and line.endswith("run: pip install 'lfr_jax[train]'")
