"""Preallocated unrolls, shared between processes: an actor writes its columns, the learner reads all."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.types import Unroll
from envs.interface import EnvSpec, TimeStep
from networks.cores import State
from runners.acting.shared import share


@dataclass(frozen=True)
class Buffer:
    """One batch: an `unroll` of T steps and B environments; raw `episode_return` and `episode_length` [T+1, B], NaN and
    0 where no episode ended."""

    unroll: Unroll
    episode_return: Tensor
    episode_length: Tensor

    def columns(self, columns: slice) -> "Buffer":
        """Return a view of some environments' columns."""
        return Buffer(self.unroll.columns(columns), self.episode_return[:, columns], self.episode_length[:, columns])

    def pinned(self) -> "Buffer":
        """Return a copy in pinned memory, between which and a GPU copies are asynchronous."""
        *fields, state, _ = self.unroll
        unroll = Unroll(*(x.pin_memory() for x in fields), tuple(s.pin_memory() for s in state))
        return Buffer(unroll, self.episode_return, self.episode_length)

    def write(self, t: int, step: TimeStep, previous_action: np.ndarray) -> None:
        """Write row `t`: a step of the environments, and the actions that led to it."""
        u = self.unroll
        for tensor, value in (
            (u.observation, step.observation),
            (u.reward, step.reward),
            (u.first, step.first),
            (u.terminated, step.terminated),
            (u.truncated, step.truncated),
            (u.previous_action, previous_action),
            (self.episode_return, step.episode_return),
            (self.episode_length, step.episode_length),
        ):
            tensor[t].numpy()[...] = value


def make_buffer(spec: EnvSpec, unroll: int, task: np.ndarray, policy_size: int, state: State, shared: bool) -> Buffer:
    """Make a buffer with a column for each of `task` [B]; `state` is an example of the core's, of any batch size."""
    envs = len(task)
    rows = (unroll + 1, envs)
    action = torch.zeros(*rows, *spec.action.shape, dtype=getattr(torch, spec.action.dtype))
    buffer = Buffer(
        Unroll(
            observation=torch.zeros(*rows, *spec.observation_shape, dtype=getattr(torch, spec.observation_dtype)),
            reward=torch.zeros(rows),
            first=torch.zeros(rows, dtype=torch.bool),
            terminated=torch.zeros(rows, dtype=torch.bool),
            truncated=torch.zeros(rows, dtype=torch.bool),
            previous_action=action,
            policy=torch.zeros(unroll, envs, policy_size),
            value=torch.zeros(rows),
            task=torch.from_numpy(task),
            state=tuple(torch.zeros(envs, *s.shape[1:], dtype=s.dtype) for s in state),
        ),
        torch.full(rows, torch.nan, dtype=torch.float64),
        torch.zeros(rows, dtype=torch.int64),
    )
    if shared:
        for tensor in (*buffer.unroll[:-2], *buffer.unroll.state, buffer.episode_return, buffer.episode_length):
            share(tensor)
    return buffer
