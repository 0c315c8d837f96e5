"""Python's garbage collector, kept from what imports make.

Importing JAX and all that trains with it makes more than a million objects, which stay. The collector looks for garbage
again and again while they come, and later looks at all of them again. It finds none.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def imports_uncollected() -> Iterator[None]:
    """Within it nothing is collected. What is there at its first end is left out of all later collections.

    It belongs to the whole process, so the command enters it, and no function of the library does.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():  # a process that comes here again may have left garbage in between
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
