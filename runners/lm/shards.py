"""A model spread over ranks (FSDP2): of every parameter, of its gradient and of its optimiser's state, each has a part.

While the M-step learns, a block's parameters are gathered when its turn comes, and its gradients summed and shared out
again. Whoever draws, evaluates or compares gathers the whole model first (`whole`), as ranks do not draw in step.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread `model` over the ranks of `mesh`, in place, by the blocks that transformers will not split, the rest as
    one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = getattr(base, "_no_split_modules", None) or ()
    for block in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor)


@contextlib.contextmanager
def whole(*models: nn.Module) -> Iterator[None]:
    """Inside, every rank has all of the `models`, sharded or not, and may call them as often as it likes, without
    gradients. All ranks enter together."""
    parts = [module for model in models for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(not any(part is model for model in models), recurse=False)


@torch.no_grad()
def gathered(tree: Any) -> Any:
    """Nested dicts, lists and tensors with each sharded tensor whole, on the CPU. All ranks call it together."""
    match tree:
        case dict():
            return {key: gathered(value) for key, value in tree.items()}
        case list():
            return [gathered(value) for value in tree]
        case DTensor():
            return tree.full_tensor().cpu()  # one after another: no rank's device holds all of them
        case _:
            return tree


@torch.no_grad()
def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, in parts as `like` is. All ranks call it together."""
    if not is_sharded(like):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
