"""Memory that was freed stays with the process, so that the next step finds its pages in place.

XLA on CPUs allocates the temporary arrays of a step anew at each call. By default glibc gets large blocks from the
kernel and gives them back when they are freed. So each step would touch the same hundreds of megabytes for the first
time: in a small model, a fifth of the time are page faults.
"""

import ctypes
import sys

# glibc's names in malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


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
