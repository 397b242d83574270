"""Types that pass between the runners and the learning rules."""

from typing import NamedTuple

import torch
from torch import Tensor

from networks.actor_critic import Output
from networks.distributions import Distribution

LARGEST_LOG_RATIO = 20.0
"""Bound of log pi - log pi_old before exp: an infinite ratio times 0 would be NaN, also in the gradient."""


class Unroll(NamedTuple):
    """T steps of B environments and the observation after the last: the network's inputs in T+1 rows.

    Row t holds observation t, the `reward` that came with it, whether it begins an episode (`first`) or is an
    episode's true last one (`terminated`, or `truncated` by a time limit), and the action that led to it: the action
    taken at t is `previous_action[t + 1]`. `policy` [T, B, P] are the parameters of the distribution that each action
    was drawn from, and `value` [T+1, B] the values of the same network, in units of the return. `task` [B] is the task
    that an environment plays, `state` the core's state before row 0, batch first. `reference` [T, B, P] are the
    parameters of pi_ref, if the method has that anchor.
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
        """Return the action taken at each step, [T, B(, A)]."""
        return self.previous_action[1:]

    @property
    def valid(self) -> Tensor:
        """Return the steps to learn from, [T, B] bool: all but an episode's last observation, whose action the reset
        after it ignores."""
        return ~(self.terminated | self.truncated)[:-1]

    def columns(self, index: Tensor | slice) -> "Unroll":
        """Return the unrolls of some environments: a view for a slice, a copy for indices."""
        by_time = {name: _pick(getattr(self, name), 1, index) for name in BY_TIME}
        reference = None if self.reference is None else _pick(self.reference, 1, index)
        state = tuple(_pick(s, 0, index) for s in self.state)
        return Unroll(**by_time, task=_pick(self.task, 0, index), state=state, reference=reference)

    def to(self, device: torch.device) -> "Unroll":
        """Return the unroll on `device`; the copy from pinned memory is asynchronous."""
        *fields, state, reference = self
        moved = [x.to(device, non_blocking=True) for x in fields]
        state = tuple(s.to(device, non_blocking=True) for s in state)
        return Unroll(*moved, state, None if reference is None else reference.to(device))


BY_TIME = ("observation", "reward", "first", "terminated", "truncated", "previous_action", "policy", "value")
"""Fields of an unroll, but `reference`, whose first two dimensions are time and environment."""


def _pick(x: Tensor, dim: int, index: Tensor | slice) -> Tensor:
    """Select from `x` along `dim`. For pictures index_select is ten times as fast as x[:, index]."""
    return x[(slice(None),) * dim + (index,)] if isinstance(index, slice) else x.index_select(dim, index)


class Passes(NamedTuple):
    """Forward passes of a gradient step.

    The losses fit `fitted`, the output over all T+1 rows of an unroll, under dropout if there is any. The trust region
    and PPO's ratio compare the policies `old` and `new`, [T, B].
    """

    fitted: Output
    old: Distribution
    new: Distribution


def one_pass(output: Output, unroll: Unroll) -> Passes:
    """Return the passes without dropout: `old` is the policy that acted, `new` that of `output`."""
    new = rows(output.policy)
    return Passes(output, new.like(unroll.policy), new)


def rows(policy: Distribution) -> Distribution:
    """Return the policy at the T steps from one over all T+1 rows."""
    return policy.like(policy.parameters()[:-1])


class Plan(NamedTuple):
    """Constants of a batch for its gradient steps; tensors are [T, B], without gradient.

    `returns` G are the value's targets, in units of the return, and `advantages` A those that the learning rule uses.
    `weights` are N psi for the EM methods, with mean 1 over the valid steps of the batch, and 1 for PPO. `dual_loss` is
    the E-step's loss, a scalar; `metrics` are scalars to log.
    """

    returns: Tensor
    advantages: Tensor
    weights: Tensor
    dual_loss: Tensor
    metrics: dict[str, Tensor]

    def columns(self, index: Tensor | slice) -> "Plan":
        """Return the plan of some environments."""
        own = {name: _pick(getattr(self, name), 1, index) for name in ("returns", "advantages", "weights")}
        return self._replace(**own)


class Loss(NamedTuple):
    """Loss of a gradient step: a scalar to minimise, its value loss alone, and scalars to log."""

    total: Tensor
    value: Tensor
    metrics: dict[str, Tensor]
