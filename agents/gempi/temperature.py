"""The coefficients lambda_j of the E-step's divergences, whose sum is its temperature: fixed; dual variables that
follow their budgets from batch to batch; or the solution that meets its budget on each batch.

Each class is made from the options of the anchors that `uses` names. It is called with the divergence, advantages,
anchors and support of a batch, which only `Solved` needs.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from agents.gempi.target import Bases, Divergence


class PositiveScalar(nn.Module):
    """A positive scalar, the softplus of its parameter: linear where it is large, so that a gradient step is the
    paper's there, and exponential near 0. Its floor is 1e-8, to which the paper projects."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        raw = initial + math.log(-math.expm1(-initial))
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self) -> Tensor:
        return softplus(self.raw) + 1e-8


class Fixed(nn.Module):
    """Constant coefficients."""

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
    """Infinite coefficients: advantages only decide which samples are kept. The target is the anchors' mixture on
    these, which gives equal weights if pi_t is the only anchor."""

    uses = ()

    def __init__(self, *anchors: tuple[()]) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((len(anchors),), 1e30))

    forward, loss = Fixed.forward, Fixed.loss


class Dual(nn.Module):
    """Coefficients as the dual variables of budgets D_j(q || pi_j) < epsilon_j (GEMPI eq. 14; V-MPO eq. 4).

    The dual function is L(lambda) = sum_j lambda_j epsilon_j + max_q {E_q[A] - sum_j lambda_j D_j(q || pi_j)}. It is
    jointly convex in lambda, as a maximum of linear functions. For every divergence its derivative is the slack of the
    budget at the maximum, epsilon_j - D_j(q* || pi_j); for KL the maximum is Lambda log Z.
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
        """Return L from `divergences` [m] and `advantage` = E_q[A] of the target for these `coefficients` [m]."""
        return (coefficients * (self.epsilons - divergences.detach())).sum() + advantage.detach()


class Solved(nn.Module):
    """The coefficient of one anchor that meets D(q || pi) = epsilon on each batch: the minimum of the dual function
    (REPS, Peters et al. 2010), towards which V-MPO takes a gradient step.

    D falls as lambda grows, so bisection on log lambda finds it, for any divergence and any units of A. For chi-square
    without samples cut off it is the standard deviation of A over 2 sqrt(epsilon). A budget that no lambda can spend
    (all advantages equal, or too few samples) gives the least lambda of the range: the best samples share the weight.
    A budget that no weights can meet, because pi_ref is too far away, gives the largest: the weights are those of
    pi_ref. Each halving computes a target. All take far less than a gradient step for KL, and a fifth of a second for
    Renyi.
    """

    uses = ("epsilon",)
    HALVINGS = 30
    RANGE = 1e6
    """Factor around the range of the advantages, best less worst, within which lambda is sought."""

    def __init__(self, epsilon: float, *others: float) -> None:
        super().__init__()
        if others:
            anchors = 1 + len(others)
            raise ValueError(f"--temperature solved finds the coefficient of one anchor, not {anchors}: take dual")
        self.epsilon = epsilon

    @torch.no_grad()
    def forward(self, divergence: Divergence, advantages: Tensor, bases: Bases, support: Tensor) -> Tensor:
        """Return lambda [1]."""
        best = torch.where(support, advantages, -torch.inf).amax()
        worst = torch.where(support, advantages, torch.inf).amin()
        middle = torch.where(best > worst, best - worst, 1).log().reshape(1)
        low, high = middle - math.log(self.RANGE), middle + math.log(self.RANGE)
        for _ in range(self.HALVINGS):
            middle = (low + high) / 2
            spent = divergence.target(advantages, bases, middle.exp(), support).divergences > self.epsilon
            low, high = torch.where(spent, middle, low), torch.where(spent, high, middle)
        return high.exp()

    loss = Fixed.loss


Temperature = Fixed | Flat | Dual | Solved
TEMPERATURES: dict[str, type[Temperature]] = {"fixed": Fixed, "flat": Flat, "dual": Dual, "solved": Solved}
