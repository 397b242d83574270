"""Returns and advantages over unrolls, without a loop over time."""

import torch
from torch import Tensor


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, cut: Tensor, lambda_: float) -> Tensor:
    """lambda-returns [T, B]; G - V are the generalised advantages (Schulman et al. 2016).

        G_t = r_t + d_t [(1 - l_t) V_{t+1} + l_t G_{t+1}],   l_t = 0 where cut or at t = T-1, else lambda

    `reward` [T, B] for the action taken at t; `discount` [T, B], gamma, or 0 where that action ended the episode;
    `value` [T+1, B] in units of the return; `cut` [T, B] bool where the next observation is its episode's last, so
    that a time limit bootstraps from it. lambda = 1 is the n-step return to the end of the unroll, V-MPO's G^(n).
    """
    lambda_t = lambda_ * (~cut).to(value.dtype)
    lambda_t[-1] = 0
    base = reward + discount * (1 - lambda_t) * value[1:]
    return _scan_back(base, discount * lambda_t)


def _scan_back(a: Tensor, b: Tensor) -> Tensor:
    """x_t = a_t + b_t x_{t+1}, x_T = 0, in log2(T) doublings: after each, a_t sums a span of twice the length."""
    span = 1
    while span < len(a):
        pad = a.new_zeros(span, *a.shape[1:])
        a = a + b * torch.cat([a[span:], pad])
        b = b * torch.cat([b[span:], pad])
        span *= 2
    return a


def standardise(x: Tensor, mask: Tensor) -> Tensor:
    """`x` with mean 0 and standard deviation 1 over `mask`; 0 elsewhere."""
    count = mask.sum().clamp(min=1)
    mean = torch.where(mask, x, 0).sum() / count
    centred = torch.where(mask, x - mean, 0)
    return centred / (centred.square().sum() / count).sqrt().clamp(min=1e-8)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` over `mask`, 0 where the mask is empty."""
    return torch.where(mask, x, 0).sum() / mask.sum().clamp(min=1)
