"""An actor: environments and a copy of the network, which write unrolls."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.types import Unroll
from envs.interface import TimeStep, VectorEnv
from networks.actor_critic import ActorCritic
from networks.cores import Stepper
from networks.distributions import Distribution
from runners.acting.unrolls import Buffer
from runners.acting.weights import load_weights
from runners.machine.compilation import compiled


class Actor:
    """Actor that steps `env` with `network`, on its device; the weights change only by `load`, between unrolls.

    The value of an unroll's last row is computed at the end of the unroll. Under the same weights it is also the next
    unroll's first step, and the memory's cached keys and values remain valid. `tasks` [B] is the task of each
    environment. `compile_encoder` compiles everything before the core, whose own steps are not a fixed graph, as its
    window moves.
    """

    def __init__(
        self, env: VectorEnv, network: ActorCritic, seed: int, tasks: np.ndarray, compile_encoder: bool = False
    ) -> None:
        self.env, self.network = env, network
        self.device = next(network.parameters()).device
        self.compiled = compile_encoder
        self.encode = compiled(network.encode, self.device) if compile_encoder else network.encode
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.state = network.initial_state(env.num_envs)
        self.tasks = torch.from_numpy(tasks).to(self.device)
        self.stepper: Stepper | None = None
        self.ahead: tuple[Distribution, Tensor] | None = None
        """Policy and value at the next unroll's row 0, if the stepper has made that step already."""
        self.step = env.reset()
        self.previous_action = no_action(env)

    def load(self, parameters: Tensor) -> None:
        """Load new weights, one vector [P]."""
        load_weights(self.network, parameters)
        self.stepper = self.ahead = None

    def get_state(self) -> dict[str, Any]:
        """Return everything that the next unroll depends on, except the weights."""
        return {
            "environments": self.env.get_state(),
            "step": tuple(self.step),
            "previous_action": self.previous_action,
            "core": self.state,
            "generator": self.generator.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.env.set_state(state["environments"])
        self.step, self.previous_action = TimeStep(*state["step"]), state["previous_action"]
        self.state = tuple(x.to(self.device) for x in state["core"])
        self.generator.set_state(state["generator"])
        self.stepper = self.ahead = None

    def collect(self, buffer: Buffer) -> None:
        """Fill `buffer`, this actor's columns of a batch, with T steps from the end of the last unroll on."""
        collect_in_turn([self], [buffer])

    def stages(self, buffer: Buffer) -> Iterator[None]:
        """Do what `collect` does, but yield in each step while the simulator works."""
        network, unroll = self.network, buffer.unroll
        for slot, tensor in zip(unroll.state, self.state, strict=True):
            slot.copy_(tensor)
        steps = len(unroll.policy)
        self.stepper = self.stepper or network.core.acting(self.state, steps + 1)
        buffer.write(0, self.step, self.previous_action)
        for t in range(steps):
            policy, value = self.ahead or self._step_core(unroll, t)
            self.ahead = None
            unroll.policy[t].copy_(policy.parameters(), non_blocking=True)
            unroll.value[t].copy_(value, non_blocking=True)
            self.previous_action = policy.sample(self.generator).cpu().numpy()  # only this waits for a GPU
            self.env.send(self.previous_action)
            yield
            self.step = self.env.recv()
            buffer.write(t + 1, self.step, self.previous_action)
        # The last row of this unroll is also the first of the next: an episode that ended there must count once.
        self.step = self.step._replace(episode_return=np.full_like(self.step.episode_return, np.nan))
        self.state = self.stepper.state()
        self.ahead = self._step_core(unroll, steps)
        unroll.value[steps].copy_(self.ahead[1])

    def _step_core(self, unroll: Unroll, t: int) -> tuple[Distribution, Tensor]:
        """Step the core with row `t`; return the policy and the value [B], in units of the return, there."""
        shown = unroll.observation, unroll.previous_action, unroll.reward, unroll.first
        *before, first = (rows[t].to(self.device, non_blocking=True) for rows in shown)
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        network, heads = self.network, self.network.value_head
        y = self.stepper.step(self.encode(*before, first), first)
        return network.policy(y, before[0]), heads.denormalise(heads(y, self.tasks), self.tasks)


def collect_in_turn(actors: Sequence[Actor], buffers: Sequence[Buffer]) -> None:
    """Let each actor fill its buffer; while the environments of one step, the network runs for another."""
    # Not in inference mode if compiled: the learner's CUDA graphs could not change tensors made there, such as seeds.
    with torch.no_grad() if actors[0].compiled else torch.inference_mode():
        stages = [actor.stages(buffer) for actor, buffer in zip(actors, buffers, strict=True)]
        for _ in zip(*stages, strict=True):
            pass


def no_action(env: VectorEnv) -> np.ndarray:
    """Return zeros [N, ...] as previous actions where an episode begins; the network masks them."""
    action = env.spec.action
    return np.zeros((env.num_envs, *action.shape), action.dtype)
