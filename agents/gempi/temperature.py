"""Temperatures of the E-step and multipliers of the trust region: fixed, or dual variables that learn their value."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Positive(nn.Module):
    """A positive scalar by softplus: linear where it is large, so a step means there what it means in the paper, and
    exponential near 0, which it never reaches (the paper projects to 1e-8, the floor here)."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        raw = initial + math.log(-math.expm1(-initial))
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self) -> Tensor:
        return softplus(self.raw) + 1e-8


class Fixed(nn.Module):
    """A temperature that stays as it is."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self) -> Tensor:
        return self.value

    def loss(self, value: Tensor, log_z: Tensor) -> Tensor:
        return torch.zeros_like(log_z)


class Dual(nn.Module):
    """eta as the dual variable of the E-step's budget epsilon (V-MPO eq. 4; convex in eta)."""

    def __init__(self, initial: float, epsilon: float) -> None:
        super().__init__()
        self.positive, self.epsilon = Positive(initial), epsilon

    def forward(self) -> Tensor:
        return self.positive()

    def loss(self, eta: Tensor, log_z: Tensor) -> Tensor:
        """L_eta = eta epsilon + eta log mean over the support of exp(A / eta), `log_z` computed with this `eta`."""
        return eta * self.epsilon + eta * log_z


Temperature = Fixed | Dual
