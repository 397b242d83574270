"""The coefficients lambda_j of the E-step's divergences, whose sum is its temperature: fixed, dual variables that
follow their budgets from batch to batch, or the one that meets its budget on each batch.

Each is made of what `uses` names of the options of each anchor. It is called with the divergence, advantages, anchors
and support of a batch, which the last alone has a use for.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from agents.gempi.target import Divergence


class PositiveScalar(nn.Module):
    """A positive scalar by softplus: linear where it is large, so a step means there what it means in the paper, and
    exponential near 0, which it never reaches (the paper projects to 1e-8, the floor here)."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        raw = initial + math.log(-math.expm1(-initial))
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self) -> Tensor:
        return softplus(self.raw) + 1e-8


class Fixed(nn.Module):
    """Coefficients that stay as they are."""

    uses = ("coefficient",)

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(values))

    def forward(self, *batch: object) -> Tensor:
        """Return lambda [m]."""
        return self.values

    def loss(self, coefficients: Tensor, divergences: Tensor, advantage: Tensor) -> Tensor:
        return torch.zeros_like(advantage)


class Flat(nn.Module):
    """An infinite temperature: advantages decide which samples are kept, and weigh none of them more than another."""

    uses = ()

    def __init__(self, *anchors: tuple[()]) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((len(anchors),), 1e30))

    forward, loss = Fixed.forward, Fixed.loss


class Dual(nn.Module):
    """Coefficients as the dual variables of budgets D_j(q || pi_j) < epsilon_j (GEMPI eq. 14; V-MPO eq. 4).

    The dual function is L(lambda) = sum_j lambda_j epsilon_j + max_q {E_q[A] - sum_j lambda_j D_j(q || pi_j)}, jointly
    convex in lambda as a maximum of functions that are linear in it. At the maximum its derivative is the slack of each
    budget, epsilon_j - D_j(q* || pi_j), whatever the divergence; for KL the maximum is Lambda log Z.
    """

    uses = ("initial", "epsilon")

    def __init__(self, *initial_and_epsilon: tuple[float, float]) -> None:
        super().__init__()
        self.positives = nn.ModuleList(PositiveScalar(initial) for initial, _ in initial_and_epsilon)
        self.register_buffer("epsilons", torch.tensor([epsilon for _, epsilon in initial_and_epsilon]))

    def forward(self, *batch: object) -> Tensor:
        """Return lambda [m]."""
        return torch.stack([positive() for positive in self.positives])

    def loss(self, coefficients: Tensor, divergences: Tensor, advantage: Tensor) -> Tensor:
        """Return L, of `divergences` [m] and `advantage` = E_q[A] at the maximum for these `coefficients`."""
        return (coefficients * (self.epsilons - divergences.detach())).sum() + advantage.detach()


class Solved(nn.Module):
    """The coefficient of one anchor that meets D(q || pi) = epsilon on the batch at hand: the minimum of the dual
    itself (REPS, Peters et al. 2010), where V-MPO takes a gradient step towards it.

    D falls as lambda grows, and bisection on log lambda finds it, for any divergence, whatever the units of A. Of
    chi-square, while it cuts no sample off, it is the standard deviation of A over 2 sqrt(epsilon). A budget that no
    lambda can spend (all advantages equal, or too few samples) leaves the least lambda of the range: the best sample
    has all there is. One that no weights of the sample keep, as where pi_ref is far away, leaves the largest: the
    weights are those of pi_ref. Each halving is an E-step: nothing beside a gradient step for KL, a fifth of a second
    with Renyi.
    """

    uses = ("epsilon",)
    HALVINGS = 30
    RANGE = 1e6
    """Factor of the spread of the advantages, best less worst, that lambda lies within."""

    def __init__(self, epsilon: float, *others: float) -> None:
        super().__init__()
        if others:
            anchors = 1 + len(others)
            raise ValueError(f"--temperature solved finds the coefficient of one anchor, not {anchors}: take dual")
        self.epsilon = epsilon

    @torch.no_grad()
    def forward(self, divergence: Divergence, advantages: Tensor, log_bases: Tensor, support: Tensor) -> Tensor:
        """Return lambda [1]."""
        best = torch.where(support, advantages, -torch.inf).amax()
        worst = torch.where(support, advantages, torch.inf).amin()
        middle = torch.where(best > worst, best - worst, 1).log().reshape(1)
        low, high = middle - math.log(self.RANGE), middle + math.log(self.RANGE)
        for _ in range(self.HALVINGS):
            middle = (low + high) / 2
            spent = divergence.target(advantages, log_bases, middle.exp(), support).divergences > self.epsilon
            low, high = torch.where(spent, middle, low), torch.where(spent, high, middle)
        return high.exp()

    def loss(self, coefficients: Tensor, divergences: Tensor, advantage: Tensor) -> Tensor:
        return torch.zeros_like(advantage)


Temperature = Fixed | Flat | Dual | Solved
TEMPERATURES: dict[str, type[Temperature]] = {"fixed": Fixed, "flat": Flat, "dual": Dual, "solved": Solved}
