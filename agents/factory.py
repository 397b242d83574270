"""Making of the agent that a configuration names."""

from agents.config import AgentConfig
from agents.gempi.agent import Gempi
from agents.ppo import PPO
from agents.ranks import ALONE, Ranks
from networks.distributions import ActionSpace

Agent = Gempi | PPO


def make_agent(config: AgentConfig, space: ActionSpace, ranks: Ranks = ALONE) -> Agent:
    """Make the learning rule that `config` names, for actions of `space`, with initial dual variables."""
    return (PPO if config.agent == "ppo" else Gempi)(config, space, ranks)
