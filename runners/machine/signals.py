"""Signals that ask a run to stop, and processes that end with the one that started them."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GRACE = 4.0
"""Seconds after a signal at which a batch is cut short: schedulers send a SIGKILL after ten."""
REPEAT = 1.0
"""Seconds within which another signal is the same request: torchrun passes on what its ranks were sent too."""


class Stopped(BaseException):
    """Raised by a signal, in code that may be interrupted at any place. It is no Exception, as a user's reward or
    environment that handles all of those would swallow it."""


class StopSignal:
    """Context in which a Ctrl-C or SIGTERM only sets `asked`; one that comes REPEAT seconds later acts as before."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._at_once = False

    @property
    def asked(self) -> bool:
        return self._asked_at is not None

    @property
    def overdue(self) -> bool:
        """Return whether the signal came more than GRACE seconds ago."""
        return self.asked and monotonic() - self._asked_at > GRACE

    @contextmanager
    def at_once(self, able: bool = True) -> Iterator[None]:
        """Make a signal raise Stopped at once, if `able`; for code that changes nothing of what is saved."""
        self._at_once = able
        try:
            if able and self.asked:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> "StopSignal":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            if monotonic() - self._asked_at > REPEAT:
                signal.signal(number, self._before[number])
                signal.raise_signal(number)
            return
        self._asked_at = monotonic()
        if self._at_once:
            raise Stopped

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


NEVER = StopSignal()
"""Signal that never comes."""


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():  # it ended before the call
        os._exit(1)
