"""State of environments, and the check that it is complete: a copy of a state must continue as the original."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from envs.interface import EnvError, VectorEnv

STEPS = 50
LONGEST = 2_000
"""Steps in which `check_saves` waits for the end of an episode."""


def check_saves(make: Callable[[int], VectorEnv]) -> None:
    """Raise EnvError if `get_state` misses part of the state of environments, which `make` makes with a random seed.

    Environments and their copies are compared over at least STEPS steps and, if an episode ends, over its reset.
    """
    one, other = make(0), make(1)
    rng, name = np.random.default_rng(0), one.spec.name
    try:
        one.reset()
        other.reset()
        began = False
        for i in range(LONGEST):
            if began and i >= 2 * STEPS:
                break
            if i == STEPS:
                other.set_state(copy.deepcopy(one.get_state()))
            action = one.spec.action.sample(rng, one.num_envs)
            steps = [env.step(action) for env in (one, other)]
            if i >= STEPS and not all(map(_same, *steps)):
                raise EnvError(f"{name} has state that get_state misses: leave out --save-environments")
            began |= i > STEPS and bool(steps[0].first.any())
    finally:
        one.close()
        other.close()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def plain_state(env: gymnasium.Env) -> list[Any]:
    """Return the state of the generator, and the attributes of the environment and its wrappers that consist of
    numbers, texts and arrays."""
    layers = [{k: copy.deepcopy(v) for k, v in vars(layer).items() if _plain(v)} for layer in _layers(env)]
    return [*layers, env.unwrapped.np_random.bit_generator.state]


def set_plain_state(env: gymnasium.Env, state: list[Any]) -> None:
    """Set what `plain_state` returned."""
    *layers, generator = state
    for layer, attributes in zip(_layers(env), layers, strict=True):
        vars(layer).update(copy.deepcopy(attributes))
    env.unwrapped.np_random.bit_generator.state = generator


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    while env is not env.unwrapped:
        yield env
        env = env.env
    yield env


def _plain(value: Any) -> bool:
    match value:
        case None | bool() | str():
            return True
        case np.ndarray() | np.generic():
            return value.dtype.kind in "biuf"
        case int() | float():
            return type(value) in (int, float)
        case list() | tuple():
            return type(value) in (list, tuple) and all(map(_plain, value))
        case dict():
            return type(value) is dict and all(type(k) in (str, int) and _plain(v) for k, v in value.items())
    return False
