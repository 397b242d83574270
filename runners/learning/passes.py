"""The forward passes of a gradient step: one, or with dropout those that the dropout scheme compares."""

import torch
from torch import Tensor, nn

from agents.config import DropoutScheme
from agents.types import Passes, Unroll, one_pass, rows
from networks.actor_critic import ActorCritic, Output, frozen_copy


class ForwardPasses:
    """Forward passes of `network`, by `forward` (itself, or compiled). Outside of them the network has no dropout.

    The whole network acts. The scheme says which policies the trust region and PPO's ratio compare:

    whole    pi_old with the whole network: the KL is 0 at the first gradient step, and no mask enters it.
    masked   pi_old with the network under the step's mask: the mask alone makes the KL greater than 0.
    paired   the network before the batch with the present one, both under the step's mask: the KL is 0 at first.
    """

    def __init__(self, network: ActorCritic, forward: nn.Module, dropout: float, scheme: DropoutScheme) -> None:
        self.network, self.forward, self.dropout, self.scheme = network, forward, dropout, scheme
        self.before = frozen_copy(network) if dropout and scheme == "paired" else None

    def begin_batch(self) -> None:
        """Keep the network as it is before the first gradient step on a batch, if the scheme needs it."""
        if self.before:
            self.before.load_state_dict(self.network.state_dict())

    def __call__(self, unroll: Unroll) -> Passes:
        inputs = unroll.observation, unroll.previous_action, unroll.reward, unroll.first, unroll.state, unroll.task
        if not self.dropout:
            return one_pass(self.forward(*inputs, need_state=False), unroll)
        whole = self.forward(*inputs, need_state=False) if self.scheme == "whole" else None
        seed = int(torch.randint(2**62, ()))
        fitted = under_mask(seed, self.network, self.forward, inputs)
        if self.before:
            before = under_mask(seed, self.before, self.before, inputs)
            return Passes(fitted, rows(before.policy), rows(fitted.policy))
        return one_pass(whole or fitted, unroll)._replace(fitted=fitted)


def under_mask(seed: int, network: ActorCritic, forward: nn.Module, inputs: tuple[Tensor, ...]) -> Output:
    """Return the output of a pass with dropout; the same `seed` drops the same units."""
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network.train()
        try:
            return forward(*inputs, need_state=False)
        finally:
            network.eval()
