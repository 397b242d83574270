"""The chi-square divergence of the E-step: linear tilting."""

import torch
from torch import Tensor

from agents.gempi.target import Target, below_best


class ChiSquare:
    """Divergence D = sum_i w_i^2 / b_i - 1.

    The condition of optimality is A_i - 2 w_i c_i - mu + nu_i = 0 with c_i = sum_j lambda_j / b_ji and nu_i >= 0 the
    multiplier of w_i >= 0. So w_i = (A_i - mu)_+ / (2 c_i): several anchors act as one, their harmonic mixture. With
    one anchor w_i = b_i (1 + (A_i - mu') / (2 lambda))_+. The paper's b_i (1 + A_i / (2 lambda)) is the case mu' = 0,
    where sum_i b_i A_i = 0 and no sample is cut off. Sorting finds mu exactly: the samples with weight are the best.
    """

    most_anchors = None

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        below = below_best(advantages, support).double()
        cost = 2 * (coefficients.double().unsqueeze(1) * (-log_bases.double()).exp()).sum(0)
        share = torch.where(support, 1 / cost, 0)
        ranked, order = below.sort(descending=True)
        # If the k best samples have all the weight, sum_{i <= k} share_i (A_i - mu_k) = 1. They have while A_k > mu_k.
        shares = share[order].cumsum(0)
        finite = torch.where(ranked.isfinite(), ranked, 0)
        mu = ((share[order] * finite).cumsum(0) - 1) / shares.clamp(min=torch.finfo(torch.float64).tiny)
        count = (ranked > mu).sum().clamp(min=1)
        weights = share * (below - mu.take(count - 1)).clamp(min=0).nan_to_num(nan=0)
        log_w = (weights / weights.sum()).log().to(advantages.dtype)
        log_w = torch.where(support, log_w, -torch.inf)
        squares = torch.where(weights > 0, 2 * log_w.double() - log_bases.double(), -torch.inf)
        return Target(log_w, (squares.logsumexp(1).exp() - 1).to(advantages.dtype))
