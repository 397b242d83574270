"""Hyperparameters of the learning rules, by the names of their papers."""

from typing import Literal

from agents.checks import in_unit_interval, not_negative, positive
from agents.gempi.config import EMConfig, em_options
from agents.gempi.methods import METHODS, Row
from agents.gempi.trust_region import GaussianDualKL
from agents.options import with_options

DropoutScheme = Literal["whole", "masked", "paired"]
AgentName = Literal[(*METHODS, "gempi", "ppo")]


@with_options(GaussianDualKL)
class AgentConfig(EMConfig):
    """Options of the EM methods, those that all agents share, and PPO's (arXiv 1707.06347)."""

    agent: AgentName = "vmpo"
    """Learning rule: a row of the table of EM methods, gempi with a row of your own, or the baseline ppo."""
    discount: float = 0.99
    """gamma, the discount of a step."""
    gae_lambda: float = 1.0
    """lambda of the returns; 1 gives n-step returns to the end of the unroll (V-MPO), less gives GAE."""
    values: Literal["acting", "online"] = "acting"
    """V in the returns and advantages of a batch: that of the network that acted, which comes with the unroll, or that
    of the online one (V-MPO section 4.1), at the cost of one more forward pass of the learner over each batch."""
    e_step: Literal["batch", "minibatch"] = "batch"
    """EM methods: samples of an E-step: the whole batch, once; or those of each gradient step, separately."""
    standardise_advantages: bool = False
    """Give the advantages of a batch mean 0 and standard deviation 1 (over its valid steps)."""
    scale_rewards: bool = False
    """Divide advantages by PopArt's running standard deviation of the return, as if rewards were divided by it. With
    several tasks this is always so, each by its own."""
    value_coefficient: float = 1.0
    """Weight of the value loss 0.5 (V - G)^2, in PopArt's normalised units."""
    entropy_coefficient: float = 0.0
    """Weight of an entropy bonus (V-MPO has none)."""
    popart_step_size: float = 1e-4
    """Step size of PopArt's running moments."""
    dropout_scheme: DropoutScheme = "whole"
    """Policies that the trust region and PPO's ratio compare where there is dropout: pi_old with the whole network, or
    with the masked one; or, paired, the network before the batch with the present one under the same mask."""

    reference: str = "start"
    """pi_ref: start, the network at the first step; average, its moving average; or a checkpoint or run folder."""
    reference_decay: float = 0.99
    """Decay of the moving average as pi_ref, a batch."""
    control_variate: float = 0.0
    """EM methods: coefficient of the M-step's control variate. 0 is the plain weighted likelihood; 1 has the same
    expectation without the noise of which actions happened to be drawn."""

    clip_epsilon: float = 0.2
    """PPO: the ratio is clipped to [1 - epsilon, 1 + epsilon]."""
    target_kl: float = 0.0
    """PPO: stop the passes over a batch once a minibatch's mean KL(pi_old || pi) exceeds this; 0 never stops."""

    def __post_init__(self) -> None:
        in_unit_interval(self, ("discount", "gae_lambda", "control_variate"))
        if not 0 <= self.reference_decay < 1:
            raise ValueError(f"--reference-decay must lie in [0, 1), not {self.reference_decay}: 1 would never move")
        positive(self, ("clip_epsilon", "popart_step_size"))
        in_unit_interval(self, ("popart_step_size",))
        not_negative(self, ("value_coefficient", "entropy_coefficient", "target_kl"))
        if self.scale_rewards and self.standardise_advantages:
            raise ValueError("--scale-rewards has no effect with --standardise-advantages: leave one of them out")
        self.refuse_idle(self.options, f"--agent {self.agent}")
        self.check_em(None if self.agent == "ppo" else self.row)

    @property
    def row(self) -> Row:
        """Return the EM method's row of the table of methods."""
        return self.row_of(self.agent)

    @property
    def options(self) -> frozenset[str]:
        """Return the names of the options that have an effect."""
        if self.agent == "ppo":
            return frozenset(SHARED | {"clip_epsilon", "target_kl", "dropout_scheme"})
        names = SHARED | {"control_variate", "e_step"} | em_options(self.agent, self.row)
        if self.row.trust_region != "none":
            names = names | {"dropout_scheme"}
        if "reference" in self.row.anchors:
            names = names | {"reference"} | ({"reference_decay"} if self.reference == "average" else set())
        return frozenset(names)


SHARED = {"agent", "discount", "gae_lambda", "standardise_advantages", "value_coefficient", "entropy_coefficient"}
SHARED |= {"popart_step_size", "values", "scale_rewards"}


def options_of(agent: AgentName, choices: dict[str, str], **options: object) -> dict[str, object]:
    """Return `choices` and, of the other `options`, those that have an effect on `agent` with these choices."""
    used = AgentConfig(agent=agent, **choices).options
    return {name: value for name, value in options.items() if name in used} | choices
