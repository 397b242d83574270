"""From a name to an agent."""

from agents.config import AgentConfig
from agents.gempi.agent import Gempi
from agents.ppo import PPO
from agents.ranks import ALONE, Ranks

Agent = Gempi | PPO


def make_agent(config: AgentConfig, continuous: bool, ranks: Ranks = ALONE) -> Agent:
    """The learning rule that `config` names, its dual variables at their initial values."""
    return (PPO if config.agent == "ppo" else Gempi)(config, continuous, ranks)
