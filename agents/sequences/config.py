"""Hyperparameters of the learning rules for sequences, by the names of their papers."""

from dataclasses import dataclass
from typing import Literal

from agents.checks import in_unit_interval, not_negative, positive
from agents.gempi.config import EMConfig, em_options
from agents.gempi.methods import METHODS, Row

MethodName = Literal[("sft", *METHODS, "gempi", "dpo", "ppo")]
BaselineName = Literal["group", "leave-one-out", "batch", "average", "value", "token", "none"]
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
    value, a value head on the prompt; token, one on the prompt and the tokens so far, so that each token has an
    advantage, and is a sample of the E-step; or none, V = 0."""
    gae_lambda: float = 1.0
    """--baseline token: lambda of the generalised advantages over the tokens of a completion; with 1 they are r - V."""
    standardise_advantages: bool = False
    """Give the advantages of a batch mean 0 and standard deviation 1, as DAR does."""
    e_step: Literal["batch", "prompt"] = "batch"
    """EM methods: completions that share an E-step: batch, all of a rollout, whose target is joint over prompts,
    q(x, y); or prompt, those of one prompt, whose target is q(y | x) with its own Z(x)."""

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
        not_negative(self, ("kl_coefficient", "target_kl"))
        in_unit_interval(self, ("gae_lambda",))
        if self.method == "ppo" and self.baseline == "token" and self.ratio == "sequence":
            raise ValueError(
                "--baseline token needs --ratio token with ppo: the ratio of a completion has one advantage"
            )
        self.refuse_idle(self.options, f"--method {self.method}")
        self.check_em(self.row)

    @property
    def row(self) -> Row | None:
        """Return the EM method's row of the table of methods; None for a baseline."""
        return None if self.method in NOT_EM else self.row_of(self.method)

    @property
    def has_value(self) -> bool:
        """Return whether there is a value head."""
        return self.baseline in ("value", "token")

    @property
    def has_duals(self) -> bool:
        """Return whether the method has dual variables."""
        return self.row is not None and self.row.has_duals

    @property
    def options(self) -> frozenset[str]:
        """Return the names of the options that have an effect."""
        names = {"method"}
        if self.method == "dpo":
            return frozenset(names | {"dpo_beta"})
        if self.method == "sft":
            return frozenset(names)
        names |= {"baseline", "standardise_advantages"} | ({"gae_lambda"} if self.baseline == "token" else set())
        if self.method == "ppo":
            return frozenset(names | {"clip_epsilon", "ratio", "kl_coefficient", "target_kl"})
        return frozenset(names | {"e_step"} | em_options(self.method, self.row))
