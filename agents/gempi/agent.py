"""Any row of the table as an agent: evaluate the policy, E-step, M-step, one loss."""

import torch
from torch import Tensor, nn

from agents.config import AgentConfig
from agents.evaluation import evaluate_policy
from agents.gempi.anchors import AnchorName
from agents.gempi.e_step import e_step
from agents.gempi.m_step import sampling_error, weighted_likelihood_loss
from agents.gempi.methods import make_method
from agents.ranks import ALONE, Ranks
from agents.returns import masked_mean
from agents.types import Loss, Passes, Unroll, rows
from networks.distributions import Distribution
from networks.heads import PopArtHead


class Gempi(nn.Module):
    """L = c_v L_V + L_pi + L_eta + L_alpha - c_e H (V-MPO eq. 2; c_v = 1 and c_e = 0 there).

    Top-k, psi and the KL average are taken over the samples of one gradient step.
    """

    def __init__(self, config: AgentConfig, continuous: bool, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks
        self.anchors = config.row.anchors
        method = make_method(config.row, config.numbers(continuous))
        self.divergence, self.filter = method.divergence, method.filter
        self.temperature, self.trust_region = method.temperature, method.trust_region

    def loss(self, passes: Passes, unroll: Unroll, popart: PopArtHead, annealing: float = 1.0) -> Loss:
        """Of one gradient step's `passes` over `unroll`; `annealing` in [0, 1] scales the entropy bonus."""
        valid, ranks = unroll.valid, self.ranks
        evaluation = evaluate_policy(passes, unroll, popart, self.config, ranks)
        new = rows(passes.fitted.policy)
        old = type(new).from_parameters(unroll.policy)

        ratios = [ranks.gather(self._log_ratio(name, old, unroll).flatten()) for name in self.anchors]
        advantages, mask = (ranks.gather(x.flatten()) for x in (evaluation.advantages, valid))
        elements = self.divergence, self.temperature, self.filter, self.anchors
        step = e_step(advantages, torch.stack(ratios), mask, *elements)
        log_prob = new.log_prob(unroll.action)
        policy_loss = ranks.total(weighted_likelihood_loss(log_prob.flatten(), ranks.own(step.weights)))
        if c := self.config.control_variate:
            policy_loss = policy_loss + c * sampling_error(log_prob, old.kl(new) + old.entropy(), valid, ranks)
        region = self.trust_region(passes.old, passes.new, valid, ranks)
        entropy = masked_mean(new.entropy(), valid, ranks)

        total = self.config.value_coefficient * evaluation.loss + policy_loss + step.dual_loss + region.loss
        total = total - annealing * self.config.entropy_coefficient * entropy
        own = {"m_step/policy_loss": policy_loss.detach(), "m_step/entropy": entropy.detach()}
        metrics = evaluation.metrics | step.diagnostics | region.metrics | own
        return Loss(total, evaluation.loss, evaluation.returns, metrics)

    def _log_ratio(self, anchor: AnchorName, old: Distribution, unroll: Unroll) -> Tensor:
        """log pi_j(a|s) - log pi_t(a|s), [T, B]."""
        if anchor == "behaviour":
            return torch.zeros_like(unroll.reward[1:])
        reference = type(old).from_parameters(unroll.reference)
        return reference.log_prob(unroll.action) - old.log_prob(unroll.action)
