"""The policy pi_ref: a network that changes slowly or never, with its own memory."""

from pathlib import Path

import torch
from torch import Tensor

from agents.types import Unroll
from networks.actor_critic import ActorCritic, frozen_copy
from runners.acting.weights import evaluated
from runners.records.checkpoint import Checkpoints, fits, load


class Reference:
    """The network at the first step, its moving average, or one from a checkpoint.

    It evaluates every batch once, in order, and carries its own core state from one to the next: the state in the
    unroll is that of the acting network, which another cannot use.
    """

    def __init__(self, network: ActorCritic, source: str, decay: float) -> None:
        self.network = frozen_copy(network)
        self.decay = decay if source == "average" else 1.0
        self.state: tuple[Tensor, ...] | None = None
        if source not in ("start", "average"):
            loaded = Checkpoints(Path(source) / "checkpoints").latest() if Path(source).is_dir() else load(source)
            if loaded.warning:
                print(f"warning: pi_ref: {loaded.warning}")
            with fits(loaded.path, f"--reference {source} must be a run with the same network"):
                self.network.load_state_dict(evaluated(loaded.state["learner"]))

    @torch.no_grad()
    def evaluate(self, unroll: Unroll) -> Tensor:
        """Return the parameters of its policy at each step of the next batch, [T, B, P]."""
        steps = len(unroll.policy)
        rows = (x[:steps] for x in (unroll.observation, unroll.previous_action, unroll.reward, unroll.first))
        if self.state is None:
            self.state = tuple(torch.zeros_like(s) for s in unroll.state)  # every environment begins an episode
        output = self.network(*rows, self.state, unroll.task)
        self.state = output.state
        return output.policy.parameters()

    @torch.no_grad()
    def follow(self, network: ActorCritic) -> None:
        """Move the average of the weights towards `network`, and take over its observations' moments."""
        if self.decay < 1:
            for own, new in zip(self.network.parameters(), network.parameters(), strict=True):
                own.lerp_(new, 1 - self.decay)
            for own, new in zip(self.network.buffers(), network.buffers(), strict=True):
                own.copy_(new)

    def get_state(self) -> dict:
        return self.network.state_dict()

    def set_state(self, state: dict) -> None:
        """Load the weights; the core's state is not saved, as the environments of a resumed run begin new episodes."""
        self.network.load_state_dict(state)
