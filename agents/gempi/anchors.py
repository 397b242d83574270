"""Anchors of the E-step: the policies that the target stays close to."""

from typing import Literal

import torch
from torch import Tensor

AnchorName = Literal["reference", "behaviour"]
"""pi_ref, which changes slowly or never, and pi_t, which the samples were drawn from."""


def log_bases(log_ratios: Tensor, support: Tensor) -> Tensor:
    """log b_j [m, N], the anchors' masses on the kept samples, 0 off the `support` [N].

    `log_ratios` [m, N] = log pi_j(y_i) - log pi_t(y_i): what an anchor's mass on a sample of pi_t is proportional to.
    """
    kept = torch.where(support, log_ratios, -torch.inf)
    return torch.where(support, log_ratios - kept.logsumexp(1, keepdim=True), 0)
