"""Steps of an optimiser without those whose gradient is not finite: one of them would make all weights NaN."""

import math

import torch
from torch import Tensor

from runners.errors import RunError


class FiniteSteps:
    """Steps of `optimizer`, one of torch's fused ones, with the numbers of those `skipped` since the start and of
    those skipped `in_a_row` last."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.skipped: int | Tensor = 0
        self.in_a_row: int | Tensor = 0
        self._losses: dict[str, Tensor] = {}

    def take(self, gradient: Tensor, losses: dict[str, Tensor]) -> bool | Tensor:
        """Take a step if `gradient`, a norm or sum of all gradients, is finite, and return whether it is: on a GPU
        as a tensor, so that the program does not wait for it. `losses` are the minimised ones by name."""
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
        """Raise RunError if the last `patience` steps, up to number `step`, were left out."""
        if (skipped := int(self.in_a_row)) < patience:
            return
        wrong = [name for name, loss in self._losses.items() if not math.isfinite(float(loss))]
        what = f"not finite: {', '.join(wrong)}" if wrong else "the losses themselves were finite"
        raise RunError(
            f"training diverged: the last {skipped} gradients, to step {step:,}, were not finite and were left out"
            f" (--patience-steps {patience}); {what}. The last checkpoint is good: --resume continues from it; in a"
            " new run a lower --learning-rate may help"
        )
