"""Ranks that drift apart are brought together, and one that does not come is named."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from runners.errors import RunError
from runners.machine.ranks import TorchRanks


def work(rank: int, folder: str, port: int) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = TorchRanks()
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 4)
    kept = network.weight.detach().clone()
    ranks.meet(60.0)
    ranks.keep_alike(network)
    with torch.no_grad():
        network.weight[2, 1] += rank * 1e-7
    drifted = not torch.equal(network.weight, kept)
    ranks.keep_alike(network)
    assert drifted == (rank == 1) and torch.equal(network.weight, kept)
    if rank == 0:
        with pytest.raises(RunError, match=r"waited 1 s for others \(--patience\): .*1") as error:
            ranks.meet(1.0)
        assert "\n" not in str(error.value)
    (Path(folder) / f"{rank} is done").touch()
    os._exit(0)  # one is missing for good: the group cannot be left together


def test_ranks_are_kept_alike_and_a_missing_one_is_named(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    multiprocessing.spawn(work, (str(tmp_path), port), nprocs=2)
    assert {path.name for path in tmp_path.iterdir()} == {"0 is done", "1 is done"}
    assert capfd.readouterr().out.count("warning: weights of rank 1 differ from rank 0's") == 1
