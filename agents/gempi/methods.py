"""The table of methods: a row is one entry. So far it holds V-MPO."""

from collections.abc import Callable
from typing import NamedTuple

from agents.config import AgentConfig
from agents.gempi.divergences import KL
from agents.gempi.filters import Filter, TopK
from agents.gempi.temperature import Dual, Temperature
from agents.gempi.trust_region import DualKL, TrustRegion


class Method(NamedTuple):
    """G = (D, T, F, D_M) with the anchor pi_t: one E-step and one M-step."""

    divergence: KL
    temperature: Temperature
    filter: Filter
    trust_region: TrustRegion


def vmpo(config: AgentConfig, continuous: bool) -> Method:
    """KL to pi_t, eta dual, top-k, KL trust region with alpha dual."""
    if continuous:
        budgets = {
            "mu": (config.alpha_mu_init, config.epsilon_alpha_mu),
            "sigma": (config.alpha_sigma_init, config.epsilon_alpha_sigma),
        }
    else:
        budgets = {"": (config.alpha_init, config.epsilon_alpha)}
    return Method(KL(), Dual(config.eta_init, config.epsilon_eta), TopK(config.top_k), DualKL(budgets))


METHODS: dict[str, Callable[[AgentConfig, bool], Method]] = {"vmpo": vmpo}
