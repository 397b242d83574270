"""V in A = r - V: what a completion could be expected to get, from the rewards of its batch and those before.

A reward that is NaN is not known, and enters none of them.
"""

import math
from typing import Any

import torch
from torch import Tensor


def group_mean(rewards: Tensor) -> Tensor:
    """Over the K completions of each prompt: [B, K] -> [B, K]. A completion's own reward is part of it, so advantages
    are (K - 1) / K of those of `leave_one_out`, on average."""
    return rewards.nanmean(1, keepdim=True).expand_as(rewards)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Over the other K - 1 completions of each prompt: [B, K] -> [B, K], unbiased (Kool et al. 2019); 0 where there is
    no other."""
    known = ~rewards.isnan()
    others = known.sum(1, keepdim=True) - known.long()
    return (rewards.nansum(1, keepdim=True) - rewards.nan_to_num()) / others.clamp(min=1)


def batch_mean(rewards: Tensor) -> Tensor:
    """Over all: [B, K] -> [B, K]."""
    return rewards.nanmean().expand_as(rewards)


class MovingAverage:
    """Of the batches' means, corrected for its start at 0; a batch is compared with those before it, the first with
    itself."""

    def __init__(self, decay: float = 0.9) -> None:
        self.decay, self.sum, self.weight = decay, 0.0, 0.0

    def __call__(self, rewards: Tensor) -> Tensor:
        """[B, K] -> [B, K]."""
        mean = float(rewards.nanmean())
        if math.isnan(mean):
            return rewards
        before = self.sum / self.weight if self.weight else mean
        self.sum = self.decay * self.sum + (1 - self.decay) * mean
        self.weight = self.decay * self.weight + 1 - self.decay
        return torch.full_like(rewards, before)

    def get_state(self) -> dict[str, Any]:
        return {"sum": self.sum, "weight": self.weight}

    def set_state(self, state: dict[str, Any]) -> None:
        self.sum, self.weight = state["sum"], state["weight"]
