"""The KL between policies over tokens, estimated from the tokens drawn: distributions over a vocabulary are too large
to keep."""

from typing import NamedTuple

from torch import Tensor

from agents.types import LARGEST_LOG_RATIO


class SampledTokens(NamedTuple):
    """A policy by its log-probabilities [N, C] of the tokens that pi_old drew; `drew` is True for pi_old itself.

    With rho = pi / pi_old of a token drawn from pi_old, E[rho - 1 - log rho] = KL(pi_old || pi), and
    E[rho log rho - rho + 1] = KL(pi || pi_old). Each term is at least 0, and at pi = pi_old it is 0 with gradient 0;
    -log rho alone, of the same mean as the first, has there a gradient that depends on which tokens were drawn.
    """

    log_prob: Tensor
    drew: bool

    def kl(self, other: "SampledTokens") -> Tensor:
        """Return estimates of KL(self || other) in nats, [N, C], where one of the two is pi_old."""
        if self.drew:
            log_rho = (other.log_prob - self.log_prob).clamp(max=LARGEST_LOG_RATIO)
            return log_rho.expm1() - log_rho
        log_rho = (self.log_prob - other.log_prob).clamp(max=LARGEST_LOG_RATIO)
        return log_rho.exp() * log_rho - log_rho.expm1()
