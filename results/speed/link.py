"""Cost of summing a message over ranks: `torchrun --nproc-per-node 2 -m results.speed.link`, seconds by bytes."""

import json

import torch
import torch.distributed as dist
from torch.utils.benchmark import Timer

from runners.build import pick_device
from runners.config import RunConfig
from runners.errors import UsageError, main_guard
from runners.machine.ranks import join

SIZES = (4, 4 * 10**6, 4 * 10**7)
"""Bytes of float32."""
ROUNDS = 20


def main(argv: list[str]) -> int:
    torch.set_num_threads(1)
    device = pick_device(RunConfig())
    with join(device) as ranks:
        if argv or ranks.size == 1:
            raise UsageError("start it without arguments: torchrun --nproc-per-node 2 -m results.speed.link")
        messages = {size: {"dist": dist, "message": torch.zeros(size // 4, device=device)} for size in SIZES}
        timers = {size: Timer("dist.all_reduce(message)", globals=given) for size, given in messages.items()}
        seconds = {size: timer.timeit(ROUNDS).mean for size, timer in timers.items()}
        if ranks.rank == 0:
            print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    main_guard(main)
