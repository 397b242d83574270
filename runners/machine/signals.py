"""How a run is asked to stop, and how processes end with the one that started them."""

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
"""Seconds after which a batch is cut short: whoever asked may send a SIGKILL ten seconds later."""


class Stopped(Exception):
    """The run was asked to stop while it did what may be given up."""


class StopSignal:
    """Within, the first Ctrl-C or SIGTERM only notes that it was `asked`; a second one acts as always."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._at_once = False

    @property
    def asked(self) -> bool:
        return self._asked_at is not None

    @property
    def overdue(self) -> bool:
        """Whether it was asked so long ago that a batch can no longer be awaited."""
        return self.asked and monotonic() - self._asked_at > GRACE

    @contextmanager
    def at_once(self, able: bool = True) -> Iterator[None]:
        """Inside, being asked raises Stopped, where `able`: around what changes nothing that is saved."""
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
        self._asked_at = monotonic()
        signal.signal(number, self._before[number])
        if self._at_once:
            raise Stopped

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


NEVER = StopSignal()
"""Stands for it where nobody can ask."""


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the one that started it ends, however it does and whatever this
    one is doing."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():  # it was faster
        os._exit(1)
