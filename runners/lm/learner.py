"""Learning of a language model from a batch: a plan, the E-step, then gradient steps, the M-step."""

from typing import Any

import torch
from torch import Tensor, nn

from agents.sequences.types import Plan, Samples, SequenceAgent
from agents.sequences.value import ValueHead
from networks.language import Prompts, packed_log_probs, token_log_probs
from runners.learning.duals import DualSteps, gradient_sum, multipliers
from runners.learning.steps import FiniteSteps
from runners.lm.batches import Batch
from runners.lm.config import LMConfig
from runners.lm.model import has_dropout
from runners.lm.shards import gathered, is_sharded, spread
from runners.machine.ranks import ONE_RANK, Ranks


class Learner:
    """Owner of the trained parts, which are model, duals and value head, and of their optimisers."""

    def __init__(
        self,
        config: LMConfig,
        model: nn.Module,
        agent: SequenceAgent,
        value: ValueHead | None = None,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.config, self.model, self.agent, self.value, self.ranks = config, model, agent, value, ranks
        options = config.learner
        self.trained = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": self.trained, "lr": options.learning_rate, "weight_decay": options.weight_decay}]
        self.duals = DualSteps(agent, options.dual_learning_rate)
        rates = (
            (multipliers(agent), options.dual_learning_rate),
            (value.parameters() if value else (), options.value_learning_rate),
        )
        for parameters, rate in rates:
            if parameters := list(parameters):
                groups.append({"params": parameters, "lr": rate, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.steps = FiniteSteps(self.optimizer)
        self.parameters = [p for group in groups for p in group["params"]]
        self.sharded = any(map(is_sharded, self.trained))
        compared = config.agent.method not in ("sft", "dpo")
        self.undropped = compared and has_dropout(model) and options.dropout_scheme == "whole"
        """True if the network also makes passes without its dropout."""
        self.updates = 0

    def plan(self, samples: Samples, steps: int) -> Plan:
        """Make the E-step of a batch that has `steps` gradient steps."""
        return self.agent.plan(samples, self.duals.updates(steps))

    def train(self, batch: Batch, plan: Plan, annealing: float = 1.0) -> dict[str, Tensor]:
        """Take one gradient step, at `annealing` times the learning rate, and return scalars to log."""
        self.optimizer.param_groups[0]["lr"] = annealing * self.config.learner.learning_rate
        prompts, completions, samples = batch[:3]
        if self.sharded:  # all ranks must make the same calls, and sharing a prompt's pass would change them on one
            prompts = prompts._replace(number=None)
        self.optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        if self.value:  # this rank's part of the mean over all: gradients are summed
            known = self.ranks.total((~batch.returns.isnan()).sum()).clamp(min=1)
            metrics["value/loss"] = self.value.loss(batch.features, batch.returns) / known
            metrics["value/loss"].backward()
        kept = plan.kept.nonzero().squeeze(1)
        tokens = self.ranks.total(samples.mask[kept].sum()).clamp(min=1)
        for some, counts in self._parts(kept):
            fitted, compared = self._log_probs(prompts.select(some), completions.tokens[some], completions.mask[some])
            counted = samples.select(some)._replace(mask=samples.mask[some] & counts)
            part = self.agent.loss(fitted, compared, counted, plan.weights[some] * counts, tokens)
            part.loss.backward()
            for name, value in part.metrics.items():
                metrics[name] = metrics.get(name, 0) + value
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._sum_gradients()
        limit = self.config.learner.max_gradient_norm or torch.inf
        norm = gathered(nn.utils.clip_grad_norm_(self.trained, limit))
        metrics = {name: self.ranks.total(metrics[name]) for name in sorted(metrics)}
        self.steps.take(norm + gradient_sum(self.parameters[len(self.trained) :]), metrics)
        self.updates += 1
        return {name: x.detach() for name, x in (plan.metrics | metrics | {"m_step/gradient_norm": norm}).items()}

    def _parts(self, kept: Tensor) -> list[tuple[Tensor, bool]]:
        """Return micro-batches of the samples `kept`, at least one, each with whether it counts.

        All ranks must call a sharded model together: those with fewer micro-batches add some that do not count.
        """
        pair = 2 if self.agent.pairs else 1
        size = self.config.learner.micro_batch
        parts = [(some, True) for some in kept.split(size + size % pair) if len(some)]
        most = int(self.ranks.gather(torch.tensor([len(parts)])).max()) if self.sharded else 1
        return parts + [(torch.arange(pair, device=kept.device), False)] * (max(most, 1) - len(parts))

    @torch.no_grad()
    def _sum_gradients(self) -> None:
        """Sum gradients over ranks; that of a sharded parameter is their mean already, after its backward pass."""
        if copied := [p for p in self.parameters if not is_sharded(p)]:
            self.ranks.sum_gradients(copied)
        for parameter in filter(is_sharded, self.parameters):
            parameter.grad.mul_(self.ranks.size)

    def _log_probs(self, prompts: Prompts, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities that the M-step fits, and those that are compared with pi_t, both [n, C]."""
        fitted = None
        if self.agent.fits or not self.undropped:
            fitted = self._pass(prompts, tokens, mask, training=True)
        if not self.undropped:
            return fitted, fitted
        with torch.set_grad_enabled(self.agent.compares):
            compared = self._pass(prompts, tokens, mask, training=False)
        return compared if fitted is None else fitted, compared

    def _pass(self, prompts: Prompts, tokens: Tensor, mask: Tensor, training: bool) -> Tensor:
        if self.model.training != training:  # setting it in every layer takes a millisecond
            self.model.train(training)
        log_probs = packed_log_probs if self.config.learner.packing else token_log_probs
        return log_probs(self.model, prompts, tokens, mask, self.config.data.sampling_temperature)

    def get_state(self) -> dict[str, Any]:
        return {
            "agent": dict(self.agent.state_dict()),
            "value": dict(self.value.state_dict()) if self.value else None,
            "optimizer": gathered(self.optimizer.state_dict()),
            "duals": self.duals.get_state(),
            "updates": self.updates,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        if self.value:
            self.value.load_state_dict(state["value"])
        self.duals.set_state(state["duals"])
        optimizer = state["optimizer"]
        moments = {i: self._spread(self.parameters[i], whole) for i, whole in optimizer["state"].items()}
        self.optimizer.load_state_dict(optimizer | {"state": moments})
        self.updates = state["updates"]

    @staticmethod
    def _spread(parameter: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return Adam's state for `parameter`, sharded as it is, before the optimiser moves it to the device."""
        return {name: spread(x, parameter) if x.shape == parameter.shape else x for name, x in state.items()}
