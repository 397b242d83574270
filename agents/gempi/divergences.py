"""Divergences of the E-step: how advantages tilt the anchors into the target.

The E-step solves max_q E_q[A] - sum_j lambda_j D_j(q || pi_j) (GEMPI eq. 11) exactly on the sampled support: q is the
vector of weights w of the kept samples, and an anchor its masses b_j on them, b_ji proportional to
pi_j(y_i) / pi_t(y_i), as the samples were drawn from pi_t. So pi_t itself is uniform there. Each class solves its own
scalar equation for the multiplier mu of sum_i w_i = 1, which shifts the advantages; where D_j allows w_i = 0, a sample
whose advantage lies below the shift has no weight.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Target(NamedTuple):
    """`log_weights` [N], normalised over the support (-inf where a sample has no weight); `divergences` [m], each
    D_j(q || pi_j), in nats for KL and Renyi."""

    log_weights: Tensor
    divergences: Tensor


class Divergence(Protocol):
    most_anchors: int | None
    """So many have a closed form together; None: any number."""

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """From `advantages` [N], `log_bases` [m, N] = log b_j (0 off the support), lambda_j [m], `support` [N] bool."""
        ...


class KL:
    """D = sum_i w_i log(w_i / b_i). Exponential tilting (GEMPI eqs. 12-13).

    A_i - sum_j lambda_j (log w_i - log b_ji + 1) - mu = 0, so w_i is proportional to
    prod_j b_ji^(lambda_j / Lambda) exp(A_i / Lambda), Lambda = sum_j lambda_j. With pi_t the only anchor: V-MPO's psi.
    """

    most_anchors = None

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        """Exact at |A| / Lambda = 1e4: the best advantage is taken off before the division, so what decides the weights
        is never rounded at that size."""
        temperature = coefficients.sum()
        base = torch.einsum("m,mn->n", coefficients / temperature, log_bases)
        log_w = torch.where(support, base + _below_best(advantages, support) / temperature, -torch.inf)
        log_w = log_w - log_w.logsumexp(0)
        return Target(log_w, kl_to(log_bases, log_w))


class ChiSquare:
    """D = sum_i w_i^2 / b_i - 1. Linear tilting.

    A_i - 2 w_i c_i - mu + nu_i = 0 with c_i = sum_j lambda_j / b_ji and nu_i >= 0 the multiplier of w_i >= 0, so
    w_i = (A_i - mu)_+ / (2 c_i): several anchors are one, their harmonic mixture. With one anchor it is
    b_i (1 + (A_i - mu') / (2 lambda))_+. The paper's b_i (1 + A_i / (2 lambda)) holds where sum_i b_i A_i = 0 and no
    sample is cut off: then mu' = 0. mu is found exactly, by sorting: the samples with weight are the best ones.
    """

    most_anchors = None

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        below = _below_best(advantages, support).double()
        cost = 2 * (coefficients.double().unsqueeze(1) * (-log_bases.double()).exp()).sum(0)
        share = torch.where(support, 1 / cost, 0)
        ranked, order = below.sort(descending=True)
        # Of the k best alone: sum_i share_i (A_i - mu_k) = 1. They are all that have weight while A_k > mu_k.
        shares = share[order].cumsum(0)
        finite = torch.where(ranked.isfinite(), ranked, 0)
        mu = ((share[order] * finite).cumsum(0) - 1) / shares.clamp(min=torch.finfo(torch.float64).tiny)
        count = (ranked > mu).sum().clamp(min=1)
        weights = share * (below - mu.take(count - 1)).clamp(min=0).nan_to_num(nan=0)
        log_w = (weights / weights.sum()).log().to(advantages.dtype)
        log_w = torch.where(support, log_w, -torch.inf)
        squares = torch.where(weights > 0, 2 * log_w.double() - log_bases.double(), -torch.inf)
        return Target(log_w, (squares.logsumexp(1).exp() - 1).to(advantages.dtype))


class Renyi:
    """D = log(sum_i b_i (w_i / b_i)^order) / (order - 1), order > 0 and not 1 (where it is KL). Power-law tilting.

    With u_i = w_i / b_i and S = sum_i b_i u_i^order: A_i - lambda order / (order - 1) u_i^(order - 1) / S - mu = 0, so
    w_i is proportional to b_i |A_i - mu|^(1 / (order - 1)), over the samples of A_i > mu where order > 1, with mu above
    them all where order < 1. Multiplied by w_i and summed, the condition says
        sum_i w_i |A_i - mu| = lambda order / |order - 1|,
    the scalar equation for mu. For order < 1 its left side is monotone. For order > 1 D is not convex in q (its
    sublevel sets are), and of several solutions that of the highest objective is taken, off a grid, then by bisection.
    One anchor: the products of several do not add up to a power.
    """

    most_anchors = 1
    GRID, HALVINGS = 128, 48

    def __init__(self, order: float) -> None:
        if not 0 < order < float("inf") or order == 1:
            raise ValueError(f"--renyi-order must be greater than 0 and not 1, where it is the KL, not {order}")
        self.order = order

    def target(self, advantages: Tensor, log_bases: Tensor, coefficients: Tensor, support: Tensor) -> Target:
        gap = torch.where(support, -_below_best(advantages, support), 0).double()
        base = torch.where(support, log_bases[0].double(), -torch.inf)
        aim = coefficients[0].double() * self.order / abs(self.order - 1)
        widest = gap.amax()
        if self.order > 1:  # sum_i w_i (s - gap_i)_+ lies in [s - widest, s], s = max A - mu
            low, high = aim, aim + widest
            grid = low + (high - low) * torch.linspace(0, 1, self.GRID, dtype=low.dtype, device=low.device)
            log_w = self._tilted(grid.unsqueeze(1), gap, base)
            objective = -(log_w.exp() * gap).sum(1) - coefficients[0].double() * self._divergence(log_w, base)
            best = objective.nan_to_num(nan=-torch.inf).argmax()
            low, high = grid.take((best - 1).clamp(min=0)), grid.take((best + 1).clamp(max=self.GRID - 1))
        else:  # sum_i w_i (s + gap_i) is at least s
            low, high = (aim - widest).clamp(min=0), aim
        for _ in range(self.HALVINGS):
            middle = (low + high) / 2
            short = self._mean_distance(middle, gap, base) < aim
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        log_w = self._tilted(high, gap, base)
        divergence = self._divergence(log_w, base).reshape(1)
        return Target(log_w.to(advantages.dtype), divergence.to(advantages.dtype))

    def _distance(self, s: Tensor, gap: Tensor) -> Tensor:
        return (s - gap).clamp(min=0) if self.order > 1 else s + gap

    def _tilted(self, s: Tensor, gap: Tensor, base: Tensor) -> Tensor:
        """log w for mu = max A - s (order > 1) or max A + s."""
        log_w = base + self._distance(s, gap).log() / (self.order - 1)
        return log_w - log_w.logsumexp(-1, keepdim=True)

    def _mean_distance(self, s: Tensor, gap: Tensor, base: Tensor) -> Tensor:
        return (self._tilted(s, gap, base).exp() * self._distance(s, gap)).sum()

    def _divergence(self, log_w: Tensor, base: Tensor) -> Tensor:
        there = log_w > -torch.inf
        terms = torch.where(there, self.order * log_w + (1 - self.order) * torch.where(there, base, 0), -torch.inf)
        return terms.logsumexp(-1) / (self.order - 1)


def kl_to(log_bases: Tensor, log_weights: Tensor) -> Tensor:
    """KL(q || pi_j) in nats, [m], of `log_weights` [N] to `log_bases` [m, N]."""
    weights = log_weights.exp()
    return torch.where(weights > 0, weights * (log_weights - log_bases), 0).sum(1)


def _below_best(advantages: Tensor, support: Tensor) -> Tensor:
    """A - max A over the support: 0 or less there, -inf elsewhere."""
    best = torch.where(support, advantages, -torch.inf).amax().nan_to_num(neginf=0)
    return torch.where(support, advantages - best, -torch.inf)
