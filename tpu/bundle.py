"""Packs the code into one file: the files that git tracks, as they are in the working tree. Deterministic."""

import gzip
import hashlib
import os
import pathlib
import subprocess
import tarfile

NEEDED = "tpu/worker/agent.sh"


def make(source: pathlib.Path, target: pathlib.Path) -> str:
    """Writes the tarball. Returns its SHA-256.

    Raises:
      OSError: `source` is not a git checkout, or git does not track the scripts for the workers.
    """
    names = git(source, "ls-files", "-z")
    if NEEDED not in names:
        raise FileNotFoundError(f"{source}: git tracks no {NEEDED}, and workers need it; run: git add tpu")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # Without times and owners: they would change the digest, and with it the folder on the workers.
        with open(partial, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as zipped:
            with tarfile.open(fileobj=zipped, mode="w") as tar:
                for name in sorted(names):
                    if os.path.lexists(source / name):  # skips deleted files that are still in git's index
                        tar.add(source / name, name, recursive=False, filter=anonymous)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return digest(target)


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder(digest: str) -> str:
    """The folder that worker/receive.sh unpacks it to."""
    return f"code-{digest[:12]}"


def untracked(source: pathlib.Path) -> list[str]:
    """Python files that will not be packed: git neither tracks nor ignores them."""
    return sorted(git(source, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py"))


def git(source: pathlib.Path, *args: str) -> list[str]:
    try:
        done = subprocess.run(["git", "-C", source, *args], capture_output=True, check=True)
    except FileNotFoundError:
        raise FileNotFoundError("git was not found on PATH; push sends what git tracks") from None
    except subprocess.CalledProcessError as error:
        raise OSError(f"{source}: {error.stderr.decode().strip()}; push sends what git tracks there") from None
    return [name for name in done.stdout.decode().split("\0") if name]
