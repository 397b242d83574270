"""PPO (arXiv 1707.06347), the baseline: clipped surrogate, value loss, entropy, over whole sequences."""

import torch
from torch import nn

from agents.config import AgentConfig
from agents.evaluation import evaluate_policy
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from agents.types import Loss, Passes, Unroll
from networks.heads import PopArtHead


class PPO(nn.Module):
    """L = -L_clip + c_v L_V - c_e H (GEMPI section 4). Its minibatches are sequences, so the memory stays whole.

    Where the paper fixes the advantages of a batch, they are here those of the values at each gradient step.
    """

    def __init__(self, config: AgentConfig, continuous: bool, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks

    def loss(self, passes: Passes, unroll: Unroll, popart: PopArtHead, annealing: float = 1.0) -> Loss:
        """Of one gradient step's `passes` over `unroll`; `annealing` in [0, 1] scales the entropy bonus."""
        valid, ranks, epsilon = unroll.valid, self.ranks, self.config.clip_epsilon
        evaluation = evaluate_policy(passes, unroll, popart, self.config, ranks)
        old, new = passes.old, passes.new

        # Masked before exp: at a reset nothing bounds the ratio, and the gradient of infinity is NaN even times 0.
        log_ratio = new.log_prob(unroll.action) - old.log_prob(unroll.action)
        ratio = torch.where(valid, log_ratio, 0).exp()
        surrogate = torch.minimum(
            ratio * evaluation.advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * evaluation.advantages
        )
        policy_loss = -masked_mean(surrogate, valid, ranks)
        entropy = masked_mean(new.entropy(), valid, ranks)
        total = policy_loss + self.config.value_coefficient * evaluation.loss
        total = total - annealing * self.config.entropy_coefficient * entropy
        with torch.no_grad():
            own = {
                "m_step/policy_loss": policy_loss.detach(),
                "m_step/entropy": entropy.detach(),
                "m_step/kl": masked_mean(old.kl(new), valid, ranks),
                "m_step/ratio_variance": masked_mean((ratio - masked_mean(ratio, valid, ranks)).square(), valid, ranks),
                "m_step/clipped": masked_mean(((ratio - 1).abs() > epsilon).float(), valid, ranks),
            }
        return Loss(total, evaluation.loss, evaluation.returns, evaluation.metrics | own)
