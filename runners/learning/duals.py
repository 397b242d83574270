"""Gradient steps on the dual variables of the E-step, those of its temperature."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from agents.gempi.e_step import EStep
from agents.gempi.em import EM, UpdateDuals
from runners.learning.steps import FiniteSteps
from runners.machine.ranks import ONE_RANK, Ranks


class DualSteps:
    """Adam on eta, or on each lambda_j; no steps for a method whose temperature has no parameters.

    V-MPO eq. 2 updates eta together with the network. Here the steps on eta, as many as the network's, come first, so
    that all M-steps of a batch fit the same weights. `ranks` are those whose E-steps are separate.
    """

    def __init__(self, agent: nn.Module, learning_rate: float, ranks: Ranks = ONE_RANK) -> None:
        self.parameters = list(agent.temperature.parameters()) if isinstance(agent, EM) else []
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, fused=True) if self.parameters else None
        self.steps = FiniteSteps(self.optimizer)
        self.ranks = ranks

    def updates(self, steps: int) -> UpdateDuals:
        """Return a function that takes `steps` gradient steps on an E-step's dual loss, then makes the E-step."""

        def updated(step: Callable[[], EStep]) -> EStep:
            for _ in range(steps if self.optimizer else 0):
                self.optimizer.zero_grad(set_to_none=True)
                loss = step().dual_loss
                loss.backward()
                for parameter in self.parameters:
                    parameter.grad /= self.ranks.size
                self.ranks.sum_gradients(self.parameters)
                self.steps.take(loss.detach() + gradient_sum(self.parameters), {})
            return step()

        return updated

    def get_state(self) -> dict[str, Any] | None:
        return self.optimizer and self.optimizer.state_dict()

    def set_state(self, state: dict[str, Any] | None) -> None:
        if self.optimizer:
            self.optimizer.load_state_dict(state)


def multipliers(agent: nn.Module) -> Iterator[nn.Parameter]:
    """Return the dual variables of the M-step, those of the trust region."""
    return agent.trust_region.parameters() if isinstance(agent, EM) else iter(())


def gradient_sum(parameters: Iterable[nn.Parameter]) -> Tensor | float:
    """Return the sum of all gradients, which is finite only if each of them is."""
    return sum((parameter.grad.sum() for parameter in parameters if parameter.grad is not None), 0.0)
