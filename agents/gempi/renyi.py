"""The Renyi divergence of the E-step, of any order but 1: power-law tilting."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.gempi.target import Bases, Target, below_best
from agents.options import option


@dataclass(frozen=True)
class Renyi:
    """Divergence D = log(sum_i b_i (w_i / b_i)^order) / (order - 1), order > 0 and not 1, where it would be the KL.

    With u_i = w_i / b_i and S = sum_i b_i u_i^order the condition of optimality is
        A_i - lambda order / (order - 1) u_i^(order - 1) / S - mu = 0.
    So w_i is proportional to b_i |A_i - mu|^(1 / (order - 1)): for order > 1 over the samples of A_i > mu, for
    order < 1 over all, with mu above every A_i. Multiplied by w_i and summed, the condition becomes
        sum_i w_i |A_i - mu| = lambda order / |order - 1|,
    a scalar equation for mu. For order < 1 its left side is monotone. For order > 1 D is not convex in q (its sublevel
    sets are); of several solutions a grid finds that of the highest objective, and bisection refines it.
    There is one anchor only, as the sum over several has no closed form.
    """

    order: float = option("renyi_order", 2.0, "Order of the Renyi divergence, not 1.", check=None)
    most_anchors = 1
    GRID, HALVINGS = 128, 48

    def __post_init__(self) -> None:
        if not 0 < self.order < float("inf") or self.order == 1:
            raise ValueError(f"--renyi-order must be greater than 0 and not 1, where it is the KL, not {self.order}")

    def target(self, advantages: Tensor, bases: Bases, coefficients: Tensor, support: Tensor) -> Target:
        gap = torch.where(support, -below_best(advantages, support), 0).double()
        base = torch.where(support, bases.log_masses[0].double(), -torch.inf)
        aim = coefficients[0].double() * self.order / abs(self.order - 1)
        widest = gap.amax()
        if self.order > 1:  # sum_i w_i (s - gap_i)_+ lies in [s - widest, s], s = max A - mu
            low, high = aim, aim + widest
            grid = low + (high - low) * torch.linspace(0, 1, self.GRID, dtype=low.dtype, device=low.device)
            log_w = self._tilted(grid.unsqueeze(1), gap, base)
            objective = -(log_w.exp() * gap).sum(1) - coefficients[0].double() * self._divergence(log_w, base)
            best = objective.nan_to_num(nan=-torch.inf).argmax()
            low, high = grid.gather(0, torch.stack([best - 1, best + 1]).clamp(0, self.GRID - 1))
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
        """Return log w for mu = max A - s (order > 1) or max A + s."""
        log_w = base + self._distance(s, gap).log() / (self.order - 1)
        return log_w - log_w.logsumexp(-1, keepdim=True)

    def _mean_distance(self, s: Tensor, gap: Tensor, base: Tensor) -> Tensor:
        return (self._tilted(s, gap, base).exp() * self._distance(s, gap)).sum()

    def _divergence(self, log_w: Tensor, base: Tensor) -> Tensor:
        there = log_w > -torch.inf
        terms = torch.where(there, self.order * log_w + (1 - self.order) * torch.where(there, base, 0), -torch.inf)
        return terms.logsumexp(-1) / (self.order - 1)
