"""ARCHITECTURE.md tells the truth about which room imports which."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "lfr_jax"


def floors() -> dict[str, int]:
    """The floor of each room: "config", "schedule", "train", ..."""
    table = re.findall(r"^\| (\d+) \| `(\w+)(?:\.py|/)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return {room: int(floor) for floor, room in table}


def modules() -> dict[str, pathlib.Path]:
    """All files by module, without `lfr_jax.`: "cli", "train.loop", "schedule.policies.lfr"."""
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    found = {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}
    assert len(found) > 100  # the folders were looked into
    return found


def imported(path: pathlib.Path, names: set[str]) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    pairs = [(node.module, alias.name) for node in nodes for alias in node.names if node.module]
    inner = [(module.partition(".")[2], name) for module, name in pairs if module.split(".")[0] == "lfr_jax"]
    dotted = [(module, f"{module}.{name}".strip(".")) for module, name in inner]
    return {whole if whole in names else module for module, whole in dotted}


def test_rooms_import_only_from_rooms_below():
    """Catches: an import upwards or sideways; a room that the table does not list, or no longer exists."""
    floor, files = floors(), modules()
    assert set(floor) == {name.partition(".")[0] for name in files}
    arrows = 0
    for name, path in files.items():
        room = name.partition(".")[0]
        for other in imported(path, set(files)):
            below = other.partition(".")[0]
            arrows += room != below
            assert room == below or floor[below] < floor[room], f"{name} imports {other}"
    assert arrows > 100


def test_no_two_files_import_each_other():
    """Catches: a circle of imports within a room, by whatever number of steps."""
    files = modules()
    left = {name: imported(path, set(files)) - {name} for name, path in files.items()}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"a circle of imports among {sorted(left)}"


def test_the_page_names_every_file():
    """Catches: a file that was added, moved or deleted, and the list of files not changed with it."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = text[text.index("Inside the rooms") : text.index("## Shapes in names")]
    found: dict[str, set[str]] = {}
    for room, files in re.findall(r"^- \*\*`([\w/]+)/`\*\*: ((?:.+\n)(?:  .+\n)*)", listed, re.MULTILINE):
        found[room] = set(re.findall(r"`(\w+)(?:\.py)?`", files))
    listed_elsewhere = [PACKAGE / "schedule" / folder for folder in ("policies", "wrappers")]  # by schedule/__init__
    expected: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.stem != "__init__" and path.parent not in (PACKAGE, *listed_elsewhere):
            expected.setdefault("/".join(path.parent.relative_to(PACKAGE).parts), set()).add(path.stem)
    assert found == expected


def test_schedules_import_nothing_of_ours():
    """Catches: a schedule that cannot be imported alone."""
    files = modules()
    mine = {name: path for name, path in files.items() if name.partition(".")[0] == "schedule"}
    assert len(mine) > 30
    for name, path in mine.items():
        assert {other.partition(".")[0] for other in imported(path, set(files))} <= {"schedule"}, name


def test_every_test_file_has_a_name_of_its_own():
    """Catches: two files of one name, for which pytest collects nothing at all, though each of them runs alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_every_room_of_the_package_has_tests():
    """Catches: a room without tests of its own; tests that a move left beside each other."""
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert len(rooms) == 12
    for room in rooms:
        assert list((ROOT / "tests" / room).rglob("test_*.py")), room
    in_rooms = {f"test_{name.rpartition('.')[2]}" for name in modules() if "." in name}
    assert not in_rooms & {path.stem for path in (ROOT / "tests").glob("test_*.py")}
