"""Types that pass between a language-model runner and the learning rules."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from agents.gempi.em import Settle, once
from agents.ranks import Ranks


class Samples(NamedTuple):
    """N completions of up to C tokens, none of whose log-probabilities carries a gradient.

    `mask` [N, C] bool: tokens of the completion, its end of text included; `behaviour` [N, C] and `reference` [N, C],
    log pi_t and log pi_ref of each token (anything off the mask; zeros where a method has no use for them);
    `advantages` [N]. Preference pairs stand in turn, chosen and rejected, 2 a pair.
    """

    mask: Tensor
    behaviour: Tensor
    reference: Tensor
    advantages: Tensor

    def select(self, index: Tensor) -> "Samples":
        """Some of them."""
        return Samples(*(x[index] for x in self))


class Plan(NamedTuple):
    """Everything settled about a batch before its gradient steps: `weights` [N], detached; `kept` [N] bool, the samples
    that they need the network for; the E-step's own `dual_loss`, a scalar; scalars to log."""

    weights: Tensor
    kept: Tensor
    dual_loss: Tensor
    metrics: dict[str, Tensor]


class PartLoss(NamedTuple):
    """Loss of some of a step's samples. Losses of all parts add up to the step's, and so does each of the metrics."""

    loss: Tensor
    metrics: dict[str, Tensor]


class SequenceAgent(Protocol):
    needs_reference: bool
    pairs: bool
    """Samples come in pairs, which must stay in one part."""

    fits: bool
    """The loss uses `fitted`."""

    compares: bool
    """The loss has a gradient through `compared`, which is else logged alone."""

    def plan(self, samples: Samples, settle: Settle = once) -> Plan:
        """Settle what is settled about a batch."""
        ...

    def loss(self, fitted: Tensor, compared: Tensor, samples: Samples, weights: Tensor, tokens: Tensor) -> PartLoss:
        """Return the loss of a part of the step, from log pi of its tokens [n, C] as the M-step fits it (`fitted`) and
        as ratios and KLs compare it (`compared`: without dropout, or the same); its `samples` and `weights`; `tokens`,
        how many all kept samples of the step have together."""
        ...


def sequence_log_prob(log_prob: Tensor, mask: Tensor) -> Tensor:
    """[N, C] of tokens -> [N] of completions: the sum over the mask."""
    return torch.where(mask, log_prob, 0).sum(1)


def even_plan(counted: Tensor, ranks: Ranks) -> Plan:
    """Samples `counted` [N] bool weigh 1 over their number on all ranks, the others nothing."""
    weights = counted / ranks.total(counted.sum()).clamp(min=1)
    return Plan(weights, counted, weights.new_zeros(()), {})
