"""The agent's network: torso -> + previous action and reward -> core -> policy and value."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from networks.config import NetworkConfig
from networks.cores import State, make_core
from networks.distributions import Distribution
from networks.heads import PolicyHead, PopArtHead
from networks.initialisation import orthogonal
from networks.torsos import make_torso


class Output(NamedTuple):
    """What a forward pass over an unroll gives; `value` [T, B] in normalised units."""

    policy: Distribution
    value: Tensor
    state: State | None


class ActorCritic(nn.Module):
    """`actions` choices of a categorical policy, or dimensions of a Gaussian one (`continuous`).

    `bf16_torso` runs the torso alone in bfloat16: convolutions gain most from it, and log-probabilities, duals and
    returns stay in float32.
    """

    def __init__(
        self,
        config: NetworkConfig,
        observation_shape: tuple[int, ...],
        actions: int,
        continuous: bool,
        popart_step_size: float = 1e-4,
        bf16_torso: bool = False,
        tasks: int = 1,
    ) -> None:
        super().__init__()
        self.actions, self.continuous, self.bf16_torso = actions, continuous, bf16_torso
        self.torso = make_torso(config, observation_shape)
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(self.torso.output_size + actions + 1, config.embedding)
        orthogonal(self.embed)
        self.core = make_core(config)
        self.policy_head = PolicyHead(self.core.output_size, config.head_hidden, actions, continuous)
        self.value_head = PopArtHead(self.core.output_size, config.head_hidden, popart_step_size, tasks)

    def fit_input(self, observation: Tensor) -> None:
        """Set what the torso takes off its input from `observation` [T, B, ...], before acting begins."""
        self.torso.pixels.fit(observation.flatten(0, 1))

    def initial_state(self, batch: int) -> State:
        return self.core.initial_state(batch)

    def encode(self, observation: Tensor, previous_action: Tensor, previous_reward: Tensor, first: Tensor) -> Tensor:
        """The core's input [N, D] for N steps: `observation` [N, ...], the rest [N] (a Gaussian's actions [N, A]).

        The previous reward enters clipped to [-1, 1]; where an episode begins nothing came before.
        """
        with torch.autocast(observation.device.type, torch.bfloat16, enabled=self.bf16_torso):
            features = self.dropout(self.torso(observation))
        action = previous_action if self.continuous else one_hot(previous_action.long(), self.actions)
        before = torch.cat([action.to(self.embed.weight.dtype), previous_reward.clamp(-1, 1).unsqueeze(-1)], -1)
        before = before * ~first.unsqueeze(-1)
        return self.embed(torch.cat([features.to(before.dtype), before], -1)).relu()

    def forward(
        self,
        observation: Tensor,
        previous_action: Tensor,
        previous_reward: Tensor,
        first: Tensor,
        state: State,
        task: Tensor | None = None,
        need_state: bool = True,
    ) -> Output:
        """A whole unroll: every argument [T, B, ...], but `state` as the core made it before step 0 and `task` [B].

        Without `need_state` the state after the last step is not computed, and None.
        """
        steps, batch = first.shape
        flat = (x.flatten(0, 1) for x in (observation, previous_action, previous_reward, first))
        y, state = self.core(self.encode(*flat).unflatten(0, (steps, batch)), first, state, need_state)
        return Output(self.policy_head(y), self.value_head(y, task), state)


def frozen_copy(network: ActorCritic) -> ActorCritic:
    """As it is now, and not to be learned from."""
    twin = copy.deepcopy(network).requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, nn.LSTM):
            module.flatten_parameters()  # copied one by one, they are no longer the one piece that cuDNN wants
    return twin
