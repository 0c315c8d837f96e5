"""Paths and URLs: each leads where it says, or is refused by name."""

import pathlib

import fsspec
import pytest
from buckets import URL

from lfr_jax.storage.paths import absolute, as_path, is_remote, require_local


def test_paths_on_this_machine_stay_pathlibs(tmp_path, monkeypatch):
    """Catches: a local path with the methods of a URL's, or one that moves with the working directory."""
    assert type(as_path("a/b")) is type(pathlib.Path("a/b")) and as_path("a/b") == pathlib.Path("a/b")
    monkeypatch.chdir(tmp_path)
    assert absolute("a") == tmp_path / "a"


def test_urls_keep_their_slashes(bucket):
    """Catches: gs:/bucket/a, which is a folder on this machine."""
    path = as_path(f"{URL}/a") / "b"
    assert str(path) == str(absolute(path)) == f"{URL}/a/b" and is_remote(path) and not is_remote("a/b")
    with pytest.raises(ValueError, match=f"found {URL}/a/b, expected a path on this machine: .*gcloud storage cp"):
        require_local(path)


def test_what_other_machines_write_is_seen(bucket, tmp_path):
    """Catches: a listing of the bucket that is remembered, and hides a checkpoint from the trainer that resumes."""
    folder = as_path(f"{URL}/{tmp_path.name}")
    for number in range(2):
        bucket.files.pipe(f"{folder}/{number}/x", b"x")  # over connections of its own
        assert len(list(folder.iterdir())) == number + 1


def test_missing_packages_and_other_schemes_are_named(monkeypatch):
    """Catches: `No module named 'gcsfs'`; a folder called http: on this machine."""

    def absent(name):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(ModuleNotFoundError, match=r"gs://b/x needs another package: pip install 'lfr_jax\[gcs\]'"):
        as_path("gs://b/x")
    with pytest.raises(ValueError, match="found http://x/y, expected a path on this machine, or a URL that begins"):
        as_path("http://x/y")


def test_a_nul_byte_is_no_path():
    """Catches: `embedded null byte`, which does not say where it is."""
    with pytest.raises(ValueError, match=r"found 'runs/a\\x00b', expected a path"):
        as_path("runs/a\0b")
