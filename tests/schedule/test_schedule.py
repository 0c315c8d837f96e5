"""The documentation of the schedule package: its examples run, and none is missing."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

from lfr_jax import schedule

MODULES = ["lfr_jax.schedule"] + [m.name for m in pkgutil.walk_packages(schedule.__path__, "lfr_jax.schedule.")]
FUNCTIONS = [name for name in schedule.__all__ if inspect.isroutine(getattr(schedule, name)) and name != "unmeasured"]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    """Catches: any change of behaviour that an example shows."""
    assert len(MODULES) > 30
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    """Catches: dropping the example of a public function; an argument that its docstring does not explain."""
    function = getattr(schedule, name)
    first, _, rest = inspect.getdoc(function).partition("\n")
    assert first.endswith(".") and ">>>" in rest
    arguments = rest.partition("Args:\n")[2].partition("\n\nReturns:")[0]
    for parameter in inspect.signature(function).parameters:
        assert parameter in arguments, parameter


def test_what_is_exported_is_there_in_order():
    """Catches: a name in `__all__` twice, or out of order, or an import that it lacks."""
    assert schedule.__all__ == sorted(set(schedule.__all__))
    imported = {
        name for name, value in vars(schedule).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert imported == set(schedule.__all__)
