"""Value head for prompts: the expected reward of their completions, from the language model's features."""

import torch
from torch import Tensor, nn


class PromptValue(nn.Module):
    """V(x) [N] from features [N, D] of the prompt's last token, into which no gradient flows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.detach().float()).squeeze(-1)

    def loss(self, features: Tensor, rewards: Tensor) -> Tensor:
        """Return the mean over N of 0.5 (V - r)^2, with 0 where the reward [N] is NaN, not known."""
        known = ~rewards.isnan()
        return 0.5 * torch.where(known, self(features) - rewards, 0).square().mean()
