"""Where compiled programs are kept, and that nothing about it is ever an error."""

import os
import pathlib

import jax
import pytest

from lfr_jax.distributed import compilation_cache
from lfr_jax.distributed.compilation_cache import described, keep_compiled_programs, usable_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a cache, and a process in which nobody chose one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LFR_CACHE", raising=False)
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir",)}
    least = "jax_persistent_cache_min_compile_time_secs"
    before[least] = getattr(jax.config, least)
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_by_default_they_are_kept_for_the_next_start(home):
    """Catches: no cache; one that leaves small programs out; one that others can write to; a log that is silent."""
    assert described().startswith("compiled programs are not kept")
    keep_compiled_programs()
    folder = home / ".cache/lfr_jax/compiled"
    assert jax.config.jax_compilation_cache_dir == str(folder) and folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    assert described() == f"compiled programs are kept in {folder}"


def test_the_users_choice_comes_first(home, monkeypatch):
    """Catches: a default that replaces JAX's own setting, or cannot be switched off."""
    monkeypatch.setenv(compilation_cache.VARIABLE, "")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.delenv(compilation_cache.VARIABLE)
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    monkeypatch.setenv("LFR_CACHE", "")
    assert usable_folder() is None
    monkeypatch.setenv("LFR_CACHE", str(home / "other"))
    assert usable_folder() == home / "other/compiled"


def test_a_folder_that_cannot_be_used_is_no_error(home, monkeypatch):
    """Catches: an OSError at the start, in a home that is read-only or absent; code of others that is run."""
    (home / ".cache").write_text("a file")
    assert usable_folder() is None
    (home / ".cache").unlink()
    assert usable_folder() is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert usable_folder() is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)  # another user's folder
        assert usable_folder() is None
    (home / ".cache/lfr_jax/compiled").chmod(0o777)
    assert usable_folder() is None
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "expanduser", no_home)
        assert usable_folder() is None
        keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None


def no_home(path):
    raise RuntimeError("Could not determine home directory.")
