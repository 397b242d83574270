"""The E-step: from advantages to the weights of the target distribution, and the loss of its temperature."""

from typing import NamedTuple

import torch
from torch import Tensor

from agents.gempi.divergences import KL
from agents.gempi.filters import Filter
from agents.gempi.temperature import Temperature


class EStep(NamedTuple):
    """`weights` [N], detached, summing to 1 over the support and 0 off it; `dual_loss`; scalars to log."""

    weights: Tensor
    dual_loss: Tensor
    diagnostics: dict[str, Tensor]


def e_step(
    advantages: Tensor, log_base: Tensor, mask: Tensor, divergence: KL, temperature: Temperature, filter_: Filter
) -> EStep:
    """Of N samples drawn from pi_t: `advantages`, `log_base` (see `KL.target`), `mask` (False: not a sample), all [N].

    The weights and the dual share one support; with no sample at all both are 0.
    Seed section 9, eqs. 12-14; V-MPO eqs. 3-4.
    """
    advantages = advantages.detach().to(torch.promote_types(advantages.dtype, torch.float32))
    support = filter_.support(advantages, mask)
    eta = temperature()
    target = divergence.target(log_base, advantages, eta, support)
    weights = torch.where(support, target.log_weights.exp(), 0).detach()
    kept = support.sum()
    kl = torch.where(weights > 0, weights * (target.log_weights.detach() + kept.log()), 0).sum()
    ess = 1 / weights.square().sum()
    dual_loss = torch.where(kept > 0, temperature.loss(eta, torch.where(kept > 0, target.log_z, 0)), 0)
    diagnostics = {
        "e_step/eta": eta.detach(),
        "e_step/kl": kl,
        "e_step/ess_share": ess / kept,
        "e_step/max_weight": weights.max(),
        "e_step/kept": kept / mask.sum().clamp(min=1),
        "e_step/log_z": target.log_z.detach(),
    }
    return EStep(weights, dual_loss, diagnostics)
