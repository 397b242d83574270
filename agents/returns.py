"""Returns and advantages over unrolls, without a loop over time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.ranks import ALONE, Ranks


def lambda_returns(
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    value: Float[Tensor, "T+1 B"],
    cut: Bool[Tensor, "T B"],
    lambda_: float,
) -> Float[Tensor, "T B"]:
    """Return lambda-returns G [T, B]; G - V are the generalised advantages (Schulman et al. 2016).

        G_t = r_t + d_t [(1 - l_t) V_{t+1} + l_t G_{t+1}],   l_t = 0 where cut or at t = T-1, else lambda

    `reward` [T, B] is that of the action taken at t; `discount` [T, B] is gamma, or 0 where that action ended the
    episode; `value` [T+1, B] is in units of the return; `cut` [T, B] bool is True where the next observation is its
    episode's last, from which a time limit bootstraps. lambda = 1 is the n-step return to the end of the unroll,
    V-MPO's G^(n).
    """
    lambda_t = lambda_ * (~cut).to(value.dtype)
    lambda_t[-1] = 0
    base = reward + discount * (1 - lambda_t) * value[1:]
    return _scan_back(base, discount * lambda_t)


def _scan_back(a: Float[Tensor, "T B"], b: Float[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    """Solve x_t = a_t + b_t x_{t+1}, x_T = 0, in log2(T) doublings, each of which doubles the span that a_t sums."""
    span = 1
    while span < len(a):
        pad = a.new_zeros(span, *a.shape[1:])
        a = a + b * torch.cat([a[span:], pad])
        b = b * torch.cat([b[span:], pad])
        span *= 2
    return a


def standardise(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], ranks: Ranks = ALONE
) -> Float[Tensor, "*shape"]:
    """Return `x` with mean 0 and standard deviation 1 over `mask`, of all ranks, in whatever units it was; 0 off the
    mask, and 0 everywhere if the values differ by no more than rounding."""
    mean = masked_mean(x, mask, ranks)
    centred = torch.where(mask, x - mean, 0)
    deviation = masked_mean(centred.double().square(), mask, ranks).sqrt().to(x.dtype)
    rounding = 4 * torch.finfo(x.dtype).eps * mean.abs()
    return torch.where(deviation > rounding, centred / deviation, 0)


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], ranks: Ranks = ALONE) -> Float[Tensor, ""]:
    """Return the mean of `x` over `mask`, of all ranks; 0 if the mask is empty."""
    sums = torch.stack([torch.where(mask, x, 0).sum(), mask.sum().to(x.dtype)])  # in one message between ranks
    total, count = ranks.total(sums)
    return total / count.clamp(min=1)
