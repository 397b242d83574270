"""Configuration of a run: one typed tree, flat on the command line, saved as `config.json`."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
import tyro

from agents.checks import at_least_one, at_most_a_month, flag, not_negative, positive
from agents.config import AgentConfig
from envs.config import EnvConfig, hidden_options
from envs.multi_task import share_out
from envs.suites import Preset
from networks.config import NetworkConfig

PresetName = Literal["small", "paper"]


def only_for(preset: Preset) -> Callable[[type], type]:
    """Decorate options of environments: only those that a suite of `preset` honours are on the command line."""

    def decorate(cls: type) -> type:
        types = get_type_hints(EnvConfig)
        for name in hidden_options(preset):
            cls.__annotations__[name] = tyro.conf.Suppress[types[name]]
            setattr(cls, name, EnvConfig.default(name))
        return dataclass(frozen=True)(cls)

    return decorate


@only_for("atari")
class AtariEnv(EnvConfig):
    """Options of Atari games."""

    name: Annotated[str, tyro.conf.arg(name="game")] = "Pong"
    """Atari game, as ALE spells it: Pong, SpaceInvaders, MsPacman, ...; or several for one agent, with commas between
    their names, or atari57 for all 57."""
    suite: tyro.conf.Suppress[Preset] = "atari"


@only_for("control")
class ControlEnv(EnvConfig):
    """Options of environments other than Atari."""

    name: Annotated[str, tyro.conf.arg(name="env")] = "CartPole-v1"
    """Environment: CartPole-v1, HalfCheetah-v5, CheetahRun-v1, MiniGrid-MemoryS7-v0, popgym-RepeatFirstEasy-v0,
    recall-N with a delay of N steps, any other that gymnasium knows, or module:Name-v0, which a module of your own
    registers."""
    suite: tyro.conf.Suppress[Preset] = "control"


@dataclass(frozen=True)
class TrainingConfig:
    """Options of training: its length, its batches, its optimiser, its processes, its records."""

    preset: PresetName = "small"
    """Defaults to start from: small learns on two CPU cores, paper has the papers' settings."""
    steps: int = 3_000_000
    """Agent steps to train for, over all environments (frames are action repeat times as many)."""
    seed: int = 0
    """Seed of everything: weights, environments, actions, minibatches."""
    actors: int = 1
    """Actor processes, on the CPU; 0 acts and learns in turn in one process on one device, on a CPU reproducible to
    the bit for a seed."""
    learner_envs: int = -1
    """Environments that the learner steps itself between batches, where it would wait for actors; -1: as many as keep
    all cores busy, measured at the start."""
    envs: int = 32
    """Environments over all actors, which are the sequences of a batch; under torchrun, those of each rank."""
    statistics: Literal["batch", "rank"] = "batch"
    """Samples of top-k, psi, duals and moments of advantages under torchrun: the whole batch, or each rank's part of
    it, as in V-MPO's paper."""
    unroll: int = 64
    """Steps of a sequence."""
    passes: int = 1
    """Passes over each batch."""
    minibatches: int = 8
    """Gradient steps a pass; each takes whole sequences."""
    value_warmup: int = 0
    """Agent steps at the beginning, at most a tenth of the run, that minimise only the value loss, so that the first
    policy is evaluated before it is improved."""
    target_period: int = 1
    """T_target: batches between copies of the network to the actors, whose policy is pi_old."""
    learning_rate: float = 5e-4
    """Adam's step size for the network."""
    dual_learning_rate: float = 1e-2
    """Adam's step size for eta and alpha."""
    anneal: bool = False
    """Let the network's learning rate and the entropy bonus fall linearly."""
    anneal_from: float = 0.0
    """Share of the run before --anneal begins to lower them."""
    anneal_to: float = 0.0
    """Share of them that --anneal leaves at the end of the run. At 0 learning has stopped by then, and a cycle of a
    deterministic game in which the policy loses is not corrected any more."""
    weight_average: float = 0.0
    """Decay, a gradient step, of the moving average of the weights that is evaluated; 0 evaluates the last weights."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    max_gradient_norm: float = 0.5
    """Clip the network's gradient to this norm; 0 never clips."""
    patience: float = 600.0
    """Seconds without a result of an actor, rank or simulator after which the run ends with an error that names it."""
    patience_steps: int = 100
    """Number of gradients in a row that are not finite, each of which is left out, after which the run ends."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the learner."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the torso's convolutions. auto takes bfloat16 where the machine has instructions for it and, on a
    CPU, a measurement at these sizes of batches shows that it is faster; a GPU with --actors 0 needs no measurement."""
    compile: bool = False
    """Compile the network with torch.compile; on a GPU with CUDA graphs, and also the encoder that acts there."""
    threads: int = 0
    """Torch threads of the learner and, with --actors 0, threads of its simulator. 0: the cores that actors leave; with
    --actors 0 one, for sums in a fixed order, but all cores for a simulator beside a GPU."""
    run_dir: str | None = None
    """Folder of the run; by default a new one under runs/."""
    eval_episodes: int = 30
    """Episodes of the final evaluation."""
    eval_steps: int = 1_000_000
    """Agent steps over all environments after which an evaluation stops; episodes that have not ended by then are cut,
    and count with their return so far."""
    eval_policy: Literal["mode", "sample", "both"] = "mode"
    """Evaluate the policy's mode, as the papers do, samples of it, or both."""
    evaluations: int = 0
    """Number of evaluations while training, evenly spaced, the last one at the end. The best one's weights are kept as
    the checkpoint `best`, and evaluated again on other seeds. 0: none, the last weights are evaluated."""
    eval_from: float = 0.0
    """Share of the run after which --evaluations begin."""
    save_environments: bool = False
    """With --actors 0, keep the environments in checkpoints: a run that was cut and resumed then equals one that was
    not, bit for bit. For tasks in numpy and those of gymnasium whose state is numbers."""
    log_seconds: float = 5.0
    """Seconds between rows of metrics, or a 10,000th of the run's age where that is more; 0: a row for every batch."""
    checkpoint_seconds: float = 120.0
    """Seconds between checkpoints."""
    video: bool = True
    """Record an episode at the end of the run."""

    def __post_init__(self) -> None:
        at_least_one(self, ("steps", "envs", "passes", "minibatches", "target_period", "eval_episodes", "eval_steps"))
        at_least_one(self, ("patience_steps",))
        if self.unroll < 2:
            raise ValueError(f"--unroll must be at least 2, not {self.unroll}")
        not_negative(self, ("actors", "value_warmup", "evaluations", "threads"))
        not_negative(self, ("max_gradient_norm", "dual_learning_rate", "log_seconds"))
        positive(self, ("learning_rate", "adam_epsilon", "checkpoint_seconds", "patience"))
        at_most_a_month(self, ("patience",))
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed must lie in 0..{2**31 - 1}, not {self.seed}")
        for name in ("anneal_from", "anneal_to", "weight_average", "eval_from"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{flag(name)} must lie in [0, 1), not {getattr(self, name)}")
        if self.save_environments and self.actors:
            raise ValueError("--save-environments needs --actors 0: actors are never all between two unrolls")
        own = max(0, self.learner_envs)
        if not -1 <= self.learner_envs < self.envs:
            raise ValueError(f"--learner-envs must be -1 or lie in 0..{self.envs - 1}, not {self.learner_envs}")
        if own and not self.actors:
            raise ValueError("--learner-envs needs --actors: without them the learner steps all environments")
        if self.actors and (self.envs - own) % self.actors:
            less = f" less --learner-envs {own}" if own else ""
            raise ValueError(f"--envs {self.envs}{less} cannot be shared evenly by --actors {self.actors}")
        if self.envs % self.minibatches:
            raise ValueError(f"--envs {self.envs} sequences cannot be cut into --minibatches {self.minibatches}")


@dataclass(frozen=True)
class RunConfig:
    """All options of a run."""

    env: EnvConfig = field(default_factory=AtariEnv)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        envs, tasks = self.training.envs, len(self.env.tasks)
        scheme = self.agent.dropout_scheme
        if scheme != AgentConfig.dropout_scheme and not self.network.has_dropout:
            raise ValueError(f"--dropout-scheme {scheme} has no effect without --dropout")
        if scheme == "paired" and self.training.passes * self.training.minibatches == 1:
            raise ValueError(
                "--dropout-scheme paired compares with the network before the batch, from which its one gradient step"
                " is no distance away: take whole, or more --passes or --minibatches"
            )
        if scheme == "paired" and self.training.target_period > 1:
            raise ValueError(
                "--dropout-scheme paired compares with the network before the batch, and pi_old is an older one at"
                f" --target-period {self.training.target_period}: take whole"
            )
        if scheme == "paired" and self.training.compile:
            raise ValueError(
                "--dropout-scheme paired needs the same mask twice, which compiled networks cannot draw: leave out "
                "--compile"
            )
        if envs % tasks:
            more = tasks * (envs // tasks + 1)
            raise ValueError(f"--envs {envs} cannot be shared evenly by {tasks} games: take {more}")

    @property
    def tasks(self) -> np.ndarray:
        """Return the task of each column of a rank's part of a batch, [envs]."""
        return share_out(len(self.env.tasks), self.training.envs)

    @property
    def steps_per_batch(self) -> int:
        """Return the agent steps in a rank's part of a batch."""
        return self.training.envs * self.training.unroll

    @property
    def warmup_steps(self) -> int:
        return min(self.training.value_warmup, self.training.steps // 10)


def to_dict(config: RunConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any]) -> RunConfig:
    """Return the configuration that `to_dict` gave, also after JSON has made lists of its tuples."""
    env = {"atari": AtariEnv, "control": ControlEnv}[tree["env"]["suite"]]
    network = {k: tuple(v) if isinstance(v, list) else v for k, v in tree["network"].items()}
    return RunConfig(
        env(**tree["env"]), NetworkConfig(**network), AgentConfig(**tree["agent"]), TrainingConfig(**tree["training"])
    )


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
