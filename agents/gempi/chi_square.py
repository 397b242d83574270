"""The chi-square divergence of the E-step: linear tilting."""

import math

import torch
from torch import Tensor

from agents.gempi.target import Bases, Target, below_best

LARGEST = 600.0
"""Largest logarithm of a cost: float64 overflows above exp(709)."""
FARTHEST = 1e6
"""Largest divergence that is returned: Adam takes no step on a gradient whose square is infinite."""


class ChiSquare:
    """Divergence D = sum_i w_i^2 / b_i - 1.

    The condition of optimality is A_i - 2 w_i c_i - mu + nu_i = 0 with c_i = sum_j lambda_j / b_ji and nu_i >= 0 the
    multiplier of w_i >= 0. So w_i = (A_i - mu)_+ / (2 c_i): several anchors act as one, their harmonic mixture. With
    one anchor w_i = b_i (1 + (A_i - mu') / (2 lambda))_+. The paper's b_i (1 + A_i / (2 lambda)) is the case mu' = 0,
    where sum_i b_i A_i = 0 and no sample is cut off. Sorting finds mu exactly: the samples with weight are the best.
    """

    most_anchors = None

    def target(self, advantages: Tensor, bases: Bases, coefficients: Tensor, support: Tensor) -> Target:
        log_masses = bases.log_masses.double()
        below = below_best(advantages, support).double()
        log_cost = (math.log(2) + coefficients.double().log().unsqueeze(1) - log_masses).logsumexp(0)
        cheapest = torch.where(support, log_cost, torch.inf).amin().nan_to_num(posinf=0)
        share = torch.where(support, (cheapest - log_cost).exp(), 0)  # 1 / (2 c_i), in units of the largest
        ranked, order = below.sort(descending=True)
        # If the k best samples have all the weight, sum_{i <= k} share_i (A_i - mu_k) = 1. They have while A_k > mu_k.
        shares = share[order].cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
        finite = torch.where(ranked.isfinite(), ranked, 0)
        mu = ((share[order] * finite).cumsum(0) - cheapest.clamp(-LARGEST, LARGEST).exp()) / shares
        count = (ranked > mu).sum().clamp(min=1)
        weights = share * (below - mu.gather(0, (count - 1).reshape(1))).clamp(min=0).nan_to_num(nan=0)
        log_w = (weights / weights.sum()).log().to(advantages.dtype)
        log_w = torch.where(support, log_w, -torch.inf)
        squares = torch.where(weights > 0, 2 * log_w.double() - log_masses, -torch.inf)
        return Target(log_w, (squares.logsumexp(1).exp() - 1).clamp(max=FARTHEST).to(advantages.dtype))
