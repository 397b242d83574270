"""Training of a language model: the loop as a generator of rows of metrics, which its consumers log, save and show."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.sequences.factory import make_sequence_agent
from agents.sequences.value import ValueHead
from networks.drop_path import drop_blocks
from runners.errors import UsageError, usage_errors
from runners.lm.base import base_model, base_name, kept_base_model
from runners.lm.batches import Batch, kind_of
from runners.lm.config import LMConfig
from runners.lm.evaluation import evaluate, show_change
from runners.lm.learner import Learner
from runners.lm.model import (
    add_lora,
    character_tokenizer,
    end_tokens,
    fit_padding,
    load_model,
    load_tokenizer,
    save_model,
    text_config,
)
from runners.lm.policies import Policies
from runners.lm.problem import Problem
from runners.lm.rows import ANSWERS, read_rows, require_path
from runners.lm.rows import Row as DataRow
from runners.lm.shards import gathered
from runners.lm.sources import RowSource, Source, TaskSource, find_task, reward_function
from runners.machine.devices import device_named
from runners.machine.ranks import ONE_RANK, Ranks
from runners.machine.signals import NEVER, Stopped, StopSignal
from runners.machine.watchdog import watched
from runners.records.clock import ROWS, Clock
from runners.records.metrics import Row, TensorBoardLog


class LMTraining:
    """Training of a language model in progress, with what a checkpoint holds; unless `fresh`, a state must be set."""

    def __init__(self, config: LMConfig, ranks: Ranks = ONE_RANK, fresh: bool = True) -> None:
        self.config, self.ranks = config, ranks
        options = config.learner
        if options.shard and ranks.size == 1:
            raise UsageError("--shard needs several processes (torchrun --nproc-per-node 2 -m runners.lm ...)")
        torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.device = device_named(options.device)
        self.problem, model = make_problem(config, self.device, fresh)
        kinds = set(getattr(text_config(model), "layer_types", None) or ())
        if options.packing and not kinds <= {"full_attention", "sliding_attention", "chunked_attention"}:
            raise UsageError(
                f"--packing needs layers that are all of attention, and the model's are {', '.join(sorted(kinds))}"
            )
        if options.drop_path:
            with usage_errors():
                drop_blocks(model, options.drop_path)
        if config.data.lora:
            torch.manual_seed(options.seed)  # anew, as the training of a base model has used random numbers
            model = add_lora(model, config.data.lora)
        ranks.copy_first(model)  # each has trained its base model, with the same bits only on like processors
        model.bf16 = options.precision == "bfloat16"
        agent, kind = make_sequence_agent(config.agent, ranks).to(self.device), kind_of(config, self.problem)
        needs_start = agent.needs_reference or kind.asks_start(self.problem.source.columns)
        self.policies = Policies(model, config.data.sampling_temperature, options.micro_batch, needs_start)
        if options.shard:
            self.policies.shard(ranks.mesh(self.device))
        value = None
        if config.agent.has_value:
            value = ValueHead(text_config(model).hidden_size).to(self.device)
        self.learner = Learner(config, model, agent, value, ranks)
        self.batches = kind(config, self.problem, self.policies, agent, value, ranks)
        torch.manual_seed(options.seed + ranks.rank)
        self.rollouts = self.starts = 0
        self.best_at = -1
        self.clock = Clock(ranks)
        self.sums: dict[str, list[float]] = defaultdict(list)
        """Metrics since the last row."""
        self.before: dict[str, Any] | None = None
        """Evaluation of the model before the first step."""

    @property
    def model(self) -> nn.Module:
        return self.policies.model

    @property
    def done(self) -> int:
        return self.rollouts

    @property
    def parameters(self) -> int:
        """Return the number of parameters that learn."""
        return sum(p.numel() for p in self.learner.trained)

    def introduce(self, run_dir: Path) -> list[str]:
        """Return lines for the terminal about what is trained, and where, and what of the data is not learned."""
        subject, method = self.config.subject, self.config.agent.method
        lines = [f"{subject}: {method}, {self.parameters:,} parameters to train, {run_dir}", *self.problem.notes()]
        came_in = getattr(self.model, "came_in", None)
        if came_in not in (None, torch.float32):
            lines.append(f"the weights came in {came_in}: they are trained and saved in float32".replace("torch.", ""))
        return lines

    def prepare(self) -> None:
        """Evaluate the model before the first step, on the first rank."""
        with self.policies.whole():
            if self.ranks.rank == 0:
                self.before = self.before or evaluate(self.config, self.problem, self.model)
        self.ranks.wait_for_first()

    def run(self, stop: StopSignal = NEVER) -> Iterator[Row]:
        """Train to the end of the budget, yielding after each batch and soon after a stop signal: a row of metrics, or
        an empty one in between."""
        options = self.config.learner
        alone = self.ranks.size == 1  # ranks stop together, after a batch
        drawer = f"rank {self.ranks.rank}, which draws and judges completions,"
        while self.rollouts < options.rollouts:
            self.clock.start()
            drawn_from = self.batches.get_state()
            try:
                self.ranks.meet()
                with stop.at_once(alone), self.policies.whole(), watched(drawer, options.patience):
                    batch = self.batches.next()
            except Stopped:
                self.batches.set_state(drawn_from)  # the resumed run draws the batch again
                yield {}
                return
            metrics = {name: float(value) for name, value in self._learn(batch, stop if alone else NEVER).items()}
            self.learner.steps.check(options.patience_steps, self.learner.updates)
            for name, value in metrics.items():
                self.sums[name].append(value)
            self.rollouts += 1
            self.clock.read()
            if self.rollouts % max(options.log_rollouts, self.rollouts // ROWS) and self.rollouts < options.rollouts:
                yield {}
                continue
            yield {
                "rollouts": self.rollouts,
                "updates": self.learner.updates,
                "m_step/skipped": int(self.learner.steps.skipped),
                **self.clock.get_state(),
                **{name: _known_mean(values) for name, values in self.sums.items()},
            }
            self.sums.clear()

    def _learn(self, batch: Batch, stop: StopSignal) -> dict[str, torch.Tensor]:
        """Take the gradient steps on a batch, fewer if `stop` is overdue; return the metrics of the batch and of the
        last step."""
        options, limit = self.config.learner, self.config.agent.target_kl
        annealing = 1 - self.rollouts / options.rollouts if options.anneal else 1.0
        metrics = {name: self._mean(value) for name, value in batch.metrics.items()}
        plan = self.learner.plan(batch.samples, options.updates)
        for _ in range(options.updates):
            step = self.learner.train(batch, plan, annealing)
            metrics = metrics | step
            if limit and step["m_step/kl"] > limit or stop.overdue:
                break
        return metrics

    def _mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of `value` over the ranks where it is not NaN."""
        known = torch.stack([value.nan_to_num(), (~value.isnan()).to(value.dtype)])
        total, count = self.ranks.total(known)
        return total / count

    def finish(self, run_dir: Path | None) -> dict[str, Any]:
        """Evaluate the model, save it in `run_dir`, and return the run's part of the summary."""
        after = None
        trained = gathered(self.policies.trained())  # first: while one rank evaluates, the others must not wait in it
        with self.policies.whole():
            if run_dir is not None:
                after = evaluate(self.config, self.problem, self.model)
        if run_dir is None:
            return {}
        save_model(self.model, self.problem.tokenizer, run_dir / "model", trained)
        return {
            "method": self.config.agent.method,
            "task": self.config.subject,
            "model": self.config.data.model,
            "seed": self.config.learner.seed,
            "rollouts": self.rollouts,
            "updates": self.learner.updates,
            **self.clock.get_state(),
            "parameters": self.parameters,
            "eval": after,
            "base": self.before,
        }

    def show(self, summary: dict[str, Any], run_dir: Path, board: TensorBoardLog) -> None:
        """Print the evaluations before and after the run, and how long it took."""
        after = summary["eval"]
        scores = {"reward/evaluation": after["mean"], "reward/evaluation_greedy": after["greedy"]}
        board.scalars(self.rollouts, scores)
        show_change(summary["base"], after)
        print(
            f"{self.rollouts:,} rollouts, {self.learner.updates:,} updates in {summary['wall_seconds']:.0f} s "
            f"({1000 * summary['cpu_seconds'] / self.rollouts:.0f} ms of a core each); {run_dir / 'summary.json'}"
        )

    def get_state(self) -> dict[str, Any]:
        return {
            "policies": self.policies.get_state(),
            "learner": self.learner.get_state(),
            "batches": self.batches.get_state(),
            "sums": dict(self.sums),
            "before": self.before,
            "torch_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "counters": {
                "rollouts": self.rollouts,
                "starts": self.starts,
                **self.clock.get_state(),
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.policies.set_state(state["policies"])
        self.learner.set_state(state["learner"])
        self.batches.set_state(state["batches"])
        self.sums.update(state["sums"])
        self.before = state["before"]
        torch.set_rng_state(state["torch_generator"])
        if self.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"])
        counters = state["counters"]
        self.rollouts, self.starts = counters["rollouts"], counters["starts"] + 1
        self.clock.set_state(counters)
        if self.ranks.rank:  # the generators of the state are the first rank's
            self.batches.seed(self.starts)
            self.problem.source.set_state([])
            torch.manual_seed(int(self.batches.rng.integers(2**62)))


def _known_mean(values: list[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def make_problem(config: LMConfig, device: torch.device, fresh: bool) -> tuple[Problem, nn.Module]:
    """Make the problem that is to be learned, and the model that it starts from."""
    data, options = config.data, config.learner
    if data.data is None:
        source: Source = TaskSource(find_task(data.task))
        if data.model is None:
            problem = Problem(source, character_tokenizer(source.task.alphabet), device)
            dropout = options.dropout or 0.0
            if not data.base_dir or not fresh:
                return problem, base_model(problem, options.seed, dropout, trained=fresh)
            folder = Path(data.base_dir) / base_name(source.task, options.seed, dropout)
            return problem, kept_base_model(problem, options.seed, dropout, folder)
        tokenizer = load_tokenizer(data.model)
    else:
        if data.model is None:
            raise UsageError("--data needs --model: a folder or name that transformers knows")
        require_path("data", data.data)  # before the model, which may have to be fetched
        require_path("eval-data", data.eval_data or data.data)
        tokenizer = load_tokenizer(data.model)
        rows = read_rows(data.data, tokenizer)
        held_out = read_rows(data.eval_data, tokenizer) if data.eval_data else None
        reward = reward_function(data.reward) if data.reward else None
        source = RowSource(rows, held_out, reward, data.completion_length)
    model = load_model(data.model, options.dropout).to(device)
    fit_padding(tokenizer, model)
    problem = Problem(source, tokenizer, device, end_tokens(model))
    if data.data is None:
        check_prompts(data.model, source.held_out(data.eval_prompts), f"--task {data.task}", problem, model)
        return problem, model
    for name, some in ((data.data, rows), (data.eval_data, held_out)):
        check_prompts(data.model, some or [], name, problem, model)
    return problem, model


def check_prompts(name: str, rows: Sequence[DataRow], where: str, problem: Problem, model: nn.Module) -> None:
    """Raise UsageError if a row has more tokens than the model has room for, or a token outside of its embedding."""
    room = getattr(text_config(model), "max_position_embeddings", math.inf)
    known, completion = model.get_input_embeddings().num_embeddings, problem.source.completion_length
    columns = [column for column in ("prompt", *ANSWERS) if rows and column in rows[0]]
    tokens = (problem.tokenizer([row[column] for row in rows])["input_ids"] for column in columns)
    for i, (asked, *answers) in enumerate(zip(*tokens, strict=True), 1):
        if len(asked) + completion > room:
            wanted = f"{len(asked)} tokens and a completion {completion}"
            raise UsageError(f"{where}, row {i} of {len(rows)}: its prompt has {wanted}; --model {name} takes {room}")
        most = max(itertools.chain(asked, *answers), default=0)
        if most >= known:
            token = problem.tokenizer.convert_ids_to_tokens(most)
            raise UsageError(f"{where}, row {i} has the token {token}, number {most}; --model {name} knows {known}")
