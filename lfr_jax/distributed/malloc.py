"""Memory that a step freed stays with the process, so that the next step finds its pages in place.

XLA on CPUs allocates the temporary arrays of a step anew at each call. By default glibc gets large blocks from the
kernel and gives them back when they are freed. So each step would touch the same hundreds of megabytes for the first
time: in a small model, a fifth of the time are page faults.

What the compiler freed goes back to the kernel all the same: hundreds of megabytes in pieces that no step would use.
"""

import ctypes
import functools
import sys
from typing import Any

import jax

# glibc's names in malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's name of the event
LONG = 0.1  # seconds of a compilation after which memory goes back, which takes milliseconds


def keep_freed_memory() -> None:
    """Makes glibc serve blocks of up to 1 GiB from its heap, and keep the heap. Elsewhere it does nothing.

    It belongs to the whole process, so the command calls this, and no function of the library does.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 2**28)
        _trim_when_compiled()


@functools.cache  # once in a process
def _trim_when_compiled() -> None:
    def trim(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED and seconds > LONG:
            ctypes.CDLL(None).malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(trim)


class Usage(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that the process has allocated from glibc and not freed; 0 where there is no glibc 2.33 or later.

    Resident memory also counts pages of freed memory, which go up and down without a leak.
    """
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = Usage
    usage = mallinfo2()
    return usage.uordblks + usage.hblkhd
