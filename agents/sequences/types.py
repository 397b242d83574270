"""Types that pass between a language-model runner and the learning rules."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from agents.gempi.em import UpdateDuals, once
from agents.ranks import Ranks


class Samples(NamedTuple):
    """N completions of up to C tokens, with log-probabilities without gradient.

    `mask` [N, C] bool is True on the tokens of a completion, its end of text included. `behaviour` and `reference`
    [N, C] are log pi_t and log pi_ref of each token, arbitrary off the mask, and zeros if the method does not use them.
    `advantages` are those of completions, [N], or of their tokens, [N, C]. Preference pairs are two rows each, chosen,
    then rejected. `each` is the number of completions of one prompt, which are in a row.
    """

    mask: Tensor
    behaviour: Tensor
    reference: Tensor
    advantages: Tensor
    each: int = 1

    @property
    def valid(self) -> Tensor:
        """Return where there is something to weigh: completions with tokens, [N] bool, or tokens, [N, C]."""
        return self.mask if self.advantages.dim() == 2 else self.mask.any(1)

    def select(self, index: Tensor) -> "Samples":
        """Return the samples at `index`."""
        return Samples(*(x[index] for x in self[:4]))


class Plan(NamedTuple):
    """Constants of a batch for its gradient steps: `weights` [N], or [N, C] of tokens, detached; `kept` [N] bool, the
    samples that must pass through the network; the E-step's `dual_loss`, a scalar; scalars to log."""

    weights: Tensor
    kept: Tensor
    dual_loss: Tensor
    metrics: dict[str, Tensor]


class PartLoss(NamedTuple):
    """Loss and metrics of a part of a step's samples, which over all parts add up to those of the step."""

    loss: Tensor
    metrics: dict[str, Tensor]


class SequenceAgent(Protocol):
    """Learning rule for sequences."""

    needs_reference: bool
    """True if `samples.reference` is used."""

    pairs: bool
    """True if samples come in pairs, which must stay in one part."""

    fits: bool
    """True if the loss uses `fitted`."""

    compares: bool
    """True if the loss has a gradient through `compared`; else that is only logged."""

    def plan(self, samples: Samples, update_duals: UpdateDuals = once) -> Plan:
        """Return the weights of a batch, for an EM method by an E-step."""
        ...

    def loss(self, fitted: Tensor, compared: Tensor, samples: Samples, weights: Tensor, tokens: Tensor) -> PartLoss:
        """Return the loss of a part of the step, which has `samples` and `weights` [n], or [n, C].

        `fitted` [n, C] is log pi of its tokens that the M-step fits, `compared` [n, C] that of ratios and KLs: without
        dropout, or the same. `tokens` is the number of tokens in all kept samples of the step.
        """
        ...


def sequence_log_prob(log_prob: Tensor, mask: Tensor) -> Tensor:
    """Return the log-probabilities of completions, [N]: the sums of those of their tokens, [N, C], over the mask."""
    return torch.where(mask, log_prob, 0).sum(1)


def even_plan(counted: Tensor, ranks: Ranks) -> Plan:
    """Return a plan in which samples `counted` [N] bool weigh 1 over their number on all ranks, the others 0."""
    weights = counted / ranks.total(counted.sum()).clamp(min=1)
    return Plan(weights, counted, weights.new_zeros(()), {})
