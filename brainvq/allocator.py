"""Memory that a training frees and asks for again in each step is kept instead of given back."""

import ctypes
import os

# Parameters of glibc's mallopt, and the values that they are given: one arena for all threads, no
# block that is mapped on its own, and up to 2 GB of freed memory kept at the end of the heap, which
# grows by 256 MB at a time.
SETTINGS = (
    ("MALLOC_ARENA_MAX", -8, 1),
    ("MALLOC_MMAP_MAX_", -4, 0),
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**31 - 1),
    ("MALLOC_TOP_PAD_", -2, 2**28),
)


def keep_freed_memory():
    """Has the C library keep freed memory for the next request, where it is glibc.

    A step of training frees all its tensors, and TensorFlow on CPUs leaves them to `malloc`. Large
    ones and the ends of the heaps of its threads then go back to the system, which clears every
    page anew in the next step: half of the CPU's time of the study oasis2d. Peak memory stays as it
    is. What the environment says (`MALLOC_ARENA_MAX`, `MALLOC_TRIM_THRESHOLD_`, ...) is left alone.

    Returns:
        Whether it does.
    """
    if any(name in os.environ for name, *_ in SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # another system, or another C library
    return all([mallopt(number, value) for _, number, value in SETTINGS])
