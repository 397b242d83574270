"""A failing command: one line, the right exit code, a traceback only on request. And whole files or none."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from envs.interface import EnvError
from runners.errors import RunError, UsageError, describe, main_guard, needs_extra, usage_errors
from runners.records.checkpoint import CheckpointError
from runners.records.files import write_atomically
from runners.records.metrics import TensorBoardLog
from support import ROOT


@pytest.fixture(autouse=True)
def excepthook_is_put_back(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)


def outcome(capsys, error: BaseException | int | None, *argv: str) -> tuple[int, str]:
    def main(arguments):
        assert arguments == [argument for argument in argv if argument != "--debug"]
        if isinstance(error, BaseException):
            raise error
        return error

    with pytest.raises(SystemExit) as exit_:
        main_guard(main, argv)
    return exit_.value.code or 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no core 'gtrlx'; nearest: gtrxl"), 2, "no core 'gtrlx'; nearest: gtrxl"),
        (EnvError("no game 'Pnog'; nearest: Pong"), 2, "no game 'Pnog'; nearest: Pong"),
        (RunError("actor 3 died"), 1, "actor 3 died"),
        (CheckpointError("x.safetensors is damaged"), 1, "x.safetensors is damaged"),
        (RunError("two\n  lines"), 1, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), 1, "/runs/x: Permission denied"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero (run with --debug for the traceback)"),
        (ValueError("inside"), 1, "ValueError: inside (run with --debug for the traceback)"),
        (ConnectionError("gone"), 1, "ConnectionError: gone (run with --debug for the traceback)"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    assert outcome(capsys, error, "--steps", "3") == (code, f"error: {line}\n")
    debug_code, text = outcome(capsys, error, "--steps", "--debug", "3")
    assert debug_code == code and text.startswith("Traceback") and text.endswith(f"\nerror: {line}\n")


@pytest.mark.parametrize(
    ("body", "code", "said", "complaint"),
    [("print('done')", 0, "done\n", ""), ("raise RunError('actor 3 died')", 1, "", "error: actor 3 died\n")],
)
def test_a_rank_ends_without_taking_the_interpreter_down(body, code, said, complaint):
    """And what it has printed, which a pipe buffers, still arrives."""
    script = (
        "import atexit; from runners.errors import RunError, main_guard\n"
        "atexit.register(print, 'taken down')\n"
        f"def main(argv): {body}\n"
        "main_guard(main, [])"
    )
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, said, complaint)


@pytest.mark.parametrize("name", ["metrics.csv", None])
def test_a_full_disk_says_so(capsys, name):
    code, line = outcome(capsys, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([name] if name else [])))
    assert code == 1 and line.count("\n") == 1 and "disk is full" in line and (name or "") in line


def test_success_exit_codes_and_parsers_that_exit_pass_through(capsys):
    assert outcome(capsys, None) == (0, "")
    assert outcome(capsys, 3) == (3, "")
    assert outcome(capsys, SystemExit(2)) == (2, "")


def test_a_thread_that_fails_is_reported(capsys):
    def fail():
        raise ValueError("a bug")

    def main(_):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    with pytest.raises(SystemExit):
        main_guard(main, [])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("cause", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_events_that_cannot_be_written_are_one_line_that_names_their_folder(capsys, tmp_path, monkeypatch, cause):
    """The thread that writes them passes its error to the main thread, and reports nothing itself."""
    log = TensorBoardLog(tmp_path)

    def refuse(*_):
        raise OSError(cause, os.strerror(cause))

    def main(_):
        monkeypatch.setattr(LocalFileSystem, "_write", refuse)
        with log:
            for step in range(100):
                log.scalars(step, {"a/b": 1.0})

    with pytest.raises(SystemExit):
        main_guard(main, [])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path) in said
    assert ("no space left" if cause == errno.ENOSPC else os.strerror(cause)) in said


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("| head -1", "print(i)"),
        ("| head -1", "console.print(i)"),
        ("> /dev/full", "print(i)"),
        ("> /dev/full", "console.print(i)"),
        ("> /dev/full", "i or print(i)"),
    ],
)
def test_output_that_goes_nowhere_is_one_line(tmp_path, where, body):
    """Of a reader that ended, or of a full disk; a single line, too, which Python keeps until the end."""
    script = tmp_path / "talks.py"
    script.write_text(
        "from rich.console import Console; from runners.errors import main_guard\n"
        f"def main(_):\n  console = Console()\n  for i in range(100_000): {body}\n"
        "main_guard(main, [])"
    )
    command = f"set -o pipefail; {sys.executable} {script} {where}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True)
    said = done.stderr.decode()
    assert done.returncode == 1 and said.startswith("error: ") and said.count("\n") == 1, said
    assert ("no space left" if "full" in where else "nothing reads the output any more") in said


def test_settings_that_cannot_be_are_usage_errors():
    with pytest.raises(UsageError, match="--layers must be at least 1"):
        with usage_errors():
            raise ValueError("--layers must be at least 1")


def test_a_real_interrupt_of_a_real_process_is_one_line():
    """The program sleeps in short steps: a signal that comes just before the system call does not cut that sleep."""
    program = (
        "import time; from runners.errors import main_guard\n"
        "def main(argv):\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(300): time.sleep(0.1)\n"
        "main_guard(main)"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=20)
    assert (process.returncode, text) == (130, "error: interrupted\n")


def test_an_extra_that_is_missing_is_named():
    with pytest.raises(UsageError, match=r"^no_such_package is not installed: pip install -e '\.\[lm\]'$"):
        with needs_extra("lm"):
            import no_such_package  # noqa: F401


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    """The kernel itself refuses after 1000 bytes, as a full disk does."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "metrics.csv"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_pipe_that_breaks_elsewhere_is_not_called_the_output():
    """As that of an environment to a simulator's process that has died."""
    assert describe(BrokenPipeError(errno.EPIPE, "Broken pipe")) == (
        1,
        "BrokenPipeError: [Errno 32] Broken pipe (run with --debug for the traceback)",
    )
