"""The target of the E-step: the anchors tilted by the advantages, as a divergence determines.

The E-step solves max_q E_q[A] - sum_j lambda_j D_j(q || pi_j) (GEMPI eq. 11) exactly on the sampled support. There q is
the vector of weights w of the kept samples, and anchor j the vector of its masses b_j on them: b_ji is proportional to
pi_j(y_i) / pi_t(y_i), as pi_t drew the samples, so pi_t itself is uniform. Each divergence solves its own scalar
equation for mu, the multiplier of sum_i w_i = 1, by which the advantages are shifted. Where D_j allows w_i = 0, a
sample whose advantage is less than mu has no weight.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Target(NamedTuple):
    """Target distribution: `log_weights` [N], normalised over the support, -inf where a sample has no weight;
    `divergences` [m], D_j(q || pi_j), in nats for KL and Renyi."""

    log_weights: Tensor
    divergences: Tensor


@runtime_checkable
class Divergence(Protocol):
    most_anchors: int | None
    """Largest number of anchors with which there is a closed form; None for any number."""

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """Return the target for `advantages` [N], `log_bases` [m, N] = log b_j (0 off the support), `coefficients` [m]
        = lambda_j and `support` [N] bool."""
        ...


def below_best(advantages: Float[Tensor, " N"], support: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return A - max A over the support: 0 or less there, -inf elsewhere."""
    best = torch.where(support, advantages, -torch.inf).amax().nan_to_num(neginf=0)
    return torch.where(support, advantages - best, -torch.inf)
