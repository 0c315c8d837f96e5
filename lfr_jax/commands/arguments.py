"""What several commands do before their work."""

import contextlib
import dataclasses
from collections.abc import Iterator

from lfr_jax.config import Config
from lfr_jax.distributed.garbage import imports_uncollected


@contextlib.contextmanager
def ready_to_compute() -> Iterator[None]:
    """Makes this process fast at what a command computes, which is imported within. No library changes a process so."""
    with imports_uncollected():
        from lfr_jax.distributed import compilation_cache, malloc

        malloc.keep_freed_memory()
        compilation_cache.keep_compiled_programs()
        yield


def settings_of(asked: Config) -> Config:
    """The settings of a run that stand in those of a command, which has more."""
    return Config(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Config)})
