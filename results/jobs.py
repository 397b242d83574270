"""Processes of experiments and comparisons: start one on cores of its own, log it, wait for it, end it.

Each process has a session of its own. All that it starts is known by that session, and Ctrl-C in the terminal reaches
it once, through this module.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures import wait as all_ended
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from results import ROOT
from results.peers.drivers.protocol import session_members  # it lies with the drivers, which import nothing from here
from runners.errors import RunError, UsageError

Command, Cores, Variables = Sequence[str], Sequence[int], Mapping[str, str] | None
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
PATIENCE = 5.0
"""Seconds that a process has to end after SIGTERM, before it is killed."""


class Stop:
    """Wish that jobs end: `asked` to save and end by themselves, then `now`, without saving."""

    asked = now = False


def available_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def last_cores(number: int) -> list[int]:
    """Return the last `number` of the available cores; UsageError where there are fewer."""
    if not 1 <= number <= (there := len(available_cores())):
        raise UsageError(f"--cores must lie in 1..{there}, the cores of this process, not {number}")
    return available_cores()[-number:]


def start(command: Command, cores: Cores, log: IO, environment: Variables = None) -> subprocess.Popen:
    """Start `command` in the repository's root, on `cores` alone, with its output in the open file `log`.

    The command "python" is this process's own.
    """
    program = sys.executable if command[0] == "python" else command[0]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # of this thread alone, from which the command inherits it
    try:
        return subprocess.Popen(
            [program, *command[1:]], cwd=ROOT, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(command: Command, cores: Cores, log: Path, variables: Variables = None) -> Iterator[subprocess.Popen]:
    """Give the process of `command`, with one thread; it and all that it left are ended when this is left.

    `variables` join its environment. This project's packages are not on its path.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with open(log, "wb") as output:
        process = start(command, cores, output, inherited | ONE_THREAD | dict(variables or {}))
    try:
        yield process
    finally:
        end(process)


def finish(command: Command, cores: Cores, log: Path, variables: Variables = None, stop: Stop | None = None) -> None:
    """Run `command` to its end as `running` does; RunError with its exit code and last line where it fails."""
    with running(command, cores, log, variables) as process:
        if code := wait(process, stop or Stop()):
            raise failure(code, log)


def failure(code: int, log: Path) -> RunError:
    return RunError(f"it ended with exit code {code}: {last_line(log)}")


def last_line(log: Path) -> str:
    """Return the last line in `log` that begins with "error:", or else the last of all, and the name of the file."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error:")]
    return f"{(errors or lines or ['it printed nothing'])[-1][:200]} ({log})"


def wait(process: subprocess.Popen, stop: Stop, stopping: Callable[[], object] = lambda: None) -> int:
    """Wait for `process` and return its exit code. On `stop` it gets Ctrl-C once, after a call of `stopping`."""
    interrupted = False
    while process.poll() is None:
        if stop.now:
            end(process, patience=0)
        elif stop.asked and not interrupted:
            stopping()
            process.send_signal(signal.SIGINT)
            interrupted = True
        time.sleep(0.05)
    return process.returncode


def end(process: subprocess.Popen, patience: float = PATIENCE) -> None:
    """End the process and every process that it left: SIGTERM, and SIGKILL after `patience` seconds."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, PATIENCE)):
        for pid in session_members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + seconds
        while (process.poll() is None or session_members(process.pid)) and time.monotonic() < until:
            time.sleep(0.02)


def locked(log: IO) -> bool:
    """Take the lock on an open log and return whether that was possible.

    The process that is started with the log inherits the lock, so that it lasts as long as the process.
    """
    with suppress(BlockingIOError):
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def on_cores(
    work: Callable[[Any, list[int], Stop], Any], items: Sequence[Any], cores: Cores, each: int = 1
) -> Iterator[tuple[Any, Future]]:
    """Call `work(item, its cores, stop)` for every item, as many at a time as fit `cores` with `each` of their own.

    Yield (item, future) as they end. Two jobs that share cores slow each other down to a crawl. Where this generator is
    closed early, as by Ctrl-C or SIGTERM, waiting items are dropped and `stop` tells the others; a second Ctrl-C kills
    them.
    """
    free: SimpleQueue[list[int]] = SimpleQueue()
    each = min(each, len(cores))
    places = [list(cores[i : i + each]) for i in range(0, len(cores) - each + 1, each)]
    for place in places:
        free.put(place)
    stop = Stop()

    def on_a_place(item: Any) -> Any:
        place = free.get()
        try:
            return work(item, place, stop)
        finally:
            free.put(place)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ThreadPoolExecutor(len(places))
    futures = {pool.submit(on_a_place, item): item for item in items}
    try:
        for future in as_completed(futures):
            yield futures[future], future
    finally:
        stop.asked = True
        under_way = [future for future in futures if not future.cancel()]
        pool.shutdown(wait=False)
        try:
            all_ended(under_way)  # not the pool's threads: one whose join was interrupted counts as ended (Python 3.11)
        except KeyboardInterrupt:
            stop.now = True
            all_ended(under_way)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
