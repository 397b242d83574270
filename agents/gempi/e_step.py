"""The E-step: from advantages to the weights of the target distribution, and the loss of its temperature."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agents.gempi.anchors import log_bases
from agents.gempi.divergences import Divergence, Target, kl_to
from agents.gempi.filters import Filter
from agents.gempi.temperature import Temperature


class EStep(NamedTuple):
    """`weights` [N], detached, summing to 1 over the support and 0 off it; `dual_loss`; scalars to log."""

    weights: Tensor
    dual_loss: Tensor
    diagnostics: dict[str, Tensor]


def e_step(
    advantages: Tensor,
    log_ratios: Tensor,
    mask: Tensor,
    divergence: Divergence,
    temperature: Temperature,
    filter_: Filter,
    anchors: Sequence[str] = ("behaviour",),
) -> EStep:
    """Of N samples drawn from pi_t: `advantages` [N]; `log_ratios` [m, N], log pi_j - log pi_t of each of `anchors`;
    `mask` [N] (False: not a sample).

    The weights and the dual share one support; with no sample at all both are 0.
    GEMPI section 9, eqs. 11-14; V-MPO eqs. 3-4.
    """
    advantages = advantages.detach().to(torch.promote_types(advantages.dtype, torch.float32))
    log_ratios = log_ratios.detach().to(advantages.dtype)
    support = filter_.support(advantages, mask)
    bases = log_bases(log_ratios, support)

    def target_at(coefficients: Tensor) -> Target:
        return divergence.target(advantages, bases, coefficients.to(advantages.dtype), support)

    coefficients = temperature(lambda coefficients: target_at(coefficients).divergences)
    with torch.no_grad():
        target = target_at(coefficients)
        weights = torch.where(support, target.log_weights.exp(), 0)
        advantage = torch.where(support, weights * advantages, 0).sum()
        diagnostics = describe(target.log_weights, bases, support, mask, anchors)
        value = advantage - (coefficients * target.divergences).sum()
        diagnostics |= {"e_step/eta": coefficients.sum(), "e_step/log_z": value / coefficients.sum()}
        if len(anchors) > 1:
            diagnostics |= {f"e_step/lambda_{name}": c for name, c in zip(anchors, coefficients, strict=True)}
    kept = support.any()
    dual_loss = torch.where(kept, temperature.loss(coefficients, target.divergences.nan_to_num(), advantage), 0)
    return EStep(weights, dual_loss, diagnostics)


def describe(
    log_weights: Tensor, bases: Tensor, support: Tensor, mask: Tensor, anchors: Sequence[str]
) -> dict[str, Tensor]:
    """How far the target is from the samples and the anchors, whatever the divergence.

    N counts the valid samples. ESS = 1 / sum_i w_i^2, and the chi-square divergence of the target to pi_t as the sample
    estimates it, N sum_i w_i^2 - 1, are bound by ESS = N / (1 + chi-square) (GEMPI section 9).
    """
    weights = torch.where(support, log_weights.exp(), 0)
    total, kept = mask.sum().clamp(min=1), support.sum()
    square = weights.square().sum()
    inverse = torch.where(square > 0, 1 / square, 0)  # where nothing is kept there are no weights
    to_uniform = torch.where(weights > 0, weights * (log_weights + kept.log()), 0).sum()
    measures = {
        "e_step/kl": to_uniform,
        "e_step/ess": inverse,
        "e_step/ess_share": inverse / kept.clamp(min=1),
        "e_step/chi_square": total * square - 1,
        "e_step/max_weight": weights.max(),
        "e_step/kept": kept / total,
    }
    if tuple(anchors) != ("behaviour",):
        kls = kl_to(bases, torch.where(support, log_weights, -torch.inf))
        measures |= {f"e_step/kl_{name}": kl for name, kl in zip(anchors, kls, strict=True)}
    return measures
