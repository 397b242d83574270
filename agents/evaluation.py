"""Policy evaluation, the same for every learning rule: returns, advantages and the value loss."""

from typing import NamedTuple

from torch import Tensor

from agents.config import AgentConfig
from agents.ranks import ALONE, Ranks
from agents.returns import lambda_returns, masked_mean, standardise
from agents.types import Passes, Unroll
from networks.heads import PopArtHead


class Evaluation(NamedTuple):
    """`returns` G and `advantages` A [T, B] without gradient, the scalar `loss`, and scalars to log."""

    returns: Tensor
    advantages: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


def evaluate_policy(
    passes: Passes, unroll: Unroll, popart: PopArtHead, config: AgentConfig, ranks: Ranks = ALONE
) -> Evaluation:
    """Returns, advantages and loss of `unroll`.

    Every value, the bootstrap included, is the whole online network's (V-MPO section 4.1), so several passes over a
    batch see advantages that are up to date. Where tasks of different scales share a batch, advantages are in the units
    of each one's standard deviation (Hessel et al. 2018, section 4).
    """
    valid, task = unroll.valid, unroll.task
    value = popart.denormalise(passes.whole.value.detach(), task)
    ended = (unroll.terminated | unroll.truncated)[1:]
    discount = config.discount * (~unroll.terminated[1:]).to(value.dtype)
    returns = lambda_returns(unroll.reward[1:], discount, value, ended, config.gae_lambda)
    advantages = returns - value[:-1]
    error = passes.fitted.value[:-1] - popart.normalise(returns, task)
    loss = 0.5 * masked_mean(error.square(), valid, ranks)
    shown = returns
    if popart.tasks > 1:
        shown, advantages = popart.normalise(returns, task), advantages / popart.scale(task, value.dtype)[1]
    spread = masked_mean((shown - masked_mean(shown, valid, ranks)).square(), valid, ranks)
    mean_square = masked_mean(advantages.square(), valid, ranks)
    metrics = {
        "value/loss": loss.detach(),
        "value/mean": masked_mean(shown - advantages, valid, ranks),
        "value/explained_variance": 1 - mean_square / spread.clamp(min=1e-8),
        "value/advantage_rms": mean_square.sqrt(),
    }
    if config.standardise_advantages:
        advantages = standardise(advantages, valid, ranks)
    return Evaluation(returns, advantages, loss, metrics)
