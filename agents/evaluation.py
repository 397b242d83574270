"""Policy evaluation, which all learning rules share: returns and advantages of a batch, and the value loss."""

from typing import NamedTuple

import torch
from torch import Tensor

from agents.ranks import ALONE, Ranks
from agents.returns import lambda_returns, masked_mean, standardise
from agents.types import Unroll
from networks.heads import PopArtHead


class Evaluation(NamedTuple):
    """Returns G and advantages A = G - V, both [T, B] in units of the return, without gradient."""

    returns: Tensor
    advantages: Tensor


@torch.no_grad()
def evaluate_policy(unroll: Unroll, discount: float, lambda_: float) -> Evaluation:
    """Return G and A of a batch from the values in `unroll.value` [T+1, B], whose last row is the bootstrap."""
    ended = (unroll.terminated | unroll.truncated)[1:]
    continues = discount * (~unroll.terminated[1:]).to(unroll.value.dtype)
    returns = lambda_returns(unroll.reward[1:], continues, unroll.value, ended, lambda_)
    return Evaluation(returns, returns - unroll.value[:-1])


def value_loss(
    value: Tensor, returns: Tensor, valid: Tensor, task: Tensor, popart: PopArtHead, ranks: Ranks = ALONE
) -> Tensor:
    """Return the mean over valid steps of 0.5 (V - G)^2 in PopArt's units.

    `value` [T, B] is in these units, `returns` [T, B] in units of the return; `valid` [T, B] bool, `task` [B].
    """
    error = value - popart.normalise(returns, task)
    return 0.5 * masked_mean(error.square(), valid, ranks)


@torch.no_grad()
def describe_values(
    evaluation: Evaluation, unroll: Unroll, popart: PopArtHead, ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """Return scalars to log; where several tasks share a batch, in units of each task's standard deviation."""
    valid, task = unroll.valid, unroll.task
    returns, advantages = evaluation
    if popart.tasks > 1:
        returns, advantages = popart.normalise(returns, task), divide_by_deviation(advantages, unroll, popart)
    spread = masked_mean((returns - masked_mean(returns, valid, ranks)).square(), valid, ranks)
    mean_square = masked_mean(advantages.square(), valid, ranks)
    smallest = torch.finfo(spread.dtype).tiny
    return {
        "value/mean": masked_mean(returns - advantages, valid, ranks),
        "value/explained_variance": 1 - mean_square / spread.clamp(min=smallest),
        "value/advantage_rms": mean_square.sqrt(),
        "value/popart_std": popart.std.mean().to(spread.dtype),
    }


@torch.no_grad()
def scaled_advantages(
    evaluation: Evaluation,
    unroll: Unroll,
    popart: PopArtHead,
    standardised: bool,
    ranks: Ranks = ALONE,
    in_deviations: bool = False,
) -> Tensor:
    """Return the advantages [T, B] that a learning rule uses, `standardised` to mean 0 and deviation 1 over the batch.

    With `in_deviations`, and where several tasks share a batch, they are first divided by the running standard
    deviation of their task's returns.
    """
    advantages = evaluation.advantages
    if popart.tasks > 1 or in_deviations:
        advantages = divide_by_deviation(advantages, unroll, popart)
    return standardise(advantages, unroll.valid, ranks) if standardised else advantages


def divide_by_deviation(advantages: Tensor, unroll: Unroll, popart: PopArtHead) -> Tensor:
    """Divide `advantages` [T, B] by the standard deviation of each task's returns (Hessel et al. 2018, section 4)."""
    return advantages / popart.scale(unroll.task, advantages.dtype)[1]
