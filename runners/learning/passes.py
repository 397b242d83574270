"""The forward passes of a gradient step: one, or with dropout those that its scheme compares."""

import torch
from torch import Tensor, nn

from agents.config import DropoutScheme
from agents.types import Passes, Unroll, one_pass, rows
from networks.actor_critic import ActorCritic, Output, frozen_copy


class ForwardPasses:
    """Forward passes of `network`, by `forward` (itself, or compiled). Between them it is without dropout.

    Actions come from the whole network. What the trust region and PPO's ratio compare is the scheme:

    whole    pi_old with the whole network: nothing at the first gradient step, and no mask in the comparison.
    masked   pi_old with the network under the step's mask, which is a distance by itself.
    paired   the network as it was before the batch with the network now, both under the step's mask: nothing at first.
    """

    def __init__(self, network: ActorCritic, forward: nn.Module, drops: bool, scheme: DropoutScheme) -> None:
        self.network, self.forward, self.drops, self.scheme = network, forward, drops, scheme
        self.before = frozen_copy(network) if drops and scheme == "paired" else None

    def begin_batch(self) -> None:
        """Call this before the first gradient step on a batch."""
        if self.before:
            self.before.load_state_dict(self.network.state_dict())

    def __call__(self, unroll: Unroll) -> Passes:
        inputs = unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state, unroll.task
        if not self.drops:
            return one_pass(self.forward(*inputs, need_state=False), unroll)
        whole = self.forward(*inputs, need_state=False) if self.scheme == "whole" else None
        seed = int(torch.randint(2**62, ()))
        fitted = under_mask(seed, self.network, self.forward, inputs)
        if self.before:
            before = under_mask(seed, self.before, self.before, inputs)
            return Passes(fitted, rows(before.policy), rows(fitted.policy))
        return one_pass(whole or fitted, unroll)._replace(fitted=fitted)


def under_mask(seed: int, network: ActorCritic, forward: nn.Module, inputs: tuple[Tensor, ...]) -> Output:
    """A pass with dropout; the same `seed` drops the same units."""
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network.train()
        try:
            return forward(*inputs, need_state=False)
        finally:
            network.eval()
