"""Named protocols of evaluation on Atari: what they leave to chance in an episode."""

from dataclasses import replace

from envs.config import EnvConfig
from envs.interface import EnvError

PROTOCOLS = {
    "noop30": {"noop_max": 30, "sticky_actions": 0.0},
    "sticky": {"noop_max": 0, "sticky_actions": 0.25},
    "deterministic": {"noop_max": 0, "sticky_actions": 0.0},
}
"""Options of each: up to 30 no-ops at the start (DQN, IMPALA, V-MPO), sticky actions (Machado et al. 2018, arXiv
1709.06009), or no chance at all, under which a policy's mode plays the same episode again and again."""


def under(config: EnvConfig, protocol: str) -> EnvConfig:
    """Return `config` with the options of `protocol`; EnvError unless it is one of Atari."""
    if config.suite != "atari":
        raise EnvError(f"--protocol {protocol} is for Atari games, and {config.name} is none: leave it out")
    return replace(config, **PROTOCOLS[protocol], eval_sticky_actions=None)


def described(config: EnvConfig) -> str:
    """Return what an Atari configuration leaves to chance in evaluations, after its protocol's name if it has one."""
    config = config.evaluated
    fewest = "no no-ops" if config.backend == "ale" else "at most one no-op"  # envpool makes one in some games
    noops = f"up to {config.noop_max} no-ops" if config.noop_max else fewest
    sticky = f"sticky actions {config.sticky_actions:g}" if config.sticky_actions else "no sticky actions"
    names = [f"protocol {name}: " for name, options in PROTOCOLS.items() if options.items() <= vars(config).items()]
    return f"{''.join(names)}{noops} at the start, {sticky}"
