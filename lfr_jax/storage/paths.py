"""Paths on this machine, and URLs of object stores such as gs://bucket/folder, behind one interface."""

import os
import pathlib

import fsspec
from etils import epath

Path = pathlib.Path | epath.Path

# The package that reads the URLs of each scheme.
PACKAGES = {"gs": "'lfr_jax[gcs]'", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is a URL."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Path:
    """An object with the methods of pathlib.Path, for a path or a URL.

    Raises:
      ModuleNotFoundError: this scheme needs a package that is not installed; the message names it.
      ValueError: the scheme is unknown.
    """
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
