"""Any row of the table of methods as an agent, whose samples are the steps of unrolls."""

from torch import Tensor

from agents.config import AgentConfig
from agents.evaluation import Evaluation, describe_values, scaled_advantages, value_loss
from agents.gempi.em import EM, Settle, once
from agents.gempi.m_step import sampling_error, weighted_likelihood_loss
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from agents.types import Loss, Passes, Plan, Unroll, rows
from networks.distributions import ActionSpace, Reals
from networks.heads import PopArtHead


class Gempi(EM):
    """The loss of V-MPO eq. 2, c_v L_V + L_pi + L_alpha - c_e H (c_v = 1 and c_e = 0 there), whose L_eta belongs to
    the E-step: `plan` is made once a batch, `loss` of each of its minibatches."""

    def __init__(self, config: AgentConfig, space: ActionSpace, ranks: Ranks = ALONE) -> None:
        super().__init__(config.row, config, ranks, gaussian=isinstance(space, Reals))
        self.config, self.space = config, space

    def plan(self, unroll: Unroll, evaluation: Evaluation, popart: PopArtHead, settle: Settle = once) -> Plan:
        """Make the E-step on the whole of `unroll`: advantages, then weights."""
        valid, ranks = unroll.valid, self.ranks
        advantages = scaled_advantages(
            evaluation, unroll, popart, self.config.standardise_advantages, ranks, self.config.scale_rewards
        )
        log_ratios = {}
        if unroll.reference is not None:
            old, reference = map(self.space.distribution, (unroll.policy, unroll.reference))
            log_ratios["reference"] = (reference.log_prob(unroll.action) - old.log_prob(unroll.action)).flatten()
        step = self.e_step(advantages.flatten(), log_ratios, valid.flatten(), settle)
        weights = ranks.total(valid.sum()) * step.weights.view_as(advantages)
        metrics = describe_values(evaluation, unroll, popart, ranks) | step.diagnostics
        return Plan(evaluation.returns, advantages, weights, step.dual_loss, metrics)

    def loss(self, passes: Passes, unroll: Unroll, plan: Plan, popart: PopArtHead, annealing: float = 1.0) -> Loss:
        """M-step on some environments: `unroll` and `plan` are theirs; `annealing` scales the entropy bonus."""
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
        of_value = value_loss(passes.fitted.value[:-1], plan.returns, valid, unroll.task, popart, ranks)

        total = self.config.value_coefficient * of_value + policy_loss + region.loss
        total = total - annealing * self.config.entropy_coefficient * entropy
        own: dict[str, Tensor] = {
            "value/loss": of_value.detach(),
            "m_step/policy_loss": policy_loss.detach(),
            "m_step/entropy": entropy.detach(),
        }
        return Loss(total, of_value, own | region.metrics)
