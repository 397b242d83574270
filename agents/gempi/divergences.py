"""Divergences of the E-step: how advantages tilt the anchor into the target.

The E-step solves max_q E_q[A] - sum_j lambda_j D_j(q || pi_j) on the sampled support. Each divergence turns base
log-weights, advantages and a temperature into log-weights of the kept samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Target(NamedTuple):
    """`log_weights` [N], normalised over the support (-inf off it); `log_z` = log mean over it of the raw weights."""

    log_weights: Tensor
    log_z: Tensor


class KL:
    """D = KL(q || pi): exponential tilting, q* proportional to base exp(A / temperature)."""

    def target(self, log_base: Tensor, advantages: Tensor, temperature: Tensor, support: Tensor) -> Target:
        """From `log_base` [N] = sum_j (lambda_j / Lambda) log pi_j - log pi_t, `advantages` [N] and `support` [N] bool.

        With pi_t the only anchor, `log_base` is 0 and this is V-MPO's psi. Exact at |A| / temperature = 1e4: the best
        advantage is taken off before the division, so what decides the weights is never rounded at that size.
        """
        best = torch.where(support, advantages, -torch.inf).amax().nan_to_num(neginf=0)
        log_w = torch.where(support, log_base + (advantages - best) / temperature, -torch.inf)
        log_sum = log_w.logsumexp(0)
        return Target(log_w - log_sum, log_sum - support.sum().log() + best / temperature)
