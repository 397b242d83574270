"""The training loop, as a generator: rollouts, rewards, advantages, and gradient steps on them."""

import copy
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.sequences.baselines import MovingAverage, batch_mean, group_mean, leave_one_out, standardise
from agents.sequences.factory import make_sequence_agent
from agents.sequences.types import Samples
from agents.sequences.value import PromptValue
from networks.language import Completions, Prompts, prompt_features, sample, token_log_probs
from runners.errors import UsageError
from runners.lm.base import base_model, demonstrated, kept_base_model
from runners.lm.config import LMConfig
from runners.lm.learner import Learner
from runners.lm.model import character_tokenizer, load_model
from runners.lm.problem import Problem, find_task

Row = dict[str, float]
PROMPTS = 2
"""Stream of the training prompts; the evaluation's and the base model's are others."""


class Training:
    """A run in progress: everything that a checkpoint holds. Not `fresh`, its state is about to be set."""

    def __init__(self, config: LMConfig, fresh: bool = True) -> None:
        self.config = config
        options, data = config.learner, config.data
        torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.device = pick_device(options.device)
        task = find_task(data.task)
        if data.model:
            model, tokenizer = load_model(data.model, options.dropout)
            self.problem = Problem(task, tokenizer, self.device)
        else:
            self.problem = Problem(task, character_tokenizer(task.alphabet), self.device)
            which = self.problem, options.seed, options.dropout or 0.0
            if data.base_dir and fresh:
                name = f"{data.task}-seed{options.seed}-dropout{options.dropout or 0:g}".replace(":", "-")
                model = kept_base_model(*which, Path(data.base_dir) / name)
            else:
                model = base_model(*which, trained=fresh)
        self.model = model.to(self.device)
        self.base = copy.deepcopy(self.model).eval().requires_grad_(False)
        """pi_ref, and what the run is compared with."""
        agent = make_sequence_agent(config.agent).to(self.device)
        learned = config.agent.baseline == "value"
        value = PromptValue(model.config.hidden_size).to(self.device) if learned else None
        self.learner = Learner(config, self.model, agent, value)
        self.average = MovingAverage()
        torch.manual_seed(options.seed)  # whatever training the base has drawn
        self.rng = np.random.default_rng([PROMPTS, options.seed])
        self.generator = torch.Generator(self.device).manual_seed(options.seed)
        self.rollouts = 0
        self.wall_seconds = self.cpu_seconds = 0.0

    def run(self) -> Iterator[Row]:
        """Train to the end of the budget, yielding after each rollout: a row of metrics, or an empty one in between."""
        options = self.config.learner
        step = {"sft": self._demonstrations, "dpo": self._pairs}.get(self.config.agent.method, self._rollout)
        sums: dict[str, list[float]] = defaultdict(list)
        while self.rollouts < options.rollouts:
            clock, cpu = time.perf_counter(), cpu_seconds()
            for name, value in step().items():
                sums[name].append(float(value))
            self.rollouts += 1
            self.wall_seconds += time.perf_counter() - clock
            self.cpu_seconds += cpu_seconds() - cpu
            if self.rollouts % options.log_rollouts and self.rollouts < options.rollouts:
                yield {}
                continue
            yield {
                "rollouts": self.rollouts,
                "updates": self.learner.updates,
                "wall_seconds": self.wall_seconds,
                "cpu_seconds": self.cpu_seconds,
                **{name: sum(values) / len(values) for name, values in sums.items()},
            }
            sums.clear()

    def _rollout(self) -> dict[str, float | Tensor]:
        """Draw completions, and take the gradient steps on them."""
        config = self.config
        texts, prompts, completions, rewards = self._draw(self.model)
        advantages, features = self._advantages(rewards, prompts)
        repeated = prompts.repeat(config.data.completions)
        samples = Samples(
            completions.mask, completions.log_prob, self._reference(repeated, completions), advantages.flatten()
        )
        metrics: dict[str, float | Tensor] = {
            "reward/train": rewards.mean(),
            "reward/tokens": completions.mask.sum(1).float().mean(),
            "reward/same_in_group": (rewards == rewards[:, :1]).all(1).float().mean(),
            "e_step/advantage_rms": advantages.square().mean().sqrt(),
        }
        for _ in range(config.learner.updates):
            value = self.learner.value
            value_loss = value.loss(features, rewards.mean(1)) if value else None
            logged = self.learner.train(repeated, completions, samples, value_loss)
            metrics |= logged
            if config.agent.target_kl and logged["m_step/kl"] > config.agent.target_kl:
                break
        return metrics

    def _demonstrations(self) -> dict[str, float | Tensor]:
        """A gradient step on fresh demonstrations of the task."""
        pairs = self.problem.task.demonstrations(self.config.data.prompts, self.rng)
        prompts, completions = self.problem.demonstrations(pairs)
        return self.learner.train(prompts, completions, demonstrated(completions))

    def _pairs(self) -> dict[str, float | Tensor]:
        """A gradient step on the best and the worst of the base model's completions of each prompt, where they
        differ."""
        texts, prompts, completions, rewards = self._draw(self.base)
        best, worst = rewards.argmax(1), rewards.argmin(1)
        differ = (rewards.amax(1) > rewards.amin(1)).nonzero().squeeze(1)
        first = differ * rewards.shape[1]
        index = torch.stack([first + best[differ], first + worst[differ]], 1).flatten()
        metrics: dict[str, float | Tensor] = {"reward/base": rewards.mean(), "reward/pairs": len(differ)}
        if not len(index):
            return metrics
        some = Completions(*(x[index] for x in completions))
        repeated = prompts.repeat(self.config.data.completions).of(index)
        zero = torch.zeros_like(some.log_prob)
        samples = Samples(some.mask, zero, some.log_prob, zero[:, 0])  # the base drew them: pi_ref is known
        return metrics | self.learner.train(repeated, some, samples)

    def _draw(self, model: torch.nn.Module) -> tuple[list[str], Prompts, Completions, Tensor]:
        """Prompts, K completions of each in a row, and their rewards [B, K]."""
        data, problem = self.config.data, self.problem
        texts, prompts = problem.prompts(data.prompts, self.rng)
        length, end = problem.task.completion_length, problem.tokenizer.eos_token_id
        completions = sample(
            model, prompts.repeat(data.completions), length, end, self.generator, data.sampling_temperature
        )
        completions = Completions(*(x.clone() for x in completions))  # out of inference mode
        return texts, prompts, completions, problem.rewards(texts, completions).view(-1, data.completions)

    @torch.no_grad()
    def _reference(self, prompts: Prompts, completions: Completions) -> Tensor:
        """log pi_ref of each token, where the method has a use for it."""
        if not self.learner.agent.needs_reference:
            return torch.zeros_like(completions.log_prob)
        return token_log_probs(self.base, prompts, *completions[:2], self.config.data.sampling_temperature)

    @torch.no_grad()
    def _advantages(self, rewards: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor | None]:
        """[B, K], and the value head's features [B, D]."""
        name, features = self.config.agent.baseline, None
        if name == "value":
            self.model.eval()
            features = prompt_features(self.model, prompts)
            value = self.learner.value(features).unsqueeze(1)
        elif name == "none":
            value = torch.zeros(())
        else:
            by_name = {"group": group_mean, "leave-one-out": leave_one_out, "batch": batch_mean}
            value = by_name.get(name, self.average)(rewards)
        advantages = rewards - value
        if self.config.agent.standardise_advantages:
            advantages = standardise(advantages)
        return advantages, features

    def get_state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.get_state(),
            "base": dict(self.base.state_dict()),
            "average": self.average.get_state(),
            "generators": {
                "torch": torch.get_rng_state(),
                "completions": self.generator.get_state(),
                "prompts": self.rng.bit_generator.state,
            },
            "counters": {
                "rollouts": self.rollouts,
                "wall_seconds": self.wall_seconds,
                "cpu_seconds": self.cpu_seconds,
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.learner.set_state(state["learner"])
        self.base.load_state_dict(state["base"])
        self.average.set_state(state["average"])
        torch.set_rng_state(state["generators"]["torch"])
        self.generator.set_state(state["generators"]["completions"])
        self.rng.bit_generator.state = state["generators"]["prompts"]
        for name, value in state["counters"].items():
            setattr(self, name, value)


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device; leave it at auto, or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
