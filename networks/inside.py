"""A look inside a transformer core while it runs: what its heads attend to, and how far its gates open.

Hooks stay on the layers for one pass only, so passes that nobody watches cost nothing.
"""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.actor_critic import ActorCritic
from networks.transformer import State


class Inside(NamedTuple):
    """Attention and gates over an unroll.

    `attention` [L, B, H, T, M+1]: weights of each layer's heads on the steps M, ..., 1, 0 ago, 0 on those that are not
    of the episode. `openness` [L, 2, B, T]: means over the units of each layer's two gates, after attention and after
    the MLP; None without gates that open and close.
    """

    attention: Tensor
    openness: Tensor | None


@torch.no_grad()
def look_inside(network: ActorCritic, *inputs: Tensor | State) -> tuple[Inside, State]:
    """Run a `network` with a transformer core over an unroll, `inputs` as its `forward` takes them, and return what the
    core did, and its state after the last step."""
    attention: list[Tensor] = []
    openness: list[Tensor] = []

    def record_weights(module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        attention.append(by_age(module.weights(*given), network.core.memory))

    def record_gate(gate: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        openness.append(gate.openness(*given).mean(-1))

    with ExitStack() as hooks:
        for layer in network.core.layers:
            hooks.callback(layer.attention.register_forward_hook(record_weights).remove)
        for gate in gates(network):
            hooks.callback(gate.register_forward_hook(record_gate).remove)
        state = network(*inputs).state
    opened = torch.stack(openness).unflatten(0, (-1, 2)) if openness else None
    return Inside(torch.stack(attention), opened), state


@torch.no_grad()
def gate_metrics(network: ActorCritic, *inputs: Tensor | State) -> dict[str, Tensor]:
    """Return the mean openness of each layer's gates over an unroll, `inputs` as in `look_inside`; none without gates
    that open and close."""
    means: list[Tensor] = []
    with ExitStack() as hooks:
        for gate in gates(network):
            hook = gate.register_forward_hook(lambda gate, given, _: means.append(gate.openness(*given).mean()))
            hooks.callback(hook.remove)
        if gates(network):
            network(*inputs)
    logged = {}
    for i, pair in enumerate(zip(means[::2], means[1::2], strict=True)):
        logged |= {f"memory/gate_{name}_{i + 1}": x for name, x in zip(("attention", "mlp"), pair, strict=True)}
    return logged


def gates(network: ActorCritic) -> list[nn.Module]:
    """Return the gates that open and close, of each layer that after attention and that after the MLP."""
    return [module for module in network.core.modules() if hasattr(module, "openness")]


def by_age(weights: Tensor, memory: int) -> Tensor:
    """Return the weights [..., T, M+1] on the steps M, ..., 1, 0 ago from those on keys, [..., T, M+T]."""
    query = torch.arange(weights.shape[-2], device=weights.device).unsqueeze(1)
    key = query + torch.arange(memory + 1, device=weights.device)
    return weights.gather(-1, key.expand(*weights.shape[:-1], -1))
