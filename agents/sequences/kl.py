"""The KL between policies over tokens, from the tokens drawn alone: a vocabulary is too large to keep for each."""

from typing import NamedTuple

from torch import Tensor

LARGEST = 20.0
"""Log-ratios above it would be infinite ratios soon, and NaN times 0."""


class SampledTokens(NamedTuple):
    """A policy by its log-probabilities [N, C] of the tokens that pi_old drew; `drew`: whether it is pi_old itself.

    With rho = pi / pi_old of a token drawn from pi_old, E[rho - 1 - log rho] = KL(pi_old || pi), and
    E[rho log rho - rho + 1] = KL(pi || pi_old). Each term is at least 0, and at pi = pi_old it is 0 and has no
    gradient; -log rho alone, of the same mean as the first, has the gradient of which tokens happened to be drawn.
    """

    log_prob: Tensor
    drew: bool

    def kl(self, other: "SampledTokens") -> Tensor:
        """Estimates of KL(self || other), [N, C], where one of the two is pi_old."""
        if self.drew:
            log_rho = (other.log_prob - self.log_prob).clamp(max=LARGEST)
            return log_rho.expm1() - log_rho
        log_rho = (self.log_prob - other.log_prob).clamp(max=LARGEST)
        return log_rho.exp() * log_rho - log_rho.expm1()
