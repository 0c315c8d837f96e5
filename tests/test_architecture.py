"""ARCHITECTURE.md tells the truth about which file imports which."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def floors() -> dict[str, int]:
    table = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return {name: int(floor) for floor, files in table for name in re.findall(r"`(\w+)(?:\.py|/)`", files)}


def imported(path: pathlib.Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    modules = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in modules if node.module == "lfr_jax" for alias in node.names}
    return names | {node.module.split(".")[1] for node in modules if node.module and node.module.startswith("lfr_jax.")}


def test_every_file_stands_on_a_floor_and_imports_only_from_below():
    """Catches: an import upwards or sideways; a file that the table does not list, or no longer exists."""
    floor = floors()
    files = {path.stem: path for path in (ROOT / "lfr_jax").glob("*.py") if path.stem != "__init__"}
    assert set(floor) == {*files, "schedule"}
    for name, path in files.items():
        for other in imported(path):
            assert floor[other] < floor[name], f"{name}.py (floor {floor[name]}) imports {other} ({floor[other]})"


def test_schedules_import_nothing_of_ours():
    """Catches: a schedule that cannot be imported alone."""
    for path in (ROOT / "lfr_jax" / "schedule").glob("*.py"):
        assert imported(path) <= {"schedule"}, path
