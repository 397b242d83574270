"""Errors of commands: one line on stderr and an exit code (2: wrong usage, 1: failure), a traceback on request."""

import argparse
import errno
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from envs.interface import EnvError


class UsageError(Exception):
    """Error of the user's, exit code 2; the message says what would be right."""


class RunError(Exception):
    """Failure of the run itself, exit code 1: a dead actor, an unreadable checkpoint, a full disk."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are a UsageError in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError, which configurations raise for impossible settings, into a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def while_running() -> Iterator[None]:
    """Turn an EnvError into a RunError: an environment that was made and then fails is no wrong usage."""
    try:
        yield
    except EnvError as error:
        raise RunError(str(error)) from error


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Turn a failed import of what the extra `name` installs into a UsageError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install -e '.[{name}]'") from error


def main_guard(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run `main(argv)` and exit with the code it returns (None: 0); print an exception as one line, `error: ...`.

    `--debug` anywhere in `argv` (default: the command line) is removed, and prints the traceback before that line.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    if not debug:
        threading.excepthook = _thread_failed
    try:
        code = main([argument for argument in argv if argument != "--debug"])
        print(end="", flush=True)  # here, where the failure of the last output can still be reported
    except (Exception, KeyboardInterrupt) as error:
        code = _report(error, debug)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which rich turns into an exit without a word
            raise
        code = _report(RunError(UNREAD), debug)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # In a rank of torchrun, sharded tensors keep the process group alive. Its thread would release the last of
        # them, and so a Python object, while the interpreter shuts down, which aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _report(error: BaseException, debug: bool) -> int:
    """Print an exception, and return the exit code for it."""
    if debug:
        traceback.print_exception(error)
    code, line = describe(error)
    print(f"error: {line}", file=sys.stderr)
    try:
        print(end="", flush=True)
    except OSError:  # the interpreter would try again while it ends, and complain in lines of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


UNREAD = "nothing reads the output any more; send it to a file, or to a command that reads to the end"


def describe(error: BaseException) -> tuple[int, str]:
    """Return the exit code for an exception and a line that describes it."""
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
        case BrokenPipeError() if _output_closed():
            return 1, UNREAD
        case OSError(strerror=str(why)) if error.filename:
            return 1, f"{error.filename}: {why}"
        case _:
            return 1, f"{type(error).__name__}: {message} (run with --debug for the traceback)"


def _output_closed() -> bool:
    """Return whether the standard output is a pipe that nobody reads; an environment's own pipe may break too."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report an exception in a thread, but not in TensorBoard's writer, which passes it to the main thread."""
    if not type(failure.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failure)
