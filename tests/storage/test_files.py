"""Files and folders that are either whole or not there."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lfr_jax.storage.files import (
    atomic_file,
    atomic_folder,
    explain_full_disk,
    require_regular,
    save_array,
    write_atomically,
)
from lfr_jax.storage.remote_files import local_copy, read_bytes
from lfr_jax.storage.token_files import TokenFile, stamp


class Broken(BaseException):
    """Not an Exception: as KeyboardInterrupt and SystemExit are not."""


@pytest.mark.parametrize("before", [None, "old\n"])
def test_a_file_is_replaced_when_it_is_whole(tmp_path, before):
    """Catches: writing into the file itself; a temporary file that stays."""
    path = tmp_path / "a.csv"
    if before is not None:
        path.write_text(before)
    with atomic_file(path) as file:
        file.write("new\r\nfile\n")
        file.flush()
        assert (path.read_text() if path.exists() else None) == before
    assert path.read_bytes() == b"new\r\nfile\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("before", [None, "old\n"])
def test_a_file_that_fails_leaves_what_was_there(tmp_path, before):
    """Catches: a replacement in spite of the exception; `except Exception`; a temporary file that stays."""
    path = tmp_path / "a.csv"
    if before is not None:
        path.write_text(before)
    with pytest.raises(Broken), atomic_file(str(path)) as file:
        file.write("half")
        raise Broken
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == ({} if before is None else {"a.csv": before})


def test_a_file_is_on_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    """A crash of the machine must not leave an empty file. Catches: no sync, before the flush, or after the rename."""
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("sync", os.fstat(fd).st_size)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (events.append("replace"), replace(*a)))
    write_atomically(tmp_path / "a", "12345")
    assert events == [("sync", 5), "replace"]


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_killed_process_leaves_the_old_or_nothing(tmp_path, how):
    """Catches: a file or folder that has its name before it is whole."""
    (tmp_path / "old").write_text("old")
    program = {
        "file": "with files.atomic_file('old') as f: f.write('half'); f.flush(); os._exit(9)",
        "folder": "with files.atomic_folder('new') as d: (d / 'x').write_text('half'); os._exit(9)",
    }[how]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, "-c", f"import os\nfrom lfr_jax.storage import files\n{program}"]
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 9
    assert (tmp_path / "old").read_text() == "old" and not (tmp_path / "new").exists()


def test_a_folder_appears_when_it_is_whole(tmp_path):
    """Catches: filling the folder under its own name; a partial folder that stays."""
    target = tmp_path / "a" / "b"
    with atomic_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        assert not target.exists() and folder.parent.parent == target.parent
    assert (target / "inner" / "file").read_text() == "x"
    assert [p.name for p in target.parent.iterdir()] == ["b"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    """Catches: `except Exception`; parents of the folder that stay; removing parents that hold something else."""
    with pytest.raises(Broken), atomic_folder(tmp_path / "a" / "b" / "c") as folder:
        (folder / "file").write_text("x")
        raise Broken
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Broken), atomic_folder(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "other").write_text("x")
        raise Broken
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "other"]


def test_what_exists_is_never_overwritten(tmp_path):
    """Catches: a check that comes late, or that misses links; a loser of a race who harms the winner."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "link"):
        with pytest.raises(FileExistsError, match=f"{name}: exists, and is never overwritten"):
            with atomic_folder(tmp_path / name):
                raise AssertionError("was entered")
    with pytest.raises(OSError), atomic_folder(tmp_path / "raced") as loser:
        (loser / "file").write_text("loser")
        with atomic_folder(tmp_path / "raced") as winner:
            (winner / "file").write_text("winner")
    assert (tmp_path / "raced" / "file").read_text() == "winner"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "link", "raced"]


def test_links_are_not_followed(tmp_path, monkeypatch):
    """Catches: a sync of all that a linked corpus points to, which may be terabytes of somebody else's."""
    (tmp_path / "theirs").write_text("x")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    with atomic_folder(tmp_path / "ours") as folder:
        (folder / "link").symlink_to(tmp_path / "theirs")
        (folder / "gone").symlink_to(tmp_path / "nowhere")
        (folder / "file").write_text("y")
    assert (tmp_path / "ours/link").read_text() == "x"
    assert (tmp_path / "ours/file").stat().st_ino in synced and (tmp_path / "theirs").stat().st_ino not in synced


def test_an_array_is_saved_or_the_error_says_why(tmp_path):
    """Catches: NumPy's own error on a full disk, which has no errno; a file that is not NumPy's."""
    array_5x2 = np.arange(10, dtype=np.uint64).reshape(5, 2)
    save_array(tmp_path / "a.npy", array_5x2)
    np.save(tmp_path / "b.npy", array_5x2)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("no /dev/full here, the disk that is always full")
    with pytest.raises(OSError) as raised:
        save_array("/dev/full", np.zeros(10**5))
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "code, said",
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EFBIG, "largest size")],
)
def test_a_file_that_cannot_grow_is_named(code, said):
    """Catches: "[Errno 27] File too large" alone, under `ulimit -f` or on a disk whose files end at 4 GiB."""
    with (
        pytest.raises(OSError, match=f"^runs/a: .*{said}.*; .*run the same command again"),
        explain_full_disk("runs/a"),
    ):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("kind, found", [("pipe", "a named pipe"), ("folder", "a folder"), ("device", "a device")])
def test_only_regular_files_are_opened(tmp_path, kind, found):
    """Catches: a reader that waits at a pipe for ever; one that looks at the link and not at what it leads to."""
    target = tmp_path / "target"
    match kind:
        case "pipe":
            os.mkfifo(target)
        case "folder":
            target.mkdir()
        case "device":
            target = pathlib.Path("/dev/null")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "file").write_text("x")
    require_regular(tmp_path / "file")
    for read in (
        require_regular,
        read_bytes,
        lambda path: local_copy(path).__enter__(),
        lambda path: TokenFile(path, stamp(path)),
    ):
        with pytest.raises(OSError, match=f"link: found {found}, expected a regular file"):
            read(tmp_path / "link")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
