"""Where things lie: on this machine, or in an object store, under a URL such as gs://bucket/folder."""

import os
import pathlib

import fsspec
from etils import epath

Path = pathlib.Path | epath.Path

# What reads the URLs of each scheme.
PACKAGES = {"gs": "'lfr_jax[gcs]'", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is a URL."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike) -> Path:
    """A path with the methods of pathlib's, wherever it leads.

    Raises:
      ModuleNotFoundError: naming what to install for such URLs.
      ValueError: a URL of another scheme.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    scheme = os.fspath(path).partition("://")[0]
    if scheme not in PACKAGES:
        schemes = ", ".join(f"{name}://" for name in PACKAGES)
        raise ValueError(f"found {path}, expected a path on this machine, or a URL that begins with {schemes}")
    # Other machines write there too, so a listing that is remembered may be wrong.
    fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise ModuleNotFoundError(f"{path} needs another package: pip install {PACKAGES[scheme]}") from None
    return epath.Path(path)


def absolute(path: str | os.PathLike) -> Path:
    """As `as_path`; a path on this machine stays what it is when the working directory changes."""
    return as_path(path) if is_remote(path) else pathlib.Path(path).absolute()


def on_this_machine(path: str | os.PathLike) -> pathlib.Path:
    """Refuses URLs with a ValueError: for what is made bit by bit, such as a corpus."""
    if is_remote(path):
        raise ValueError(
            f"found {path}, expected a path on this machine: it is made here, and copied when it is whole, with "
            "`gcloud storage cp -r`"
        )
    return pathlib.Path(path)
