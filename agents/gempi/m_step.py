"""The M-step: weighted maximum likelihood."""

import torch
from torch import Tensor


def weighted_likelihood_loss(log_prob: Tensor, weights: Tensor) -> Tensor:
    """-sum_i w_i log pi(y_i), for `log_prob` [N] and detached `weights` [N] that sum to 1 (seed eq. 18).

    A sample of weight 0 adds exactly nothing, whatever its log-probability.
    """
    return -torch.where(weights > 0, weights * log_prob, 0).sum()
