"""A virtual environment for another library, made from the package index once and kept."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from results import jobs
from runners.errors import RunError


def ensure(name: str, packages: Sequence[str], folder: Path) -> Path:
    """Return the Python of `folder`/venv, with `packages` installed; RunError, one line, where that cannot be.

    The list of what was asked for is written last, so that an environment that was interrupted, or made for another
    list, is made anew. The torch is this project's own, so that both sides have the same kernels.
    """
    venv, stamp = folder / "venv", folder / "requirements.txt"
    python = venv / "bin/python"
    wanted = [f"torch=={version('torch').partition('+')[0]}", *packages]
    if python.exists() and stamp.exists() and stamp.read_text() == "\n".join(wanted):
        return python
    stamp.unlink(missing_ok=True)
    shutil.rmtree(venv, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"installing {name} into {folder}", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    for command in (["python", "-m", "venv", str(venv)], pip):
        try:
            jobs.finish(command, jobs.available_cores(), folder / "install.log")
        except RunError as error:
            raise RunError(f"{name} could not be installed: {error}") from error
    stamp.write_text("\n".join(wanted))
    return python
