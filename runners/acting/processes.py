"""Actors in processes of their own, which fill parts of batches and are started again if they die."""

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import torch
import torch.multiprocessing as multiprocessing

from runners.acting.actor import Actor
from runners.acting.unrolls import Buffer
from runners.acting.weights import SharedWeights
from runners.errors import RunError, describe
from runners.machine.allocator import keep_freed_memory
from runners.machine.signals import die_with_parent
from runners.machine.watchdog import patiently

RESTARTS, WITHIN = 5, 600.0
"""Number of deaths of one actor, within so many seconds, that a run survives."""
FIRST_PAUSE = 0.1
"""Seconds between the first death and the next start; each further death doubles them."""
STACK_SECONDS = 1.0
"""Seconds that a hanging actor has to write its stack."""

Make = Callable[[int], Actor]
"""Function that makes the actor; its argument counts the starts from 0, each of which has its own random numbers."""


class ActorProcess:
    """Process of an actor, which fills one of `views` for each `give`, in their order; `receive` waits for the next.

    A view that it was filling when it died is filled again from the start.
    """

    def __init__(self, name: str, make: Make, views: Sequence[Buffer], weights: SharedWeights, patience: float) -> None:
        self.name, self.patience = name, patience
        self.starts = 0
        self._arguments = make, views, weights
        self._given: deque[int] = deque()
        self._deaths: list[float] = []
        self._ticks = self._ticks_before = 0
        self._start()

    @property
    def restarts(self) -> int:
        return self.starts - 1

    def give(self, view: int) -> None:
        """Give the actor a part of a batch to fill."""
        self._given.append(view)
        with suppress(OSError):  # the actor is dead, which `receive` finds out
            self.channel.send(view)

    def receive(self) -> int:
        """Wait until the part that was given first is full, and return the version of the weights that filled it.

        Raise RunError if the actor failed, died too often, or gave nothing for `patience` seconds.
        """
        while True:
            if not patiently(self.channel.poll, self.patience):
                raise self._hung()
            try:
                message = self.channel.recv()
            except (EOFError, OSError):
                self._start_again()
                continue
            if isinstance(message, int):
                self._given.popleft()
                return message
            why, trace = message
            raise RunError(f"{self.name}: {why}") from RuntimeError(trace)

    def cpu_seconds(self) -> float:
        """Return user and system seconds so far; of a dead process, those until the last call."""
        with suppress(OSError), open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            self._ticks = int(fields[11]) + int(fields[12])
        return (self._ticks_before + self._ticks) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.channel, its_end = context.Pipe()
        arguments = (*self._arguments, self.starts, its_end)
        self.process = context.Process(target=_act, args=arguments, daemon=True, name=self.name)
        with _signals_blocked():
            self.process.start()
        its_end.close()  # only the actor's end stays open, so that its death closes the connection
        self.starts += 1

    def _start_again(self) -> None:
        self.process.join()
        now = time.monotonic()
        self._deaths = [*(then for then in self._deaths if now - then < WITHIN), now]
        often, died = len(self._deaths), f"{self.name} died (exit code {self.process.exitcode})"
        if often > RESTARTS:
            raise RunError(
                f"{died}, the {often}th time within {WITHIN / 60:g} minutes; remove the cause, then --resume"
            )
        print(f"{died}: its unroll is dropped, and it is started again ({often} of {RESTARTS})", flush=True)
        time.sleep(FIRST_PAUSE * 2 ** (often - 1))
        self._ticks_before, self._ticks = self._ticks_before + self._ticks, 0
        self._start()
        given, self._given = self._given, deque()
        for view in given:
            self.give(view)

    def _hung(self) -> RunError:
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(STACK_SECONDS)
        self.kill()
        return RunError(f"{self.name} gave nothing for {self.patience:g} s (--patience); its stack is above")


def _act(make: Make, views: Sequence[Buffer], weights: SharedWeights, starts: int, channel: Connection) -> None:
    """Run an actor process: it fills the views that it is given, and reports an error as one line and the traceback."""
    die_with_parent()
    faulthandler.register(signal.SIGUSR1)
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        actor, version = make(starts), 0
        while True:
            view = views[channel.recv()]
            version = weights.fetch(actor.load, version)
            actor.collect(view)
            channel.send(version)
    except Exception as error:
        with suppress(OSError):  # the learner may have ended
            channel.send((describe(error)[1], traceback.format_exc()))
        sys.exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in processes that are started inside: a Ctrl-C to the whole group must leave the actors
    alive, so that the learner can finish its batch and save."""
    resource_tracker.ensure_running()  # its start inside would undo the blocking of signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
