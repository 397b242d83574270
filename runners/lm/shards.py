"""Sharding of a model over ranks (FSDP2), each of which has a part of every parameter, gradient and optimiser state.

In the M-step a block's parameters are gathered when they are needed, and its gradients are summed and scattered. To
draw, evaluate or compute pi_ref, ranks gather the whole model first (`whole`), as they do not make the same calls then.
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
    """Spread `model` over the ranks of `mesh`, in place, by the blocks that transformers does not split, and the
    rest."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = getattr(base, "_no_split_modules", None) or ()
    for block in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor)


@contextlib.contextmanager
def whole(*models: nn.Module) -> Iterator[None]:
    """Gather the `models`, sharded or not, so that inside each rank may call them freely, without gradients.

    All ranks enter together.
    """
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
    """Return nested dicts and lists with each sharded tensor whole, on the CPU; all ranks call it together."""
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
    """Shard a tensor, the same on all ranks, as `like` is; all ranks call it together."""
    if not is_sharded(like):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
