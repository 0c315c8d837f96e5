"""Compiled programs are kept on disk by default, so that a run compiles at its first start alone."""

import os
import pathlib
import warnings

import jax

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_compiled_programs() -> None:
    """Makes JAX keep what it compiles in `$LFR_CACHE/compiled`, or ~/.cache/lfr_jax/compiled; '': nowhere.

    A folder that the user chose for JAX comes first. Where the folder cannot be used, nothing is kept: a cache is no
    reason for an error. It belongs to the whole process, so the command calls this, and no function of the library.
    """
    if VARIABLE in os.environ or jax.config.jax_compilation_cache_dir is not None:
        return
    if (folder := usable_folder()) is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # at a start, small programs cost the most
    # A full disk, or an entry that another process is writing now: the program is compiled, and all is well.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)


def usable_folder() -> pathlib.Path | None:
    """The folder, made if it was missing; None where it cannot be written, or others could write to it.

    JAX runs what it finds there, so a folder of another user is not used.
    """
    base = os.environ.get("LFR_CACHE", "~/.cache/lfr_jax")
    if not base:
        return None
    try:
        folder = pathlib.Path(base).expanduser() / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        usable = found.st_uid == os.geteuid() and not found.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # no right, no room, no home
        return None
    return folder if usable else None


def described() -> str:
    """Where compiled programs are kept, as a line of the log."""
    folder = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
    return f"compiled programs are kept in {folder}" if folder else f"compiled programs are not kept ({VARIABLE})"
