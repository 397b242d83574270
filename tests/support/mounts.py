"""File systems for tests: small ones, and such that cannot be written."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount an empty file system of this size at `folder`; skip the test where mounting is not allowed."""
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "none"):
        yield folder


@contextmanager
def unwritable(folder: Path) -> Iterator[str]:
    """Make `folder` one that cannot be written, and yield what the system says of it. A mode does not bind root, for
    whom it is mounted read-only, or the test is skipped where mounting is not allowed."""
    if os.geteuid():
        folder.chmod(0o555)
        yield "Permission denied"
        folder.chmod(0o755)
        return
    with _mounted(folder, "--bind", str(folder)):
        _mount("-o", "remount,ro,bind", str(folder))
        yield "Read-only file system"


@contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    _mount(*options, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*options: str) -> None:
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not allowed here: {getattr(error, 'stderr', error)}")
