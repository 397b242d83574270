"""Types that pass between the runners and the learning rules."""

from typing import NamedTuple

import torch
from torch import Tensor

from networks.actor_critic import Output
from networks.distributions import Distribution


class Unroll(NamedTuple):
    """B environments over T steps and the observation after the last: T+1 rows of what the network sees.

    Row t holds observation t, the `reward` that came with it, whether it begins an episode (`first`) or is an
    episode's true last one (`terminated`, or `truncated` by a time limit), and the action that led to it: the action
    taken at t stands in `previous_action[t + 1]`. `policy` [T, B, P] are the parameters of the distribution that each
    action was drawn from, `value` [T+1, B] what the same network expected, in units of the return. `task` [B] is which
    of several tasks an environment plays, `state` the core's state before row 0, batch first. `reference` [T, B, P] are
    the parameters of pi_ref, where a method has that anchor.
    """

    observation: Tensor
    reward: Tensor
    first: Tensor
    terminated: Tensor
    truncated: Tensor
    previous_action: Tensor
    policy: Tensor
    value: Tensor
    task: Tensor
    state: tuple[Tensor, ...]
    reference: Tensor | None = None

    @property
    def action(self) -> Tensor:
        """[T, B(, A)]: the action taken at each step."""
        return self.previous_action[1:]

    @property
    def valid(self) -> Tensor:
        """[T, B] bool: False at an episode's last observation, whose action leads to a reset and had no effect."""
        return ~(self.terminated | self.truncated)[:-1]

    def columns(self, index: Tensor | slice) -> "Unroll":
        """The unrolls of some environments alone: of a slice a view, of numbers a copy."""
        by_time = {name: _pick(getattr(self, name), 1, index) for name in BY_TIME}
        reference = None if self.reference is None else _pick(self.reference, 1, index)
        state = tuple(_pick(s, 0, index) for s in self.state)
        return Unroll(**by_time, task=_pick(self.task, 0, index), state=state, reference=reference)

    def to(self, device: torch.device) -> "Unroll":
        """The same there, where it is not there already; from pinned memory without waiting."""
        *fields, state, reference = self
        moved = [x.to(device, non_blocking=True) for x in fields]
        state = tuple(s.to(device, non_blocking=True) for s in state)
        return Unroll(*moved, state, None if reference is None else reference.to(device))


BY_TIME = ("observation", "reward", "first", "terminated", "truncated", "previous_action", "policy", "value")
"""Fields of an unroll whose first two dimensions are time and environment."""


def _pick(x: Tensor, dim: int, index: Tensor | slice) -> Tensor:
    """Some of `x` along `dim`. index_select copies whole pictures, where x[:, index] goes byte by byte: ten times."""
    return x[(slice(None),) * dim + (index,)] if isinstance(index, slice) else x.index_select(dim, index)


class Passes(NamedTuple):
    """The network as a gradient step sees it.

    The losses fit `fitted`, the output over all T+1 rows of an unroll, under dropout where there is any. From `old` to
    `new`, [T, B], is how far the policy has moved, as the trust region and PPO's ratio see it.
    """

    fitted: Output
    old: Distribution
    new: Distribution


def one_pass(output: Output, unroll: Unroll) -> Passes:
    """Passes without dropout: from the policy that acted to the one of `output`."""
    new = rows(output.policy)
    return Passes(output, new.like(unroll.policy), new)


def rows(policy: Distribution) -> Distribution:
    """The policy at the T steps, of one over all T+1 rows."""
    return policy.like(policy.parameters()[:-1])


class Plan(NamedTuple):
    """Everything settled about a batch before its gradient steps; tensors are [T, B], without gradient.

    `returns` G are the value's targets, in units of the return; `advantages` A as the learning rule uses them;
    `weights` N psi of the EM methods, whose mean over the valid steps of the batch is 1 (of PPO all are 1). `dual_loss`
    is the E-step's own, a scalar; `metrics` are scalars to log.
    """

    returns: Tensor
    advantages: Tensor
    weights: Tensor
    dual_loss: Tensor
    metrics: dict[str, Tensor]

    def columns(self, index: Tensor | slice) -> "Plan":
        """The plan of some environments alone."""
        own = {name: _pick(getattr(self, name), 1, index) for name in ("returns", "advantages", "weights")}
        return self._replace(**own)


class Loss(NamedTuple):
    """The loss of a gradient step: a scalar to minimise, its value part alone, and scalars to log."""

    total: Tensor
    value: Tensor
    metrics: dict[str, Tensor]
