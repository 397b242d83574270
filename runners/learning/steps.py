"""Steps of an optimiser, but for those whose gradient is not finite: one of them would spoil the weights for ever."""

import math

import torch
from torch import Tensor

from runners.errors import RunError


class FiniteSteps:
    """Takes steps of `optimizer`, one of torch's fused ones, and counts those that it left out: all of them, and those
    `in_a_row`."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.skipped: int | Tensor = 0
        self.in_a_row: int | Tensor = 0
        self._losses: dict[str, Tensor] = {}

    def take(self, gradient: Tensor, losses: dict[str, Tensor]) -> bool | Tensor:
        """Take a step if `gradient`, a norm or sum of all gradients, is finite, and return whether it is: on a GPU,
        which is not waited for, as a tensor there. `losses` are what the step was to minimise, by name."""
        finite: bool | Tensor = gradient.isfinite()
        if finite.device.type == "cpu":
            finite = bool(finite)
        else:
            self.optimizer.found_inf = (~finite).float()  # where it is 1 the kernel changes nothing
        if finite is not False:
            self.optimizer.step()
        self.skipped += finite == 0
        self.in_a_row = (self.in_a_row + 1) * (finite == 0)
        self._losses = losses
        return finite

    def check(self, patience: int, step: int) -> None:
        """RunError where the last `patience` steps, to number `step`, were left out."""
        if (skipped := int(self.in_a_row)) < patience:
            return
        wrong = [name for name, loss in self._losses.items() if not math.isfinite(float(loss))]
        what = f"not finite: {', '.join(wrong)}" if wrong else "the losses themselves were finite"
        raise RunError(
            f"training diverged: the last {skipped} gradients, to step {step:,}, were not finite and were left out"
            f" (--patience-steps {patience}); {what}. The last checkpoint is good: --resume goes on from it, and a new"
            " run with a lower --learning-rate may help"
        )
