"""Atomic writing of files: a killed process or a full disk never leaves half of one."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runners.errors import RunError

UNFINISHED, REPLACED = "gempi-tmp", "gempi-old"
"""Endings of the hidden names of files and folders that are being written, or replaced."""


def write_atomically(path: str | os.PathLike, *parts: bytes | memoryview) -> None:
    """Replace `path` by `parts`, joined, in one step; after a failure the old file is there, and nothing else.

    The temporary file is in the same folder because a rename is atomic only within a file system. It is flushed first
    because a rename may reach the disk before the bytes of the file. Raise OSError, which names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{UNFINISHED}")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # a folder that cannot be written holds none
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write does not name its file
        raise


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Name `path` in an OSError of the code inside that names no file, as that of a failed write does not."""
    try:
        yield
    except OSError as error:
        error.filename = os.fsdecode(error.filename or path)  # TensorBoard names its file in bytes
        raise


def remove_strays(folder: Path) -> None:
    """Remove temporary files and folders that a process left in `folder` when it was killed while writing."""
    for stray in (*folder.glob(f".*.{UNFINISHED}"), *folder.glob(f".*.{REPLACED}")):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the run in `folder`; RunError if one does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is the folder of a run that another process goes on with") from None
        yield
    finally:
        os.close(descriptor)
