"""Memory that stays with the process: a training step frees and asks for the same large blocks over and over."""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # mallopt's names for them, of glibc's <malloc.h>


def keep_freed_memory() -> None:
    """Tell glibc not to hand large blocks back to the system, which would clear every page again before its next use.

    A sixth of a training step on Atari. Elsewhere than on glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, size in ((TRIM_THRESHOLD, 2**30), (MMAP_THRESHOLD, 2**30), (TOP_PAD, 2**26)):
            mallopt(option, size)
