"""Memory that stays with the process: each training step frees and allocates the same large blocks."""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # mallopt's names for them, of glibc's <malloc.h>
LARGEST_THRESHOLDS = 2**30, 2**25  # older releases of glibc refuse more than the second


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks, where the system would have to clear every page before its next use.

    With glibc 2.36 this saves a sixth of a training step on Atari. Without glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_THRESHOLDS):
        mallopt(TRIM_THRESHOLD, 2**30)
        mallopt(TOP_PAD, 2**26)
