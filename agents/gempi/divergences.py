"""Divergences of the E-step: how advantages tilt the anchors into the target.

The E-step solves max_q E_q[A] - sum_j lambda_j D_j(q || pi_j) (GEMPI eq. 11) exactly on the sampled support: q is the
vector of weights w of the kept samples, and an anchor its masses b_j on them, b_ji proportional to
pi_j(y_i) / pi_t(y_i), as the samples were drawn from pi_t. So pi_t itself is uniform there. Each class solves its own
scalar equation for the multiplier mu of sum_i w_i = 1, which shifts the advantages; where D_j allows w_i = 0, a sample
whose advantage lies below the shift has no weight.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Target(NamedTuple):
    """`log_weights` [N], normalised over the support (-inf where a sample has no weight); `divergences` [m], each
    D_j(q || pi_j), in nats for KL and Renyi."""

    log_weights: Tensor
    divergences: Tensor


class Divergence(Protocol):
    most_anchors: int | None
    """So many have a closed form together; None: any number."""

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """Return the target from `advantages` [N], `log_bases` [m, N] = log b_j (0 off
        the support), lambda_j [m] and `support` [N] bool."""
        ...


class KL:
    """D = sum_i w_i log(w_i / b_i). Exponential tilting (GEMPI eqs. 12-13).

    A_i - sum_j lambda_j (log w_i - log b_ji + 1) - mu = 0, so w_i is proportional to
    prod_j b_ji^(lambda_j / Lambda) exp(A_i / Lambda), Lambda = sum_j lambda_j. With pi_t the only anchor: V-MPO's psi.
    """

    most_anchors = None

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """Exact at |A| / Lambda = 1e4: the best advantage is taken off before the division, so what decides the weights
        is never rounded at that size."""
        temperature = coefficients.sum()
        base = torch.einsum("m,mn->n", coefficients / temperature, log_bases)
        log_w = torch.where(support, base + below_best(advantages, support) / temperature, -torch.inf)
        log_w = log_w - log_w.logsumexp(0)
        return Target(log_w, kl_to(log_bases, log_w))


def kl_to(log_bases: Tensor, log_weights: Tensor) -> Tensor:
    """KL(q || pi_j) in nats, [m], of `log_weights` [N] to `log_bases` [m, N]."""
    weights = log_weights.exp()
    return torch.where(weights > 0, weights * (log_weights - log_bases), 0).sum(1)


def below_best(advantages: Tensor, support: Tensor) -> Tensor:
    """A - max A over the support: 0 or less there, -inf elsewhere."""
    best = torch.where(support, advantages, -torch.inf).amax().nan_to_num(neginf=0)
    return torch.where(support, advantages - best, -torch.inf)
