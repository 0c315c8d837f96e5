"""What `lfr_jax.schedule` exports, and that nobody outside needs more."""

import ast
import inspect
import pathlib
import pkgutil
import re

from lfr_jax import schedule

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "lfr_jax" / "schedule"


def outside() -> dict[str, str]:
    """All code of ours that is not the package itself or a test of its inner parts, by where it stands."""
    folders = [ROOT / folder for folder in ("lfr_jax", "tools", "configs")]
    paths = [path for folder in folders for path in folder.rglob("*.py") if PACKAGE not in path.parents]
    found = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        if "policies" not in page.parts:  # their blocks are signatures
            found |= {
                f"{page.relative_to(ROOT)}, block {i}": code
                for i, code in enumerate(blocks)
                if "# lfr_jax/schedule/" not in code
            }
    assert len(paths) > 90 and len(found) > len(paths) + 2
    return found


def test_nobody_outside_uses_what_is_not_exported():
    """Catches: an import from a module of the package, an import or attribute that `__all__` lacks."""
    names = 0
    for where, code in outside().items():
        tree = ast.parse(code)
        nodes = list(ast.walk(tree))
        used = []
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lfr_jax.schedule"):
                assert node.module == "lfr_jax.schedule", f"{where} imports from {node.module}"
                used += [alias.name for alias in node.names]
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("lfr_jax.schedule.") for alias in node.names), where
        is_module = any(
            isinstance(node, ast.ImportFrom) and node.module == "lfr_jax" and "schedule" in [a.name for a in node.names]
            for node in nodes
        )
        if is_module or ", block " in where:  # the blocks of a page go on from one another
            attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
            used += [x.attr for x in attributes if isinstance(x.value, ast.Name) and x.value.id == "schedule"]
        for name in used:
            assert name in schedule.__all__, f"{where} uses {name}"
        names += len(used)
    assert names > 60


def test_an_exported_name_is_no_module():
    """Catches: a file of the name of what it exports: `schedule.floor` would be the one or the other, by chance."""
    modules = {module.name for module in pkgutil.iter_modules(schedule.__path__)}
    assert "types" in modules and len(modules) > 8
    assert not modules & set(schedule.__all__)


def test_what_is_imported_is_exported():
    """Catches: a name that `__all__` lacks or has twice; one of another package in it."""
    nodes = ast.parse((PACKAGE / "__init__.py").read_text()).body
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module.startswith("lfr_jax.")]
    imported = [alias.name for node in imports for alias in node.names]
    assert len(imported) > 50
    assert sorted([*imported, "POLICIES", "WRAPPERS"]) == schedule.__all__
    assert not any(inspect.ismodule(getattr(schedule, name)) for name in schedule.__all__)


def test_each_file_of_a_policy_is_imported():
    """Catches: a policy or wrapper without its line in `__init__`, or in a file that has not its name; a helper taken
    for a policy."""
    for folder, functions in (("policies", schedule.POLICIES), ("wrappers", schedule.WRAPPERS)):
        files = {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__"}
        assert len(files) > 3 and set(functions) == files
        for name, function in functions.items():
            assert function is getattr(schedule, name) and function.__name__ == name
    assert all(isinstance(policy(), schedule.Schedule) for policy in schedule.POLICIES.values())
