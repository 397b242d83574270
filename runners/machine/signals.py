"""Signals that ask a run to stop."""

import signal
import threading


class StopSignal:
    """Context in which the first Ctrl-C or SIGTERM only sets `asked`; a second one acts as it did before."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "StopSignal":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
