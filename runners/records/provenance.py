"""Provenance of a run: versions of packages, commit, machine."""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runners.config import cores

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("torch", "numpy", "envpool", "ale-py", "gymnasium")


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Return the versions of packages that decide a run's numbers; None where one is not installed."""
    return {name: _version(name) for name in names}


def machine() -> dict[str, str | int]:
    return {"processor": _processor(), "cores": cores()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of the code, with "-dirty" if code of a run was edited since; None outside of a repository."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    try:
        edited = git("status", "--porcelain", "--untracked-files=no", "--", "agents", "envs", "networks", "runners")
        return git("rev-parse", "HEAD").strip() + ("-dirty" if edited else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    """Return the name of the processor, or its architecture if the system has no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
