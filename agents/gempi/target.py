"""The target of the E-step: the anchors tilted by the advantages, as a divergence determines.

The E-step solves max_q E_q[A] - sum_j lambda_j D_j(q || pi_j) (GEMPI eq. 11) exactly on the sampled support. There q is
the vector of weights w of the k kept of N samples, and anchor j the vector of its masses b_j on them. As pi_t drew the
samples, b_ji = pi_j(y_i) / (N pi_t(y_i)): over all samples sum_i b_ji f(y_i) estimates E_{pi_j}[f], and N w_i is the
ratio q / pi_t, so that sum_i w_i log(w_i / b_ji) estimates KL(q || pi_j). The masses of pi_t itself are 1 / k: those of
pi_t on the kept samples, to which V-MPO's budget refers. Each divergence solves its own scalar equation for mu, the
multiplier of sum_i w_i = 1, by which the advantages are shifted. Where D_j allows w_i = 0, a sample whose advantage is
less than mu has no weight.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Bases(NamedTuple):
    """Masses of m anchors on a sample: `log_ratios` [m, N] = log pi_j(y_i) - log pi_t(y_i), 0 off the support, and
    `log_counts` [m], the logarithm of the number of samples over which the mass of pi_j is spread."""

    log_ratios: Tensor
    log_counts: Tensor

    @property
    def log_masses(self) -> Tensor:
        """Return log b_j, [m, N]."""
        return self.log_ratios - self.log_counts.unsqueeze(1)


class Target(NamedTuple):
    """Target distribution: `log_weights` [N], normalised over the support, -inf where a sample has no weight;
    `divergences` [m], estimates of D_j(q || pi_j), in nats for KL and Renyi. An estimate may be negative where the
    masses of pi_j sum to more than 1."""

    log_weights: Tensor
    divergences: Tensor
    saturated: Tensor | None = None
    """Share of the kept samples whose weight is at its bound; None where weights have no bound."""


@runtime_checkable
class Divergence(Protocol):
    most_anchors: int | None
    """Largest number of anchors with which there is a closed form; None for any number."""

    def target(self, advantages: Tensor, bases: Bases, coefficients: Tensor, support: Tensor) -> Target:
        """Return the target for `advantages` [N], the `bases` b_j of m anchors, `coefficients` [m] = lambda_j and
        `support` [N] bool."""
        ...


def below_best(advantages: Float[Tensor, " N"], support: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return A - max A over the support: 0 or less there, -inf elsewhere."""
    best = torch.where(support, advantages, -torch.inf).amax().nan_to_num(neginf=0)
    return torch.where(support, advantages - best, -torch.inf)
