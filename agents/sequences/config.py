"""Hyperparameters of the learning rules for sequences, by the names of their papers."""

from dataclasses import dataclass
from typing import Literal

from agents.checks import not_negative, positive
from agents.gempi.config import EMConfig, em_options
from agents.gempi.methods import METHODS, Row

MethodName = Literal[("sft", *METHODS, "gempi", "dpo", "ppo")]
BaselineName = Literal["group", "leave-one-out", "batch", "average", "value", "none"]
NOT_EM = ("sft", "dpo", "ppo")


@dataclass(frozen=True)
class SequenceConfig(EMConfig):
    """Options of the EM methods, and those of the baselines PPO (GEMPI section 4) and DPO (arXiv 2305.18290)."""

    method: MethodName = "vmpo"
    """Learning rule: a row of the table of EM methods, gempi with a row of your own; imitation, sft; or a
    baseline, dpo or ppo."""
    baseline: BaselineName | None = None
    """V in A = r - V: group, the mean over the completions of a prompt (the default); leave-one-out, over the others of
    them; batch, over the batch (the default where the data hold rewards); average, a moving average over batches;
    value, a value head on the prompt; or none, V = 0."""
    standardise_advantages: bool = False
    """Give the advantages of a batch mean 0 and standard deviation 1, as DAR does."""
    max_weight: float = 0.0
    """Fixed coefficients: bound of a weight, as a multiple of the mean one; 0 for none. (DAR's bound of 20 is on
    weights before they are normalised to sum to 1.)"""

    clip_epsilon: float = 0.2
    """PPO: the ratio is clipped to [1 - epsilon, 1 + epsilon]."""
    ratio: Literal["sequence", "token"] = "sequence"
    """PPO: one ratio for each completion, the product over its tokens, or one for each token."""
    kl_coefficient: float = 0.0
    """PPO: weight of a penalty on the mean KL(pi_old || pi) of a token."""
    target_kl: float = 0.0
    """PPO: stop the updates on a rollout once an update's mean KL(pi_old || pi) of a token exceeds this; 0 never
    stops."""
    dpo_beta: float = 0.1
    """DPO: beta, the weight of the implicit KL to pi_ref."""

    def __post_init__(self) -> None:
        positive(self, ("clip_epsilon", "dpo_beta"))
        not_negative(self, ("kl_coefficient", "target_kl", "max_weight"))
        self.refuse_idle(self.options, f"--method {self.method}")
        self.check_em(self.row)

    @property
    def row(self) -> Row | None:
        """Return the EM method's row of the table of methods; None for a baseline."""
        return None if self.method in NOT_EM else self.row_of(self.method)

    @property
    def has_duals(self) -> bool:
        """Return whether the method has dual variables."""
        return self.row is not None and "dual" in (self.row.temperature, self.row.trust_region)

    @property
    def options(self) -> frozenset[str]:
        """Return the names of the options that have an effect."""
        names = {"method"}
        if self.method == "dpo":
            return frozenset(names | {"dpo_beta"})
        if self.method == "sft":
            return frozenset(names)
        names |= {"baseline", "standardise_advantages"}
        if self.method == "ppo":
            return frozenset(names | {"clip_epsilon", "ratio", "kl_coefficient", "target_kl"})
        names |= em_options(self.method, self.row)
        return frozenset(names | ({"max_weight"} if self.row.temperature == "fixed" else set()))
