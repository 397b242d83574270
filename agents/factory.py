"""Make an agent of its name."""

from agents.config import AgentConfig
from agents.gempi.agent import Gempi
from agents.ppo import PPO
from agents.ranks import ALONE, Ranks
from networks.distributions import ActionSpace

Agent = Gempi | PPO


def make_agent(config: AgentConfig, space: ActionSpace, ranks: Ranks = ALONE) -> Agent:
    """The learning rule that `config` names, for actions of `space`, its dual variables at their initial values."""
    return (PPO if config.agent == "ppo" else Gempi)(config, space, ranks)
