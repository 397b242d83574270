"""Watchdog that ends a process whose code hangs, with the name of what hangs and its stack."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK = 1.0
"""Longest single wait, in seconds."""


def patiently(wait: Callable[[float], bool], patience: float) -> bool:
    """Call `wait(seconds)` until it returns True, or until the seconds add up to `patience`; return whether it did.

    Clocks go on while processes are suspended, by Ctrl-Z, a scheduler or a computer that sleeps. Of such a time no more
    than one wait counts.
    """
    while patience > 0:
        seconds = min(patience, TICK)
        if wait(seconds):
            return True
        patience -= seconds
    return False


@contextmanager
def watched(what: str, patience: float) -> Iterator[None]:
    """Give `what`, the code inside, `patience` seconds. After them print every thread's stack and a line that names it,
    and end the process: code that hangs cannot be interrupted."""
    done = threading.Event()

    def watch() -> None:
        if not patiently(done.wait, patience):
            _end(what, patience)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _end(what: str, patience: float) -> None:
    faulthandler.dump_traceback(sys.stderr)
    print(f"error: {what} gave nothing for {patience:g} s (--patience); its stack is above", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
