"""PPO (arXiv 1707.06347), the baseline: clipped surrogate, value loss and entropy bonus."""

import torch
from torch import nn

from agents.config import AgentConfig
from agents.evaluation import Evaluation, describe_values, scaled_advantages, value_loss
from agents.gempi.em import UpdateDuals, once
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from agents.types import LARGEST_LOG_RATIO, Loss, Passes, Plan, Unroll
from networks.distributions import ActionSpace
from networks.heads import PopArtHead


class PPO(nn.Module):
    """PPO, L = -L_clip + c_v L_V - c_e H (GEMPI section 4), on minibatches of whole unrolls, for the core's memory."""

    def __init__(self, config: AgentConfig, space: ActionSpace, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks

    def plan(
        self, unroll: Unroll, evaluation: Evaluation, popart: PopArtHead, update_duals: UpdateDuals = once
    ) -> Plan:
        """Return the plan of a batch: its advantages, standardised over the batch if the option says so; no E-step."""
        advantages = scaled_advantages(
            evaluation, unroll, popart, self.config.standardise_advantages, self.ranks, self.config.scale_rewards
        )
        metrics = describe_values(evaluation, unroll, popart, self.ranks)
        return Plan(evaluation.returns, advantages, torch.ones_like(advantages), advantages.new_zeros(()), metrics)

    def loss(self, passes: Passes, unroll: Unroll, plan: Plan, popart: PopArtHead, annealing: float = 1.0) -> Loss:
        """Return the loss of a gradient step on some environments; `annealing` in [0, 1] scales the entropy bonus."""
        valid, ranks, epsilon = unroll.valid, self.ranks, self.config.clip_epsilon
        old, new = passes.old, passes.new

        # Masked and bounded before exp: the gradient of an infinite ratio is NaN even times 0.
        log_ratio = new.log_prob(unroll.action) - old.log_prob(unroll.action)
        ratio = torch.where(valid, log_ratio, 0).clamp(max=LARGEST_LOG_RATIO).exp()
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
        surrogate = torch.minimum(ratio * plan.advantages, clipped * plan.advantages)
        policy_loss = -masked_mean(surrogate, valid, ranks)
        entropy = masked_mean(new.entropy(), valid, ranks)
        critic_loss = value_loss(passes.fitted.value[:-1], plan.returns, valid, unroll.task, popart, ranks)
        total = policy_loss + self.config.value_coefficient * critic_loss
        total = total - annealing * self.config.entropy_coefficient * entropy
        with torch.no_grad():
            metrics = {
                "value/loss": critic_loss.detach(),
                "m_step/policy_loss": policy_loss.detach(),
                "m_step/entropy": entropy.detach(),
                "m_step/kl": masked_mean(old.kl(new), valid, ranks),
                "m_step/ratio_variance": masked_mean((ratio - masked_mean(ratio, valid, ranks)).square(), valid, ranks),
                "m_step/clipped": masked_mean(((ratio - 1).abs() > epsilon).float(), valid, ranks),
            }
        return Loss(total, critic_loss, metrics)
