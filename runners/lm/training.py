"""The training loop, as a generator: batches, and gradient steps on each."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.sequences.factory import make_sequence_agent
from agents.sequences.value import PromptValue
from runners.errors import UsageError
from runners.lm.base import base_model, kept_base_model
from runners.lm.batches import make_batches
from runners.lm.config import LMConfig
from runners.lm.learner import Learner
from runners.lm.model import add_lora, character_tokenizer, load_model, load_tokenizer
from runners.lm.policies import Policies
from runners.lm.problem import Problem
from runners.lm.sources import RowSource, Source, TaskSource, find_task, imported, read_rows
from runners.ranks import ONE_RANK, Ranks

Row = dict[str, float]


class Training:
    """A run in progress: everything that a checkpoint holds. Not `fresh`, its state is about to be set."""

    def __init__(self, config: LMConfig, fresh: bool = True, ranks: Ranks = ONE_RANK) -> None:
        self.config, self.ranks = config, ranks
        options = config.learner
        torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.device = pick_device(options.device)
        self.problem, model = make_problem(config, self.device, fresh)
        if config.data.lora:
            model = add_lora(model, config.data.lora)
        self.policies = Policies(model, config.data.sampling_temperature)
        agent = make_sequence_agent(config.agent, ranks).to(self.device)
        value = PromptValue(model.config.hidden_size).to(self.device) if config.agent.baseline == "value" else None
        self.learner = Learner(config, model, agent, value, ranks)
        self.batches = make_batches(config, self.problem, self.policies, agent, value, ranks)
        torch.manual_seed(options.seed + ranks.rank)  # whatever training the base has drawn
        self.rollouts = self.starts = 0
        self.wall_seconds = self.cpu_seconds = 0.0

    @property
    def model(self) -> nn.Module:
        return self.policies.model

    def run(self) -> Iterator[Row]:
        """Train to the end of the budget, yielding after each batch: a row of metrics, or an empty one in between."""
        options = self.config.learner
        sums: dict[str, list[float]] = defaultdict(list)
        while self.rollouts < options.rollouts:
            clock, cpu = time.perf_counter(), cpu_seconds()
            for name, value in self._step().items():
                sums[name].append(float(value))
            self.rollouts += 1
            self.wall_seconds += time.perf_counter() - clock
            self.cpu_seconds += float(self.ranks.total(torch.tensor(cpu_seconds() - cpu)))
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

    def _step(self) -> dict[str, torch.Tensor]:
        """A batch, and the gradient steps on it; metrics of the last of them."""
        batch, limit = self.batches.next(), self.config.agent.target_kl
        metrics = {name: self.ranks.total(value) / self.ranks.size for name, value in batch.metrics.items()}
        for _ in range(self.config.learner.updates):
            step = self.learner.train(batch)
            metrics = metrics | step
            if limit and step["m_step/kl"] > limit:
                break
        return metrics

    def get_state(self) -> dict[str, Any]:
        return {
            "policies": self.policies.get_state(),
            "learner": self.learner.get_state(),
            "batches": self.batches.get_state(),
            "torch_generator": torch.get_rng_state(),
            "counters": {
                "rollouts": self.rollouts,
                "starts": self.starts,
                "wall_seconds": self.wall_seconds,
                "cpu_seconds": self.cpu_seconds,
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.policies.set_state(state["policies"])
        self.learner.set_state(state["learner"])
        self.batches.set_state(state["batches"])
        torch.set_rng_state(state["torch_generator"])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.starts += 1
        if self.ranks.rank:  # the state is the first rank's
            self.batches.seed(self.starts)
            torch.manual_seed(self.config.learner.seed + self.ranks.rank)


def make_problem(config: LMConfig, device: torch.device, fresh: bool) -> tuple[Problem, nn.Module]:
    """What is to be learned, and the model that it starts from."""
    data, options = config.data, config.learner
    if data.data is None:
        source: Source = TaskSource(find_task(data.task))
        if data.model is None:
            problem = Problem(source, character_tokenizer(source.task.alphabet), device)
            dropout = options.dropout or 0.0
            if not data.base_dir or not fresh:
                return problem, base_model(problem, options.seed, dropout, trained=fresh)
            name = f"{data.task}-seed{options.seed}-dropout{dropout:g}".replace(":", "-")
            return problem, kept_base_model(problem, options.seed, dropout, Path(data.base_dir) / name)
        tokenizer = load_tokenizer(data.model)
    else:
        if data.model is None:
            raise UsageError("--data needs --model: a folder or name that transformers knows")
        tokenizer = load_tokenizer(data.model)
        rows = read_rows(data.data, tokenizer)
        held_out = read_rows(data.eval_data, tokenizer) if data.eval_data else None
        reward = imported("reward", data.reward) if data.reward else None
        source = RowSource(rows, held_out, reward, data.completion_length)
    return Problem(source, tokenizer, device), load_model(data.model, options.dropout).to(device)


def pick_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device; leave it at auto, or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
