"""An actor in a process of its own: it fills the batches that it is given in turn, and is started again if it dies."""

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

RESTARTS, WITHIN = 5, 600.0
"""Deaths of one actor, within as many seconds, after which the run goes on; one more ends it."""
FIRST_PAUSE = 0.1
"""Seconds between a death and the next start; each further death doubles them."""
STACK_SECONDS = 1.0
"""Seconds that an actor which hangs has to write where it hangs."""

Make = Callable[[int], Actor]
"""Makes the actor, whose random numbers are others at each start; the argument counts these from 0."""


class ActorProcess:
    """Fills one of `views` for each `give`, in their order; `receive` waits for the next that is full.

    Whatever it was filling when it died is dropped whole, and filled anew.
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
        """Hand it a part of a batch to fill."""
        self._given.append(view)
        with suppress(OSError):  # it is dead, which is found out where it is waited for
            self.channel.send(view)

    def receive(self) -> int:
        """Wait until the part that was given first is full, and return the version of the weights that filled it.

        RunError where it failed, died too often, or gave nothing for `patience` seconds.
        """
        while True:
            if not self.channel.poll(self.patience):
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
        """User and system time so far, of one that died until it was last asked."""
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
        its_end.close()  # the actor's alone is open: with the actor, the connection ends
        self.starts += 1

    def _start_again(self) -> None:
        self.process.join()
        now = time.monotonic()
        self._deaths = [*(then for then in self._deaths if now - then < WITHIN), now]
        often, died = len(self._deaths), f"{self.name} died (exit code {self.process.exitcode})"
        if often > RESTARTS:
            raise RunError(
                f"{died}, the {often}th time within {WITHIN / 60:g} minutes; continue with --resume once mended"
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
        return RunError(f"{self.name} gave nothing for {self.patience:g} s (--patience); its stack stands above")


def _act(make: Make, views: Sequence[Buffer], weights: SharedWeights, starts: int, channel: Connection) -> None:
    """The life of an actor process; of an error it reports one line and the traceback."""
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
        with suppress(OSError):  # where the learner has ended, nobody is there to hear of it
            channel.send((describe(error)[1], traceback.format_exc()))
        sys.exit(1)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started inside inherit the mask: a Ctrl-C or SIGTERM to the whole group must leave the actors alive,
    so that the learner can finish its batch and save."""
    resource_tracker.ensure_running()  # it would undo the blocking were it started inside
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
