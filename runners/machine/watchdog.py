"""Watchdog that ends a process whose code hangs, with the name of what hangs and its stack."""

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watched(what: str, patience: float) -> Iterator[None]:
    """Give `what`, the code inside, `patience` seconds. After them print every thread's stack and a line that names it,
    and end the process: code that hangs cannot be interrupted."""
    timer = threading.Timer(patience, _end, (what, patience))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(what: str, patience: float) -> None:
    faulthandler.dump_traceback(sys.stderr)
    print(f"error: {what} gave nothing for {patience:g} s (--patience); its stack is above", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
