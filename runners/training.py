"""The training loop, as a generator: it yields a row of metrics now and then, and its consumers log, save and show."""

import time
from collections.abc import Iterator

import torch

from agents.factory import make_agent
from agents.ranks import ALONE
from envs.interface import EnvSpec
from networks.actor_critic import ActorCritic
from runners.acting.samplers import BUFFERS, LocalSampler, ProcessSampler, Sampler
from runners.build import actions_of, build_env, build_network, pick_device, random_observations
from runners.config import RunConfig, cores
from runners.learning.learner import Learner
from runners.machine.allocator import keep_freed_memory
from runners.machine.balance import acting_groups, learner_envs
from runners.machine.devices import cpu_seconds
from runners.machine.limits import check_compile, check_memory, check_torso
from runners.machine.precision import settle_precision
from runners.machine.ranks import ONE_RANK, Ranks
from runners.records.tracker import Rate, TaskTracker

Row = dict[str, float]


class Training:
    """A run in progress: everything that a checkpoint holds. Not `fresh`, its state is about to be set."""

    def __init__(self, config: RunConfig, ranks: Ranks = ONE_RANK, fresh: bool = True) -> None:
        self.ranks, training = ranks, config.training
        keep_freed_memory()
        torch.manual_seed(training.seed)
        spare = cores() // ranks.local_size - training.actors if training.actors else 1
        torch.set_num_threads(training.threads or max(1, spare))
        self.device = pick_device(config)
        env = build_env(config, 1, stream=0)
        self.spec: EnvSpec = env.spec
        env.close()
        check_memory(config, self.spec, BUFFERS if training.actors else 1, ranks.local_size)
        check_torso(config, self.spec)
        check_compile(config)
        torch.backends.cudnn.allow_tf32 = False  # or float32 would be another one on a GPU than where actors are
        self.config = config = settle_precision(config, self.spec, self.device, ranks)
        self.network = build_network(config, self.spec)
        if config.network.centre_pixels or self.network.normalises:
            self.network.fit_input(random_observations(config))
        whole_batch = ranks if training.statistics == "batch" else ALONE
        agent = make_agent(config.agent, actions_of(self.spec), whole_batch)
        ranks.copy_first(self.network.to(self.device))  # to the bit alike on like processors only
        self.learner = Learner(config, self.network, agent.to(self.device), self.device, ranks, fresh)
        self.learner_envs = learner_envs(config, self.spec, self.network, self.device, ranks.local_size)
        own_cores = max(1, cores() // ranks.local_size) if self.device.type == "cuda" else 1
        self.simulator_threads = training.threads or own_cores
        self.groups = acting_groups(config, self.spec, self.network, self.device, self.simulator_threads)
        self._draw_apart()
        self.tracker = TaskTracker(config.env.tasks)
        self.steps = self.batches = self.starts = self.evaluated_at = 0
        self.warmup_steps = config.warmup_steps  # as the run began: not of another --steps that it is resumed with
        self.wall_seconds = self.cpu_seconds = 0.0
        self.best_return = float("-inf")
        """Of the evaluations while training."""
        self.sampler: Sampler
        self._sampler_state: dict | None = None

    @property
    def frames(self) -> int:
        return self.steps * self.spec.frames_per_step

    def run(self) -> Iterator[Row]:
        """Train to the end of the budget, yielding after each batch: a row of metrics, or an empty one in between."""
        config, training = self.config, self.config.training
        sampler = self.sampler = self._make_sampler()
        self.starts += 1
        clock, cpu, rate = time.perf_counter(), cpu_seconds(), Rate()
        wall_before, cpu_before = self.wall_seconds, self.cpu_seconds
        logged = clock
        waited = 0.0
        try:
            while self.steps < training.steps:
                batch = sampler.next()
                progress, value_only = self.steps / training.steps, self.steps < self.warmup_steps
                self.learner.train(batch.unroll, progress, value_only)
                self.batches += 1
                if self.batches % training.target_period == 0:
                    sampler.publish(self.network)
                ended = (self.ranks.gather(x) for x in (batch.episode_return, batch.episode_length))
                self.tracker.add(*(x.numpy() for x in ended), batch.unroll.task.numpy())
                sampler.release()
                self.steps += config.steps_per_batch * self.ranks.size
                now = time.perf_counter()
                self.wall_seconds = wall_before + now - clock
                spent = torch.tensor(cpu_seconds() - cpu + sampler.cpu_seconds(), dtype=torch.float64)
                self.cpu_seconds = cpu_before + float(self.ranks.total(spent))
                if now - logged < training.log_seconds and self.steps < training.steps:
                    yield {}
                    continue
                waiting, waited = (sampler.wait_seconds - waited) / (now - logged), sampler.wait_seconds
                logged = now
                speed = rate.update(self.steps)
                yield {
                    "steps": self.steps,
                    "frames": self.frames,
                    "wall_seconds": self.wall_seconds,
                    "cpu_seconds": self.cpu_seconds,
                    "updates": self.learner.updates,
                    **self.tracker.metrics(),
                    **self.learner.drain_metrics(),
                    "speed/steps_per_second": speed,
                    "speed/frames_per_second": speed * self.spec.frames_per_step,
                    "speed/learner_waiting_share": waiting,
                }
        finally:
            self._sampler_state = sampler.get_state()
            sampler.close()

    def _make_sampler(self) -> Sampler:
        training, ranks = self.config.training, self.ranks
        arguments = (self.config, self.spec, self.network, self.starts, self._sampler_state, ranks.rank)
        if training.actors:
            return ProcessSampler(*arguments, own=self.learner_envs)
        return LocalSampler(*arguments, self.device, self.simulator_threads, self.groups)

    def acting_network(self) -> ActorCritic:
        """Return a copy of the network for evaluation: of its average where the run keeps one."""
        network, average = build_network(self.config, self.spec), self.learner.average
        network.load_state_dict((average.module if average else self.network).state_dict())
        return network.to(self.device)

    def get_state(self) -> dict:
        return {
            "learner": self.learner.get_state(),
            "sampler": self.sampler.get_state(),
            "tracker": self.tracker.get_state(),
            "torch_generator": torch.get_rng_state(),
            "counters": {
                "steps": self.steps,
                "batches": self.batches,
                "starts": self.starts,
                "warmup_steps": self.warmup_steps,
                "wall_seconds": self.wall_seconds,
                "cpu_seconds": self.cpu_seconds,
                "evaluated_at": self.evaluated_at,
                "best_return": self.best_return,
            },
        }

    def set_state(self, state: dict) -> None:
        self.learner.set_state(state["learner"])
        self.tracker.set_state(state["tracker"])
        torch.set_rng_state(state["torch_generator"])
        self._sampler_state = state["sampler"]
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self._draw_apart()

    def _draw_apart(self) -> None:
        """Ranks begin alike, as their networks must; from here on each draws dropout masks of its own."""
        if self.ranks.rank:
            torch.manual_seed(int(torch.randint(2**62, ())) + self.ranks.rank)
