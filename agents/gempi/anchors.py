"""Anchors of the E-step: the policies pi_j that the target stays close to, each with the options of its lambda_j.

A fixed temperature uses the option `coefficient`, a dual one `initial` and `epsilon`, a solved one `epsilon`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.gempi.target import Bases
from agents.options import option


@dataclass(frozen=True)
class Behaviour:
    """Anchor pi_t, the policy that drew the samples."""

    coefficient: float = option("lambda_behaviour", 1.0, "Fixed temperature: coefficient of pi_t, beta of AWR and DAR.")
    initial: float = option("eta_init", 1.0, "Dual temperature: initial coefficient of pi_t, V-MPO's eta.")
    epsilon: float = option(
        "epsilon_eta",
        0.02,
        "Dual or solved temperature: budget of the target's divergence from pi_t (over the kept samples).",
    )


_lambda_reference = partial(
    option,
    "lambda_reference",
    0.1,
    "Coefficient of pi_ref, alpha of DAR and beta of RL-EM; dual: its initial value.",
)


@dataclass(frozen=True)
class Reference:
    """Anchor pi_ref, which changes slowly or never."""

    coefficient: float = _lambda_reference()
    initial: float = _lambda_reference()
    epsilon: float = option(
        "epsilon_reference",
        0.02,
        "Dual or solved temperature: budget of the target's divergence from pi_ref, over all samples (a target on the "
        "best half of them is about log 2 away from it).",
    )


ANCHORS = {"behaviour": Behaviour, "reference": Reference}


def bases_of(
    anchors: Sequence[str],
    log_ratios: Float[Tensor, "m N"],
    mask: Bool[Tensor, " N"],
    support: Bool[Tensor, " N"],
) -> Bases:
    """Return the masses of `anchors` on the kept samples, `support` [N], of the valid ones, `mask` [N].

    pi_t drew the samples: `log_ratios` [m, N] has log pi_j(y_i) - log pi_t(y_i). The masses of another policy are its
    ratios over the number of valid samples: over all of these they sum to 1 on average. Divided by their own sum, or by
    the number of kept samples, all distances to that policy would be too short by a logarithm. Those of pi_t are over
    the number of kept samples: V-MPO's budget is of the distance from pi_t on its better half (arXiv 1909.12238, eq.
    4), as the best half alone is log 2 away from pi_t already.
    """
    kept, valid = support.sum(), mask.sum()
    counts = torch.stack([kept if name == "behaviour" else valid for name in anchors]).clamp(min=1)
    return Bases(torch.where(support, log_ratios, 0), counts.to(log_ratios.dtype).log())
