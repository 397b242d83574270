"""Anchors of the E-step: the policies pi_j that the target stays close to, each with the options of its lambda_j.

A fixed temperature uses the option `coefficient`, a dual one `initial` and `epsilon`, a solved one `epsilon`.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
        "epsilon_reference", 0.02, "Dual or solved temperature: budget of the target's divergence from pi_ref."
    )


ANCHORS = {"behaviour": Behaviour, "reference": Reference}


def log_bases(log_ratios: Float[Tensor, "m N"], support: Bool[Tensor, " N"]) -> Float[Tensor, "m N"]:
    """Return log b_j [m, N], the log-masses of the anchors on the kept samples; 0 off the `support` [N].

    b_ji is proportional to pi_j(y_i) / pi_t(y_i), as pi_t drew the samples: `log_ratios` [m, N] has its logarithm.
    """
    kept = torch.where(support, log_ratios, -torch.inf)
    return torch.where(support, log_ratios - kept.logsumexp(1, keepdim=True), 0)
