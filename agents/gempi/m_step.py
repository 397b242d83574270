"""The M-step: weighted maximum likelihood, and a control variate that reduces its variance."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean


def weighted_likelihood_loss(log_prob: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return -sum_i w_i log pi(y_i), for `log_prob` [...] and detached `weights` [...] that sum to 1 (GEMPI eq. 18).

    A sample of weight 0 adds exactly 0, even if its log-probability is infinite.
    """
    return -torch.where(weights > 0, weights * log_prob, 0).sum()


def sampling_error(
    log_prob: Float[Tensor, "*shape"],
    cross_entropy: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    ranks: Ranks = ALONE,
) -> Float[Tensor, ""]:
    """Return the mean over `mask` of log pi(a_i|s_i) - E_{a ~ pi_old}[log pi(a|s_i)], the noise of the drawn actions.

    `log_prob` and `cross_entropy` = -E_{pi_old}[log pi] = KL(pi_old || pi) + H(pi_old) are [...]. For actions drawn
    from pi_old and a pi that has not been fitted to them the expectation is 0, so that a multiple c of it is a control
    variate of the weighted likelihood (Owen 2013, section 8.9). With c = 1, the mean of N psi_i, uniform weights
    (psi_i = 1/N) have no gradient at pi = pi_old. The plain likelihood then raises whichever actions were drawn, and
    these errors add up to a random walk that ends at a deterministic policy. The cost: the probability of actions of
    small weight is pushed down, which only the trust region or small steps limit.
    """
    return masked_mean(log_prob + cross_entropy, mask, ranks)
