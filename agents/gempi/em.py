"""The flow that all EM methods share, whether a sample is a step of an agent or a completion of a language model.

The E-step gives each sample of a batch a weight, once. The M-step's gradient steps on parts of the batch then fit the
network to these weights, inside a trust region around the policy that drew the samples.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from agents.gempi.config import EMConfig
from agents.gempi.e_step import EStep, e_step, e_steps
from agents.gempi.methods import Row, make_method
from agents.ranks import ALONE, Ranks

UpdateDuals = Callable[[Callable[[], EStep]], EStep]
"""Function that may take gradient steps on the temperature, repeating the E-step for each, and returns the last."""


def once(step: Callable[[], EStep]) -> EStep:
    """Make the E-step once, without a gradient step."""
    return step()


class EM(nn.Module):
    """An EM method: a row of the table of methods with the numbers of `config`.

    Its parameters are dual variables: those of `temperature` belong to the E-step, those of `trust_region` to the
    M-step.
    """

    def __init__(self, row: Row, config: EMConfig, ranks: Ranks = ALONE, gaussian: bool = False) -> None:
        super().__init__()
        self.row, self.ranks = row, ranks
        self.divergence, self.temperature, self.filter, self.trust_region = make_method(row, config, gaussian)

    def e_step(
        self,
        advantages: Tensor,
        log_ratios: Mapping[str, Tensor],
        mask: Tensor,
        update_duals: UpdateDuals = once,
        each: int | None = None,
    ) -> EStep:
        """Make the E-step over the samples of all ranks; arguments and weights are those of this rank's N, all [N].

        `log_ratios` has log pi_j - log pi_t of each anchor but pi_t. `update_duals` may take gradient steps on the
        temperature first. `each` is the number of samples in a row that have an E-step of their own; None makes one for
        all samples.
        """
        gather = self.ranks.gather
        log_ratios = {"behaviour": torch.zeros_like(advantages), **log_ratios}
        ratios = torch.stack([gather(log_ratios[name]) for name in self.row.anchors])
        samples = gather(advantages), ratios, gather(mask)
        elements = self.divergence, self.temperature, self.filter, self.row.anchors
        make = partial(e_steps, each) if each else e_step
        step = update_duals(lambda: make(*samples, *elements))
        return step._replace(weights=self.ranks.own(step.weights))
