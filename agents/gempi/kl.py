"""The KL divergence of the E-step: exponential tilting, a softmax, as in V-MPO's psi and DAR's weights."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from agents.checks import not_negative
from agents.gempi.target import Bases, Target, below_best
from agents.options import option


@dataclass(frozen=True)
class KL:
    """Divergence D = sum_i w_i log(w_i / b_i) (GEMPI eqs. 12-13).

    The condition of optimality is A_i - sum_j lambda_j (log w_i - log b_ji + 1) - mu = 0, so w_i is proportional to
    prod_j b_ji^(lambda_j / Lambda) exp(A_i / Lambda), Lambda = sum_j lambda_j.

    With pi_t the only anchor, uniform on its own samples, this is V-MPO's psi: the softmax of A / eta. With pi_ref
    beside it these are DAR's weights, (pi_ref / pi_t)^(alpha / (alpha + beta)) exp(A / (alpha + beta)). DAR and AWR
    bound them by `max_weight` before they are normalised.
    """

    max_weight: float = option(
        "max_weight",
        0.0,
        "KL: bound of the weights before they are normalised to sum to 1, 20 in DAR and AWR; 0 for none.",
        not_negative,
    )
    most_anchors = None

    def target(self, advantages: Tensor, bases: Bases, coefficients: Tensor, support: Tensor) -> Target:
        """Return the softmax over the support of A / Lambda + sum_j (lambda_j / Lambda) log b_j.

        It is accurate at |A| / Lambda = 1e4: the best advantage is subtracted before the division, so that the
        differences that decide the weights are not rounded at that size.
        """
        temperature, log_masses = coefficients.sum(), bases.log_masses
        shares = coefficients / temperature
        base = torch.einsum("m,mn->n", shares, log_masses)
        below = below_best(advantages, support)
        logits = torch.where(support, base + below / temperature, -torch.inf)
        saturated = None
        if self.max_weight:  # of exp(A / Lambda) prod_j (pi_j / pi_t)^(lambda_j / Lambda), with ratios, not masses
            best = torch.where(support, advantages - below, 0).amax()
            bound = math.log(self.max_weight) - shares @ bases.log_counts - best / temperature
            saturated = (support & (logits >= bound)).sum() / support.sum().clamp(min=1)
            logits = logits.clamp(max=bound)
        log_w = logits - logits.logsumexp(0)
        return Target(log_w, kl_to(log_masses, log_w), saturated)


def kl_to(log_masses: Float[Tensor, "m N"], log_weights: Float[Tensor, " N"]) -> Float[Tensor, " m"]:
    """Return KL(q || pi_j) of `log_weights` to each of `log_masses`, in nats."""
    weights = log_weights.exp()
    return torch.where(weights > 0, weights * (log_weights - log_masses), 0).sum(1)
