"""Ranks that drift apart are brought together, and one that hangs is named."""

import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from runners.errors import RunError
from runners.machine.ranks import TorchRanks


def work(rank: int, folder: Path, size: int, hanging: int, port: int) -> None:
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = TorchRanks(patience=5.0)
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 4)
    kept = network.weight.detach().clone()
    ranks.meet()
    ranks.keep_alike(network)
    with torch.no_grad():
        network.weight[2, 1] += (rank == size - 1) * 1e-7
    drifted = not torch.equal(network.weight, kept)
    ranks.keep_alike(network)
    assert drifted == (rank == size - 1) and torch.equal(network.weight, kept)
    while rank == hanging and len(list(folder.iterdir())) < size - 1:
        time.sleep(0.1)
    if rank != hanging:
        began = time.monotonic()
        if rank == 0:
            time.sleep(3)  # it comes last, and the others must not end before it has named the one that hangs
        with pytest.raises(RunError) as error:
            ranks.meet()
        waited = time.monotonic() - began
        enough = 7.5 < waited < 20 if hanging else 9.5 < waited < 20
        (folder / f"{rank} waited {enough}").write_text(str(error.value))
    os._exit(0)  # one is missing for good: the group cannot be left together


@pytest.mark.parametrize(("size", "hanging"), [(2, 1), (4, 3), (4, 0)])
def test_ranks_are_kept_alike_and_a_hanging_one_is_named(
    size: int, hanging: int, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    multiprocessing.spawn(work, (tmp_path, size, hanging, port), nprocs=size)
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert said.keys() == {f"{rank} waited True" for rank in range(size) if rank != hanging}
    for name, text in said.items():
        first = name.startswith("0 ")
        assert text.startswith(f"rank {name[0]} waited for others (--patience 5): ") and "\n" not in text
        assert (f"anks {hanging} failed to pass" if first else "no answer of rank 0") in text
    assert capfd.readouterr().out.count(f"warning: weights of rank {size - 1} differ from rank 0's") == 1
