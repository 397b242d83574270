"""Evaluation: raw returns of whole episodes under a frozen network, and a recorded episode."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Self

import numpy as np
import torch
from rich.console import Console

from envs.atari57 import RANDOM_AND_HUMAN, human_normalised
from envs.factory import resolve
from envs.interface import TimeStep, VectorEnv
from envs.protocols import described
from networks.actor_critic import ActorCritic
from runners.acting.actor import no_action
from runners.build import CHOICE, EVALUATION, VIDEO, build_env, stream_seed
from runners.config import RunConfig, cores
from runners.errors import while_running
from runners.machine.watchdog import watched
from runners.records.video import write_video

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
            watch = partial(watched, f"evaluation on {one.env.name}", config.training.patience)
            for policy, result in zip(policies, in_turn(plays, watch), strict=True):
                found[policy][task] = result
    results = [_over_tasks(found[policy], episodes) for policy in policies]
    return results[0] | ({"by_mode": results[1]} if len(results) > 1 else {})


def evaluate_briefly(config: RunConfig, network: ActorCritic) -> dict[str, Any]:
    """Evaluate while training: with seeds of its own, for at most `CHOICE_STEPS` steps."""
    training = replace(config.training, eval_steps=min(config.training.eval_steps, CHOICE_STEPS))
    return evaluate(replace(config, training=training), network, training.eval_episodes, stream=CHOICE)


def in_turn(plays: Sequence[Generator[None, None, Any]], watch: Callable[[], AbstractContextManager]) -> list[Any]:
    """Run generators to their ends, a step of each in turn under `watch`, and return their results: while the
    environments of one step, the network runs for another."""
    results, going = [None] * len(plays), dict(enumerate(plays))
    while going:
        for i, each in list(going.items()):
            try:
                with watch():
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
    """Play `episodes` of one task and return their raw returns with mean, std, median, least, the human-normalised mean
    of a game of Atari-57 in percent, and the protocol in words; yield in each step while the environments work.

    Of each episode there is also its length in agent steps, and which environment played it.

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
    ended: list[list[tuple[float, int]]] = [[] for _ in range(envs)]  # return and length of each one's episodes
    played, length, unfinished = np.zeros(envs, np.int64), np.zeros(envs, np.int64), np.zeros(envs)
    taken = 0
    try:
        step = env.reset()
        while (playing := played < quota).any() and taken < training.eval_steps:
            env.send(player.act(step, playing), playing)
            yield
            step = env.recv()
            taken += int(playing.sum())
            unfinished += step.reward / config.env.reward_scale
            length += ~step.first
            for i in np.flatnonzero(playing & ~np.isnan(step.episode_return)):
                ended[i].append((float(step.episode_return[i]), int(step.episode_length[i])))
                played[i] += 1
                unfinished[i] = length[i] = 0
                progress.played += 1
            progress.add(int(playing.sum()))
    finally:
        env.close()
    cut = np.flatnonzero(played < quota)
    environments = [i for i, own in enumerate(ended) for _ in own] + cut.tolist()
    scores = [score for own in ended for score, _ in own] + unfinished[cut].tolist()
    lengths = [steps for own in ended for _, steps in own] + length[cut].tolist()
    how = "samples of the policy" if sample else "the policy's mode"
    protocol = f"{how}, raw returns of whole episodes, shared evenly by {envs} environments"
    if config.env.suite == "atari":
        protocol += f", {described(config.env)}"
    if len(cut):
        protocol += f", {len(cut)} of them cut after {taken:,} steps of all (--eval-steps)"
        print(
            f"evaluation: {len(cut)} of {len(scores)} episodes had not ended after --eval-steps {training.eval_steps:,}"
        )
    result = _summary(scores, protocol) | {"lengths": lengths, "environments": environments, "cut": len(cut)}
    if config.env.name in RANDOM_AND_HUMAN:
        result["human_normalised"] = human_normalised(config.env.name, result["mean"])
    return result | {"policy": training.eval_policy}


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


def play_one(
    config: RunConfig, network: ActorCritic, watch: Callable[[VectorEnv, Player, TimeStep], None], render: bool = False
) -> str:
    """Play an episode, up to MOST_FRAMES steps, of several tasks of the first one; `watch` is called with each step
    before the action that answers it. Return how the episode went, in words."""
    if len(config.env.tasks) > 1:
        config = _with_task(config, config.env.tasks[0])
    config = replace(config, env=config.env.evaluated)
    env = build_env(config, 1, stream=VIDEO, render=render)
    player = Player(env, network, config.training.eval_policy != "mode", stream_seed(config, VIDEO))
    taken = 0
    try:
        step = env.reset()
        while taken < MOST_FRAMES and np.isnan(step.episode_return[0]):
            watch(env, player, step)
            step = env.step(player.act(step))
            taken += 1
    finally:
        env.close()
    score = step.episode_return[0]
    return f"{taken:,} steps, {'cut short' if np.isnan(score) else f'return {score:g}'}"


def record_video(config: RunConfig, network: ActorCritic, path: Path) -> bytes:
    """Write a video of one episode to `path`, whose ending is its format, and return it; EnvError if the environment
    cannot be drawn."""
    frames: list[np.ndarray] = []
    how = play_one(config, network, lambda env, *_: frames.append(env.render()[0]), render=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    video = write_video(path, np.stack(frames), fps=resolve(config.env)[0].video_fps)
    print(f"video of an episode, {how}: {path}")
    return video
