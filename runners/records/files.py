"""Files that are whole or absent: a killed process or a full disk never leaves half of one."""

import os
import shutil
from pathlib import Path


def write_atomically(path: str | os.PathLike, *parts: bytes | memoryview) -> None:
    """Replaces `path` by `parts`, joined, in one step; on any failure the old file stands and nothing else is left.

    The temporary file lies in the same folder because a rename is atomic only within a file system; it is flushed to
    the disk first because a rename may reach the disk before the bytes it names. Raises OSError, which names `path`.
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
            error.filename = str(path)  # a failing write knows no name
        raise


def remove_strays(folder: Path) -> None:
    """Remove what a process left in `folder` that was killed while it wrote."""
    for stray in (*folder.glob(".*.tmp"), *folder.glob(".*.old")):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
