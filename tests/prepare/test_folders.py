"""The files below a folder: links followed, loops not, and nothing passed over in silence."""

import os
import pathlib

import pytest

from lfr_jax.prepare import folders


@pytest.fixture
def tree(tmp_path):
    """Two folders, of which the first links to the second."""
    for name in ("top/a/2.txt", "top/a/10.txt", "top/b.txt", "top/.git/config", "top/a/.DS_Store", "far/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def below(folder) -> list[str]:
    return [name.as_posix() for name in folders.files_below(folder)]


def test_links_are_followed(tree):
    """Catches: a folder left out because it is a link; files of it behind all others, or named by where they lie."""
    assert below(tree / "top") == ["a/10.txt", "a/2.txt", "b.txt"]
    (tree / "top/a/5").symlink_to(tree / "far")
    (tree / "top/z.txt").symlink_to(tree / "far/x.txt")
    assert below(tree / "top") == ["a/10.txt", "a/2.txt", "a/5/x.txt", "b.txt", "z.txt"]
    (tree / "link").symlink_to("top")
    assert below(tree / "link") == below(tree / "top")


def test_loops_are_not_entered(tree):
    """Catches: a walk that ends at the longest path that the system takes; two links to one folder taken for a
    loop."""
    (tree / "top/a/up").symlink_to("..")
    (tree / "top/itself").symlink_to(".")
    (tree / "far/back").symlink_to(tree / "top")
    for name in ("c", "d"):
        (tree / "top" / name).symlink_to(tree / "far")
    assert below(tree / "top") == ["a/10.txt", "a/2.txt", "b.txt", "c/x.txt", "d/x.txt"]


def test_a_link_that_leads_nowhere(tree):
    """Catches: text left out because its disk is not mounted."""
    (tree / "top/a/.#lock").symlink_to("nobody@nowhere")
    assert len(below(tree / "top")) == 3
    (tree / "top/a/books").symlink_to("/not/mounted")
    with pytest.raises(
        FileNotFoundError, match="top/a/books: found a symbolic link to /not/mounted, which does not exist"
    ):
        below(tree / "top")


def test_a_folder_that_must_not_be_read(tree, monkeypatch):
    """By a system call that refuses, since an administrator may read all. Catches: its files left out."""
    scandir = os.scandir

    def refusing(path):
        if pathlib.Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="Permission denied.*top/a"):
        below(tree / "top")


def test_what_is_no_file_is_passed_over(tree):
    """Catches: a pipe waited for."""
    os.mkfifo(tree / "top/pipe")
    assert below(tree / "top") == ["a/10.txt", "a/2.txt", "b.txt"]
