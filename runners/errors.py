"""How a command fails: one line on stderr and an exit code (2: used wrongly, 1: went wrong), a traceback on request."""

import argparse
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from envs.interface import EnvError


class UsageError(Exception):
    """A wish of the user that cannot be met; the message says what would be right. Exit code 2."""


class RunError(Exception):
    """The run itself failed: a dead actor, an unreadable checkpoint, a full disk. Exit code 1."""


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are a UsageError, one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Inside, a ValueError is the user's doing: configurations raise it for settings that cannot be."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def while_running() -> Iterator[None]:
    """Inside, an EnvError is a failure of an environment that was made as it was asked for, and no wrong usage."""
    try:
        yield
    except EnvError as error:
        raise RunError(str(error)) from error


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Around imports of what the extra `name` of this package installs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install -e '.[{name}]'") from error


def main_guard(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs `main(argv)` and exits with the code it returns (None: 0); prints an exception as one line, `error: ...`.

    `--debug` anywhere in `argv` (default: the command line) is taken out, and prints the traceback above that line.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    if not debug:
        threading.excepthook = _thread_failed
    try:
        code = main([argument for argument in argv if argument != "--debug"])
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, line = describe(error)
        print(f"error: {line}", file=sys.stderr)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A rank of torchrun's. What is sharded keeps its process group alive, whose thread aborts the process where it
        # lets go of its last tensor, and so of a Python object, while the interpreter is being taken down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception and one line for it."""
    message = " ".join(str(error).split())
    match error:
        case UsageError() | EnvError():
            return 2, message
        case RunError():
            return 1, message
        case KeyboardInterrupt():
            return 130, "interrupted"  # 128 + SIGINT, as shells have it
        case OSError() if _disk_full(error):
            where = f" to write {error.filename}" if error.filename else ""
            return 1, f"the disk is full: no space left{where}; free some, or choose a folder on another disk"
        case OSError(strerror=str(why)) if error.filename:
            return 1, f"{error.filename}: {why}"
        case _:
            return 1, f"{type(error).__name__}: {message} (run with --debug for the traceback)"


def _disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer thread hands its error to the main thread, which reports it: no second report from here."""
    if not _disk_full(failure.exc_value):
        threading.__excepthook__(failure)
