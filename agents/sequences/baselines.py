"""Baselines V in A = r - V: the expected reward of a completion, from the rewards of this batch and those before.

Each maps rewards [B, K], of K completions of B prompts, to V [B, K]. A reward that is NaN is not known, and left out.
"""

import math
from typing import Any

import torch
from torch import Tensor


def group_mean(rewards: Tensor) -> Tensor:
    """Return the mean over the K completions of each prompt. It includes a completion's own reward, so that advantages
    are (K - 1) / K of those of `leave_one_out`."""
    return rewards.nanmean(1, keepdim=True).expand_as(rewards)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return the mean over the other K - 1 completions of each prompt, which is unbiased (Kool et al. 2019); 0 where
    there is no other."""
    known = ~rewards.isnan()
    others = known.sum(1, keepdim=True) - known.long()
    return (rewards.nansum(1, keepdim=True) - rewards.nan_to_num()) / others.clamp(min=1)


def batch_mean(rewards: Tensor) -> Tensor:
    """Return the mean over all completions."""
    return rewards.nanmean().expand_as(rewards)


class MovingAverage:
    """Moving average of the means of the batches before, corrected for its start at 0; for the first batch its own
    mean."""

    def __init__(self, decay: float = 0.9) -> None:
        self.decay, self.sum, self.weight = decay, 0.0, 0.0

    def __call__(self, rewards: Tensor) -> Tensor:
        """Return the average before this batch, and add the batch to it."""
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
