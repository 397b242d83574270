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
from torch.distributed.device_mesh import DeviceMesh

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

    def meet(self) -> None:
        pass

    def wait_for_first(self) -> None:
        pass

    def keep_alike(self, module: nn.Module) -> None:
        pass

    def any(self, flag: bool) -> bool:
        return flag

    def any_each(self, *flags: bool) -> tuple[bool, ...]:
        return flags


LONGEST = 7200.0
"""Seconds that ranks wait for each other at the start, and by default later on."""
EVER = timedelta(days=365)
"""Time that ranks wait for the first one where it evaluates alone."""


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class TorchRanks:
    """Ranks over torch.distributed: NCCL sends tensors on GPUs, gloo others. A rank that waits for `patience` seconds
    for the others ends with an error."""

    def __init__(self, patience: float = LONGEST) -> None:
        self.patience = timedelta(seconds=patience)
        self.group = dist.new_group(timeout=self.patience)
        # The first rank may come later than another one, and must still have the time to name a third one.
        self._meeting = dist.new_group(timeout=2 * self.patience)
        self._pause = dist.new_group(timeout=EVER)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def total(self, x: Tensor) -> Tensor:
        return _Total.apply(x, self.group)

    @torch.no_grad()
    def gather(self, x: Tensor) -> Tensor:
        whole = x.new_empty(self.size * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(whole, x.contiguous(), group=self.group)
        return whole

    def own(self, x: Tensor) -> Tensor:
        return x.chunk(self.size)[self.rank]

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of `parameters` over ranks, in one message."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat, group=self.group)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def copy_first(self, module: nn.Module) -> None:
        """Copy the first rank's parameters and buffers to every rank."""
        for tensor in [*module.parameters(), *module.buffers()]:
            sent = tensor.contiguous()
            dist.broadcast(sent, 0, group=self.group)
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

    def meet(self) -> None:
        """Wait for all ranks; RunError if one does not come, which on the first rank names all that are missing. With
        NCCL, which has no such call, return at once."""
        if dist.get_backend() != "gloo":
            return
        try:
            dist.monitored_barrier(self._meeting, timeout=self.patience, wait_all_ranks=True)
        except RuntimeError as error:
            what = "no answer of rank 0, which hangs, has ended, or names another one in its log"
            if self.rank == 0:
                what = " ".join(str(error).split())
            seconds = self.patience.total_seconds()
            raise RunError(f"rank {self.rank} waited for others (--patience {seconds:g}): {what}") from error

    def wait_for_first(self) -> None:
        """Wait for the first rank, which does something alone, as long as it takes."""
        dist.all_reduce(torch.zeros(1), group=self._pause)

    def mesh(self, device: torch.device) -> DeviceMesh:
        """Return all ranks as a mesh of one dimension, over which a model can be spread."""
        return DeviceMesh.from_group(self.group, device.type)

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds on any rank."""
        return self.any_each(flag)[0]

    def any_each(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it holds on any rank, by one message."""
        return tuple((self.total(torch.tensor(flags, dtype=torch.float32)) > 0).tolist())


Ranks = OneRank | TorchRanks
ONE_RANK = OneRank()


def started_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def join(device: torch.device, patience: float = LONGEST) -> Iterator[Ranks]:
    """Join the process group of torchrun, if it started this process, and leave it at the end; a rank waits for the
    others for `patience` seconds."""
    if not started_by_torchrun():
        yield ONE_RANK
        return
    if device.type == "cuda":
        own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= gpus:
            raise UsageError(f"more processes than the {gpus} GPUs of this machine: --nproc-per-node {gpus} at most")
        torch.cuda.set_device(own)
    die_with_parent(signal.SIGTERM)  # a killed torchrun tells its ranks nothing: they save and stop
    with _connected(patience):
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=LONGEST), **_meeting_place())
        ranks = TorchRanks(patience)
        try:
            yield ranks
        finally:
            dist.destroy_process_group()


def _meeting_place() -> dict[str, Any]:
    """Return the store in which ranks find each other, with the number of this start before every key.

    torchrun keeps one store over all restarts, in which ranks would read the addresses of processes that have ended.
    Machines may count their restarts differently, so on several of them the keys stay as they are.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return {}
    store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=LONGEST)))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": dist.PrefixStore(f"start {start}", store), "rank": rank, "world_size": size}


@contextmanager
def _connected(patience: float) -> Iterator[None]:
    """Turn gloo's error of a rank that gives nothing for `patience` seconds, or has died, into a RunError."""
    try:
        yield
    except RuntimeError as error:
        if "/gloo/" not in str(error):
            raise
        rank, why = os.environ["RANK"], " ".join(str(error).rpartition("] ")[2].partition(". ")[0].split())
        if "Timed out" in why:
            raise RunError(
                f"rank {rank} waited for others (--patience {patience:g}): no answer while learning"
            ) from error
        raise RunError(f"rank {rank} lost another rank: {why}") from error
