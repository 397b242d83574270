"""Cost of summing a message over ranks: `torchrun --nproc-per-node 2 -m results.speed.link`, a JSON line of seconds."""

import json
import statistics
import time

import torch
import torch.distributed as dist

from runners.build import pick_device
from runners.config import RunConfig
from runners.errors import UsageError, main_guard
from runners.machine.ranks import join

SIZES = (4, 4 * 10**6, 4 * 10**7)
"""Bytes of float32."""
ROUNDS = 20


def main(argv: list[str]) -> int:
    if argv:
        raise UsageError(f"results.speed.link takes no arguments, not {' '.join(argv)}")
    torch.set_num_threads(1)
    device = pick_device(RunConfig())
    with join(device) as ranks:
        if ranks.size == 1:
            raise UsageError("one rank has no link: start it with torchrun --nproc-per-node 2 -m results.speed.link")
        seconds = {size: seconds_of(torch.zeros(size // 4, device=device)) for size in SIZES}
        if ranks.rank == 0:
            print(json.dumps({"ranks": ranks.size, "device": str(device), "seconds": seconds}))
    return 0


def seconds_of(message: torch.Tensor) -> float:
    """Return the seconds of one all-reduce of `message`, the median of ROUNDS."""
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(message)
        if message.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main_guard(main)
