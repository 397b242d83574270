"""Anchors of the E-step: the policies pi_j that the target stays close to, each with the options of its lambda_j.

A temperature takes some of them: a fixed one `coefficient`, a dual one `initial` and `epsilon`, a solved one `epsilon`.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from agents.options import option


@dataclass(frozen=True)
class Behaviour:
    """pi_t, the policy that drew the samples."""

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
    "Coefficient of pi_ref, alpha of DAR and beta of RL-EM; dual: where it starts.",
)


@dataclass(frozen=True)
class Reference:
    """pi_ref, which changes slowly or never."""

    coefficient: float = _lambda_reference()
    initial: float = _lambda_reference()
    epsilon: float = option(
        "epsilon_reference", 0.02, "Dual or solved temperature: budget of the target's divergence from pi_ref."
    )


ANCHORS = {"behaviour": Behaviour, "reference": Reference}


def log_bases(log_ratios: Tensor, support: Tensor) -> Tensor:
    """Return log b_j [m, N], b_ji = pi_j(y_i) / (k pi_t(y_i)) on the k kept samples; 0 off the `support` [N].

    `log_ratios` [m, N] = log pi_j(y_i) - log pi_t(y_i). The masses of pi_t add up to 1, those of another policy do so
    on average alone. They are not made to: divided by their sum, every distance to that policy would be short of its
    logarithm.
    """
    count = support.sum().clamp(min=1).to(log_ratios.dtype)
    return torch.where(support, log_ratios - count.log(), 0)
