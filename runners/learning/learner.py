"""The learner: gradient steps on batches of unrolls."""

import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from agents.evaluation import evaluate_policy
from agents.factory import Agent
from agents.types import Plan, Unroll
from networks.actor_critic import ActorCritic
from runners.config import RunConfig
from runners.learning.duals import DualSteps, gradient_sum, multipliers
from runners.learning.passes import ForwardPasses
from runners.learning.reference import Reference
from runners.learning.schedule import annealed
from runners.learning.steps import FiniteSteps
from runners.machine.compilation import compiled
from runners.machine.ranks import ONE_RANK, Ranks
from runners.machine.signals import NEVER, StopSignal


class Learner:
    """Owner of network, agent, optimisers and the order of minibatches. For each batch it makes a plan, the E-step, and
    then gradient steps on minibatches, the M-steps."""

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
        self.passes = ForwardPasses(network, self.forward, config.network.has_dropout, config.agent.dropout_scheme)
        training = config.training
        groups = [
            {"params": list(network.parameters()), "lr": training.learning_rate},
            {"params": list(multipliers(agent)), "lr": training.dual_learning_rate},
        ]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], eps=training.adam_epsilon, fused=True)
        self.steps = FiniteSteps(self.optimizer)
        apart = training.statistics == "rank"
        self.duals = DualSteps(agent, training.dual_learning_rate, ranks if apart else ONE_RANK)
        self.average: AveragedModel | None = None
        if decay := training.weight_average:
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
        self.generator = torch.Generator().manual_seed(training.seed)
        agent_config = config.agent
        self.reference: Reference | None = None
        if agent_config.agent != "ppo" and "reference" in agent_config.row.anchors:
            source = agent_config.reference
            if not fresh and source != "average":
                source = "start"  # pi_ref is restored from the run's own checkpoint: its source may be gone
            self.reference = Reference(network, source, agent_config.reference_decay)
        self.updates = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        """Sum of each metric since the last drain, and number of its values: a tensor if a GPU may leave steps out."""
        self._made = self._planned = 0
        """Gradient steps made since the last drain, and those planned, which an early stop leaves out in part."""

    def train(self, unroll: Unroll, progress: float, value_only: bool = False, stop: StopSignal = NEVER) -> None:
        """Learn from one batch; `progress` in [0, 1] is the share of the run that is done. When `stop` is overdue the
        rest of the batch's gradient steps is left out."""
        training, agent_config = self.config.training, self.config.agent
        annealing = annealed(training, progress)
        self.optimizer.param_groups[0]["lr"] = training.learning_rate * annealing
        unroll = unroll.to(self.device)
        if agent_config.values == "online":
            unroll = unroll._replace(value=self._values(unroll))
        if self.reference:
            unroll = unroll._replace(reference=self.reference.evaluate(unroll))
        self.passes.begin_batch()
        steps = training.passes * training.minibatches
        self._planned += steps
        once = agent_config.e_step == "batch"
        plan = self._plan(unroll, steps, value_only) if once else None
        for index in self._minibatches():
            part = unroll if training.minibatches == 1 else unroll.columns(index)
            if once:
                part_plan = plan if training.minibatches == 1 else plan.columns(index)
            else:
                part_plan = self._plan(part, 1, value_only)
            kl = self._step(part, part_plan, annealing, value_only)
            self.updates += 1
            if 0 < agent_config.target_kl < kl or stop.overdue:
                break
        # Now, so that learning from a batch uses the moments that it was acted with.
        self.network.update_input(unroll.observation[:-1], unroll.valid, self.ranks.total)
        if self.reference:
            self.reference.follow(self.network)
        self._log({"m_step/learning_rate": torch.tensor(training.learning_rate * annealing)})
        self.steps.check(training.patience_steps, self.updates)

    @torch.no_grad()
    def _values(self, unroll: Unroll) -> Tensor:
        """Return V [T+1, B] of the online network, in units of the return, computed a minibatch at a time."""
        head, values = self.network.value_head, []
        for index in torch.arange(self.config.training.envs).to(self.device).chunk(self.config.training.minibatches):
            part = unroll.columns(index)
            inputs = part.observation, part.previous_action, part.reward, part.first, part.state, part.task
            values.append(head.denormalise(self.network(*inputs, need_state=False).value, part.task))
        return torch.cat(values, 1)

    def _plan(self, unroll: Unroll, steps: int, value_only: bool) -> Plan:
        """Compute returns and advantages, update PopArt before any loss uses the returns, and make the E-step."""
        config, head = self.config.agent, self.network.value_head
        evaluation = evaluate_policy(unroll, config.discount, config.gae_lambda)
        head.update(evaluation.returns, unroll.valid, self.ranks.total, unroll.task)
        plan = self.agent.plan(unroll, evaluation, head, self.duals.updates(0 if value_only else steps))
        self._log(plan.metrics)
        return plan

    def _minibatches(self) -> Iterator[Tensor]:
        """Yield the columns of the batch for each gradient step, in a new order in every pass."""
        training = self.config.training
        for _ in range(training.passes):
            order = torch.randperm(training.envs, generator=self.generator).to(self.device)
            yield from order.chunk(training.minibatches)

    def _step(self, unroll: Unroll, plan: Plan, annealing: float, value_only: bool) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.training.compile:
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.agent.loss(self.passes(unroll), unroll, plan, self.network.value_head, annealing)
        (loss.value if value_only else loss.total).backward()
        if value_only:  # compiled, the policy head has gradients of 0, not None, which would move Adam's moments
            for parameter in self.network.policy_head.parameters():
                parameter.grad = None
        kl = loss.metrics.get("m_step/kl") if self.config.agent.target_kl else None
        if self.config.training.statistics == "rank":
            kl = self._average_over_ranks(kl)
        else:  # the multipliers already have the whole batch's gradient on each rank
            self.ranks.sum_gradients(self.network.parameters())
        limit = self.config.training.max_gradient_norm or torch.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        taken = self.steps.take(norm + gradient_sum(multipliers(self.agent)), loss.metrics)
        if self.average:
            self.average.update_parameters(self.network)
        self._log(loss.metrics | self.network.core.metrics(unroll.state) | {"m_step/gradient_norm": norm}, taken)
        self._made += 1
        return 0.0 if kl is None else float(kl)

    def _log(self, metrics: dict[str, Tensor], counts: bool | Tensor = True) -> None:
        """Add the metrics of a batch to the means, those of a gradient step only if it `counts`."""
        for name, value in metrics.items():
            if counts is not True:
                value = torch.where(torch.as_tensor(counts, device=value.device), value, 0)
            self._sums[name] = self._sums.get(name, 0) + value
            self._counts[name] += counts

    def _average_over_ranks(self, kl: Tensor | None) -> Tensor | None:
        """Average the gradients of network and multipliers, and `kl`, over ranks whose losses are separate."""
        parameters = [*self.network.parameters(), *multipliers(self.agent)]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= self.ranks.size
        self.ranks.sum_gradients(parameters)
        return None if kl is None else self.ranks.total(kl) / self.ranks.size

    def drain_metrics(self) -> dict[str, float]:
        """Return the mean of each metric since the last call, over the batches or gradient steps that logged it; NaN
        if no step was taken."""
        counts = {name: float(count) for name, count in self._counts.items()}
        means = {name: float(x) / counts[name] if counts[name] else math.nan for name, x in self._sums.items()}
        means["m_step/skipped"] = int(self.steps.skipped)
        if self.config.agent.target_kl:
            means["m_step/steps_share"] = self._made / self._planned
        self._sums, self._counts, self._made, self._planned = {}, Counter(), 0, 0
        return means

    @property
    def reference_memory(self) -> tuple[Tensor, ...] | None:
        """Return the core's state of pi_ref, which belongs to the environments and is saved with them."""
        return self.reference and self.reference.state

    @reference_memory.setter
    def reference_memory(self, state: tuple[Tensor, ...] | None) -> None:
        if self.reference and state is not None:
            self.reference.state = tuple(x.to(self.device) for x in state)

    def get_state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "agent": self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "duals": self.duals.get_state(),
            "average": self.average and self.average.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "reference": self.reference and self.reference.get_state(),
        }

    def set_state(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.agent.load_state_dict(state["agent"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # contiguous in a file, but fused Adam needs the parameter's strides
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        self.duals.set_state(state["duals"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]
        if self.reference:
            self.reference.set_state(state["reference"])
