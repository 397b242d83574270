"""A look inside a transformer core while it runs: what its heads attend to, and how far its gates open.

Hooks stay on the layers for one pass only, so passes that nobody watches cost nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.actor_critic import ActorCritic
from networks.transformer import State


class Inside(NamedTuple):
    """What one unroll showed.

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

    def see_weights(module: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        attention.append(by_age(module.weights(*given), network.core.memory))

    def see_gate(gate: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        openness.append(gate.openness(*given).mean(-1))

    hooks = []
    for layer in network.core.layers:
        hooks.append(layer.attention.register_forward_hook(see_weights))
        gates = [gate for gate in (layer.attention_gate, layer.mlp_gate) if hasattr(gate, "openness")]
        hooks += [gate.register_forward_hook(see_gate) for gate in gates]
    try:
        state = network(*inputs).state
    finally:
        for hook in hooks:
            hook.remove()
    seen = torch.stack(openness).unflatten(0, (-1, 2)) if openness else None
    return Inside(torch.stack(attention), seen), state


def gate_metrics(network: ActorCritic, *inputs: Tensor | State) -> dict[str, Tensor]:
    """Return the mean openness of each layer's gates over an unroll, `inputs` as in `look_inside`; none without gates
    that open and close."""
    if not any(hasattr(module, "openness") for module in network.core.modules()):
        return {}
    means = look_inside(network, *inputs)[0].openness.mean((2, 3))
    names = ("attention", "mlp")
    return {f"memory/gate_{name}_{i + 1}": x for i, y in enumerate(means) for name, x in zip(names, y, strict=True)}


def by_age(weights: Tensor, memory: int) -> Tensor:
    """Return the weights [..., T, M+1] on the steps M, ..., 1, 0 ago from those on keys, [..., T, M+T]."""
    query = torch.arange(weights.shape[-2], device=weights.device).unsqueeze(1)
    key = query + torch.arange(memory + 1, device=weights.device)
    return weights.gather(-1, key.expand(*weights.shape[:-1], -1))
