"""Evaluation: raw returns of whole episodes under a frozen network, and a recorded episode."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Self

import numpy as np
import torch
from rich.console import Console

from envs.atari57 import human_normalised
from envs.factory import resolve
from envs.interface import TimeStep, VectorEnv
from networks.actor_critic import ActorCritic
from runners.acting.actor import no_action
from runners.build import CHOICE, EVALUATION, VIDEO, build_env, stream_seed
from runners.config import RunConfig, cores
from runners.errors import while_running
from runners.records.video import write_gif

MOST_ENVS = 32
MOST_FRAMES = 3_000
CHOICE_STEPS = 200_000
"""Largest number of agent steps of an evaluation while training, enough for 30 games of Pong."""
HORIZON = 256
"""Steps between copies of a transformer's key and value strips; it does not change the actions."""
SECONDS_ON_SCREEN, SECONDS_BETWEEN_LINES = 0.5, 30.0
"""Seconds between reports of an evaluation, on a terminal and elsewhere."""


class Player:
    """Player of `env` by the policy's mode, or by samples of it, which holds the core's state and the last action."""

    def __init__(self, env: VectorEnv, network: ActorCritic, sample: bool, seed: int) -> None:
        self.network, self.sample = network, sample
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.stepper = network.core.acting(network.initial_state(env.num_envs), HORIZON)
        self.action = no_action(env)

    @torch.inference_mode()
    def act(self, step: TimeStep, playing: np.ndarray | None = None) -> np.ndarray:
        """Return actions [N, ...]; only environments that are `playing`, [N] bool, go through the torso."""
        shown = (step.observation, self.action, step.reward, step.first)
        observation, action, reward, first = (torch.from_numpy(np.ascontiguousarray(x)).to(self.device) for x in shown)
        inputs = (observation, action, reward, first)
        if playing is None or playing.all():
            x = self.network.encode(*inputs)
        else:
            some = torch.from_numpy(np.flatnonzero(playing)).to(self.device)
            encoded = self.network.encode(*(each[some] for each in inputs))
            x = encoded.new_zeros(len(first), encoded.shape[-1]).index_copy_(0, some, encoded)
        policy = self.network.policy(self.stepper.step(x, first), observation)
        self.action = (policy.sample(self.generator) if self.sample else policy.mode()).cpu().numpy()
        return self.action


def evaluate(config: RunConfig, network: ActorCritic, episodes: int, stream: int = EVALUATION) -> dict[str, Any]:
    """Play `episodes` of each task by the policy that `config` names; `stream` seeds them.

    Return the result of `play`. Of several tasks, return the summary of their human-normalised means, with the result
    of each under `games`. If both policies are asked for, return that of samples, with that of the mode under
    `by_mode`.
    """
    asked, tasks = config.training.eval_policy, config.env.tasks
    policies: tuple[Literal["sample", "mode"], ...] = ("sample", "mode") if asked == "both" else (asked,)
    found: dict[str, dict[str, dict[str, Any]]] = {policy: {} for policy in policies}
    for task in tasks:
        one = config if len(tasks) == 1 else _with_task(config, task)
        with Progress(one.env.name, episodes * len(policies)) as progress, while_running():
            plays = [play(_with_policy(one, policy), network, episodes, stream, progress) for policy in policies]
            for policy, result in zip(policies, in_turn(plays), strict=True):
                found[policy][task] = result
    results = [_over_tasks(found[policy], episodes) for policy in policies]
    return results[0] | ({"by_mode": results[1]} if len(results) > 1 else {})


def evaluate_briefly(config: RunConfig, network: ActorCritic) -> dict[str, Any]:
    """Evaluate while training: with seeds of its own, for at most `CHOICE_STEPS` steps."""
    training = replace(config.training, eval_steps=min(config.training.eval_steps, CHOICE_STEPS))
    return evaluate(replace(config, training=training), network, training.eval_episodes, stream=CHOICE)


def in_turn(plays: Sequence[Generator[None, None, Any]]) -> list[Any]:
    """Run generators to their ends, a step of each in turn, and return their results: while the environments of one
    step, the network runs for another."""
    results, going = [None] * len(plays), dict(enumerate(plays))
    while going:
        for i, each in list(going.items()):
            try:
                next(each)
            except StopIteration as end:
                results[i] = end.value
                del going[i]
    return results


def _over_tasks(games: dict[str, dict[str, Any]], episodes: int) -> dict[str, Any]:
    if len(games) == 1:
        return next(iter(games.values()))
    scores = [human_normalised(game, result["mean"]) for game, result in games.items()]
    each = next(iter(games.values()))["protocol"]
    protocol = f"{episodes} episodes a game, human-normalised means in percent; a game: {each}"
    return _summary(scores, protocol) | {"episodes": episodes * len(games), "games": games}


def figure(x: float) -> str:
    """Return a number as text, with two decimals, or three digits if it is small."""
    return f"{x:.2f}" if x == 0 or abs(x) >= 0.1 else f"{x:.3g}"


def worst_mean(result: dict[str, Any]) -> float:
    """Return the mean return of an evaluation, of two policies that of the worse one."""
    return min(result["mean"], result.get("by_mode", result)["mean"])


