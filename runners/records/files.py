"""Atomic writing of files: a killed process or a full disk never leaves half of one."""

import os
import shutil
from pathlib import Path


def write_atomically(path: str | os.PathLike, *parts: bytes | memoryview) -> None:
    """Replace `path` by `parts`, joined, in one step; after a failure the old file is there, and nothing else.

    The temporary file is in the same folder because a rename is atomic only within a file system. It is flushed first
    because a rename may reach the disk before the bytes of the file. Raise OSError, which names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write does not name its file
        raise


def remove_strays(folder: Path) -> None:
    """Remove temporary files and folders that a process left in `folder` when it was killed while writing."""
    for stray in (*folder.glob(".*.tmp"), *folder.glob(".*.old")):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
