"""A watchdog: what takes longer than anybody would wait for ends the process, which says what it was and where."""

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def watched(what: str, patience: float) -> Iterator[None]:
    """Inside, `what` may take `patience` seconds. After that every thread's stack goes to stderr, then a line that
    names it, and the process ends: code that hangs cannot be asked to stop."""
    timer = threading.Timer(patience, _end, (what, patience))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(what: str, patience: float) -> None:
    faulthandler.dump_traceback(sys.stderr)
    print(f"error: {what} gave nothing for {patience:g} s (--patience); its stack stands above", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
