"""Paths on this machine, and URLs of object stores such as gs://bucket/folder, behind one interface."""

import os
import pathlib

import fsspec
from etils import epath

Path = pathlib.Path | epath.Path

# The package that reads the URLs of each scheme.
PACKAGES = {"gs": "'lfr_jax[gcs]'", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}

LONGEST = 3800  # bytes in the path of a folder of checkpoints; Linux has 4,096 for the path of a file in it


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is a URL."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Path:
    """An object with the methods of pathlib.Path, for a path or a URL.

    Raises:
      ModuleNotFoundError: this scheme needs a package that is not installed; the message names it.
      ValueError: the scheme is unknown, or it can be no path.
    """
    if "\0" in os.fspath(path):
        raise ValueError(f"found {os.fspath(path)!r}, expected a path, which has no NUL byte in it")
    if not is_remote(path):
        return pathlib.Path(path)
    scheme = os.fspath(path).partition("://")[0]
    if scheme not in PACKAGES:
        schemes = ", ".join(f"{name}://" for name in PACKAGES)
        raise ValueError(f"found {path}, expected a path on this machine, or a URL that begins with {schemes}")
    # Other machines write to the bucket too, so a cached listing may be out of date.
    fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise ModuleNotFoundError(f"{path} needs another package: pip install {PACKAGES[scheme]}") from None
    return epath.Path(path)


def absolute(path: str | os.PathLike) -> Path:
    """Like `as_path`, but absolute: the result does not change with the working directory."""
    return as_path(path) if is_remote(path) else pathlib.Path(path).absolute()


def require_local(path: str | os.PathLike) -> pathlib.Path:
    """The path, for what is written piece by piece and so needs a disk, such as a token store.

    Raises:
      ValueError: `path` is a URL.
    """
    if is_remote(path):
        raise ValueError(
            f"found {path}, expected a path on this machine: write it there, and copy the finished folder with "
            "`gcloud storage cp -r`"
        )
    return pathlib.Path(path)


def refuse_existing(target: str | os.PathLike) -> None:
    """Raises FileExistsError if a file, a folder or a link is there."""
    if os.path.lexists(require_local(target)):
        raise FileExistsError(f"{target}: exists, and is never overwritten; remove it or choose another name")


def require_storable(path: str | os.PathLike) -> Path:
    """The absolute path of a folder for checkpoints, which Orbax and TensorStore can write and read back.

    Orbax looks for files by a pattern that begins with the path. TensorStore takes a backslash for a slash, and needs
    UTF-8.

    Raises:
      ValueError: one of them would take the path for another one, or the files in it would have too long names.
    """
    path = absolute(path)
    name = os.fspath(path)
    found = [repr(character) for character in "*?[\\" if character in name]
    found += ["bytes that are not UTF-8"] if any("\ud800" <= character <= "\udfff" for character in name) else []
    found += [f"{len(os.fsencode(name)):,} bytes"] if len(os.fsencode(name)) > LONGEST else []
    if found:
        raise ValueError(
            f"{path}: found {', '.join(found)} in it, expected UTF-8 without * ? [ \\, at most {LONGEST:,} bytes: "
            "the libraries that store checkpoints would misread it; choose another run_dir, or a symbolic link to it"
        )
    return path
