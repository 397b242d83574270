"""Anchors of the E-step: the policies that the target stays close to."""

import torch
from torch import Tensor


def log_base(anchor_log_probs: Tensor, shares: Tensor, behaviour_log_prob: Tensor) -> Tensor:
    """sum_j (lambda_j / Lambda) log pi_j(y_i) - log pi_t(y_i): [N] (seed eq. 13, for samples drawn from pi_t).

    `anchor_log_probs` [m, N] of the anchors, `shares` [m] = lambda_j / Lambda, which sum to 1, `behaviour_log_prob` [N]
    of pi_t. With pi_t the only anchor, as in V-MPO, it is 0.
    """
    return torch.einsum("m,mn->n", shares, anchor_log_probs) - behaviour_log_prob
