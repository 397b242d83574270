"""A virtual environment for another library, made from the package index once and kept."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from runners.errors import RunError


def ensure(name: str, packages: Sequence[str], folder: Path) -> Path:
    """Return the Python of `folder`/venv, with `packages` installed; RunError, one line, where that cannot be.

    The list of what was asked for is written last, so that an environment that was interrupted, or made for another
    list, is made anew. The torch is this project's own, so that both sides have the same kernels. `uv` makes the
    environment where it is installed, else `venv` and `pip` do.
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
    if uv := shutil.which("uv"):
        _run([uv, "venv", "--python", sys.executable, str(venv)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *wanted])
    else:
        _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(python), "-m", "pip", "install", "--quiet", *wanted])
    stamp.write_text("\n".join(wanted))
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"could not be installed: {reason(done.stderr or done.stdout)}")


def reason(output: str) -> str:
    """Return the last line that the installer calls an error, or the last of all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[len("error:") :].strip() for line in lines if line.lower().startswith("error:")]
    return (errors or lines or ["the installer printed nothing"])[-1]
