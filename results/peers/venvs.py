"""A virtual environment a peer, made from the package index once and kept."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from results.peers.catalogue import Peer
from runners.errors import RunError
from runners.records.files import write_atomically


def ensure(peer: Peer, folder: Path) -> Path:
    """The Python of `folder`/venv, with what `peer` needs installed; RunError, one line, where that cannot be.

    The list of what was asked for is written last: an environment that was interrupted, or made for another list, is
    made anew.
    """
    venv, stamp = folder / "venv", folder / "requirements.txt"
    python = venv / "bin/python"
    wanted = "\n".join(requirements(peer))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    stamp.unlink(missing_ok=True)
    shutil.rmtree(venv, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"installing {peer.name} into {folder}", flush=True)
    _run([sys.executable, "-m", "venv", str(venv)])
    _run([str(python), "-m", "pip", "install", "--quiet", *requirements(peer)])
    write_atomically(stamp, wanted.encode())
    return python


def requirements(peer: Peer) -> list[str]:
    """With the torch that this project runs, so that both sides have the same kernels."""
    return [f"torch=={version('torch').partition('+')[0]}", *peer.requirements]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"could not be installed: {reason(done.stderr or done.stdout)}")


def reason(output: str) -> str:
    """The last line that pip calls an error, or the last of all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1]
