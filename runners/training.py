"""Training of an agent: the loop as a generator of rows of metrics, which its consumers log, save and show."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agents.factory import make_agent
from agents.ranks import ALONE
from agents.types import Unroll
from envs.interface import EnvError
from envs.saving import check_saves
from networks.actor_critic import ActorCritic
from networks.inside import gate_metrics
from runners.acting.samplers import LocalSampler, ProcessSampler, Sampler
from runners.acting.unrolls import Buffer
from runners.acting.weights import evaluated
from runners.build import actions_of, build_env, build_network, observed, pick_device, random_observations, spec_of
from runners.config import RunConfig, TrainingConfig
from runners.errors import UsageError
from runners.evaluation import evaluate, evaluate_briefly, figure, record_video, worst_mean
from runners.learning.learner import Learner
from runners.machine.allocator import keep_freed_memory
from runners.machine.ranks import ONE_RANK, Ranks
from runners.machine.settle import settle
from runners.machine.signals import NEVER, Stopped, StopSignal
from runners.records.checkpoint import Checkpoints
from runners.records.clock import Clock, Pace
from runners.records.metrics import Row, TensorBoardLog
from runners.records.tracker import TaskTracker


class AgentTraining:
    """Training of an agent in progress, with what a checkpoint holds; unless `fresh`, a state must be set."""

    def __init__(self, config: RunConfig, ranks: Ranks = ONE_RANK, fresh: bool = True) -> None:
        keep_freed_memory()
        torch.manual_seed(config.training.seed)
        torch.backends.cudnn.allow_tf32 = False  # else float32 on a GPU would differ from the actors' on the CPU
        self.ranks, self.device, self.spec = ranks, pick_device(config), spec_of(config)
        self.settled = settle(config, self.spec, self.device, ranks)
        self.config = config = self.settled.applied_to(config)
        if config.training.save_environments:
            if ranks.size > 1:
                raise UsageError("--save-environments is for one process: leave it out under torchrun")
            check_saves(lambda stream: build_env(config, len(config.env.tasks), stream, tasks=None))
        torch.set_num_threads(self.settled.threads)
        self.network = build_network(config, self.spec)
        if config.network.centre_pixels or self.network.normalises:
            self.network.fit_input(random_observations(config))
        whole_batch = ranks if config.training.statistics == "batch" else ALONE
        agent = make_agent(config.agent, actions_of(self.spec), whole_batch)
        ranks.copy_first(self.network.to(self.device))  # the same seed gives the same bits only on like processors
        self.learner = Learner(config, self.network, agent.to(self.device), self.device, ranks, fresh)
        self._draw_apart()
        self.tracker, self.clock = TaskTracker(config.env.tasks), Clock(ranks)
        self.steps = self.batches = self.starts = 0
        self.warmup_steps = config.warmup_steps  # of the run's start, even if it is resumed with another --steps
        self.evaluated_at, self.best_at, self.best_return = 0, -1, -math.inf
        """Steps at the last evaluation while training and at the best one, and the best one's return."""
        self.sampler: Sampler
        self._sampler_state: dict | None = None
        """State of a sampler that was closed or saved; None while one is open."""

    @property
    def done(self) -> int:
        return self.steps

    @property
    def frames(self) -> int:
        return self.steps * self.spec.frames_per_step

    @property
    def parameters(self) -> int:
        """Return the number of parameters that learn."""
        return sum(p.numel() for p in self.network.parameters() if p.requires_grad)

    def introduce(self, run_dir: Path) -> list[str]:
        """Return lines for the terminal about what is trained, and where."""
        config = self.config
        return [
            f"{config.env.name}: {config.agent.agent} + {config.network.core}, {self.parameters:,} parameters, "
            f"{run_dir}",
            f"{self.settled.describe(config)}; torso in {self.settled.precision}",
            f"observes {observed(config, self.spec)}",
        ]

    def prepare(self) -> None:
        """Do nothing: an agent's start needs no evaluation."""

    def run(self, stop: StopSignal = NEVER) -> Iterator[Row]:
        """Train to the end of the budget, yielding after each batch and soon after a stop signal: a row of metrics, or
        an empty one in between."""
        training = self.config.training
        sampler = self.sampler = self._make_sampler()
        self._sampler_state = None
        self.starts += 1
        self.clock.start()
        pace = Pace(training.log_seconds, self.clock)
        alone = self.ranks.size == 1  # ranks stop together, after a batch
        try:
            if self._evaluation_due():  # a run that was stopped in an evaluation repeats it
                yield self._choose(stop)
            while self.steps < training.steps:
                try:
                    with stop.at_once(alone and not training.save_environments):
                        batch = sampler.next()
                except Stopped:
                    yield {}
                    return
                self._learn(batch, stop if alone else NEVER)
                if self.batches % training.target_period == 0:
                    sampler.publish(self.network)
                self._track(batch)
                row = self._row(pace, batch.unroll) if pace.due() or self.steps >= training.steps else {}
                sampler.release()
                yield row
                if self._evaluation_due():
                    yield self._choose(stop)
        finally:
            self._sampler_state = sampler.get_state()
            sampler.close()

    def _make_sampler(self) -> Sampler:
        training, ranks = self.config.training, self.ranks
        arguments = (self.config, self.spec, self.network, self.starts, self._sampler_state, ranks.rank)
        if training.actors:
            return ProcessSampler(*arguments, own=self.settled.learner_envs, learned=self.batches)
        return LocalSampler(*arguments, self.device, self.settled.simulator_threads, self.settled.groups)

    def _learn(self, batch: Buffer, stop: StopSignal) -> None:
        self.ranks.meet()
        progress, value_only = self.steps / self.config.training.steps, self.steps < self.warmup_steps
        self.learner.train(batch.unroll, progress, value_only, stop)
        self.batches += 1
        if self.batches % COMPARED == 0:
            self.ranks.keep_alike(self.network)

    def _track(self, batch: Buffer) -> None:
        """Count the steps of the batch, and the episodes that ended in it, on all ranks."""
        ended = (self.ranks.gather(x) for x in (batch.episode_return, batch.episode_length))
        self.tracker.add(*(x.numpy() for x in ended), batch.unroll.task.numpy())
        self.steps += self.config.steps_per_batch * self.ranks.size
        self.clock.read(self.sampler.cpu_seconds())

    def _row(self, pace: Pace, unroll: Unroll) -> Row:
        speed, waiting = pace.since_last(self.steps, self.sampler.wait_seconds)
        one = unroll.columns(slice(0, 1)).to(self.device)
        inputs = one.observation, one.previous_action, one.reward, one.first, one.state, one.task
        return {
            "steps": self.steps,
            "frames": self.frames,
            "wall_seconds": self.clock.wall_seconds,
            "cpu_seconds": self.clock.cpu_seconds,
            "updates": self.learner.updates,
            **self.tracker.metrics(),
            **self.learner.drain_metrics(),
            **{name: float(x) for name, x in gate_metrics(self.network, *inputs).items()},
            "speed/steps_per_second": speed,
            "speed/frames_per_second": speed * self.spec.frames_per_step,
            "speed/learner_waiting_share": waiting,
            "speed/actor_restarts": self.sampler.restarts,
        }

    def _evaluation_due(self) -> bool:
        due = evaluations_due(self.config.training, self.steps)
        return due > evaluations_due(self.config.training, self.evaluated_at)

    def _choose(self, stop: StopSignal) -> Row:
        """Evaluate the present weights, on the first rank, and note whether they are the best so far."""
        row: Row = {}
        if not self.ranks.rank:
            with suppress(Stopped), stop.at_once():
                score = worst_mean(evaluate_briefly(self.config, self.acting_network()))
                row = {"return/evaluation": score}
        self.ranks.wait_for_first()
        if row and score >= self.best_return:  # of equal ones the later has learned more
            self.best_return, self.best_at = score, self.steps
        if row or self.ranks.rank:
            self.evaluated_at = self.steps
        return row

    def acting_network(self) -> ActorCritic:
        """Return a copy of the network for evaluation, of its moving average if there is one."""
        network, average = build_network(self.config, self.spec), self.learner.average
        network.load_state_dict((average.module if average else self.network).state_dict())
        return network.to(self.device)

    def finish(self, run_dir: Path | None) -> dict[str, Any]:
        """Evaluate the last weights, or the best ones, and return the run's part of the summary."""
        if run_dir is None:
            return {}
        self.final, training = self.acting_network(), self.config.training
        if training.evaluations:
            best = Checkpoints(run_dir / "checkpoints").best()
            self.final.load_state_dict(evaluated(best.state["learner"]))
            did_best = f"taking the weights of step {best.step:,}, the best in the evaluations while training"
            print(f"warning: {best.warning}" if best.warning else did_best)
        print(f"evaluating {training.eval_episodes} episodes")
        config, mean = self.config, self.tracker.mean_return
        return {
            "agent": config.agent.agent,
            "core": config.network.core,
            "gate": config.network.gate if config.network.core == "gtrxl" else None,
            "env": config.env.name,
            "preset": training.preset,
            **asdict(self.settled),
            "seed": training.seed,
            "steps": self.steps,
            "frames": self.frames,
            **self.clock.get_state(),
            "steps_per_second": self.steps / self.clock.wall_seconds,
            "train_return": None if math.isnan(mean) else mean,
            "parameters": self.parameters,
            "eval": evaluate(config, self.final, training.eval_episodes),
        }

    def show(self, summary: dict[str, Any], run_dir: Path, board: TensorBoardLog) -> None:
        """Print the result of the run, and record an episode."""
        result = summary["eval"]
        board.scalars(self.steps, {"return/evaluation": result["mean"]})
        by_mode = f" by samples, {figure(result['by_mode']['mean'])} by the mode" if "by_mode" in result else ""
        print(
            f"evaluation: {figure(result['mean'])} +- {figure(result['std'])}{by_mode} over {result['episodes']} "
            f"episodes; {self.steps:,} steps in {summary['wall_seconds']:.0f} s "
            f"({summary['steps_per_second']:,.0f} a second); {run_dir / 'summary.json'}"
        )
        if self.config.training.video:
            try:
                board.video(
                    self.steps, "episode", record_video(self.config, self.final, run_dir / "videos/episode.gif")
                )
            except EnvError as error:
                print(f"no video: {error}")

    def get_state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.get_state(),
            "sampler": self._sampler_state or self.sampler.get_state(),
            "tracker": self.tracker.get_state(),
            "torch_generator": torch.get_rng_state(),
            "reference_memory": self.learner.reference_memory if self.config.training.save_environments else None,
            "counters": {name: getattr(self, name) for name in COUNTERS} | self.clock.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.learner.set_state(state["learner"])
        self.tracker.set_state(state["tracker"])
        torch.set_rng_state(state["torch_generator"])
        self._sampler_state = state["sampler"]
        self.learner.reference_memory = state.get("reference_memory")
        self.clock.set_state(state["counters"])
        for name in COUNTERS:
            setattr(self, name, state["counters"].get(name, getattr(self, name)))
        self._draw_apart()

    def _draw_apart(self) -> None:
        """Give each rank its own dropout masks; the generators start alike, so that the networks do."""
        if self.ranks.rank:
            torch.manual_seed(int(torch.randint(2**62, ())) + self.ranks.rank)


COMPARED = 100
"""Number of batches between comparisons of the ranks' weights."""
COUNTERS = ("steps", "batches", "starts", "warmup_steps", "evaluated_at", "best_at", "best_return")


def evaluations_due(training: TrainingConfig, steps: int) -> int:
    """Return the number of evaluations that belong to the first `steps` of a run."""
    began = int(training.eval_from * training.steps)
    return max(0, training.evaluations * (steps - began) // (training.steps - began))
