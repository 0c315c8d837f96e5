"""What is imported is not looked at again, and the collector works as before."""

import gc

import pytest

from lfr_jax.distributed.garbage import imports_uncollected


@pytest.fixture(autouse=True)
def collector():
    was_enabled = gc.isenabled()
    gc.unfreeze()
    yield
    gc.unfreeze()
    (gc.enable if was_enabled else gc.disable)()


def test_imports_are_left_out_once_and_collection_goes_on():
    """Catches: a collector that stays off; imports that each later collection looks at; garbage frozen in a process
    that runs several commands."""
    gc.enable()
    assert not gc.get_freeze_count()
    with imports_uncollected():
        assert not gc.isenabled()
    frozen = gc.get_freeze_count()
    assert frozen > 1000 and gc.isenabled()
    kept = [[] for _ in range(1000)]
    with imports_uncollected():
        pass
    assert gc.get_freeze_count() <= frozen and len(kept) == 1000


def test_an_import_that_fails_leaves_the_collector_as_it_was():
    """Catches: a collector that stays off after an error; one that is switched on though the user has it off."""
    gc.enable()
    with pytest.raises(ImportError), imports_uncollected():
        raise ImportError
    assert gc.isenabled() and not gc.get_freeze_count()
    gc.disable()
    with imports_uncollected():
        pass
    assert not gc.isenabled()