def play(
    config: RunConfig, network: ActorCritic, episodes: int, stream: int, progress: "Progress"
) -> Generator[None, None, dict[str, Any]]:
    """Play `episodes` of one task and return their raw returns with mean, std, median, least and the protocol in words;
    yield in each step while the environments work.

    The number of episodes of each environment is fixed beforehand, so that short episodes do not count more often than
    long ones; an environment that has played its share stops. After `eval_steps` steps of all environments together,
    episodes that have not ended are cut, and count with their return so far; `cut` is their number.
    """
    training, envs = config.training, min(episodes, MOST_ENVS)
    quota = np.array([episodes // envs + (i < episodes % envs) for i in range(envs)])
    config = replace(config, env=config.env.evaluated)
    env = build_env(config, envs, stream=stream, threads=min(envs, cores()))
    sample = training.eval_policy == "sample"
    player = Player(env, network, sample, stream_seed(config, stream))
    returns: list[list[float]] = [[] for _ in range(envs)]
    played, unfinished = np.zeros(envs, np.int64), np.zeros(envs)
    taken = 0
    try:
        step = env.reset()
        while (playing := played < quota).any() and taken < training.eval_steps:
            env.send(player.act(step, playing), playing)
            yield
            step = env.recv()
            taken += int(playing.sum())
            unfinished += step.reward / config.env.reward_scale
            for i in np.flatnonzero(playing & ~np.isnan(step.episode_return)):
                returns[i].append(float(step.episode_return[i]))
                played[i] += 1
                unfinished[i] = 0
                progress.played += 1
            progress.add(int(playing.sum()))
    finally:
        env.close()
    cut = np.flatnonzero(played < quota)
    scores = [score for got in returns for score in got] + unfinished[cut].tolist()
    how = "samples of the policy" if sample else "the policy's mode"
    protocol = f"{how}, raw returns of whole episodes, shared evenly by {envs} environments"
    if config.env.suite == "atari":
        protocol += f", up to {config.env.noop_max} no-ops at the start"
        if config.env.sticky_actions:
            protocol += f", sticky actions {config.env.sticky_actions:g}"
    if len(cut):
        protocol += f", {len(cut)} of them cut after {taken:,} steps of all (--eval-steps)"
        print(
            f"evaluation: {len(cut)} of {len(scores)} episodes had not ended after --eval-steps {training.eval_steps:,}"
        )
    return _summary(scores, protocol) | {"cut": len(cut)}


class Progress:
    """Display of the number of episodes played: in place on a terminal, elsewhere a line every half minute."""

    def __init__(self, name: str, episodes: int) -> None:
        self.name, self.episodes = name, episodes
        self.console = Console()
        self.status = self.console.status(f"{name}: no episode played yet")
        self.said = monotonic()
        self.played = self.steps = 0

    def __enter__(self) -> Self:
        self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.status.stop()

    def add(self, steps: int) -> None:
        self.steps += steps
        now, terminal = monotonic(), self.console.is_terminal
        if now - self.said < (SECONDS_ON_SCREEN if terminal else SECONDS_BETWEEN_LINES):
            return
        self.said, text = now, f"{self.name}: {self.played} of {self.episodes} episodes played, {self.steps:,} steps"
        if terminal:
            self.status.update(text)
        else:
            print(text, flush=True)


def _summary(scores: list[float], protocol: str) -> dict[str, Any]:
    return {
        "episodes": len(scores),
        "mean": float(np.mean(scores)),
        "std": float(np.std(scores)),
        "median": float(np.median(scores)),
        "least": float(np.min(scores)),
        "returns": scores,
        "protocol": protocol,
    }


def _with_policy(config: RunConfig, policy: Literal["mode", "sample"]) -> RunConfig:
    return replace(config, training=replace(config.training, eval_policy=policy))


def _with_task(config: RunConfig, task: str) -> RunConfig:
    """Return the configuration of one of several tasks, which has the full action set of all."""
    return replace(config, env=replace(config.env, name=task, full_actions=True))


def record_video(config: RunConfig, network: ActorCritic, path: Path) -> bytes:
    """Write a GIF of one episode, up to MOST_FRAMES steps, to `path`, of several tasks of the first one; EnvError if
    the environment cannot be drawn."""
    if len(config.env.tasks) > 1:
        config = _with_task(config, config.env.tasks[0])
    config = replace(config, env=config.env.evaluated)
    env = build_env(config, 1, stream=VIDEO, render=True)
    player = Player(env, network, config.training.eval_policy != "mode", stream_seed(config, VIDEO))
    frames = []
    try:
        step = env.reset()
        while len(frames) < MOST_FRAMES and np.isnan(step.episode_return[0]):
            frames.append(env.render()[0])
            step = env.step(player.act(step))
    finally:
        env.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    gif = write_gif(path, np.stack(frames), fps=resolve(config.env)[0].video_fps)
    score = step.episode_return[0]
    print(f"video of an episode, {'cut short' if np.isnan(score) else f'return {score:g}'}: {path}")
    return gif
