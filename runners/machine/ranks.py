"""Ranks as processes that torchrun started: `torchrun --nproc-per-node 2 -m runners.atari ...`.

Each has its own environments and actors and a copy of the network. Gradients and statistics are summed over all ranks,
so that every copy takes the same step.
"""

import os
import signal
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from agents.ranks import Alone
from runners.errors import RunError, UsageError
from runners.machine.signals import die_with_parent


class OneRank(Alone):
    """A run in one process."""

    rank, size, local_size = 0, 1, 1

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        pass

    def copy_first(self, module: nn.Module) -> None:
        pass

    def meet(self, patience: float) -> None:
        pass

    def keep_alike(self, module: nn.Module) -> None:
        pass

    def any(self, flag: bool) -> bool:
        return flag

    def any_each(self, *flags: bool) -> tuple[bool, ...]:
        return flags


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class TorchRanks:
    """Ranks over torch.distributed: NCCL sends tensors on GPUs, gloo others."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def total(self, x: Tensor) -> Tensor:
        return _Total.apply(x)

    @torch.no_grad()
    def gather(self, x: Tensor) -> Tensor:
        whole = x.new_empty(self.size * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(whole, x.contiguous())
        return whole

    def own(self, x: Tensor) -> Tensor:
        return x.chunk(self.size)[self.rank]

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of `parameters` over ranks, in one message."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def copy_first(self, module: nn.Module) -> None:
        """Copy the first rank's parameters and buffers to every rank."""
        for tensor in [*module.parameters(), *module.buffers()]:
            sent = tensor.contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)

    def keep_alike(self, module: nn.Module) -> None:
        """Compare the ranks' `module` by checksums; if one differs, warn and copy the first rank's to all."""
        checksum = 0
        for tensor in module.state_dict().values():
            checksum = zlib.crc32(tensor.detach().cpu().numpy().tobytes(), checksum)
        every = self.gather(torch.tensor([checksum])).tolist()
        if strays := [str(rank) for rank, other in enumerate(every) if other != every[0]]:
            if self.rank == 0:
                print(f"warning: weights of rank {', '.join(strays)} differ from rank 0's, which all take now")
            self.copy_first(module)

    def meet(self, patience: float) -> None:
        """Wait for all ranks; after `patience` seconds raise RunError on the first rank, which names the missing ones.

        The others wait for the first as long as it takes. With NCCL, which has no such call, return at once: it has a
        timeout of its own.
        """
        if dist.get_backend() != "gloo":
            return
        try:
            dist.monitored_barrier(timeout=timedelta(seconds=patience), wait_all_ranks=True)
        except RuntimeError as error:
            what = " ".join(str(error).split())
            raise RunError(f"ranks waited {patience:g} s for others (--patience): {what}") from error

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds on any rank."""
        return self.any_each(flag)[0]

    def any_each(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it holds on any rank, by one message."""
        return tuple((self.total(torch.tensor(flags, dtype=torch.float32)) > 0).tolist())


Ranks = OneRank | TorchRanks
ONE_RANK = OneRank()
PATIENCE = timedelta(hours=2)
"""Time that ranks wait for each other: the first one evaluates and saves alone."""


def started_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Join the process group of torchrun, if it started this process, and leave it at the end."""
    if not started_by_torchrun():
        yield ONE_RANK
        return
    if device.type == "cuda":
        own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= gpus:
            raise UsageError(f"more processes than the {gpus} GPUs of this machine: --nproc-per-node {gpus} at most")
        torch.cuda.set_device(own)
    die_with_parent(signal.SIGTERM)  # a killed torchrun tells its ranks nothing: they save and stop
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    ranks = TorchRanks()
    try:
        yield ranks
        ranks.any(False)  # all wait for the first, which evaluates and saves alone: torchrun ends it if another fails
    finally:
        dist.destroy_process_group()
