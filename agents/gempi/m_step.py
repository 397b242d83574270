"""The M-step: weighted maximum likelihood, and a control variate that takes chance out of it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean


def weighted_likelihood_loss(log_prob: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """-sum_i w_i log pi(y_i), for `log_prob` and detached `weights` that sum to 1 (GEMPI eq. 18).

    A sample of weight 0 adds exactly nothing, whatever its log-probability.
    """
    return -torch.where(weights > 0, weights * log_prob, 0).sum()


def sampling_error(
    log_prob: Float[Tensor, "*shape"],
    cross_entropy: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    ranks: Ranks = ALONE,
) -> Float[Tensor, ""]:
    """Mean over `mask` of log pi(a_i|s_i) - E_{a ~ pi_old}[log pi(a|s_i)]: what the draw of the actions alone adds.

    `cross_entropy` = -E_{pi_old}[log pi] = KL(pi_old || pi) + H(pi_old). For actions drawn from pi_old and a pi that
    has not been fitted to them its expectation is 0, so a multiple c of it leaves the weighted likelihood the same on
    average (a control variate; Owen 2013, section 8.9). With c = 1, the mean of N psi_i, weights that say nothing
    (psi_i = 1/N) have no gradient at pi = pi_old. The plain likelihood then raises whichever actions were drawn, and
    these errors add up to a random walk that ends at a deterministic policy. The price: actions of small weight are
    pushed down, and only the trust region, or small steps, set that a bound.
    """
    return masked_mean(log_prob + cross_entropy, mask, ranks)
