"""Value head of a language model: the expected reward of a completion, from its prompt or from each token on."""

import torch
from torch import Tensor, nn

from agents.returns import lambda_returns


class ValueHead(nn.Module):
    """V(x) [N] from features [N, D] of the prompt's last token, or V(x, y_<t) [N, C] from features [N, C, D] of the
    last token before each. No gradient flows into the features."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.detach().float()).squeeze(-1)

    def loss(self, features: Tensor, returns: Tensor) -> Tensor:
        """Return the sum of 0.5 (V - G)^2 over the `returns` G [N] or [N, C] that are not NaN, not known."""
        return 0.5 * torch.where(returns.isnan(), 0, self(features) - returns).square().sum()


def token_returns(values: Tensor, rewards: Tensor, mask: Tensor, lambda_: float) -> Tensor:
    """Return the lambda-returns G [N, C] of tokens, whose G - V are generalised advantages; NaN off the mask.

    A token is an action, and the tokens before it are its state, with `values` [N, C]. The last token of a completion
    has its reward, of `rewards` [N], the others have 0, and there is no discount. `mask` [N, C] is True on the tokens.
    """
    goes_on = mask & torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    reward = torch.where(mask & ~goes_on, rewards.to(values.dtype).unsqueeze(1), 0)
    value = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
    never = torch.zeros_like(mask)
    by_time = (x.t() for x in (reward, goes_on.to(values.dtype), value, never))
    return torch.where(mask, lambda_returns(*by_time, lambda_).t(), torch.nan)
