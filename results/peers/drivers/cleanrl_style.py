"""PPO in one file, after CleanRL's style: float32, channels first, envpool, and an LSTM stepped in a Python loop."""

from argparse import Namespace
from collections import deque

import envpool
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from results.peers.drivers import protocol

State = tuple[Tensor, Tensor]


def orthogonal(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """Nature CNN of 512, perhaps an LSTM, and linear heads."""

    def __init__(self, actions: int, core: str, hidden: int) -> None:
        super().__init__()
        convolutions = [(4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
        layers = [layer for c in convolutions for layer in (orthogonal(nn.Conv2d(*c)), nn.ReLU())]
        self.torso = nn.Sequential(*layers, nn.Flatten(), orthogonal(nn.Linear(64 * 7 * 7, 512)), nn.ReLU())
        self.lstm = nn.LSTM(512, hidden) if core == "lstm" else None
        width = hidden if self.lstm else 512
        self.actor = orthogonal(nn.Linear(width, actions), 0.01)
        self.critic = orthogonal(nn.Linear(width, 1), 1)

    def forward(self, observation: Tensor, done: Tensor, state: State) -> tuple[Categorical, Tensor, State]:
        """Return policy, value [N] and the state after steps [N, ...]; the environments of a step lie in a row."""
        x = self.torso(observation / 255.0)
        if self.lstm:
            envs = state[0].shape[1]
            steps = []
            for x_t, done_t in zip(x.unflatten(0, (-1, envs)), done.unflatten(0, (-1, envs)), strict=True):
                keep = (1 - done_t)[None, :, None]
                y, state = self.lstm(x_t[None], (state[0] * keep, state[1] * keep))
                steps.append(y[0])
            x = torch.cat(steps)
        return Categorical(logits=self.actor(x)), self.critic(x).squeeze(1), state


def advantages_of(reward: Tensor, value: Tensor, done: Tensor) -> Tensor:
    """Return GAE [T, B] of `reward` [T, B]; `value` and `done` have a row more. At done[t] step t begins an episode."""
    advantages = torch.zeros_like(reward)
    following = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        goes_on = 1 - done[t + 1]
        error = reward[t] + protocol.DISCOUNT * goes_on * value[t + 1] - value[t]
        advantages[t] = following = error + protocol.DISCOUNT * protocol.GAE_LAMBDA * goes_on * following
    return advantages


def loss_of(policy: Categorical, value: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the clipped policy and value losses, with advantages normalised."""
    ratio = (policy.log_prob(batch["action"]) - batch["log_prob"]).exp()
    advantage = batch["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - protocol.CLIP, 1 + protocol.CLIP)).mean()
    old, target = batch["value"], batch["advantage"] + batch["value"]
    clipped = old + (value - old).clamp(-protocol.CLIP, protocol.CLIP)
    value_loss = 0.5 * torch.max((value - target) ** 2, (clipped - target) ** 2).mean()
    return policy_loss - protocol.ENTROPY * policy.entropy().mean() + protocol.VALUE * value_loss


def minibatches(envs: int, unroll: int, number: int, whole: bool) -> list[np.ndarray]:
    """Return indices of steps in random order; `whole` sequences for an LSTM, the environments of a step in a row."""
    if not whole:
        return np.array_split(np.random.permutation(envs * unroll), number)
    steps = np.arange(envs * unroll).reshape(unroll, envs)
    return [steps[:, columns].ravel() for columns in np.array_split(np.random.permutation(envs), number)]


def train(chosen: Namespace) -> None:
    """Train without end, with a mark after each batch."""
    envs, unroll, core, hidden = chosen.envs, chosen.unroll, chosen.core, chosen.hidden
    np.random.seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    pool = envpool.make("Pong-v5", env_type="gymnasium", num_envs=envs, seed=chosen.seed, **protocol.PONG)
    agent = Agent(int(pool.action_space.n), core, hidden)
    optimizer = torch.optim.Adam(agent.parameters(), lr=protocol.LEARNING_RATE, eps=1e-5)
    protocol.describe(["torch", "envpool", "numpy"], agent.parameters(), rule="PPO", **protocol.ABOUT, **vars(chosen))

    observations = torch.zeros(unroll, envs, 4, 84, 84)
    actions = torch.zeros(unroll, envs, dtype=torch.long)
    log_probs, rewards = torch.zeros(2, unroll, envs)
    values, dones = torch.zeros(2, unroll + 1, envs)
    observation, done = torch.Tensor(pool.reset()[0]), torch.zeros(envs)
    state = (torch.zeros(1, envs, hidden), torch.zeros(1, envs, hidden))
    running, returns = np.zeros(envs), deque(maxlen=protocol.EPISODES)
    steps, mark = 0, protocol.Marks(chosen.bar)
    mark(steps)
    while True:
        optimizer.param_groups[0]["lr"] = protocol.LEARNING_RATE * max(0.0, 1 - steps / protocol.ANNEALED_OVER)
        initial = state
        for t in range(unroll):
            observations[t], dones[t] = observation, done
            with torch.no_grad():
                policy, values[t], state = agent(observation, done, state)
            actions[t] = policy.sample()
            log_probs[t] = policy.log_prob(actions[t])
            after, reward, terminated, truncated, _ = pool.step(actions[t].numpy())
            observation, rewards[t] = torch.Tensor(after), torch.Tensor(reward)
            ended = terminated | truncated
            done = torch.Tensor(ended)
            running += reward  # Pong's own are -1, 0 and 1: clipping leaves them
            returns.extend(running[ended])
            running[ended] = 0
        steps += envs * unroll
        with torch.no_grad():
            dones[unroll], values[unroll] = done, agent(observation, done, state)[1]

        batch = {"observation": observations, "done": dones[:-1], "action": actions, "log_prob": log_probs}
        batch |= {"value": values[:-1], "advantage": advantages_of(rewards, values, dones)}
        batch = {name: x.flatten(0, 1) for name, x in batch.items()}
        for _ in range(chosen.passes):
            for index in minibatches(envs, unroll, chosen.minibatches, whole=core == "lstm"):
                part = {name: x[index] for name, x in batch.items()}
                columns = index[: len(index) // unroll]  # with whole sequences: their environments
                at_start = tuple(s[:, columns] for s in initial) if core == "lstm" else initial
                policy, value, _ = agent(part["observation"], part["done"], at_start)
                optimizer.zero_grad()
                loss_of(policy, value, part).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), protocol.GRADIENT_NORM)
                optimizer.step()
        mark(steps, protocol.mean_of(returns))


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(protocol.options())
