"""The agent's network: torso -> + previous action and reward -> core -> policy and value."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.config import NetworkConfig
from networks.cores import State, make_core
from networks.distributions import ActionSpace, Distribution
from networks.heads import PolicyHead, PopArtHead
from networks.initialisation import orthogonal
from networks.normaliser import Normaliser
from networks.torsos import Part, Pixels, make_torso, modules_of


class Output(NamedTuple):
    """Result of a forward pass over an unroll: policy [T, B], `value` [T, B] in normalised units, the last state."""

    policy: Distribution
    value: Tensor
    state: State | None


class ActorCritic(nn.Module):
    """Network from observations of `parts` to policies over `space` and values.

    `bf16_torso` runs the torso alone in bfloat16: convolutions gain most from it, and log-probabilities, duals and
    returns stay in float32. A part that is a mask limits the policy's actions, and is not an input.
    """

    def __init__(
        self,
        config: NetworkConfig,
        parts: Sequence[Part],
        space: ActionSpace,
        popart_step_size: float = 1e-4,
        bf16_torso: bool = False,
        tasks: int = 1,
    ) -> None:
        super().__init__()
        self.space, self.bf16_torso = space, bf16_torso
        self.torso = make_torso(config, parts)
        ends = torch.tensor([part.size for part in parts]).cumsum(0).tolist()
        masks = [slice(end - p.size, end) for p, end in zip(parts, ends, strict=True) if p.kind == "mask"]
        self.mask = masks[0] if masks else None
        """Slice of an observation's row that holds the mask of allowed actions, if there is one."""
        self.dropout = nn.Dropout(config.dropout)
        self.embed = nn.Linear(self.torso.output_size + space.size + 1, config.embedding)
        orthogonal(self.embed)
        self.core = make_core(config)
        self.policy_head = PolicyHead(self.core.output_size, config.head_hidden, space)
        self.value_head = PopArtHead(self.core.output_size, config.head_hidden, popart_step_size, tasks)

    def fit_input(self, observation: Tensor) -> None:
        """Set the mean picture and the running moments from `observation` [T, B, ...], before acting begins."""
        flat = observation.flatten(0, 1)
        for module, x in modules_of(self.torso, flat):
            if isinstance(module, Pixels):
                module.fit(x)
        self.update_input(observation, torch.ones(observation.shape[:2], dtype=torch.bool))

    def update_input(self, observation: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Add `observation` [T, B, ...], where `mask` [T, B], to the running moments of normalised vectors.

        `total` sums over the processes that share a batch.
        """
        if not self.normalises:
            return
        for module, x in modules_of(self.torso, observation.flatten(0, 1)):
            if isinstance(module, Normaliser):
                module.update(x, mask.flatten(), total)

    @property
    def normalises(self) -> bool:
        """Return whether running moments of observations are kept."""
        return any(isinstance(module, Normaliser) for module in self.torso.modules())

    def policy(self, y: Tensor, observation: Tensor) -> Distribution:
        """Return the policy [...] from the core's output `y` [..., D], masked as `observation` [..., *shape] says."""
        return self.policy_head(y, None if self.mask is None else observation[..., self.mask] > 0)

    def initial_state(self, batch: int) -> State:
        return self.core.initial_state(batch)

    def encode(self, observation: Tensor, previous_action: Tensor, previous_reward: Tensor, first: Tensor) -> Tensor:
        """Return the core's input [N, D] for N steps: `observation` [N, ...], the rest [N] (or [N, A] actions).

        The previous reward is clipped to [-1, 1]; where an episode begins, it and the previous action are zeros.
        """
        with torch.autocast(observation.device.type, torch.bfloat16, enabled=self.bf16_torso):
            features = self.dropout(self.torso(observation))
        action = self.space.embed(previous_action)
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
        """Run a whole unroll: arguments are [T, B, ...], but `state` is the core's before step 0, and `task` is [B].

        Without `need_state` the state after the last step is not computed, and None.
        """
        steps, batch = first.shape
        flat = (x.flatten(0, 1) for x in (observation, previous_action, previous_reward, first))
        y, state = self.core(self.encode(*flat).unflatten(0, (steps, batch)), first, state, need_state)
        return Output(self.policy(y, observation), self.value_head(y, task), state)


def frozen_copy(network: ActorCritic) -> ActorCritic:
    """Return a copy of `network` as it is now, whose parameters take no gradient."""
    twin = copy.deepcopy(network).requires_grad_(False)
    for module in twin.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # cuDNN wants them in one piece, and deepcopy has copied them one by one
    return twin
