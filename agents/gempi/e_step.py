"""The E-step: from the advantages of a batch to the weights of its samples, and the loss of the temperature.

The target q maximises E_q[A] - sum_j lambda_j D_j(q || pi_j) over distributions on the sampled support (GEMPI section
9, eq. 11). For V-MPO the anchor is pi_t alone, D the KL, and lambda its temperature eta (arXiv 1909.12238, eqs. 3-4).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.gempi.anchors import bases_of
from agents.gempi.filters import Filter
from agents.gempi.kl import kl_to
from agents.gempi.target import Divergence
from agents.gempi.temperature import Temperature


class EStep(NamedTuple):
    """Result of an E-step: detached `weights` [N] that sum to 1, 0 off the support; `dual_loss`; scalars to log."""

    weights: Tensor
    dual_loss: Tensor
    diagnostics: dict[str, Tensor]


def e_step(
    advantages: Float[Tensor, " N"],
    log_ratios: Float[Tensor, "m N"],
    mask: Bool[Tensor, " N"],
    divergence: Divergence,
    temperature: Temperature,
    filter_: Filter,
    anchors: Sequence[str] = ("behaviour",),
) -> EStep:
    """Weigh N samples drawn from pi_t: `advantages` [N]; `log_ratios` [m, N], log pi_j - log pi_t of each of `anchors`;
    `mask` [N] bool, False where there is no sample. The weights and the dual have the same support; without any sample
    both are 0.
    """
    advantages = advantages.detach().to(torch.promote_types(advantages.dtype, torch.float32))
    log_ratios = log_ratios.detach().to(advantages.dtype)

    # Support: the samples that may have weight, in V-MPO the better half by advantage.
    support = filter_.support(advantages, mask)

    # Anchors: b_ji, the mass of pi_j on sample i, pi_j / (N pi_t). That of pi_t is 1 / k on each of the k kept ones.
    bases = bases_of(anchors, log_ratios, mask, support)

    # Temperature: lambda_j, whose sum Lambda is eta where pi_t is the only anchor.
    coefficients = temperature(divergence, advantages, bases, support)

    # psi: for KL, the softmax over the support of A / Lambda + sum_j (lambda_j / Lambda) log b_j (eqs. 12-13).
    with torch.no_grad():
        lambdas = coefficients.to(advantages.dtype)
        log_psi, divergences, saturated = divergence.target(advantages, bases, lambdas, support)
        psi = torch.where(support, log_psi.exp(), 0)
        advantage = torch.where(support, psi * advantages, 0).sum()

    # Dual: L(lambda) = sum_j lambda_j epsilon_j + max_q {E_q[A] - sum_j lambda_j D_j(q || pi_j)} (eq. 14).
    dual_loss = temperature.loss(coefficients, divergences.nan_to_num(), advantage)
    dual_loss = torch.where(support.any(), dual_loss, 0)

    with torch.no_grad():
        total, objective = coefficients.sum(), advantage - (coefficients * divergences).sum()
        diagnostics = describe(log_psi, bases.log_masses, support, mask, anchors)
        diagnostics["e_step/efficiency"] = efficiency(psi, advantages, mask)
        diagnostics |= {"e_step/eta": total, "e_step/log_z": objective / total}
        if saturated is not None:
            diagnostics["e_step/saturated"] = saturated
        if len(anchors) > 1:
            diagnostics |= {f"e_step/lambda_{name}": c for name, c in zip(anchors, coefficients.detach(), strict=True)}
    return EStep(psi, dual_loss, diagnostics)


def e_steps(
    each: int,
    advantages: Float[Tensor, " N"],
    log_ratios: Float[Tensor, "m N"],
    mask: Bool[Tensor, " N"],
    *elements: object,
) -> EStep:
    """Make an E-step for every `each` samples in a row, the completions of a prompt x, with `elements` as in `e_step`.

    The target is q(y | x) of eq. 11 with its own Z(x); that of one E-step over all samples is q(x, y). All prompts with
    a kept sample have the same weight; the dual loss and the diagnostics are means over them.
    """

    def own(some: Tensor, ratios: Tensor, valid: Tensor) -> EStep:
        return e_step(some, ratios, valid, *elements)

    parts = (x.unflatten(-1, (-1, each)) for x in (advantages, log_ratios, mask))
    steps = torch.vmap(own, in_dims=(0, 1, 0))(*parts)
    there = steps.weights.sum(1) > 0
    count = there.sum().clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return torch.where(there, x, 0).sum() / count

    logged = {name: mean(value) for name, value in steps.diagnostics.items()}
    return EStep((steps.weights / count).flatten(), mean(steps.dual_loss), logged)


def describe(
    log_weights: Tensor, log_masses: Tensor, support: Tensor, mask: Tensor, anchors: Sequence[str]
) -> dict[str, Tensor]:
    """Return measures of the target's distance from pi_t and the anchors, for any divergence.

    The KL of the target from pi_ref is estimated by sum_i w_i (log(N w_i) - log(pi_ref(y_i) / pi_t(y_i))), where N is
    the number of valid samples, that from pi_t on the k kept samples by sum_i w_i log(k w_i). ESS = 1 / sum_i w_i^2 and
    the estimated chi-square divergence from pi_t, N sum_i w_i^2 - 1, satisfy ESS = N / (1 + chi-square) (GEMPI section
    9).
    """
    weights = torch.where(support, log_weights.exp(), 0)
    total, kept = mask.sum().clamp(min=1), support.sum()
    square = weights.square().sum()
    inverse = torch.where(square > 0, 1 / square, 0)  # without samples there are no weights
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
        kls = kl_to(log_masses, torch.where(support, log_weights, -torch.inf))
        measures |= {f"e_step/kl_{name}": kl for name, kl in zip(anchors, kls, strict=True)}
    return measures


def efficiency(weights: Float[Tensor, " N"], advantages: Float[Tensor, " N"], mask: Bool[Tensor, " N"]) -> Tensor:
    """Return E_w[A - mean A] / (std A sqrt(N sum_i w_i^2)), at most 1, of `weights` that sum to 1 over `mask`.

    Where the advantages of single samples are mostly noise, this is the signal-to-noise ratio of the M-step's gradient
    sum_i w_i grad log pi(a_i|s_i) at pi_t, over that of the advantage policy gradient mean_i A_i grad log pi(a_i|s_i).
    The signal of weights w is their covariance with A, and their noise the root of their mean square, because weights
    that are all positive have no baseline. N times as many samples raise that ratio by the root of N, so that the
    M-step needs 1 / efficiency^2 times the samples.
    """
    count = mask.sum().clamp(min=1)
    centred = torch.where(mask, advantages - torch.where(mask, advantages, 0).sum() / count, 0)
    noise = (centred.square().sum() * weights.square().sum()).sqrt()
    return torch.where(noise > 0, (weights * centred).sum() / noise, 0)
