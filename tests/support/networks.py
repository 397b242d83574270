"""Two networks for tests, joined by a cable that can be cut."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support import ROOT

ADDRESS = "10.77.0.{}"


@contextmanager
def two_networks() -> Iterator[tuple[Callable[..., subprocess.Popen], Callable[[], None]]]:
    """Yield a function that starts a command as a rank, each in a network of its own, and one that cuts the cable
    between them; skip the test where networks cannot be made."""
    names = [f"gempi{os.getpid()}-{rank}" for rank in range(2)]  # an interface's name has 15 letters at most

    def start(rank: int, *command: str) -> subprocess.Popen:
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        variables |= {"MASTER_ADDR": ADDRESS.format(1), "MASTER_PORT": "29555", "GLOO_SOCKET_IFNAME": names[rank]}
        return subprocess.Popen(
            ["ip", "netns", "exec", names[rank], *command],
            cwd=ROOT,
            env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for rank, name in enumerate(names):
            _ip("-n", name, "address", "add", f"{ADDRESS.format(rank + 1)}/24", "dev", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", name, "up")
        yield start, lambda: _ip("-n", names[0], "link", "set", names[0], "down")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"networks cannot be made here: {getattr(error, 'stderr', error)}")
