"""Folders that are whole or absent, with checksums of their files, by which damage is found before they are read."""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runners.errors import RunError
from runners.records.files import REPLACED, UNFINISHED, naming

CHECKSUMS = "checksums.json"
BLOCK = 2**20


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which replaces `path` at the end, with the checksums of its files.

    Raise OSError if another process has made `path` meanwhile.
    """
    filling, old = (path.with_name(f".{path.name}-{os.getpid()}.{end}") for end in (UNFINISHED, REPLACED))
    replaces = path.exists()
    filling.mkdir(parents=True)
    try:
        with naming(path):
            yield filling
            files = sorted(file for file in filling.rglob("*") if file.is_file())
            checksums = {str(file.relative_to(filling)): _checksum(file) for file in files}
            (filling / CHECKSUMS).write_text(json.dumps(checksums, indent=2))
            if replaces:
                path.rename(old)
            filling.rename(path)
    finally:
        for left in (filling, old):
            shutil.rmtree(left, ignore_errors=True)


def check_whole(path: Path) -> None:
    """Raise RunError if a file in the folder `path` is not as it was written; without checksums check nothing."""
    if not (path / CHECKSUMS).exists():
        return
    try:
        checksums = dict(json.loads((path / CHECKSUMS).read_text()))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path / CHECKSUMS} is damaged ({error})") from error
    for name, checksum in checksums.items():
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing")
        if _checksum(path / name) != checksum:
            raise RunError(f"{path / name} is damaged: it does not have the checksum that it was saved with")


def _checksum(path: Path) -> str:
    """Return the CRC-32 of a file, and flush it to the disk."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
        os.fsync(file.fileno())
    return f"{checksum:08x}"
