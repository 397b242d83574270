"""Settings that are resolved at the start of a run for the machine that it runs on."""

from dataclasses import dataclass, replace

import torch

from envs.interface import EnvSpec
from runners.acting.samplers import BUFFERS
from runners.config import RunConfig, cores
from runners.machine.balance import acting_groups, learner_envs
from runners.machine.limits import check_compile, check_memory, check_torso
from runners.machine.precision import settle_precision
from runners.machine.ranks import ONE_RANK, Ranks


@dataclass(frozen=True)
class Settled:
    """Settings resolved for this machine; the same configuration may be resolved otherwise elsewhere."""

    precision: str
    """Precision of the torso, float32 or bfloat16."""
    threads: int
    """Torch threads of the learner."""
    simulator_threads: int
    """Threads that step environments, without actors."""
    learner_envs: int
    """Environments that the learner steps itself, beside actors."""
    groups: int
    """Groups of environments that are acted in turn, without actors."""

    def applied_to(self, config: RunConfig) -> RunConfig:
        """Return `config` with the precision that was resolved."""
        return replace(config, training=replace(config.training, precision=self.precision))

    def describe(self, config: RunConfig) -> str:
        """Return a line about which processes step the environments."""
        actors, envs = config.training.actors, config.training.envs
        if not actors:
            turns = f", by turns in {self.groups} groups," if self.groups > 1 else ""
            return f"one process steps {envs} environments{turns} and learns"
        return (
            f"{actors} actor{'s' * (actors > 1)} and {self.learner_envs} of {envs} environments stepped by the learner"
        )


def settle(config: RunConfig, spec: EnvSpec, device: torch.device, ranks: Ranks = ONE_RANK) -> Settled:
    """Check that the run fits the machine, and resolve its settings, by measurements with the threads of the run.

    The state of random generators is not changed. Raise UsageError if the run does not fit.
    """
    training, local = config.training, ranks.local_size
    check_memory(config, spec, BUFFERS if training.actors else 1, local)
    check_torso(config, spec)
    check_compile(config)
    threads = training.threads or max(1, cores() // local - training.actors if training.actors else 1)
    own_cores = max(1, cores() // local) if device.type == "cuda" else 1
    simulator_threads = training.threads or own_cores
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        config = settle_precision(config, spec, device, ranks)
        own = learner_envs(config, spec, device, local)
        groups = acting_groups(config, spec, device, simulator_threads)
    finally:
        torch.set_num_threads(before)
    return Settled(config.training.precision, threads, simulator_threads, own, groups)
