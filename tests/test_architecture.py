"""ARCHITECTURE.md tells the truth about which file imports which."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "lfr_jax"


def floors() -> dict[str, int]:
    """The floor of each module: "train", "data.clean", "schedule"."""
    table = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    names = {name: int(floor) for floor, files in table for name in re.findall(r"`([\w/]+?)(?:\.py|/)`", files)}
    return {name.replace("/", "."): floor for name, floor in names.items()}


def files() -> dict[str, pathlib.Path]:
    """All files but those of `schedule/`, by module."""
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.startswith("schedule.") and path.stem != "__init__"}


def imported(path: pathlib.Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    modules = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in modules for alias in node.names if node.module}
    parts = [name.split(".")[1:] for name in names if name.split(".")[0] == "lfr_jax"]
    return {".".join(some[: 2 if some[0] in ("data", "reports") else 1]) for some in parts}


def test_every_file_stands_on_a_floor_and_imports_only_from_below():
    """Catches: an import upwards or sideways; a file that the table does not list, or no longer exists."""
    floor = floors()
    assert set(floor) == {*files(), "schedule"}
    for name, path in files().items():
        for other in imported(path):
            assert floor[other] < floor[name], f"{name} (floor {floor[name]}) imports {other} ({floor[other]})"


def test_training_needs_nothing_that_makes_stores_or_reports():
    """Catches: a trainer that comes with all readers of text, or with matplotlib."""
    for name, path in files().items():
        if name.partition(".")[0] not in ("data", "reports", "compare", "cli"):
            assert not {other for other in imported(path) if other.startswith(("data.", "reports."))}, name


def test_schedules_import_nothing_of_ours():
    """Catches: a schedule that cannot be imported alone."""
    for path in (PACKAGE / "schedule").glob("*.py"):
        assert imported(path) <= {"schedule"}, path
