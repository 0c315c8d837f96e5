"""What is installed is what is here: the wheel, built offline, has the whole package and needs no checkout."""

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


def test_the_schedule_is_imported_from_the_wheel_alone(installed, tmp_path):
    """Catches: a policy that the wheel lacks, and that an editable installation has."""
    code = f"from lfr_jax import schedule; print(schedule.uniform(steps=4).phases[0].name){FROM_HERE}"
    assert run(installed, tmp_path, code, installed) == "uniform\n"


def test_the_command_of_the_wheel_starts(installed, tmp_path):
    """Catches: an entry point that names a module from before a move; a command that imports what is not there."""
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    module, _, function = entry.read_text().partition("lfr = ")[2].split()[0].partition(":")
    code = f"""
import sys
from {module} import {function}
site, sys.argv = sys.argv[1], ["lfr", "train", "--help"]
try:
    {function}()
except SystemExit as end:
    assert not end.code
sys.argv[1:] = [site]
{FROM_HERE}"""
    assert "--train.batch-size" in run(installed, tmp_path, code, installed)
