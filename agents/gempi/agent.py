"""Agent for any row of the table of methods, whose samples are the steps of unrolls."""

from torch import Tensor

from agents.config import AgentConfig
from agents.evaluation import Evaluation, describe_values, scaled_advantages, value_loss
from agents.gempi.em import EM, UpdateDuals, once
from agents.gempi.m_step import sampling_error, weighted_likelihood_loss
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from agents.types import Loss, Passes, Plan, Unroll, rows
from networks.distributions import ActionSpace, Reals
from networks.heads import PopArtHead


class Gempi(EM):
    """EM method on unrolls: `plan` is the E-step, once a batch, and `loss` the M-step, for each minibatch.

    The M-step's loss is c_v L_V + L_pi + L_alpha - c_e H. That is V-MPO's eq. 2 (c_v = 1, c_e = 0) without L_eta, which
    is the E-step's.
    """

    def __init__(self, config: AgentConfig, space: ActionSpace, ranks: Ranks = ALONE) -> None:
        super().__init__(config.row, config, ranks, gaussian=isinstance(space, Reals))
        self.config, self.space = config, space

    def plan(
        self, unroll: Unroll, evaluation: Evaluation, popart: PopArtHead, update_duals: UpdateDuals = once
    ) -> Plan:
        """Make the E-step on the whole of `unroll`: advantages first, then weights."""
        valid, ranks = unroll.valid, self.ranks
        advantages = scaled_advantages(
            evaluation, unroll, popart, self.config.standardise_advantages, ranks, self.config.scale_rewards
        )
        log_ratios = {}
        if unroll.reference is not None:
            old, reference = map(self.space.distribution, (unroll.policy, unroll.reference))
            log_ratios["reference"] = (reference.log_prob(unroll.action) - old.log_prob(unroll.action)).flatten()
        step = self.e_step(advantages.flatten(), log_ratios, valid.flatten(), update_duals)
        weights = ranks.total(valid.sum()) * step.weights.view_as(advantages)
        metrics = describe_values(evaluation, unroll, popart, ranks) | step.diagnostics
        return Plan(evaluation.returns, advantages, weights, step.dual_loss, metrics)

    def loss(self, passes: Passes, unroll: Unroll, plan: Plan, popart: PopArtHead, annealing: float = 1.0) -> Loss:
        """Return the M-step's loss for some environments' `unroll` and `plan`; `annealing` scales the entropy bonus."""
        valid, ranks = unroll.valid, self.ranks
        new = rows(passes.fitted.policy)
        old = new.like(unroll.policy)
        log_prob = new.log_prob(unroll.action)
        psi = plan.weights / ranks.total(valid.sum()).clamp(min=1)
        policy_loss = ranks.total(weighted_likelihood_loss(log_prob, psi))
        if c := self.config.control_variate:
            policy_loss = policy_loss + c * sampling_error(log_prob, old.kl(new) + old.entropy(), valid, ranks)
        region = self.trust_region(passes.old, passes.new, valid, ranks)
        entropy = masked_mean(new.entropy(), valid, ranks)
        critic_loss = value_loss(passes.fitted.value[:-1], plan.returns, valid, unroll.task, popart, ranks)

        total = self.config.value_coefficient * critic_loss + policy_loss + region.loss
        total = total - annealing * self.config.entropy_coefficient * entropy
        own: dict[str, Tensor] = {
            "value/loss": critic_loss.detach(),
            "m_step/policy_loss": policy_loss.detach(),
            "m_step/entropy": entropy.detach(),
        }
        return Loss(total, critic_loss, own | region.metrics)
