"""The target of the E-step: how advantages tilt the anchors, for a divergence.

The E-step solves max_q E_q[A] - sum_j lambda_j D_j(q || pi_j) (GEMPI eq. 11) exactly on the sampled support: q is the
vector of weights w of the kept samples, and an anchor its masses b_j on them, b_ji proportional to
pi_j(y_i) / pi_t(y_i), as the samples were drawn from pi_t. So pi_t itself is uniform there. Each divergence solves its
own scalar equation for the multiplier mu of sum_i w_i = 1, which shifts the advantages; where D_j allows w_i = 0, a
sample whose advantage lies below the shift has no weight.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Target(NamedTuple):
    """`log_weights` [N], normalised over the support (-inf where a sample has no weight); `divergences` [m], each
    D_j(q || pi_j), in nats for KL and Renyi."""

    log_weights: Tensor
    divergences: Tensor


@runtime_checkable
class Divergence(Protocol):
    most_anchors: int | None
    """Number of anchors that have a closed form together; None: any number."""

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """Return the target from `advantages` [N], `log_bases` [m, N] = log b_j (0 off
        the support), lambda_j [m] and `support` [N] bool."""
        ...


def below_best(advantages: Float[Tensor, " N"], support: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return A - max A over the support: 0 or less there, -inf elsewhere."""
    best = torch.where(support, advantages, -torch.inf).amax().nan_to_num(neginf=0)
    return torch.where(support, advantages - best, -torch.inf)
