"""Batches of samples by their source: drawn by the policy, or in the data."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.returns import standardise
from agents.sequences.baselines import MovingAverage, batch_mean, group_mean, leave_one_out
from agents.sequences.config import BaselineName
from agents.sequences.types import Samples, SequenceAgent
from agents.sequences.value import ValueHead, token_returns
from networks.language import Completions, Prompts, prompt_features, sample, token_features
from runners.errors import UsageError
from runners.lm.config import DataConfig, LMConfig
from runners.lm.policies import Policies
from runners.lm.presets import PRESETS
from runners.lm.problem import CHECKED, Problem
from runners.lm.rows import Row
from runners.machine.ranks import Ranks

PROMPTS = 2
"""Stream of random numbers of the training prompts; evaluation and base model have others."""


class Batch(NamedTuple):
    """N samples, with scalars to log, and for a value head `features` [B, D] of prompts or [N, C, D] of tokens with
    their `returns`, [B] or [N, C]."""

    prompts: Prompts
    completions: Completions
    samples: Samples
    metrics: dict[str, Tensor]
    features: Tensor | None = None
    returns: Tensor | None = None


class Advantages(NamedTuple):
    """Advantages of N completions, [N], or of their tokens, [N, C], 0 where a reward is NaN; and a batch's `features`
    and `returns`."""

    advantages: Tensor
    features: Tensor | None
    returns: Tensor


class Batches(ABC):
    """Base of all kinds of batches, with the random generators and the state that they share."""

    usual_baseline: BaselineName = "group"

    @staticmethod
    def asks_start(columns: frozenset[str]) -> bool:
        """Return whether the model of the start is needed, whatever the method."""
        return False

    def __init__(
        self,
        config: LMConfig,
        problem: Problem,
        policies: Policies,
        agent: SequenceAgent,
        value: ValueHead | None,
        ranks: Ranks,
    ) -> None:
        self.config, self.problem, self.policies, self.agent, self.value = config, problem, policies, agent, value
        self.ranks = ranks
        self.seed(0)
        self.average = MovingAverage()

    def seed(self, start: int) -> None:
        """Make this rank's generators, others at each `start` of the run."""
        self.rng = np.random.default_rng([PROMPTS, self.config.learner.seed, self.ranks.rank, start])
        seed = int(self.rng.integers(2**62))
        self.generator = torch.Generator(self.problem.device).manual_seed(seed)

    @abstractmethod
    def next(self) -> Batch:
        """Return the batch for the next gradient steps."""

    def _prompts(self) -> list[Row]:
        return self.problem.source.prompts(self.config.data.prompts, self.rng)

    def _encoded(self, rows: list[Row]) -> tuple[Prompts, Completions]:
        prompts, answers = ([row[name] for row in rows] for name in ("prompt", "completion"))
        return self.problem.encode(prompts), self.problem.answers(prompts, answers)

    def reference(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Return log pi_ref of each token, [N, C]; zeros if the method does not use it."""
        if not self.agent.needs_reference:
            return torch.zeros_like(completions.log_prob)
        return self.policies.reference(prompts, completions)

    def draw(self, model: torch.nn.Module, rows: list[Row]) -> tuple[Prompts, Completions, Tensor]:
        """Draw K completions of each of B rows; return the prompts [B], the completions [B K], the rewards [B, K]."""
        data, problem = self.config.data, self.problem
        prompts = problem.encode([row["prompt"] for row in rows])
        how = problem.source.completion_length, problem.ends, self.generator, data.sampling_temperature
        completions = sample(model, prompts.repeat(data.completions), *how)
        return prompts, completions, problem.rewards(rows, completions).view(-1, data.completions)

    @torch.no_grad()
    def advantages(self, rewards: Tensor, prompts: Prompts, completions: Completions) -> Advantages:
        """Return the advantages of the K completions of each of B prompts, or of their tokens, from rewards [B, K]."""
        name, features = self.config.agent.baseline or self.usual_baseline, None
        if self.value:
            self.policies.model.eval()
        if name == "token":
            return self._of_tokens(rewards.flatten(), prompts.repeat(rewards.shape[1]), completions)
        if name == "value":
            features = prompt_features(self.policies.model, prompts)
            expected = self.value(features).unsqueeze(1)
        elif name == "none":
            expected = torch.zeros(())
        else:
            by_name = {"group": group_mean, "leave-one-out": leave_one_out, "batch": batch_mean}
            expected = self.ranks.own(by_name.get(name, self.average)(self.ranks.gather(rewards)))
        known = ~rewards.isnan()
        advantages = torch.where(known, rewards - expected, 0)
        if self.config.agent.standardise_advantages:
            advantages = standardise(advantages, known, self.ranks)
        return Advantages(advantages.flatten(), features, rewards.nanmean(1))

    def _of_tokens(self, rewards: Tensor, prompts: Prompts, completions: Completions) -> Advantages:
        """Return the advantages of the tokens of completions [N, C], with rewards [N]."""
        mask = completions.mask & ~rewards.isnan().unsqueeze(1)
        every = torch.arange(len(mask), device=mask.device).split(self.config.learner.micro_batch)
        parts = ((prompts.select(some), completions.tokens[some]) for some in every)
        features = torch.cat([token_features(self.policies.model, *part) for part in parts])
        values = self.value(features)
        returns = token_returns(values, rewards.nan_to_num(), mask, self.config.agent.gae_lambda)
        advantages = torch.where(mask, returns - values, 0)
        if self.config.agent.standardise_advantages:
            advantages = standardise(advantages, mask, self.ranks)
        return Advantages(advantages, features, returns)

    def get_state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "average": self.average.get_state(),
            "source": self.problem.source.get_state(),
            "data": self.problem.source.digest,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        if state.get("data", "") != self.problem.source.digest:
            raise UsageError(f"--data {self.config.data.data} has changed since this run began: start a new run")
        self.rng.bit_generator.state = state["rng"]
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"])
        else:  # saved on another kind of device
            self.generator.manual_seed(int(self.rng.integers(2**62)))
        self.average.set_state(state["average"])
        self.problem.source.set_state(state["source"])


class Rollouts(Batches):
    """Batches of completions that the present policy draws as pi_t."""

    def next(self) -> Batch:
        rows = self._prompts()
        prompts, completions, rewards = self.draw(self.policies.model, rows)
        scaled = self.config.data.reward_scale * rewards
        advantages, *to_value = self.advantages(scaled, prompts, completions)
        repeated = prompts.repeat(self.config.data.completions)
        mask = completions.mask & ~rewards.isnan().view(-1, 1)
        reference = self.reference(repeated, completions)
        samples = Samples(mask, completions.log_prob, reference, advantages, self.config.data.completions)
        ended = (completions.mask & torch.isin(completions.tokens, self.problem.ends)).any(1)
        highest, lowest = rewards.nan_to_num(-torch.inf).amax(1), rewards.nan_to_num(torch.inf).amin(1)
        metrics = {
            "reward/train": rewards.nanmean(),
            "reward/cut": 1 - ended.float().mean(),
            "reward/tokens": completions.mask.sum(1).float().mean(),
            "reward/same_in_group": (highest <= lowest).float().mean(),
            "e_step/advantage_rms": advantages[samples.valid].square().mean().sqrt(),
        }
        return Batch(repeated, completions, samples, metrics, *to_value)


class Demonstrations(Batches):
    """Batches of prompts and completions to imitate."""

    def next(self) -> Batch:
        alike = not self.config.learner.packing
        rows = self.problem.source.demonstrations(self.config.data.prompts, self.rng, alike)
        prompts, completions = self._encoded(rows)
        return Batch(prompts, completions, demonstrated(completions), {})


class Pairs(Batches):
    """Batches of a chosen and a rejected completion for each prompt: those of the data, or the best and the worst that
    the model of the start draws, if their rewards differ."""

    @staticmethod
    def asks_start(columns: frozenset[str]) -> bool:
        return True

    def next(self) -> Batch:
        rows = self._prompts()
        in_data = "chosen" in self.problem.source.columns
        prompts, completions, metrics = self._from_data(rows) if in_data else self._drawn(rows)
        zero = torch.zeros_like(completions.log_prob)
        reference = self.policies.reference(prompts, completions) if in_data else completions.log_prob
        return Batch(prompts, completions, Samples(completions.mask, zero, reference, zero[:, 0]), metrics)

    def _from_data(self, rows: list[Row]) -> tuple[Prompts, Completions, dict[str, Tensor]]:
        prompts = [row["prompt"] for row in rows]
        answers = [row[name] for row in rows for name in ("chosen", "rejected")]
        return self.problem.encode(prompts).repeat(2), self.problem.answers(np.repeat(prompts, 2).tolist(), answers), {}

    def _drawn(self, rows: list[Row]) -> tuple[Prompts, Completions, dict[str, Tensor]]:
        with self.policies.start() as model:
            prompts, completions, rewards = self.draw(model, rows)
        best, worst = rewards.nan_to_num(-torch.inf).argmax(1), rewards.nan_to_num(torch.inf).argmin(1)
        every = torch.arange(len(rows), device=rewards.device)
        differ = (rewards[every, best] > rewards[every, worst]).nonzero().squeeze(1)
        first = differ * rewards.shape[1]
        index = torch.stack([first + best[differ], first + worst[differ]], 1).flatten()
        none = not len(index)  # then the batch is two completions without a token, which add nothing
        index = index.new_zeros(2) if none else index
        metrics = {
            "reward/start": rewards.nanmean(),
            "reward/pairs": torch.tensor(float(len(differ) * self.ranks.size)),
        }
        pairs = Completions(*(x[index] for x in completions))
        pairs = pairs._replace(mask=pairs.mask & (not none))
        return prompts.repeat(rewards.shape[1]).select(index), pairs, metrics


class Offline(Batches):
    """Batches of completions with rewards in the data; preferences have rewards 1 and 0.

    The column `log_probs` has log pi_t, a list for each completion, of its tokens and the end of text. Without it the
    model of the start is taken for pi_t.
    """

    usual_baseline = "batch"

    @staticmethod
    def asks_start(columns: frozenset[str]) -> bool:
        return "log_probs" not in columns

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        if not self.asks_start(self.problem.source.columns):
            rows = self.problem.source.rows
            for i in range(0, len(rows), CHECKED):
                self._check_stored(rows[i : i + CHECKED])

    def next(self) -> Batch:
        rows = [answer for row in self._prompts() for answer in _answers(row)]
        prompts, completions = self._encoded(rows)
        if self.asks_start(self.problem.source.columns):
            behaviour = start = self.policies.reference(prompts, completions)
        else:
            behaviour, start = self._stored(rows, completions.mask), self.reference(prompts, completions)
        numbers = [math.nan if row["reward"] is None else float(row["reward"]) for row in rows]
        rewards = torch.tensor(numbers, device=start.device).unsqueeze(1)
        scaled = self.config.data.reward_scale * rewards
        advantages, *to_value = self.advantages(scaled, prompts, completions)
        mask = completions.mask & ~rewards.isnan()
        samples = Samples(mask, behaviour, start, advantages)
        return Batch(prompts, completions, samples, {"reward/data": rewards.nanmean()}, *to_value)

    def _stored(self, rows: list[Row], mask: Tensor) -> Tensor:
        """Return log pi_t [N, C] from the data."""
        stored = torch.zeros(mask.shape)
        for i, row in enumerate(rows):
            stored[i, : len(row["log_probs"])] = torch.tensor(row["log_probs"])
        return stored.to(mask.device)

    def _check_stored(self, rows: Sequence[Row]) -> None:
        """Raise UsageError if a completion has not one log-probability for each token."""
        prompts, answers = ([row[name] for row in rows] for name in ("prompt", "completion"))
        for row, length in zip(rows, self.problem.answers(prompts, answers).mask.sum(1).tolist(), strict=True):
            if len(row["log_probs"]) != length:
                counts = f"{len(row['log_probs'])} log_probs for {length} tokens"
                raise UsageError(
                    f"--data has {counts} of the completion {row['completion']!r} and its end of text, "
                    f"at --completion-length {self.problem.source.completion_length}"
                )


def kind_of(config: LMConfig, problem: Problem) -> type[Batches]:
    """Return the kind of batch for the method and the data's columns; UsageError if they do not go together."""
    columns, agent = problem.source.columns, config.agent
    if agent.method == "sft":
        kind = Demonstrations
        if "completion" not in columns:
            raise UsageError("--method sft needs data with columns prompt and completion, or messages")
    elif agent.method == "dpo":
        kind = Pairs
    elif "chosen" in columns or "reward" in columns:
        kind = Offline
        if agent.baseline in ("group", "leave-one-out"):
            raise UsageError(f"--baseline {agent.baseline} needs completions drawn by the run: take batch")
        if agent.e_step == "prompt":
            raise UsageError("--e-step prompt needs completions drawn by the run: take batch")
        if agent.method == "ppo":
            raise UsageError("--method ppo learns from completions of its own: the data must have prompts alone")
    else:
        kind = Rollouts
    many = config.data.completions
    if kind is Rollouts or kind is Pairs and "chosen" not in columns:
        if not problem.source.judges:
            raise UsageError("prompts without rewards need --reward module:function")
    elif many not in (DataConfig.completions, PRESETS[config.learner.preset](agent.method).data.completions):
        raise UsageError("--completions has no effect on data that have their completions: leave it out")
    if kind is Rollouts and many < 2 and (agent.baseline or kind.usual_baseline) in ("group", "leave-one-out"):
        raise UsageError(f"--baseline {agent.baseline or kind.usual_baseline} needs --completions of at least 2")
    return kind


def demonstrated(completions: Completions) -> Samples:
    """Return demonstrations as samples, with zeros for the unknown pi_t and the missing rewards."""
    zero = torch.zeros_like(completions.log_prob)
    return Samples(completions.mask, zero, zero, zero[:, 0])


def _answers(row: Row) -> list[Row]:
    """Return the samples with rewards of a row: itself, or the two of a preference."""
    if "chosen" not in row:
        return [row]
    return [{"prompt": row["prompt"], "completion": row[k], "reward": r} for k, r in (("chosen", 1), ("rejected", 0))]
