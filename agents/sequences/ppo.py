"""PPO on sequences, the baseline: the clipped surrogate with a ratio for each completion, or for each token."""

import torch
from torch import Tensor, nn

from agents.gempi.em import UpdateDuals, once
from agents.ranks import ALONE, Ranks
from agents.sequences.config import SequenceConfig
from agents.sequences.kl import SampledTokens
from agents.sequences.types import PartLoss, Plan, Samples, even_plan
from agents.types import LARGEST_LOG_RATIO


class SequencePPO(nn.Module):
    """PPO, L = -L_clip + c_kl KL(pi_old || pi) (GEMPI section 4). A token has its completion's advantage, or
    one of its own."""

    needs_reference = pairs = fits = False
    compares = True

    def __init__(self, config: SequenceConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks

    def plan(self, samples: Samples, update_duals: UpdateDuals = once) -> Plan:
        """Return a plan with the weight 1 / N for each completion."""
        return even_plan(samples.mask.any(1), self.ranks)

    def loss(self, fitted: Tensor, compared: Tensor, samples: Samples, weights: Tensor, tokens: Tensor) -> PartLoss:
        """Return the loss of a part of the step; token ratios are averaged over tokens, sequence ratios over
        completions."""
        mask, epsilon = samples.mask, self.config.clip_epsilon
        log_ratio = torch.where(mask, compared - samples.behaviour, 0)
        advantages, share = samples.advantages, mask / tokens
        if self.config.ratio == "sequence":
            log_ratio, share = log_ratio.sum(1), weights
        elif advantages.dim() == 1:
            advantages = advantages.unsqueeze(1)
        ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
        policy_loss = -(share * surrogate).sum()
        old, new = SampledTokens(samples.behaviour, drew=True), SampledTokens(compared, drew=False)
        kl = torch.where(mask, old.kl(new), 0).sum() / tokens
        total = policy_loss + self.config.kl_coefficient * kl
        with torch.no_grad():
            metrics = {
                "m_step/policy_loss": policy_loss.detach(),
                "m_step/kl": kl.detach(),
                "m_step/ratio_variance": (share * (ratio - 1).square()).sum(),
                "m_step/clipped": (share * ((ratio - 1).abs() > epsilon)).sum(),
            }
        return PartLoss(total, metrics)
