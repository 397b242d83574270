"""A run that is killed at a chosen moment: `python -m results.faults.victim RUNNER`, with flags of `runners.RUNNER`.

The environment variable MOMENT names the moment, and BLOW how often it occurs before the kill. The file MARK is made at
the kill, so that there is only one. Actor processes import this module too, and are killed at moments of their own.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners.acting.unrolls import Buffer
from runners.acting.weights import SLOTS, SharedWeights, flatten_weights
from runners.errors import main_guard
from runners.launch import main as train
from runners.records import checkpoint

calls = 0


def strike() -> None:
    """Kill this process at call number BLOW, unless MARK says that one was killed already."""
    global calls
    calls += 1
    if calls < int(os.environ["BLOW"]):
        return
    try:
        os.close(os.open(os.environ["MARK"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Strike before a call of `owner.name` for whose arguments `when` is true."""
    called = getattr(owner, name)

    def struck(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            strike()
        return called(*arguments, **options)

    setattr(owner, name, struck)


def in_writing() -> None:
    """Strike when half of a checkpoint is on the disk."""
    write = checkpoint.write_atomically

    def half(path: Path, *parts: bytes | memoryview) -> None:
        with open(path.with_name(f".{path.name}.gempi-tmp"), "wb") as file:
            file.write(b"".join(parts)[: sum(map(len, parts)) // 2])
        strike()
        write(path, *parts)

    checkpoint.write_atomically = half


def in_publishing() -> None:
    """Strike when half of new weights is written."""
    publish = SharedWeights.publish

    def half(self: SharedWeights, module: Any) -> None:
        weights = flatten_weights(module)
        self._slots[(self.version + 1) % SLOTS][: len(weights) // 2] = weights[: len(weights) // 2]
        strike()
        publish(self, module)

    SharedWeights.publish = half


MOMENTS: dict[str, Callable[[], None]] = {
    "half a checkpoint written": in_writing,
    "between a checkpoint's write and its rename": lambda: before(
        os, "replace", lambda _, path: str(path).endswith(".safetensors")
    ),
    "between a new checkpoint and the removal of an old": lambda: before(
        Path, "unlink", lambda path, *_: path.name.startswith("step_")
    ),
    "half of new weights published": in_publishing,
}
"""Moments of the learner."""
ACTORS: dict[str, Callable[[], None]] = {
    "half an unroll written": lambda: before(Buffer, "write", lambda buffer, t, *_: 2 * t == len(buffer.unroll.policy))
}
"""Moments of an actor."""


def main(argv: list[str]) -> int:
    runner, *flags = argv
    if runner == "lm":
        from runners.lm.launch import main as fine_tune

        return fine_tune(flags)
    return train(runner, flags)


moment = os.environ.get("MOMENT")
if __name__ == "__main__":
    MOMENTS.get(moment, lambda: None)()
    main_guard(main, sys.argv[1:])
elif __name__ == "__mp_main__":
    ACTORS.get(moment, lambda: None)()
