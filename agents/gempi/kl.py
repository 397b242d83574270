"""The KL divergence of the E-step: exponential tilting, a softmax, as in V-MPO's psi and DAR's weights."""

import torch
from jaxtyping import Float
from torch import Tensor

from agents.gempi.target import Target, below_best


class KL:
    """Divergence D = sum_i w_i log(w_i / b_i) (GEMPI eqs. 12-13).

    The condition of optimality is A_i - sum_j lambda_j (log w_i - log b_ji + 1) - mu = 0, so w_i is proportional to
    prod_j b_ji^(lambda_j / Lambda) exp(A_i / Lambda), Lambda = sum_j lambda_j.

    With pi_t the only anchor, uniform on its own samples, this is V-MPO's psi: the softmax of A / eta. With pi_ref
    beside it these are DAR's weights, (pi_ref / pi_t)^(alpha / (alpha + beta)) exp(A / (alpha + beta)).
    """

    most_anchors = None

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """Return the softmax over the support of A / Lambda + sum_j (lambda_j / Lambda) log b_j.

        It is accurate at |A| / Lambda = 1e4: the best advantage is subtracted before the division, so that the
        differences that decide the weights are not rounded at that size.
        """
        temperature = coefficients.sum()
        base = torch.einsum("m,mn->n", coefficients / temperature, log_bases)
        logits = torch.where(support, base + below_best(advantages, support) / temperature, -torch.inf)
        log_w = logits - logits.logsumexp(0)
        return Target(log_w, kl_to(log_bases, log_w))


def kl_to(log_bases: Float[Tensor, "m N"], log_weights: Float[Tensor, " N"]) -> Float[Tensor, " m"]:
    """Return KL(q || pi_j) of `log_weights` to each of `log_bases`, in nats."""
    weights = log_weights.exp()
    return torch.where(weights > 0, weights * (log_weights - log_bases), 0).sum(1)
