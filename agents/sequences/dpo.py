"""DPO (arXiv 2305.18290, eq. 7), the offline baseline: classification of preference pairs by an implicit reward."""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from agents.gempi.em import UpdateDuals, once
from agents.ranks import ALONE, Ranks
from agents.sequences.config import SequenceConfig
from agents.sequences.types import PartLoss, Plan, Samples, even_plan, sequence_log_prob


class DPO(nn.Module):
    """DPO, L = -mean log sigmoid(beta (h_chosen - h_rejected)), h = log pi(y|x) - log pi_ref(y|x) (GEMPI section 7)."""

    needs_reference = pairs = fits = True
    compares = False

    def __init__(self, config: SequenceConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.beta, self.ranks = config.dpo_beta, ranks

    def plan(self, samples: Samples, update_duals: UpdateDuals = once) -> Plan:
        """Return a plan in which all samples weigh the same, but those without a token, of an empty batch, nothing."""
        return even_plan(samples.mask.any(1), self.ranks)

    def loss(self, fitted: Tensor, compared: Tensor, samples: Samples, weights: Tensor, tokens: Tensor) -> PartLoss:
        implicit = self.beta * sequence_log_prob(fitted - samples.reference, samples.mask)
        margin, share = implicit[::2] - implicit[1::2], 2 * weights[::2]
        loss = -(share * logsigmoid(margin)).sum()
        with torch.no_grad():
            metrics = {
                "m_step/policy_loss": loss.detach(),
                "m_step/margin": (share * margin).sum(),
                "m_step/accuracy": (share * (margin > 0)).sum(),
            }
        return PartLoss(loss, metrics)
