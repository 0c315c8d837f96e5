"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import lfr_jax

MODULES = [module.name for module in pkgutil.walk_packages(lfr_jax.__path__, "lfr_jax.")]


def test_all_modules_are_looked_at():
    """Catches: sub-folders left out."""
    assert len(MODULES) > 100 and "lfr_jax.prepare.clean.clean" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    """Catches: any change of behaviour that an example shows; a module that cannot be imported alone."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0
