"""Any row of the table of methods on sequences: the E-step weighs completions, or tokens, the M-step fits the policy to
them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from agents.gempi.em import EM, UpdateDuals, once
from agents.gempi.m_step import weighted_likelihood_loss
from agents.gempi.trust_region import Unconstrained
from agents.ranks import ALONE, Ranks
from agents.sequences.config import SequenceConfig
from agents.sequences.kl import SampledTokens
from agents.sequences.types import PartLoss, Plan, Samples, even_plan, sequence_log_prob


class SequenceGempi(EM):
    """EM method on completions: L = L_pi + L_alpha, and L_eta in the E-step (GEMPI section 11, eqs. 16-18).

    Where tokens have advantages a sample is a token, an action after the tokens before it, with its own ratio to pi_t.
    Samples of weight 0 do not pass through the network, unless a trust region limits the policy on them too.
    """

    pairs, fits = False, True

    def __init__(self, config: SequenceConfig, ranks: Ranks = ALONE) -> None:
        super().__init__(config.row, config, ranks)
        self.config = config
        self.needs_reference = "reference" in self.row.anchors
        self.compares = not isinstance(self.trust_region, Unconstrained)

    def plan(self, samples: Samples, update_duals: UpdateDuals = once) -> Plan:
        """Make the E-step over the samples of all ranks: completions or, where these have advantages, tokens."""
        log_ratio = samples.reference - samples.behaviour
        if samples.advantages.dim() == 1:
            log_ratio = sequence_log_prob(log_ratio, samples.mask)
        rows = [x.reshape(len(x), -1) for x in (samples.advantages, log_ratio, samples.valid)]
        length = rows[0].shape[1]
        width = int(self.ranks.gather(torch.tensor([length], device=log_ratio.device)).max())  # as many on all ranks
        advantages, to_reference, valid = (pad(x, (0, width - length)).flatten() for x in rows)
        each = width * samples.each if self.config.e_step == "prompt" else None
        weights, dual_loss, metrics = self.e_step(advantages, {"reference": to_reference}, valid, update_duals, each)
        weights = weights.view(-1, width)[:, :length]
        kept = samples.mask if self.compares else weights > 0
        return Plan(weights.reshape(samples.valid.shape), kept.any(1), dual_loss, metrics)

    def loss(self, fitted: Tensor, compared: Tensor, samples: Samples, weights: Tensor, tokens: Tensor) -> PartLoss:
        """Return the weighted likelihood of completions or tokens, and the trust region averaged over tokens."""
        log_prob = fitted if weights.dim() == 2 else sequence_log_prob(fitted, samples.mask)
        likelihood = weighted_likelihood_loss(log_prob, weights)
        old, new = SampledTokens(samples.behaviour, drew=True), SampledTokens(compared, drew=False)
        region = self.trust_region(old, new, samples.mask)
        share = samples.mask.sum() / tokens
        metrics = {name: share * value for name, value in region.metrics.items()}
        return PartLoss(likelihood + share * region.loss, metrics | {"m_step/policy_loss": likelihood.detach()})


class SFT(nn.Module):
    """Maximum likelihood of demonstrations: the target is a delta on each, the weights 1 / N (GEMPI section 9)."""

    needs_reference = pairs = compares = False
    fits = True

    def __init__(self, config: SequenceConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.ranks = ranks

    def plan(self, samples: Samples, update_duals: UpdateDuals = once) -> Plan:
        return even_plan(samples.mask.any(1), self.ranks)

    def loss(self, fitted: Tensor, compared: Tensor, samples: Samples, weights: Tensor, tokens: Tensor) -> PartLoss:
        likelihood = weighted_likelihood_loss(sequence_log_prob(fitted, samples.mask), weights)
        per_token = -torch.where(samples.mask, fitted.detach(), 0).sum() / tokens
        return PartLoss(likelihood, {"m_step/policy_loss": likelihood.detach(), "m_step/token_loss": per_token})
