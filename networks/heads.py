"""Policy and value heads: each an MLP of one hidden layer on the core's output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from networks.distributions import ActionSpace, Distribution, Reals
from networks.initialisation import orthogonal

STD_FLOOR = 1e-3
"""Least standard deviation of a Gaussian policy, in units of the action cube's half-width."""

FORBIDDEN = -1e9
"""Logit of a choice that is not allowed: finite, so that p log p is 0 and not NaN."""


ROUNDING = 1e-12
"""Share of the mean square of returns below which their variance is taken for rounding."""


class PolicyHead(nn.Module):
    """Head for distributions over `space`: logits, or means and standard deviations in units of the cube [-1, 1]."""

    def __init__(self, input_size: int, hidden: int, space: ActionSpace, initial_std: float = 0.6) -> None:
        super().__init__()
        self.space = space
        self.body = nn.Sequential(nn.Linear(input_size, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, space.parameters)
        orthogonal(self.body)
        orthogonal(self.output, 0.01)
        if isinstance(space, Reals):
            with torch.no_grad():  # softplus(bias) + floor = initial_std
                self.output.bias[space.size :] = torch.tensor(initial_std - STD_FLOOR).expm1().log()

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Distribution:
        """Return a distribution [...] for `x` [..., D]; choices that are not `allowed` [..., P] have probability 0."""
        parameters = self.output(self.body(x))
        if isinstance(self.space, Reals):
            mean, raw_std = parameters.chunk(2, -1)
            parameters = torch.cat([mean, softplus(raw_std) + STD_FLOOR], -1)
        elif allowed is not None:
            parameters = parameters.masked_fill(~allowed, FORBIDDEN)
        return self.space.distribution(parameters)


class PopArtHead(nn.Module):
    """Value head in normalised units, whose statistics may change without changing its predictions.

    Source: Hessel et al. 2018. The running moments are corrected for their start at zero, as Adam's are. The standard
    deviation is 1 until the first batch with returns that differ, which sets it and may change the predictions, as
    nothing has been learned yet: the mean square of the first targets is 1, however large, small or rare the rewards.
    The output layer starts at 0, or returns from an untrained head's own values would set the deviation. V-MPO bounds
    the deviation to [1e-2, 1e6] (appendix F); here it has no bounds, so that rewards may have any scale.

    Each of `tasks` has its own output and statistics. `task` [B] is the task of each environment, where B is the last
    leading dimension of the other arguments; by default all are of task 0.
    """

    def __init__(self, input_size: int, hidden: int, step_size: float = 1e-4, tasks: int = 1) -> None:
        super().__init__()
        self.step_size, self.tasks = step_size, tasks
        self.body = nn.Sequential(nn.Linear(input_size, hidden), nn.ReLU())
        self.output = nn.Linear(hidden, tasks)
        orthogonal(self.body)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        for name, start in (("moment1", 0.0), ("moment2", 0.0), ("weight", 0.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((tasks,), start, dtype=torch.float64))
        self.register_buffer("started", torch.zeros(tasks, dtype=torch.bool))

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Return normalised values [...] of `x` [..., D]."""
        values = self.output(self.body(x))
        if task is None:
            return values[..., 0]
        return values.gather(-1, task.expand(values.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def scale(self, task: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the returns of each environment's task, [B]."""
        index = 0 if task is None else task
        return self.mean[index].to(dtype), self.std[index].to(dtype)

    def denormalise(self, value: Tensor, task: Tensor | None = None) -> Tensor:
        """Return values [..., B] in normalised units in units of the return."""
        mean, std = self.scale(task, value.dtype)
        return value * std + mean

    def normalise(self, value: Tensor, task: Tensor | None = None) -> Tensor:
        """Return values [..., B] in units of the return in normalised units."""
        mean, std = self.scale(task, value.dtype)
        return (value - mean) / std

    @torch.no_grad()
    def update(
        self,
        targets: Tensor,
        mask: Tensor,
        total: Callable[[Tensor], Tensor] = lambda x: x,
        task: Tensor | None = None,
    ) -> None:
        """Move the statistics towards `targets` [..., B] where `mask` [..., B], and rescale the output layer for it.

        `total` sums over the processes that share a batch. A batch with a target that is not finite is left out: it
        would stay in the moments for ever.
        """
        mask = mask & torch.where(mask, targets, 0).isfinite().all()
        targets = torch.where(mask, targets, 0).double()
        sums = torch.stack([mask.double(), targets, targets.square()])
        sums = sums.reshape(3, -1, targets.shape[-1]).sum(1)  # [3, B]
        if task is None:
            task = torch.zeros(sums.shape[1], dtype=torch.int64, device=sums.device)
        count, sum1, sum2 = total(sums.new_zeros(3, self.tasks).index_add_(1, task, sums))
        for moment in (self.moment1, self.moment2, self.weight):  # before returns differ, only the latest batch counts
            moment *= self.started | (count == 0)
        step = self.step_size * (count > 0)
        self.moment1 += step * (sum1 / count.clamp(min=1) - self.moment1)
        self.moment2 += step * (sum2 / count.clamp(min=1) - self.moment2)
        self.weight += step * (1 - self.weight)
        weight = self.weight.clamp(min=torch.finfo(torch.float64).tiny)
        mean, mean_square = self.moment1 / weight, self.moment2 / weight
        variance = mean_square - mean.square()
        differ = variance > ROUNDING * mean_square
        std = torch.where(differ, variance.sqrt(), self.std)

        keeps, dtype = self.started, self.output.weight.dtype
        scale = torch.where(keeps, self.std / std, 1).to(dtype)
        shift = torch.where(keeps, (self.mean - mean) / std, 0).to(dtype)
        self.output.weight *= scale.unsqueeze(1)
        self.output.bias.copy_(self.output.bias * scale + shift)
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.started |= differ
