"""A gradient step of a language model: plan (the E-step), then the M-step over parts of the samples."""

from typing import Any

import torch
from torch import Tensor, nn

from agents.sequences.types import SequenceAgent
from agents.sequences.value import PromptValue
from networks.language import Prompts, token_log_probs
from runners.lm.batches import Batch
from runners.lm.config import LMConfig
from runners.lm.model import drops


class Learner:
    """What is trained: model, duals and value head, and their optimiser."""

    def __init__(
        self, config: LMConfig, model: nn.Module, agent: SequenceAgent, value: PromptValue | None = None
    ) -> None:
        self.config, self.model, self.agent, self.value = config, model, agent, value
        options = config.learner
        self.trained = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": self.trained, "lr": options.learning_rate, "weight_decay": options.weight_decay}]
        for module, rate in ((agent, options.dual_learning_rate), (value, options.value_learning_rate)):
            if module is not None and (parameters := list(module.parameters())):
                groups.append({"params": parameters, "lr": rate, "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(groups)
        self.masks = drops(model) and options.dropout_scheme == "whole" and config.agent.method != "sft"
        self.updates = 0

    def train(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step; returns scalars to log."""
        prompts, completions, samples = batch[:3]
        plan = self.agent.plan(samples)
        self.optimiser.zero_grad(set_to_none=True)
        duals = plan.loss + self.value.loss(batch.features, batch.returns) if self.value else plan.loss
        metrics = {name: value.detach() for name, value in plan.metrics.items()}
        kept = plan.kept.nonzero().squeeze(1)
        if not len(kept) and duals.requires_grad:  # a filter may keep none
            duals.backward()
        tokens = samples.mask[kept].sum()
        size = self.config.learner.micro_batch
        for some in kept.split(size + size % 2 if self.agent.pairs else size):
            asked, answer = prompts.of(some), (completions.tokens[some], completions.mask[some])
            fitted, compared = self._log_probs(asked, *answer)
            part = self.agent.loss(fitted, compared, samples.of(some), plan.weights[some], tokens)
            (part.loss + duals).backward()
            duals = 0.0
            for name, value in part.metrics.items():
                metrics[name] = metrics.get(name, 0) + value
        limit = self.config.learner.max_gradient_norm or torch.inf
        metrics["m_step/gradient_norm"] = nn.utils.clip_grad_norm_(self.trained, limit)
        self.optimiser.step()
        self.updates += 1
        return metrics

    def _log_probs(self, prompts: Prompts, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As the M-step fits them, and as they are compared with pi_t."""
        temperature = self.config.data.sampling_temperature
        self.model.train()
        fitted = token_log_probs(self.model, prompts, tokens, mask, temperature)
        self.model.eval()
        compared = token_log_probs(self.model, prompts, tokens, mask, temperature) if self.masks else fitted
        return fitted, compared

    def get_state(self) -> dict[str, Any]:
        return {
            "agent": dict(self.agent.state_dict()),
            "value": dict(self.value.state_dict()) if self.value else None,
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        if self.value:
            self.value.load_state_dict(state["value"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates = state["updates"]
