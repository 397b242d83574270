"""The learner: gradient steps on batches of unrolls."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from agents.factory import Agent
from agents.types import Unroll
from networks.actor_critic import ActorCritic
from runners.compilation import compiled
from runners.config import RunConfig
from runners.errors import RunError
from runners.passes import ForwardPasses
from runners.ranks import ONE_RANK, Ranks
from runners.reference import Reference


class Learner:
    """Owns network, agent, optimiser and the order of minibatches. `after_step` is called after each gradient step."""

    def __init__(
        self,
        config: RunConfig,
        network: ActorCritic,
        agent: Agent,
        device: torch.device,
        ranks: Ranks = ONE_RANK,
        fresh: bool = True,
    ) -> None:
        self.config, self.network, self.agent, self.device, self.ranks = config, network, agent, device, ranks
        self.forward = compiled(network, device) if config.training.compile else network
        self.passes = ForwardPasses(network, self.forward, config.network.dropout, config.agent.dropout_scheme)
        training = config.training
        groups = [
            {"params": list(network.parameters()), "lr": training.learning_rate},
            {"params": list(agent.parameters()), "lr": training.dual_learning_rate},
        ]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], eps=training.adam_epsilon, fused=True)
        self.generator = torch.Generator().manual_seed(training.seed)
        agent_config = config.agent
        self.reference: Reference | None = None
        if agent_config.agent != "ppo" and "reference" in agent_config.row.anchors:
            source = agent_config.reference
            if not fresh and source != "average":
                source = "start"  # pi_ref is in the run's own checkpoint, whatever has become of where it came from
            self.reference = Reference(network, source, agent_config.reference_decay)
        self.updates = 0
        self._sums: dict[str, Tensor] = {}
        self._count = self._planned = 0
        """Gradient steps made since the last drain, and those that would have been without an early stop."""

    def train(self, unroll: Unroll, progress: float, after_step: Callable[[], None], value_only: bool = False) -> None:
        """All passes over one batch; `progress` in [0, 1] is how far the run has come."""
        training = self.config.training
        annealing = min(1.0, (1 - progress) / (1 - training.anneal_from)) if training.anneal else 1.0
        self.optimizer.param_groups[0]["lr"] = training.learning_rate * annealing
        unroll = unroll.to(self.device)
        if self.reference:
            unroll = unroll._replace(reference=self.reference.evaluate(unroll))
        self.passes.begin_batch()
        self._planned += training.passes * training.minibatches
        for index in self._minibatches():
            kl = self._step(unroll if training.minibatches == 1 else unroll.columns(index), annealing, value_only)
            self.updates += 1
            after_step()
            if 0 < self.config.agent.target_kl < kl:
                break
        if self.reference:
            self.reference.follow(self.network)
        self._check()

    def _minibatches(self) -> Iterator[Tensor]:
        """Columns of the batch for each gradient step: every pass in an order of its own."""
        training = self.config.training
        for _ in range(training.passes):
            order = torch.randperm(training.envs, generator=self.generator).to(self.device)
            yield from order.chunk(training.minibatches)

    def _step(self, unroll: Unroll, annealing: float, value_only: bool) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.training.compile:
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.agent.loss(self.passes(unroll), unroll, self.network.value_head, annealing)
        (loss.value if value_only else loss.total).backward()
        if value_only:  # compiled, what the value does not depend on has gradients of 0, which Adam would count
            for parameter in self.network.policy_head.parameters():
                parameter.grad = None
        kl = loss.metrics.get("m_step/kl") if self.config.agent.target_kl else None
        if self.config.training.statistics == "rank":
            kl = self._average_over_ranks(kl)
        else:  # each rank's multipliers have the gradient of the whole batch already
            self.ranks.sum_gradients(self.network.parameters())
        limit = self.config.training.max_gradient_norm or torch.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self.optimizer.step()
        self.network.value_head.update(loss.value_targets, unroll.valid, self.ranks.total, unroll.task)
        metrics = loss.metrics | self.network.core.metrics(unroll.state) | {"m_step/gradient_norm": norm}
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1
        return 0.0 if kl is None else float(kl)

    def _average_over_ranks(self, kl: Tensor | None) -> Tensor | None:
        """Gradients of network and multipliers, and `kl`, where each rank had a loss of its own."""
        parameters = [*self.network.parameters(), *self.agent.parameters()]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= self.ranks.size
        self.ranks.sum_gradients(parameters)
        return None if kl is None else self.ranks.total(kl) / self.ranks.size

    def drain_metrics(self) -> dict[str, float]:
        """Means over the gradient steps since the last call."""
        means = {name: float(value) / self._count for name, value in self._sums.items()}
        if self.config.agent.target_kl:
            means["m_step/steps_share"] = self._count / self._planned
        self._sums, self._count, self._planned = {}, 0, 0
        return means

    def _check(self) -> None:
        """RunError where a gradient was not finite, before anything saves the network."""
        if not math.isfinite(self._sums["m_step/gradient_norm"]):
            raise RunError(
                f"training diverged by gradient step {self.updates}: the gradient is not finite;"
                " --resume goes back to the last checkpoint, a lower --learning-rate may help"
            )

    def get_state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "agent": self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "reference": self.reference and self.reference.get_state(),
        }

    def set_state(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # contiguous in a file: fused Adam wants the parameter's own strides
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]
        if self.reference:
            self.reference.set_state(state["reference"])
